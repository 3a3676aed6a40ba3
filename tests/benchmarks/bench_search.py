"""Search: recall, latency, filters and memory of the vector index beside exact scans of the same vectors.

A round is a seed: vectors and queries of its own, an index of its own. The vectors are synthetic (vectors.py), for the
data sets at hand are small; queries are of the same surface and not in the index. Every query is put to us and to each
peer in turn. Long runs may keep the built indexes (kept.py).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import faiss
import harness
import kept
import numpy as np
import simsimd
import vectors as made

from storage.index.following import IndexSettings
from storage.index.hnsw import HnswIndex

K = 10
#: What the finder asks for at 20 results: 21 studies, three times oversampled.
K_FINDER = 63
SHARES = (0.5, 0.2, 0.1, 0.05, 0.01, 0.001, 0.0001)
QUERIES = 200
SIZE, SIZES_FULL = 40_000, (230_000, 1_000_000)
RERANKED = 50

_MEMORY = """
import sys, os, numpy as np
from pathlib import Path
from storage.index.hnsw import HnswIndex
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
more = np.load(Path(sys.argv[1]) / "more.npy")
empty = resident()
index = HnswIndex.load(Path(sys.argv[1]) / "index", more.shape[1])
labels = index.labels()
index.add(np.arange(len(more)) + labels[-1] + 1, more)
for query in more[:100]:
    index.search(query, 10)
    index.search(query, 10, labels[::50])
print(resident() - empty, len(index))
"""


def build(count: int, seed: int, kind: str, rows: made.Float32, work: Path) -> tuple[HnswIndex, float]:
    """Return an index of rows with the default parameters, and the seconds that it took: 0 for one that was kept."""
    found = kept.load(work, kind, count, seed)
    if found is None:
        index = HnswIndex(made.DIM, **IndexSettings().parameters())
        began = time.perf_counter()
        for start in range(0, count, 4096):
            index.add(np.arange(start, min(start + 4096, count)), rows[start : start + 4096])
        took = time.perf_counter() - began
        kept.save(work, kind, count, seed, index)
        return index, took
    return found, 0.0


class Scans:
    """The exact peers: everything is looked at."""

    def __init__(self, rows: made.Float32) -> None:
        self.rows = rows
        self._steps = np.abs(rows).max(axis=1) / np.float32(127)
        self._codes = np.empty(rows.shape, dtype=np.int8)
        for start in range(0, len(rows), 10_000):
            part = slice(start, start + 10_000)
            self._codes[part] = np.rint(rows[part] / self._steps[part, None])
        self.peers: dict[str, Callable[[made.Float32], object]] = {
            "numpy scan": self.numpy,
            "int8 scan + re-rank": self.int8,
        }
        faiss.omp_set_num_threads(1)
        flat = faiss.IndexFlatIP(made.DIM)
        flat.add(rows)
        self.peers["faiss flat"] = lambda query: flat.search(query[None], K)

    def numpy(self, query: made.Float32) -> object:
        """Multiply everything."""
        cosines = self.rows @ query
        best = np.argpartition(cosines, len(cosines) - K)[-K:]
        return best[np.argsort(-cosines[best])]

    def int8(self, query: made.Float32) -> object:
        """Multiply 8-bit codes, then the full vectors of the best."""
        code = np.rint(query * (127 / np.abs(query).max())).astype(np.int8)[None]
        dots = np.asarray(simsimd.cdist(code, self._codes, metric="dot", out_dtype="float32"))[0] * self._steps
        best = np.argpartition(dots, len(dots) - RERANKED)[-RERANKED:]
        return best[np.argsort(-(self.rows[best] @ query))[:K]]


def timed(calls: list[tuple[str, int, Callable[[], object]]], seed: int) -> dict[tuple[str, int], tuple[float, object]]:
    """Return milliseconds of CPU time and answer of every call, by its name and query: what else runs does not count.

    They come in random order: the same query twice in a row would find in the cache what it looks for.
    """
    found = {}
    for place in np.random.default_rng(seed).permutation(len(calls)):
        name, query, call = calls[place]
        began = time.thread_time()
        answer = call()
        found[name, query] = ((time.thread_time() - began) * 1000, answer)
    return found


def recall(found: list, cosines: made.Float32, kth: float) -> float:
    """Return the share of K that are as near as the exact K-th."""
    return sum(cosines[each.label] >= kth - 1e-6 for each in found) / K


def probed(index: HnswIndex, rows: made.Float32) -> None:
    """Let searches go as deep as the finder's hourly probe makes them go (IndexSet.keep_recall)."""
    samples = rows[np.random.default_rng(0).integers(len(rows), size=100)]

    def found(query: made.Float32) -> float:
        kth = index.exact(query, K)[-1].similarity
        return sum(each.similarity >= kth - 1e-6 for each in index.search(query, K)) / K

    while np.mean([found(query) for query in samples]) < 0.99 and index.deepen():
        pass


def under_additions(index: HnswIndex, queries: made.Float32, more: made.Float32) -> list[float]:
    """Return the milliseconds of searches while another thread adds vectors, 8 at a time, as fast as it can."""
    stop, added = threading.Event(), 0
    first = int(index.labels()[-1]) + 1

    def add() -> None:
        nonlocal added
        while not stop.is_set() and added + 8 <= len(more):
            index.add(np.arange(first + added, first + added + 8), more[added : added + 8])
            added += 8

    writer = threading.Thread(target=add)
    writer.start()
    times = []
    for query in queries:
        began = time.perf_counter()
        index.search(query, K)
        times.append((time.perf_counter() - began) * 1000)
        if not writer.is_alive():
            break
    stop.set()
    writer.join()
    return times


def memory(folder: Path, index: HnswIndex, more: made.Float32) -> float:
    """Return the bytes that an index holds in a process of its own, over its vectors' own float32 bytes."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "index").mkdir(parents=True)
    index.save(folder / "index")
    np.save(folder / "more.npy", more)
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", _MEMORY, str(folder)]
    output = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    shutil.rmtree(folder)
    held, count = map(int, output.split())
    return held / (count * made.DIM * 4)


def one(options: harness.Options, count: int, kind: str, seeds: range) -> harness.Suite:
    """Return what is found of one size and kind of vectors."""
    suite = harness.Suite("search", kind)
    of = f"{count:,} {kind}"
    gathered: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        gathered.setdefault(name, []).append(value)

    shares = [share for share in SHARES if share * count >= K]
    for seed in seeds:
        every = made.make(count + QUERIES + 4000, seed, kind)
        rows, queries, more = every[:count], every[count : count + QUERIES], every[count + QUERIES :]
        index, took = build(count, seed, kind, rows, options.work)
        if took:
            note("build, ms a vector", took * 1000 / count)
        note("dimension", made.dimension(rows[:50_000]))
        probed(index, rows)
        scans, rng = Scans(rows), np.random.default_rng([seed, 1, 1, 1, 1])
        allowed = {share: np.flatnonzero(rng.random(count) < share) for share in shares}
        calls: list[tuple[str, int, Callable[[], object]]] = []
        for number, query in enumerate(queries):
            calls.append(("search", number, partial(index.search, query, K)))
            calls.append((f"search {K_FINDER}", number, partial(index.search, query, K_FINDER)))
            for share in shares:
                calls.append((f"filter {share:.2%}", number, partial(index.search, query, K, allowed[share])))
            for share in (0.1, 0.01):
                call = partial(index.search, query, K_FINDER, allowed[share])
                calls.append((f"filter {share:.2%}, {K_FINDER}", number, call))
            if number % 4 == 0:                                     # slow, and steady
                calls += [(name, number, partial(peer, query)) for name, peer in scans.peers.items()]
        found, recalls, times = timed(calls, seed), {}, {}
        for (name, _), (milliseconds, _) in found.items():
            times.setdefault(name, []).append(milliseconds)
        for number, query in enumerate(queries):
            cosines = rows @ query
            for share in (1.0, *shares):
                name = "search" if share == 1 else f"filter {share:.2%}"
                passing = cosines if share == 1 else cosines[allowed[share]]
                near = recall(found[name, number][1], cosines, np.partition(passing, -K)[-K])
                recalls.setdefault(name, []).append(near)
        for name, each in times.items():
            note(f"p50 {name}", harness.percentile(each, 50))
        for name, each in recalls.items():
            note(f"recall {name}", float(np.mean(each)))
        note("p95 search", harness.percentile(times["search"], 95))
        note("memory", memory(options.work / "memory", index, more[:2000]))
        adding = under_additions(index, queries, more[2000:])
        note("p50 search while adding", harness.percentile(adding, 50))
        note("p95 search while adding", harness.percentile(adding, 95))
        del scans, index, every, rows
    best = min((name for name in gathered if "scan" in name or "flat" in name), key=lambda name: sum(gathered[name]))
    p50 = gathered["p50 search"]
    suite.ratios += [
        harness.Ratio(f"recall@10, {of}", tuple(gathered["recall search"]), 0.99),
        harness.ratio(
            f"search / best exact scan ({best.removeprefix('p50 ')}), {of}", p50, gathered[best], 1 / 3, at_least=False
        ),
        harness.Ratio(f"memory / vectors' own bytes, {of}", tuple(gathered["memory"]), 1.5, at_least=False),
    ]
    for share in shares:
        name = f"filter {share:.2%}"
        suite.ratios.append(
            harness.ratio(f"{name} / unfiltered, {of}", gathered[f"p50 {name}"], p50, 2, at_least=False)
        )
        suite.ratios.append(harness.Ratio(f"recall@10 of {name}, {of}", tuple(gathered[f"recall {name}"]), 0.99))
    for name, values in gathered.items():
        if not name.startswith("recall") and name != "memory":
            unit = "" if name == "dimension" else "ms"
            suite.figures.append(harness.Figure(f"{name}, {of}", unit, tuple(values)))
    suite.curves.append(harness.Curve(
        f"search with filters, {of}", "share that passes", "p50, ms",
        {
            "cxrfind": [(share, float(np.median(gathered[f"p50 filter {share:.2%}"]))) for share in shares],
            "without filter": [(share, float(np.median(p50))) for share in shares],
        },
        log_x=True,
    ))
    return suite


def run(options: harness.Options) -> harness.Suite:
    """Measure, each size and kind in a process of its own, as a finder is; a million vectors only in one round.

    In memory that another index has left, 230,000 white vectors took a fifth longer, or more.
    """
    suite = harness.Suite("search", "Search: the vector index beside exact scans")
    if options.full:
        parts = [(count, "manifold", range(1)) for count in kept.within(SIZES_FULL)]
        parts += [(SIZES_FULL[0], kind, range(1)) for kind in ("hard", "white")]
    else:
        parts = [(SIZE, "manifold", range(options.rounds)), (SIZE, "hard", range(1)), (SIZE, "white", range(1))]
    for count, kind, seeds in parts:
        with ProcessPoolExecutor(1, get_context("spawn")) as alone:
            found = alone.submit(one, options, count, kind, seeds).result()
        suite.ratios += found.ratios
        suite.figures += found.figures
        suite.curves += found.curves
        print(f"{count:,} {kind} measured", flush=True)
    settings = IndexSettings()
    suite.notes += [
        f"{made.DIM}-d float32, synthetic; M {settings.m}, efConstruction {settings.ef_construction}, ef "
        f"{settings.ef_search}; k {K}; {QUERIES} queries; filters pass labels at random",
        "white: made as the shipped model's vectors are; a graph finds less among them, so all codes are read",
        "times are CPU time of the calling thread, but for the build and the searches while adding",
        "a filter that passes only what is far from the query is worse: the graph is asked in vain, then codes read",
    ]
    return suite


if __name__ == "__main__":
    harness.main(run)
