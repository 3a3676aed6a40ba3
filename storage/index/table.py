"""What every engine keeps beside its search structure: labels, their vectors, and which of them still count."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storage.base import Float32, Int64, Neighbour, StorageError

#: A stored vector's length may differ from 1 by this much (float32 rounding of a model's last layer, no more).
UNIT_TOLERANCE = 1e-3


class BadVector(StorageError):
    """A vector is not finite, has no direction, or is not of unit length."""


class BadLabel(StorageError):
    """A label is negative, unknown, or was seen before."""


def unit_query(vector: Float32, dim: int) -> Float32:
    """Return a query vector as contiguous float32 (dim,) of unit length.

    Raises
    ------
    BadVector
        If it has another length, holds NaN or infinity, or is all zero: one NaN spoils a whole hnswlib search.
    """
    query = np.ascontiguousarray(vector, dtype=np.float32).reshape(-1)
    if query.shape != (dim,):
        raise BadVector(f"the query has {query.size} numbers and the index {dim}; use the model that made the index")
    norm = float(np.linalg.norm(query.astype(np.float64)))
    if not np.isfinite(norm) or norm == 0:
        raise BadVector("the query vector is zero or not finite; the encoder that made it is broken")
    return np.asarray(query / np.float32(norm), dtype=np.float32)


def _grown(array: NDArray[np.generic], size: int) -> NDArray[np.generic]:
    larger = np.zeros((size, *array.shape[1:]), dtype=array.dtype)
    larger[: len(array)] = array
    return larger


class VectorTable:
    """Rows of (label, node, live) in ascending label order, and the distinct vectors, one node each.

    Equal vectors share a node: 2,000 duplicates in an HNSW graph made 978 of 3,000 others unreachable. Not guarded by
    itself: the engine's lock is.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.rows = 0
        self.nodes = 0
        self.live_rows = 0
        self.live_nodes = 0
        self.last_label = -1
        self._labels: Int64 = np.zeros(64, dtype=np.int64)
        self._row_node: Int64 = np.zeros(64, dtype=np.int64)
        self._row_live: NDArray[np.bool_] = np.zeros(64, dtype=np.bool_)
        self._vectors: Float32 = np.zeros((64, dim), dtype=np.float32)
        self._uses: NDArray[np.int32] = np.zeros(64, dtype=np.int32)
        self._first_row: Int64 = np.zeros(64, dtype=np.int64)
        self._more_rows: dict[int, list[int]] = {}
        self._node_of_digest: dict[int, int] = {}

    # ------------------------------------------------------------------------------------ changes

    def checked(self, labels: Int64, vectors: Float32) -> tuple[Int64, Float32]:
        """Return labels and vectors as arrays that may be appended, or raise without having changed anything."""
        new_labels = np.asarray(labels, dtype=np.int64).reshape(-1)
        new_vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        if new_vectors.shape != (len(new_labels), self.dim):
            raise BadVector(f"got vectors of shape {new_vectors.shape} for {len(new_labels)} labels of dim {self.dim}")
        if not len(new_labels):
            return new_labels, new_vectors
        if new_labels[0] < 0 or new_labels[0] <= self.last_label or (np.diff(new_labels) <= 0).any():
            raise BadLabel(
                f"labels must grow and be above {self.last_label}, the largest ever seen here; they are never reused"
            )
        norms = np.linalg.norm(new_vectors.astype(np.float64), axis=1)
        if not (np.abs(norms - 1) <= UNIT_TOLERANCE).all():         # NaN fails the comparison too
            worst = int(new_labels[int(np.argmax(np.nan_to_num(np.abs(norms - 1), nan=np.inf)))])
            raise BadVector(f"the vector of label {worst} is not finite and of unit length; nothing was added")
        return new_labels, new_vectors

    def append(self, labels: Int64, vectors: Float32) -> Int64:
        """Append checked rows; return the nodes that are new or live again."""
        self._reserve(self.rows + len(labels))
        fresh = []
        for label, vector in zip(labels.tolist(), vectors, strict=True):
            digest = int.from_bytes(blake2b(vector.tobytes(), digest_size=8).digest(), "little")
            node = self._node_of_digest.get(digest, -1)
            if node < 0 or not np.array_equal(self._vectors[node], vector):
                node = self.nodes
                self._vectors[node] = vector
                self._uses[node] = 0
                self._first_row[node] = self.rows
                self._node_of_digest[digest] = node
                self.nodes += 1
            else:
                self._more_rows.setdefault(node, []).append(self.rows)
            if not self._uses[node]:
                fresh.append(node)
                self.live_nodes += 1
            self._uses[node] += 1
            self._labels[self.rows] = label
            self._row_node[self.rows] = node
            self._row_live[self.rows] = True
            self.rows += 1
            self.live_rows += 1
            self.last_label = label
        return np.asarray(fresh, dtype=np.int64)

    def drop(self, labels: Iterable[int]) -> Int64:
        """Take labels out; return the nodes that no label uses any longer.

        Raises
        ------
        BadLabel
            If one of them is not live; nothing has been removed then.
        """
        wanted = np.unique(np.fromiter(labels, dtype=np.int64))
        rows = self.live_rows_of(wanted)
        if len(rows) != len(wanted):
            raise BadLabel("a label to remove is not in the index")
        self._row_live[rows] = False
        self.live_rows -= len(rows)
        dead = []
        for node in self._row_node[rows].tolist():
            self._uses[node] -= 1
            if not self._uses[node]:
                dead.append(node)
        self.live_nodes -= len(dead)
        return np.asarray(dead, dtype=np.int64)

    def compacted(self) -> VectorTable:
        """Return a copy with live rows only; it remembers the largest label ever seen."""
        rows = np.flatnonzero(self._row_live[: self.rows])
        copy = VectorTable(self.dim)
        copy.append(self._labels[rows], self._vectors[self._row_node[rows]])
        copy.last_label = self.last_label
        return copy

    # ------------------------------------------------------------------------------------ lookups

    def vectors(self) -> Float32:
        """Return the vectors of all nodes, float32 (nodes, dim), dead ones included; a view."""
        return self._vectors[: self.nodes]

    def live_node_ids(self) -> Int64:
        """Return the nodes that a live label uses, ascending."""
        return np.flatnonzero(self._uses[: self.nodes])

    def live_labels(self) -> Int64:
        """Return the live labels, ascending."""
        return self._labels[: self.rows][self._row_live[: self.rows]]

    def live_rows_of(self, labels: Int64) -> Int64:
        """Return the rows of those labels that are live."""
        labels = np.asarray(labels, dtype=np.int64)
        if not self.rows or not len(labels):
            return np.zeros(0, dtype=np.int64)
        rows = np.minimum(np.searchsorted(self._labels[: self.rows], labels), self.rows - 1)
        return np.asarray(rows[(self._labels[rows] == labels) & self._row_live[rows]], dtype=np.int64)

    def nodes_of_rows(self, rows: Int64) -> Int64:
        """Return the distinct nodes of rows, ascending."""
        return np.unique(self._row_node[rows])

    def vectors_of(self, labels: Sequence[int]) -> Float32:
        """Return a copy of the vectors of live labels, in their order; BadLabel if one is not live."""
        wanted = np.asarray(labels, dtype=np.int64).reshape(-1)
        rows = self.live_rows_of(wanted)
        if len(rows) != len(wanted):
            raise BadLabel("a label is not in the index")
        return np.array(self._vectors[self._row_node[rows]], dtype=np.float32)

    def scan(self, query: Float32, nodes: Int64 | None = None) -> tuple[Int64, Float32]:
        """Return nodes (all live ones by default) and their cosines with the query, unordered."""
        if nodes is None:
            nodes = self.live_node_ids()
            if len(nodes) * 2 > self.nodes:                         # cheaper to scan in place than to gather
                return nodes, (self.vectors() @ query)[nodes]
        return nodes, self._vectors[nodes] @ query

    def neighbours(
        self, nodes: Int64, similarities: Float32, k: int, allowed_rows: Int64 | None = None
    ) -> list[Neighbour]:
        """Return the best k live labels (among `allowed_rows`) of scored nodes, descending, ties by ascending label."""
        if len(nodes) > k:                                          # a node has at least one label: k best nodes do,
            kth = np.partition(similarities, len(nodes) - k)[len(nodes) - k]    # with everything tied to the last
            keep = similarities >= kth
            nodes, similarities = nodes[keep], similarities[keep]
        passes = self._row_live
        if allowed_rows is not None:
            passes = np.zeros(self.rows, dtype=np.bool_)
            passes[allowed_rows] = True
        found: list[tuple[float, int]] = []
        for node, similarity in zip(nodes.tolist(), similarities.tolist(), strict=True):
            for row in (int(self._first_row[node]), *self._more_rows.get(node, ())):
                if passes[row]:
                    found.append((-similarity, int(self._labels[row])))
        found.sort()
        return [Neighbour(label, max(-1.0, min(1.0, -negative))) for negative, label in found[:k]]

    def __contains__(self, label: int) -> bool:
        return len(self.live_rows_of(np.asarray([label], dtype=np.int64))) == 1

    # ------------------------------------------------------------------------------------ files

    def save(self, path: Path) -> None:
        """Write every row and node, dead ones included: a graph refers to them by number."""
        np.savez(
            path,
            labels=self._labels[: self.rows],
            row_node=self._row_node[: self.rows],
            row_live=self._row_live[: self.rows],
            vectors=self.vectors(),
            last_label=np.asarray(self.last_label),
        )

    @classmethod
    def load(cls, path: Path, dim: int) -> VectorTable:
        """Return the table of a file that `save` wrote; StorageError when it contradicts itself."""
        with np.load(path, allow_pickle=False) as file:
            labels, row_node, row_live = file["labels"], file["row_node"], file["row_live"]
            vectors, last_label = file["vectors"], int(file["last_label"])
        rows, nodes = len(labels), len(vectors)
        if (
            vectors.shape != (nodes, dim)
            or vectors.dtype != np.float32
            or not rows == len(row_node) == len(row_live)
            or (rows and (row_node.min() < 0 or row_node.max() >= nodes or last_label < labels[-1]))
        ):
            raise StorageError(f"{path.name} does not hold a table of dim {dim}; rebuild the index")
        table = cls(dim)
        table._reserve(max(rows, nodes))
        table._labels[:rows], table._row_node[:rows], table._row_live[:rows] = labels, row_node, row_live
        table._vectors[:nodes] = vectors
        table.rows, table.nodes, table.last_label = rows, nodes, last_label
        np.add.at(table._uses, row_node[row_live], 1)
        _, first = np.unique(row_node, return_index=True)
        table._first_row[row_node[first]] = first
        repeated = np.ones(rows, dtype=np.bool_)
        repeated[first] = False
        for row in np.flatnonzero(repeated).tolist():
            table._more_rows.setdefault(int(row_node[row]), []).append(row)
        for node in range(nodes):
            digest = blake2b(vectors[node].tobytes(), digest_size=8).digest()
            table._node_of_digest[int.from_bytes(digest, "little")] = node
        table.live_rows = int(row_live.sum())
        table.live_nodes = len(table.live_node_ids())
        return table

    def _reserve(self, rows: int) -> None:
        """Make room for so many rows, hence at most as many nodes; by doubling."""
        if rows > len(self._labels):
            size = max(rows, 2 * len(self._labels))
            for name in ("_labels", "_row_node", "_row_live", "_vectors", "_uses", "_first_row"):
                setattr(self, name, _grown(getattr(self, name), size))
