"""Which engines there are: a built-in name, or any importable ``package.module:Class``."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Protocol, cast

from storage.base import Float32, Int64, Neighbour, Neighbours, StorageError, VectorIndex
from storage.index.exact import ExactIndex
from storage.index.hnsw import HnswIndex


class LabelledIndex(VectorIndex, Protocol):
    """A VectorIndex that can also answer in columns, tell what it holds, and whom it misses."""

    def reserve(self, count: int) -> None:
        """Make room for so many vectors in all: that many are about to be added."""

    def nearest(self, vector: Float32, k: int, allowed: Int64 | None = None) -> Neighbours:
        """Return what `search` does, as columns: a query of 100 answers has better to do than to make objects."""

    def labels(self) -> Int64:
        """Return the live labels, ascending: a loaded index is compared with the Catalogue."""

    def exact(self, vector: Float32, k: int) -> list[Neighbour]:
        """Return what `search` would if it missed nobody."""

    def deepen(self) -> bool:
        """Make searches miss less and take longer; return whether that was still possible."""


class IndexEngine(Protocol):
    """The class of a vector index. `parameters`: m, ef_construction, ef_search, threads (all optional)."""

    def __call__(self, dim: int, **parameters: int) -> LabelledIndex: ...

    def load(self, folder: Path, dim: int, **parameters: int) -> LabelledIndex:
        """Return the index that `save` wrote into a folder."""


class UnknownEngine(StorageError):
    """The configuration names an index engine that cannot be imported."""


INDEXES: dict[str, IndexEngine] = {
    "hnsw": cast(IndexEngine, HnswIndex),
    "exact": cast(IndexEngine, ExactIndex),
}


def engine(name: str) -> IndexEngine:
    """Return the engine of a configured name: a key of INDEXES, or ``module:Class``."""
    if name in INDEXES:
        return INDEXES[name]
    module, _, attribute = name.partition(":")
    try:
        return cast(IndexEngine, getattr(importlib.import_module(module), attribute))
    except (ImportError, AttributeError, ValueError) as error:
        known = ", ".join(sorted(INDEXES))
        raise UnknownEngine(f"index.type = {name!r} is neither {known} nor an importable module:Class") from error
