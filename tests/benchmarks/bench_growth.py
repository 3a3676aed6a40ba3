"""Growth: what one more study costs, and a search, when there are 10,000, and when there are a million.

A query is asked of a finder over an archive of each size. The index grows by additions as the worker makes them, 8 at a
time, between bulk additions up to the next size; hnswlib alone beside it tells what the graph and the machine's caches
make of it, and searches with emptied caches what is left without them. The catalogue is filled by rows as its API
writes them (bulk.py), with vectors of 64 dimensions to spare the disk; then batches are committed through the API.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import bulk
import harness
import kept
import numpy as np
import query_peers
import raw_scu
import vectors as made
from bench_query import similar

from storage.catalogue import open_catalogue
from storage.index.following import IndexSettings
from storage.index.hnsw import HnswIndex
from storage.index.native import hnswlib

K, BATCH, MEASURED, QUERIES = 10, 8, 512, 200
SIZES = (10_000, 20_000, 40_000)
SIZES_FULL = (10_000, 30_000, 100_000, 230_000, 1_000_000)
#: Read before each search of the second curve: more than a processor's caches hold.
EVICTING_BYTES = 128 * 1024 * 1024
#: Beyond this hnswlib is not built a second time.
BARE_TO = 100_000
#: CXRFIND_BENCH_KEEP keeps indexes from this size on.
KEPT_FROM = 100_000
CATALOGUE_SIZES = (10_000, 40_000)
CATALOGUE_SIZES_FULL = (10_000, 100_000, 1_000_000)
CATALOGUE_DIM = 64
QUERY_SIZES = (20_000, 80_000)
QUERY_SIZES_FULL = (10_000, 100_000, 1_000_000)


def grown_to(size: int, rows: made.Float32, index: HnswIndex | None, work: Path) -> tuple[HnswIndex, float]:
    """Return an index of the first `size` rows and the CPU ms a vector of the bulk additions; 0 where one was kept."""
    found = kept.load(work, "manifold", size, 0)
    if found is not None:
        return found, 0.0
    index = index or HnswIndex(made.DIM, **IndexSettings().parameters())
    first = len(index)
    began = time.process_time()
    for start in range(first, size, 4096):
        end = min(start + 4096, size)
        index.add(np.arange(start, end), rows[start:end])
    took = (time.process_time() - began) * 1000 / max(1, size - first)
    if size >= KEPT_FROM:
        kept.save(work, "manifold", size, 0, index)
    return index, took


def bare_times(graph: hnswlib.Index, size: int, rows: made.Float32, queries: made.Float32) -> tuple[float, float]:
    """Return hnswlib's own CPU ms for an addition and a search, as ours are measured."""
    graph.add_items(rows[graph.get_current_count() : size], np.arange(graph.get_current_count(), size))
    times = []
    for query in queries:
        began = time.thread_time()
        graph.knn_query(query, K, num_threads=1)
        times.append((time.thread_time() - began) * 1000)
    began = time.process_time()
    for start in range(size, size + MEASURED, BATCH):
        graph.add_items(rows[start : start + BATCH], np.arange(start, start + BATCH))
    return (time.process_time() - began) * 1000 / MEASURED, harness.percentile(times, 50)


def cold_times(index: HnswIndex, queries: made.Float32) -> list[float]:
    """Return the CPU milliseconds of searches that find nothing in the processor's caches.

    One after another they find much of 10,000 vectors there, and little of a million. A service is asked now and then,
    and much else runs between two queries.
    """
    others, times = np.ones(EVICTING_BYTES, dtype=np.uint8), []
    for query in queries:
        others.sum()
        began = time.thread_time()
        index.search(query, K)
        times.append((time.thread_time() - began) * 1000)
    return times


def index_growth(suite: harness.Suite, sizes: tuple[int, ...], work: Path) -> None:
    """Measure searches at each size of one growing index, and additions from there on; beside hnswlib up to BARE_TO."""
    every = made.make(sizes[-1] + MEASURED + QUERIES, 0)
    rows, queries = every[:-QUERIES], every[-QUERIES:]
    index: HnswIndex | None = None
    bare, settings = hnswlib.Index(space="ip", dim=made.DIM), IndexSettings()
    bare.init_index(min(sizes[-1], BARE_TO) + MEASURED, M=settings.m, ef_construction=settings.ef_construction)
    bare.set_ef(settings.ef_search)
    adds, searches, colds, recalls, bulks, bare_adds, bare_searches = [], [], [], [], [], [], []
    for size in sizes:
        index, bulk_ms = grown_to(size, rows, index, work)
        times, found = [], 0
        least = made.kth_cosines(rows[:size], queries, K)
        for query, kth in zip(queries, least, strict=True):
            began = time.thread_time()
            answer = index.search(query, K)
            times.append((time.thread_time() - began) * 1000)
            found += sum(each.similarity >= kth - 1e-5 for each in answer)
        searches.append((size, harness.percentile(times, 50)))
        colds.append((size, harness.percentile(cold_times(index, queries), 50)))
        recalls.append((size, found / (K * QUERIES)))
        began = time.process_time()
        for start in range(size, size + MEASURED, BATCH):
            index.add(np.arange(start, start + BATCH), rows[start : start + BATCH])
        adds.append((size, (time.process_time() - began) * 1000 / MEASURED))
        if bulk_ms:
            bulks.append((size, bulk_ms))
        said = f"index of {size:,}: {adds[-1][1]:.2f} ms an addition, {searches[-1][1]:.3f} ms a search, " \
               f"{colds[-1][1]:.3f} with emptied caches, recall {recalls[-1][1]:.4f}"  # fmt: skip
        if size <= BARE_TO:
            add_ms, search_ms = bare_times(bare, size, rows, queries)
            bare_adds.append((size, add_ms))
            bare_searches.append((size, search_ms))
            said += f"; hnswlib alone {add_ms:.2f} and {search_ms:.3f} ms"
        print(said, flush=True)
    first, last = sizes[0], sizes[-1]
    logarithm = math.log(last) / math.log(first)
    ours, its = (each[len(bare_searches) - 1][1] / each[0][1] for each in (searches, bare_searches))
    ours_add, its_add = (each[len(bare_adds) - 1][1] / each[0][1] for each in (adds, bare_adds))
    suite.ratios += [
        harness.Ratio(f"search at {last:,} / at {first:,}, over log n",
                      (searches[-1][1] / searches[0][1] / logarithm,), 1, at_least=False),
        harness.Ratio(f"search with emptied caches at {last:,} / at {first:,}, over log n",
                      (colds[-1][1] / colds[0][1] / logarithm,), 1, at_least=False),
        harness.Ratio(f"addition at {last:,} / at {first:,}, over log n", (adds[-1][1] / adds[0][1] / logarithm,)),
        harness.Ratio(f"search's growth to {bare_searches[-1][0]:,} / hnswlib's own", (ours / its,), 1.1,
                      at_least=False),
        harness.Ratio(f"an addition's growth to {bare_adds[-1][0]:,} / hnswlib's own", (ours_add / its_add,), 1.1,
                      at_least=False),
        harness.Ratio(f"recall@10 at {last:,}", (recalls[-1][1],), 0.99),
    ]  # fmt: skip
    for what, unit, points in (
        ("search at", "ms", searches), ("search with emptied caches at", "ms", colds), ("addition to", "ms", adds),
        ("bulk addition up to", "ms", bulks), ("hnswlib's search at", "ms", bare_searches),
        ("hnswlib's addition to", "ms", bare_adds),
    ):  # fmt: skip
        suite.figures += [harness.Figure(f"{what} {size:,}", unit, (value,)) for size, value in points]
    as_log, as_log_cold = (
        [(size, curve[0][1] * math.log(size) / math.log(first)) for size in sizes] for curve in (searches, colds)
    )
    suite.curves += [
        harness.Curve("search by size", "vectors", "p50, ms of CPU",
                      {"search": searches, "hnswlib alone": bare_searches, "log n": as_log}, log_x=True),
        harness.Curve("search with emptied caches by size", "vectors", "p50, ms of CPU",
                      {"search": colds, "log n": as_log_cold}, log_x=True),
        harness.Curve("addition to the index by size", "vectors", "ms of CPU a vector",
                      {"addition": adds, "hnswlib alone": bare_adds}, log_x=True),
        harness.Curve("recall by size", "vectors", "recall@10", {"recall": recalls}, log_x=True),
    ]  # fmt: skip


def catalogue_growth(suite: harness.Suite, sizes: tuple[int, ...], work: Path) -> None:
    """Measure commits through the API at each size, each catalogue filled in bulk."""
    generation = {"fingerprint": "b" * 64, "model_id": "bench", "dim": CATALOGUE_DIM, "calibration": {}}
    walls, cpus = [], []
    for size in sizes:
        path = work / f"catalogue-{size}.db"
        bulk.make(path, size, generation)
        with path.open("rb") as file:                               # else the first checkpoint pays for the whole file
            os.fsync(file.fileno())
        catalogue = open_catalogue(path)
        active = catalogue.active_generation()
        assert active is not None
        rows = next(bulk.vectors(MEASURED + BATCH, CATALOGUE_DIM, seed=1))
        wall, cpu = [], []
        for start in range(0, MEASURED + BATCH, BATCH):
            records = [bulk._record(size + 10 + n, bulk.DX, rows[n]) for n in range(start, start + BATCH)]
            began, used = time.perf_counter(), time.process_time()
            catalogue.commit(records, active.generation_id, lambda images, report: images[0])
            if start:                                               # the first one compiles the statements
                wall.append((time.perf_counter() - began) * 1000 / BATCH)
                cpu.append((time.process_time() - used) * 1000 / BATCH)
        catalogue.close()
        for left in work.glob(f"{path.name}*"):
            left.unlink()
        walls.append((size, harness.percentile(wall, 50)))
        cpus.append((size, sum(cpu) / len(cpu)))
        print(f"catalogue of {size:,}: {walls[-1][1]:.2f} ms a study, {cpus[-1][1]:.2f} of CPU", flush=True)
    suite.ratios.append(
        harness.Ratio(f"commit of a study at {sizes[-1]:,} / at {sizes[0]:,}, CPU", (cpus[-1][1] / cpus[0][1],), 1.25,
                      at_least=False)
    )  # fmt: skip
    suite.ratios.append(
        harness.Ratio(f"commit of a study at {sizes[-1]:,} / at {sizes[0]:,}, clock", (walls[-1][1] / walls[0][1],))
    )
    suite.figures += [harness.Figure(f"commit of a study at {size:,}", "ms", (value,)) for size, value in walls]
    suite.curves.append(
        harness.Curve("commit of a study by size", "studies", "ms a study", {"clock": walls, "CPU": cpus}, log_x=True)
    )


def query_growth(suite: harness.Suite, sizes: Sequence[int], work: Path) -> None:
    """Measure similarity queries for 10 studies by example, over archives of an image each."""
    others = np.ones(EVICTING_BYTES, dtype=np.uint8)
    plain, cold = [], []
    for size in sizes:
        folder = work / f"archive-{size}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        bulk.make(folder / "catalogue.db", size, bulk.shipped_generation(), reported_share=0)
        with query_peers.finders(folder, size, 60 + size / 100) as (port, _):
            scu, rng = raw_scu.RawScu(port, "CXRSIMILAR"), np.random.default_rng(size)
            query_peers.ask_as_ever(scu, similar(K, uid=bulk.study_uid(0), basis="IMAGE"), folder, size)
            for evict, curve in ((lambda: None, plain), (others.sum, cold)):
                times = []
                for number in rng.choice(size, QUERIES + 1):
                    request = similar(K, uid=bulk.study_uid(int(number)), basis="IMAGE")
                    evict()
                    times.append(scu.timed(request, K) * 1000)
                curve.append((size, harness.percentile(times[1:], 50)))     # the first one opens files
            scu.release()
        shutil.rmtree(folder)
        print(f"queries among {size:,}: {plain[-1][1]:.3f} ms, {cold[-1][1]:.3f} with emptied caches", flush=True)
    first, last = sizes[0], sizes[-1]
    logarithm = math.log(last) / math.log(first)
    for title, curve in (("query", plain), ("query with emptied caches", cold)):
        growth = curve[-1][1] / curve[0][1] / logarithm
        suite.ratios.append(
            harness.Ratio(f"{title} at {last:,} studies / at {first:,}, over log n", (growth,), 1, at_least=False)
        )
        suite.figures += [harness.Figure(f"{title} among {size:,} studies", "ms", (value,)) for size, value in curve]
        as_log = [(size, curve[0][1] * math.log(size) / math.log(first)) for size in sizes]
        suite.curves.append(
            harness.Curve(f"{title} by size", "studies", "p50, ms", {"C-FIND": curve, "log n": as_log}, log_x=True)
        )


def run(options: harness.Options) -> harness.Suite:
    """Measure once: the curve is what repeats."""
    suite = harness.Suite("growth", "Growth: cost of a study, of a search and of a query by size")
    query_growth(suite, kept.within(QUERY_SIZES_FULL) if options.full else QUERY_SIZES, options.work)
    index_growth(suite, kept.within(SIZES_FULL) if options.full else SIZES, options.work)
    catalogue_growth(suite, kept.within(CATALOGUE_SIZES_FULL) if options.full else CATALOGUE_SIZES, options.work)
    suite.notes.append(
        f"batches of {BATCH}; {MEASURED} additions and commits, {QUERIES} searches at each size; vectors synthetic;"
        " queries: C-FIND round trips for 10 studies like one of the archive, each of another one, without reports;"
        " the finder has made heads for their keys before"
    )
    return suite


if __name__ == "__main__":
    harness.main(run)
