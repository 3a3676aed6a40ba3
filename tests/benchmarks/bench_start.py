"""Start: the finder's indexes from a snapshot and from nothing, beside hnswlib's bare build of the same vectors.

Every study has an image, seven of ten a report; so there are 2.7 vectors a study in three indexes. Loading happens in a
process of its own, as after a restart, with the files in the page cache; the model is no part of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import bulk
import harness
import numpy as np

from storage.base import Kind
from storage.catalogue import open_catalogue
from storage.index.following import IndexSet, IndexSettings
from storage.index.native import hnswlib

DIM = 512
STUDIES, STUDIES_FULL, FEW = 6_000, 230_000, 300
#: What the finder may take until it answers.
READY_S = 5.0
GENERATION = {"fingerprint": "b" * 64, "model_id": "bench", "dim": DIM, "calibration": {}}

_OPEN = """
import sys, time, os
from pathlib import Path
from storage.catalogue import open_catalogue
from storage.index.following import IndexSet
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) * 1024
held, began, used = resident(), time.perf_counter(), time.process_time()
catalogue = open_catalogue(Path(sys.argv[1]) / "catalogue.db")
indexes = IndexSet.open(catalogue, catalogue.active_generation(), Path(sys.argv[1]) / "index")
print(time.perf_counter() - began, time.process_time() - used, resident() - held, sum(indexes.counts().values()))
"""


@dataclass(frozen=True, slots=True)
class Timed:
    """Seconds on the clock, and of CPU over all threads."""

    wall_s: float
    cpu_s: float


class Stopwatch:
    """Measures a block: ``with Stopwatch() as watch: ...``, then ``watch.timed``."""

    def __enter__(self) -> Stopwatch:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.timed = Timed(time.perf_counter() - self._wall, time.process_time() - self._cpu)


def bare_build(indexes: IndexSet) -> Timed:
    """Return what hnswlib alone takes for the vectors of a set, with the same parameters and threads."""
    settings, walls, cpus = IndexSettings(), 0.0, 0.0
    for kind in Kind:
        index = indexes._indexes[kind]
        vectors = index.vectors(index.labels().tolist())
        graph = hnswlib.Index(space="ip", dim=DIM)
        graph.init_index(len(vectors), M=settings.m, ef_construction=settings.ef_construction)
        with Stopwatch() as watch:
            graph.add_items(vectors, np.arange(len(vectors)))
        walls, cpus = walls + watch.timed.wall_s, cpus + watch.timed.cpu_s
    return Timed(walls, cpus)


@dataclass(frozen=True, slots=True)
class Opened:
    """A start: wall and CPU seconds, bytes held, vectors."""

    wall_s: float
    cpu_s: float
    held: int
    vectors: int


def opened(folder: Path) -> Opened:
    """Return what a start from the snapshot takes in a process of its own."""
    command = [sys.executable, "-c", _OPEN, str(folder)]
    root = Path(__file__).parents[2]
    output = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    wall, cpu, held, vectors = output.split()[-4:]
    return Opened(float(wall), float(cpu), int(held), int(vectors))


def small_start(folder: Path) -> Opened:
    """Return the start of an archive of FEW studies: what is held whatever the size."""
    folder.mkdir()
    bulk.make(folder / "catalogue.db", FEW, GENERATION)
    catalogue = open_catalogue(folder / "catalogue.db")
    generation = catalogue.active_generation()
    assert generation is not None
    IndexSet.open(catalogue, generation, folder / "index").snapshot()
    catalogue.close()
    return opened(folder)


def run(options: harness.Options) -> harness.Suite:
    """Measure; the long run builds once."""
    studies = STUDIES_FULL if options.full else STUDIES
    suite = harness.Suite("start", f"Start of the finder with {studies:,} studies")
    catalogue_path = options.work / "catalogue.db"
    began = time.perf_counter()
    bulk.make(catalogue_path, studies, GENERATION)
    print(f"catalogue made in {time.perf_counter() - began:.0f} s", flush=True)
    catalogue = open_catalogue(catalogue_path)
    generation = catalogue.active_generation()
    assert generation is not None
    rebuilds, bares, snapshots = [], [], []
    for number in range(1 if options.full else options.rounds):
        folder = options.work / ("index" if number == 0 else f"index-{number}")
        with Stopwatch() as watch:
            indexes = IndexSet.open(catalogue, generation, folder)
        rebuilds.append(watch.timed)
        with Stopwatch() as watch:
            indexes.snapshot()
        snapshots.append(watch.timed)
        print(f"rebuilt in {rebuilds[-1].wall_s:.1f} s", flush=True)
        bares.append(bare_build(indexes))
        del indexes
    catalogue.close()
    few = small_start(options.work / "few")
    starts = [opened(options.work) for _ in range(options.rounds)]
    walls, cpus = tuple(start.wall_s for start in starts), tuple(start.cpu_s for start in starts)
    suite.ratios = [
        harness.Ratio(f"ready from a snapshot / {READY_S:g} s", tuple(wall / READY_S for wall in walls), 1,
                      at_least=False),
        harness.ratio("rebuild / hnswlib's bare build", [r.wall_s for r in rebuilds], [b.wall_s for b in bares], 1.1,
                      at_least=False),
        harness.ratio("rebuild / hnswlib's bare build, CPU time", [r.cpu_s for r in rebuilds], [b.cpu_s for b in bares],
                      at_least=False),
        harness.Ratio("memory of all indexes / vectors' own bytes",
                      tuple(start.held / (start.vectors * DIM * 4) for start in starts), 1.5 if options.full else None,
                      at_least=False),
        harness.Ratio("memory of all indexes for a further vector / its own bytes",
                      tuple((start.held - few.held) / ((start.vectors - few.vectors) * DIM * 4) for start in starts),
                      1.5, at_least=False),
    ]  # fmt: skip
    suite.figures = [
        harness.Figure("ready from a snapshot", "s", walls),
        harness.Figure("ready from a snapshot, CPU", "s", cpus),
        harness.Figure("rebuild from the catalogue", "s", tuple(each.wall_s for each in rebuilds)),
        harness.Figure("hnswlib's bare build", "s", tuple(each.wall_s for each in bares)),
        harness.Figure("writing a snapshot", "s", tuple(each.wall_s for each in snapshots)),
    ]
    size = sum(path.stat().st_size for path in (options.work / "index").rglob("*") if path.is_file())
    suite.notes += [
        f"{starts[0].vectors:,} vectors of {DIM}, snapshot of {size / 1e6:,.0f} MB, {os.cpu_count()} cores",
        "memory: after loading, less what the interpreter held before; pages that the catalogue maps from its file are "
        f"the page cache's and are not in it; {few.held / 1e6:.0f} MB are held for {few.vectors:,} vectors (hnswlib's "
        "locks, SQLAlchemy), so that the first ratio is judged where there are many",
    ]
    return suite


if __name__ == "__main__":
    harness.main(run)
