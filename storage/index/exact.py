"""Exact search: every vector looked at. The oracle of the others, and good enough for a small archive."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from storage.base import Float32, Int64, Neighbour, Neighbours, StorageError
from storage.index.codes import nearest
from storage.index.table import LabelTable, ascending, grown, unit_query
from storage.locks import ReadersWriterLock

_TABLE_FILE = "labels.npz"
_VECTORS_FILE = "vectors.npy"


class ExactIndex:
    """A VectorIndex that scans (1,000,000 × 128 float32: 42.5 ms on two cores; the finder has one for it)."""

    def __init__(self, dim: int, *, threads: int = 0, m: int = 0, ef_construction: int = 0, ef_search: int = 0) -> None:
        """Make an empty index; the graph's parameters are taken and not used, so that engines can be exchanged."""
        del threads, m, ef_construction, ef_search
        self.dim = dim
        self._table = LabelTable(dim)
        self._vectors: Float32 = np.zeros((0, dim), dtype=np.float32)
        self._lock = ReadersWriterLock()

    def __len__(self) -> int:
        return self._table.live_rows

    def __contains__(self, label: int) -> bool:
        with self._lock.reading():
            return label in self._table

    def labels(self) -> Int64:
        """Return the live labels, ascending."""
        with self._lock.reading():
            return self._table.live_labels()

    def reserve(self, count: int) -> None:
        """Make room for so many vectors in all."""
        with self._lock.writing():
            self._vectors = grown(self._vectors, count)  # type: ignore[assignment]

    def add(self, labels: Int64, vectors: Float32) -> None:
        """Add vectors of unit length under new labels; all or none (BadVector, BadLabel)."""
        with self._lock.writing():
            labels, vectors = self._table.checked(labels, vectors)
            known = self._table.nodes
            first, _ = self._table.append(labels, vectors)
            self._vectors = grown(self._vectors, self._table.nodes)  # type: ignore[assignment]
            self._vectors[known : self._table.nodes] = vectors[first]

    def remove(self, labels: Iterable[int]) -> None:
        """Take labels out; BadLabel, and nothing done, if one is not there."""
        with self._lock.writing():
            self._table.drop(labels)
            if self._table.live_rows * 2 < self._table.rows:
                self._table, nodes = self._table.compacted()
                self._vectors = self._vectors[nodes]

    def search(self, vector: Float32, k: int, allowed: Int64 | None = None) -> list[Neighbour]:
        """Return the min(k, live, live allowed) nearest labels, best first."""
        return self.nearest(vector, k, allowed).rows()

    def exact(self, vector: Float32, k: int) -> list[Neighbour]:
        """Return what `search` returns."""
        return self.nearest(vector, k).rows()

    def nearest(self, vector: Float32, k: int, allowed: Int64 | None = None) -> Neighbours:
        """Return what `search` does, as columns."""
        query = unit_query(vector, self.dim)
        with self._lock.reading():
            if k <= 0 or not self._table.live_rows:
                return Neighbours.none()
            if allowed is None:
                nodes = self._table.live_node_ids()
                cosines = (self._vectors[: self._table.nodes] @ query)[nodes]
            else:
                allowed = ascending(allowed)
                nodes = self._table.live_nodes_of(allowed)
                cosines = self._vectors[nodes] @ query
            best = nearest(cosines, 0.0, k)
            return self._table.neighbours(nodes[best], cosines[best], k, allowed)

    def deepen(self) -> bool:
        """Return False: nothing is missed."""
        return False

    def vectors(self, labels: Sequence[int]) -> Float32:
        """Return the vectors of labels, float32 (n, dim); BadLabel if one is not there."""
        with self._lock.reading():
            return self._vectors[self._table.nodes_of(np.asarray(labels, dtype=np.int64).reshape(-1))]

    def save(self, folder: Path) -> None:
        """Write what `load` needs."""
        with self._lock.reading():
            self._table.save(folder / _TABLE_FILE)
            np.save(folder / _VECTORS_FILE, self._vectors[: self._table.nodes])

    @classmethod
    def load(cls, folder: Path, dim: int, **parameters: int) -> ExactIndex:
        """Return the index of a folder whose bytes have been verified."""
        index = cls(dim, **parameters)
        table, vectors = LabelTable.load(folder / _TABLE_FILE, dim), np.load(folder / _VECTORS_FILE)
        if vectors.shape != (table.nodes, dim) or vectors.dtype != np.float32:
            raise StorageError(f"{_VECTORS_FILE} does not hold vectors of dim {dim}; rebuild the index")
        index._table, index._vectors = table, vectors
        return index
