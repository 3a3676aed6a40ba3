"""Growth: what one more study costs, and a search, when there are 10,000, and when there are a million.

The index grows by additions as the worker makes them, 8 at a time, between bulk additions up to the next size. The
catalogue is filled by rows as its API writes them (bulk.py), with vectors of 64 dimensions to spare the disk; then
batches are committed through the API.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import bulk
import harness
import numpy as np
import vectors as made

from storage.catalogue import open_catalogue
from storage.index.following import IndexSettings
from storage.index.hnsw import HnswIndex

K, BATCH, MEASURED, QUERIES = 10, 8, 512, 200
SIZES = (10_000, 20_000, 40_000)
SIZES_FULL = (10_000, 30_000, 100_000, 230_000, 1_000_000)
CATALOGUE_SIZES = (10_000, 40_000)
CATALOGUE_SIZES_FULL = (10_000, 100_000, 1_000_000)
CATALOGUE_DIM = 64


def index_growth(suite: harness.Suite, sizes: tuple[int, ...], seed: int = 0) -> None:
    """Measure additions and searches at each size of one growing index."""
    rows = made.make(sizes[-1] + QUERIES, seed)
    rows, queries = rows[: sizes[-1]], rows[sizes[-1] :]
    index, count = HnswIndex(made.DIM, **IndexSettings().parameters()), 0
    adds, searches, recalls = [], [], []
    kept = os.environ.get("CXRFIND_BENCH_KEEP")
    for size in sizes:
        while count < size - MEASURED:
            end = min(count + 4096, size - MEASURED)
            index.add(np.arange(count, end), rows[count:end])
            count = end
        began = time.process_time()
        for start in range(count, size, BATCH):
            index.add(np.arange(start, start + BATCH), rows[start : start + BATCH])
        adds.append((size, (time.process_time() - began) * 1000 / MEASURED))
        count = size
        times, found = [], 0
        least = made.kth_cosines(rows[:size], queries, K)
        for query, kth in zip(queries, least, strict=True):
            began = time.thread_time()
            answer = index.search(query, K)
            times.append((time.thread_time() - began) * 1000)
            found += sum(each.similarity >= kth - 1e-5 for each in answer)
        searches.append((size, harness.percentile(times, 50)))
        recalls.append((size, found / (K * QUERIES)))
        print(f"index of {size:,}: {adds[-1][1]:.2f} ms an addition, {searches[-1][1]:.3f} ms a search, "
              f"recall {recalls[-1][1]:.4f}", flush=True)
        if kept and size >= 230_000:
            settings = IndexSettings()
            folder = Path(kept, f"manifold-{size}-{seed}-{settings.m}-{settings.ef_construction}")
            (folder / "index").mkdir(parents=True, exist_ok=True)
            index.save(folder / "index")
            (folder / "whole").touch()
    first, last = sizes[0], sizes[-1]
    logarithm = math.log(last) / math.log(first)
    suite.ratios += [
        harness.Ratio(f"search at {last:,} / at {first:,}, over log n",
                      (searches[-1][1] / searches[0][1] / logarithm,), 1, at_least=False),
        harness.Ratio(f"addition at {last:,} / at {first:,}, over log n", (adds[-1][1] / adds[0][1] / logarithm,)),
        harness.Ratio(f"recall@10 at {last:,}", (recalls[-1][1],), 0.99),
    ]  # fmt: skip
    suite.figures += [harness.Figure(f"search at {size:,}", "ms", (value,)) for size, value in searches]
    suite.figures += [harness.Figure(f"addition to {size:,}", "ms", (value,)) for size, value in adds]
    as_log = [(size, searches[0][1] * math.log(size) / math.log(first)) for size in sizes]
    suite.curves += [
        harness.Curve("search by size", "vectors", "p50, ms of CPU", {"search": searches, "log n": as_log}, log_x=True),
        harness.Curve("addition to the index by size", "vectors", "ms of CPU a vector", {"addition": adds}, log_x=True),
        harness.Curve("recall by size", "vectors", "recall@10", {"recall": recalls}, log_x=True),
    ]


def catalogue_growth(suite: harness.Suite, sizes: tuple[int, ...], work: Path) -> None:
    """Measure commits through the API at each size, each catalogue filled in bulk."""
    generation = {"fingerprint": "b" * 64, "model_id": "bench", "dim": CATALOGUE_DIM, "calibration": {}}
    walls, cpus = [], []
    for size in sizes:
        path = work / f"catalogue-{size}.db"
        bulk.make(path, size, generation)
        catalogue = open_catalogue(path)
        active = catalogue.active_generation()
        assert active is not None
        rows = next(bulk.vectors(MEASURED, CATALOGUE_DIM, seed=1))
        wall, cpu = [], []
        for start in range(0, MEASURED, BATCH):
            records = [bulk._record(size + 10 + n, bulk.DX, rows[n]) for n in range(start, start + BATCH)]
            began, used = time.perf_counter(), time.process_time()
            catalogue.commit(records, active.generation_id, lambda images, report: images[0])
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


def run(options: harness.Options) -> harness.Suite:
    """Measure once: the curve is what repeats."""
    suite = harness.Suite("growth", "Growth: cost of a study and of a search by size")
    index_growth(suite, SIZES_FULL if options.full else SIZES)
    catalogue_growth(suite, CATALOGUE_SIZES_FULL if options.full else CATALOGUE_SIZES, options.work)
    suite.notes.append(
        f"batches of {BATCH}; {MEASURED} additions and commits, {QUERIES} searches at each size; vectors synthetic"
    )
    return suite


if __name__ == "__main__":
    harness.main(run)
