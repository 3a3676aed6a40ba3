"""Indexes of long runs, kept: CXRFIND_BENCH_KEEP names a folder, and a run that was ended goes on from what is there.

Suites of the same vectors share them (seed and size tell the vectors: vectors.py). Without it nothing outlives a run.
CXRFIND_BENCH_LARGEST leaves out what is larger, where time or memory do not suffice for a million.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import vectors as made

from storage.index.following import IndexSettings
from storage.index.hnsw import HnswIndex


def within(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the sizes up to CXRFIND_BENCH_LARGEST; all without it."""
    largest = int(os.environ.get("CXRFIND_BENCH_LARGEST", sizes[-1]))
    return tuple(size for size in sizes if size <= largest)


def _place(work: Path, kind: str, count: int, seed: int) -> Path:
    settings = IndexSettings()
    root = Path(os.environ.get("CXRFIND_BENCH_KEEP") or work / "indexes")
    return root / f"{kind}-{count}-{seed}-{settings.m}-{settings.ef_construction}"


def load(work: Path, kind: str, count: int, seed: int) -> HnswIndex | None:
    """Return the kept index of the first `count` vectors of a kind and seed, None without one."""
    place = _place(work, kind, count, seed)
    if not (place / "whole").exists():
        return None
    return HnswIndex.load(place / "index", made.DIM, **IndexSettings().parameters())


def save(work: Path, kind: str, count: int, seed: int, index: HnswIndex) -> None:
    """Keep an index: for later runs, or for this one only; scans read vectors from its file, as in operation."""
    place = _place(work, kind, count, seed)
    shutil.rmtree(place, ignore_errors=True)                        # of a run that was ended while it wrote
    (place / "index").mkdir(parents=True)
    index.save(place / "index")
    (place / "whole").touch()
