"""What every engine keeps beside its vectors: labels, which of them still count, and which vectors are equal."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from hashlib import blake2b
from operator import lt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storage.base import Float32, Int64, Neighbours, StorageError

#: A stored vector's length may differ from 1 by this much (float32 rounding of a model's last layer, no more).
UNIT_TOLERANCE = 1e-3
#: A query whose square differs from 1 by no more than the rounding of float32 stays as it is.
_NEXT_TO_1 = 1e-6
#: New digests wait in a dict until there are so many, or a sixteenth of all: then they are sorted in.
_UNSORTED = 4096

#: For so many labels a column of nodes by label is made (a search in the sorted labels took 1.1 ms for 23,000 among
#: 230,000, this 0.1), unless there are so many more numbers than rows that it would be mostly empty.
_LOOK_UP_FROM, _LABELS_A_ROW = 1024, 8
_CACHE_LINE = 64
#: So few labels are looked up sooner one by one.
_FEW = 4

UInt64 = NDArray[np.uint64]
#: Halves of a digest, in any processor's memory as `_digest` gives them.
_DIGEST = np.dtype("<u8")


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
    squares = float(query.dot(query))                               # `@` takes 5 us more after a search
    if abs(squares - 1) < _NEXT_TO_1:
        return query
    exact = query.astype(np.float64)
    norm = math.sqrt(exact @ exact)
    if not math.isfinite(norm) or norm == 0:
        raise BadVector("the query vector is zero or not finite; the encoder that made it is broken")
    return np.asarray(query / np.float32(norm), dtype=np.float32)


def ascending(labels: Int64) -> Int64:
    """Return labels as ascending int64 without repetition; for free when they are so already."""
    wanted = np.asarray(labels, dtype=np.int64).reshape(-1)
    return wanted if bool((wanted[1:] > wanted[:-1]).all()) else np.unique(wanted)


def grown(array: NDArray[np.generic], size: int) -> NDArray[np.generic]:
    """Return an array with room for `size` rows and some more, which take no memory before they are written.

    It begins with a cache line: rows of 64 bytes across two of them took 31 instead of 27 ns to fetch and multiply.
    """
    if size <= len(array):
        return array
    shape = size + size // 8 + 64, *array.shape[1:]
    held = np.zeros(math.prod(shape) * array.itemsize + _CACHE_LINE, dtype=np.uint8)
    first = -held.ctypes.data % _CACHE_LINE
    larger = held[first : first + len(held) - _CACHE_LINE].view(array.dtype).reshape(shape)
    larger[: len(array)] = array
    return larger


def _digest(vector: bytes | memoryview) -> bytes:
    return blake2b(vector, digest_size=16).digest()


def digests_of(vectors: Float32) -> UInt64:
    """Return 128 bits of each vector, uint64 (n, 2): equal for equal vectors, and for no others that will ever be."""
    digests = b"".join([_digest(row.data) for row in np.ascontiguousarray(vectors)])
    return np.frombuffer(digests, dtype=_DIGEST).reshape(-1, 2)


class LabelTable:
    """Rows of (label, node, live) in ascending label order; a node is a distinct vector, which the engine holds.

    Equal vectors share a node: 2,000 duplicates in an HNSW graph made 978 of 3,000 others unreachable. About 40 bytes a
    label, and four for each number up to the largest. Not guarded by itself: the engine's lock is.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.rows = 0
        self.nodes = 0
        self.live_rows = 0
        self.live_nodes = 0
        self.last_label = -1
        self._labels: Int64 = np.zeros(0, dtype=np.int64)
        self._row_node = np.zeros(0, dtype=np.int32)
        self._row_live = np.zeros(0, dtype=np.bool_)
        self._row_before = np.zeros(0, dtype=np.int32)              # the node's row before this one, or -1
        self._last_row = np.zeros(0, dtype=np.int32)                # of a node
        self._uses = np.zeros(0, dtype=np.int32)                    # of a node: live rows
        self._digests: UInt64 = np.zeros((0, 2), dtype=_DIGEST)     # of a node
        self._by_digest = np.zeros(0, dtype=np.int32)               # the first nodes, by ascending digest
        self._unsorted: dict[int, int] = {}                         # digest to node, of the others
        self._placed = 0, np.zeros(0, dtype=np.int32)               # see _nodes_by_label
        self._live_nodes: Int64 | None = None                       # see live_node_ids

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
        norms = np.sqrt(np.einsum("ij,ij->i", new_vectors, new_vectors))    # linalg.norm makes a copy of squares
        if not (np.abs(norms - 1) <= UNIT_TOLERANCE).all():         # NaN fails the comparison too
            worst = int(new_labels[int(np.argmax(np.nan_to_num(np.abs(norms - 1), nan=np.inf)))])
            raise BadVector(f"the vector of label {worst} is not finite and of unit length; nothing was added")
        return new_labels, new_vectors

    def append(self, labels: Int64, vectors: Float32) -> tuple[Int64, Int64]:
        """Append checked rows.

        Returns
        -------
        first : ndarray of int64
            Positions in the batch whose vectors are new: nodes from the former `nodes` on, in this order.
        revived : ndarray of int64
            Older nodes that no label used and one uses again.
        """
        self._reserve(self.rows + len(labels))
        self._live_nodes = None
        nodes, first = self._nodes_for(digests_of(vectors))
        old, self.nodes = self.nodes, self.nodes + len(first)
        rows = np.arange(self.rows, self.rows + len(labels), dtype=np.int32)
        distinct = np.unique(nodes)
        woken = distinct[self._uses[distinct] == 0]
        self.live_nodes += len(woken)
        np.add.at(self._uses, nodes, 1)
        order = np.argsort(nodes, kind="stable")
        by_node, ordered = nodes[order], rows[order]
        before = self._last_row[by_node]
        again = np.flatnonzero(by_node[1:] == by_node[:-1])
        before[again + 1] = ordered[again]
        self._row_node[rows], self._row_before[ordered] = nodes, before
        self._last_row[by_node] = ordered                           # the last assignment stays
        if len(labels):
            self._labels[rows], self._row_live[rows] = labels, True
            self.last_label = int(labels[-1])
        self.rows += len(labels)
        self.live_rows += len(labels)
        if len(self._unsorted) > max(_UNSORTED, self.nodes // 16):
            self._sort_digests()
        return first, woken[woken < old]

    def _nodes_for(self, digests: UInt64) -> tuple[Int64, Int64]:
        """Return every vector's node, and the positions of those that get a new one: `nodes` and following, in order.

        Makes the new nodes but for their count.
        """
        nodes = self._sorted_nodes(digests)
        left = np.flatnonzero(nodes < 0)
        waiting = np.fromiter((self._unsorted.get(low, -1) for low in digests[left, 0].tolist()), np.int64, len(left))
        waiting[self._digests[waiting, 1] != digests[left, 1]] = -1
        nodes[left] = waiting
        left = left[waiting < 0]
        order = np.lexsort((left, digests[left, 1], digests[left, 0]))
        by_digest = left[order]
        begins = np.ones(len(left), dtype=np.bool_)
        begins[1:] = (digests[by_digest[1:]] != digests[by_digest[:-1]]).any(axis=1)
        first = np.sort(by_digest[begins])
        numbers = self.nodes + np.searchsorted(first, by_digest[begins])
        nodes[by_digest] = numbers[np.cumsum(begins) - 1]
        new = np.arange(self.nodes, self.nodes + len(first))
        self._digests[new], self._last_row[new] = digests[first], -1
        self._unsorted.update(zip(digests[first, 0].tolist(), new.tolist(), strict=True))
        return nodes, first

    def _sorted_nodes(self, digests: UInt64) -> Int64:
        """Return the nodes of vectors that are among the sorted ones, -1 for others."""
        found = np.full(len(digests), -1, dtype=np.int64)
        count = len(self._by_digest)
        if count:
            places = np.searchsorted(self._digests[:count, 0], digests[:, 0], sorter=self._by_digest)
            nodes = self._by_digest[np.minimum(places, count - 1)]
            same = (self._digests[nodes] == digests).all(axis=1)
            found[same] = nodes[same]
        return found

    def _sort_digests(self) -> None:
        self._by_digest = np.argsort(self._digests[: self.nodes, 0], kind="stable").astype(np.int32)
        self._unsorted = {}

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
        self._live_nodes = None
        self.live_rows -= len(rows)
        _, by_label = self._placed
        by_label[wanted[: np.searchsorted(wanted, len(by_label))]] = -1
        np.subtract.at(self._uses, self._row_node[rows], 1)
        nodes = np.unique(self._row_node[rows])
        dead = np.asarray(nodes[self._uses[nodes] == 0], dtype=np.int64)
        self.live_nodes -= len(dead)
        return dead

    def compacted(self) -> tuple[LabelTable, Int64]:
        """Return a copy with live rows only, which remembers the largest label ever seen, and its nodes here."""
        nodes = self.live_node_ids()
        numbers = np.full(self.nodes, -1, dtype=np.int32)
        numbers[nodes] = np.arange(len(nodes), dtype=np.int32)
        rows = np.flatnonzero(self._row_live[: self.rows])
        copy = LabelTable(self.dim)
        copy._fill(
            self._labels[rows], numbers[self._row_node[rows]], self._row_live[rows], self._digests[nodes],
            self.last_label,
        )
        return copy, nodes

    # ------------------------------------------------------------------------------------ lookups

    def live_node_ids(self) -> Int64:
        """Return the nodes that a live label uses, ascending; kept until they change, for 230,000 take .4 ms."""
        nodes = self._live_nodes
        if nodes is None:
            nodes = self._live_nodes = np.flatnonzero(self._uses[: self.nodes])
        return nodes

    def live_labels(self) -> Int64:
        """Return the live labels, ascending."""
        return self._labels[: self.rows][self._row_live[: self.rows]]

    def live_rows_of(self, labels: Int64) -> Int64:
        """Return the rows of those labels that are live."""
        labels = np.asarray(labels, dtype=np.int64)
        if not self.rows or not len(labels):
            return np.zeros(0, dtype=np.int64)
        rows = np.minimum(self._labels[: self.rows].searchsorted(labels), self.rows - 1)
        return np.asarray(rows[(self._labels[rows] == labels) & self._row_live[rows]], dtype=np.int64)

    def nodes_of(self, labels: Int64) -> Int64:
        """Return the node of each label, in order; BadLabel if one is not live."""
        if len(labels) <= _FEW:
            return np.fromiter(map(self.node_of, labels.tolist()), np.int64, len(labels))
        rows = self.live_rows_of(labels)
        if len(rows) != len(labels):
            raise BadLabel("a label is not in the index")
        return np.asarray(self._row_node[rows], dtype=np.int64)

    def is_of(self, node: int, vector: bytes) -> bool:
        """Return whether these bytes are those of a node's vector."""
        digest: bytes = self._digests[node].tobytes()
        return digest == _digest(vector)

    def node_of(self, label: int) -> int:
        """Return the node of a label; BadLabel if it is not live."""
        row = bisect_left(self._labels.data, label, 0, self.rows)
        if row == self.rows or self._labels[row] != label or not self._row_live[row]:
            raise BadLabel("a label is not in the index")
        return int(self._row_node[row])

    def live_nodes_of(self, labels: Int64) -> Int64:
        """Return the distinct nodes of those labels (ascending) that are live, ascending."""
        placed, _ = self._placed
        many = len(labels) >= _LOOK_UP_FROM or 0 < placed == self.rows
        if many and self.last_label < _LABELS_A_ROW * self.rows:
            known = slice(*np.searchsorted(labels, (0, self.last_label + 1)))
            nodes = self._nodes_by_label().take(labels[known], mode="clip")  # "raise" would copy once more
            nodes = nodes if nodes.min(initial=0) >= 0 else nodes[nodes >= 0]
        else:
            nodes = self._row_node[self.live_rows_of(labels)]
        if self.rows != self.nodes and not (nodes[1:] > nodes[:-1]).all():
            nodes = np.unique(nodes)                                # several labels of one vector
        return nodes.astype(np.int64)

    def _nodes_by_label(self) -> NDArray[np.int32]:
        """Return the node of every label up to the largest, -1 of those that are not live; made when first needed.

        Searches may do so at once: each writes what the others do, and the count last.
        """
        known, nodes = self._placed
        if known < self.rows:
            if len(nodes) <= self.last_label:
                larger = np.full(self.last_label + 1 + self.last_label // 8, -1, dtype=np.int32)
                larger[: len(nodes)] = nodes
                nodes = larger
            new = slice(known, self.rows)
            nodes[self._labels[new]] = np.where(self._row_live[new], self._row_node[new], -1)
            self._placed = self.rows, nodes
        return nodes

    def neighbours(self, nodes: Int64, similarities: Float32, k: int, allowed: Int64 | None = None) -> Neighbours:
        """Return the best k live labels (among `allowed`, ascending) of scored nodes, descending, ties by label."""
        if allowed is None and len(nodes) > k > 0:                  # each has a label: below the k-th none is needed
            by_rank = similarities.copy()
            by_rank.partition(len(nodes) - k)
            near = similarities >= by_rank[len(nodes) - k]
            nodes, similarities = nodes[near], similarities[near]
        row, score = self._last_row[nodes], similarities
        if self.rows != self.nodes:                                 # vectors that have several labels
            rows, scores = [row], [score]
            while len(row := self._row_before[rows[-1]]):
                rows.append(row[row >= 0])
                scores.append(scores[-1][row >= 0])
            row, score = np.concatenate(rows), np.concatenate(scores)
        if self.live_rows != self.rows:
            live = self._row_live[row]
            row, score = row[live], score[live]
        labels = self._labels[row]
        if allowed is not None:
            places = np.minimum(np.searchsorted(allowed, labels), len(allowed) - 1)
            passes = allowed[places] == labels
            labels, score = labels[passes], score[passes]
        best = np.lexsort((labels, -score))[:k]
        return Neighbours(labels[best], np.minimum(np.maximum(score[best], np.float32(-1)), 1).astype(np.float64))

    def nearest(self, nodes: NDArray[np.uint64], distances: Float32, k: int) -> Neighbours | None:
        """Return the best k live labels of nodes that a graph found, nearest first: what `neighbours` does, sooner.

        None where a node that was not found may be as near as the last one wanted, by which their labels decide.
        """
        far = distances.tolist()
        if not all(map(lt, far, far[1:])):                          # after a search `==` of arrays takes longer
            if k < len(far) and far[k - 1] == far[-1]:
                return None
            return self.neighbours(nodes.astype(np.int64), np.float32(1) - distances, k)
        rows = self._last_row.take(nodes[:k].view(np.int64))
        if (self.live_rows != self.rows and not self._row_live.take(rows).all()) or (
            self.rows != self.nodes and self._row_before.take(rows).max() >= 0
        ):
            return self.neighbours(nodes.astype(np.int64), np.float32(1) - distances, k)
        similarities = 1 - distances[:k].astype(np.float64)
        if far[0] < 0 or far[-1] > 2:                               # by rounding
            similarities = np.minimum(np.maximum(similarities, -1), 1)
        return Neighbours(self._labels.take(rows), similarities)

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
            digests=self._digests[: self.nodes],
            last_label=np.asarray(self.last_label),
        )

    @classmethod
    def load(cls, path: Path, dim: int) -> LabelTable:
        """Return the table of a file that `save` wrote; StorageError when it contradicts itself."""
        with np.load(path, allow_pickle=False) as file:
            labels, row_node, row_live = file["labels"], file["row_node"], file["row_live"]
            digests, last_label = file["digests"].astype(_DIGEST, copy=False), int(file["last_label"])
        rows, nodes = len(labels), len(digests)
        if not rows == len(row_node) == len(row_live) or (
            rows and (row_node.min() < 0 or row_node.max() >= nodes or last_label < labels[-1])
        ):
            raise StorageError(f"{path.name} contradicts itself; rebuild the index")
        table = cls(dim)
        table._fill(labels, row_node, row_live, digests, last_label)
        return table

    def _fill(
        self, labels: Int64, row_node: NDArray[np.int32], row_live: NDArray[np.bool_], digests: UInt64, last_label: int
    ) -> None:
        """Take these columns as the content of an empty table, and derive the others."""
        self.rows, self.nodes, self.last_label = len(labels), len(digests), last_label
        self._labels, self._row_node, self._row_live, self._digests = labels, row_node, row_live, digests
        self._uses = np.bincount(row_node[row_live], minlength=self.nodes).astype(np.int32)
        by_node = np.argsort(row_node, kind="stable").astype(np.int32)
        again = np.flatnonzero(np.diff(row_node[by_node]) == 0)
        self._row_before = np.full(self.rows, -1, dtype=np.int32)
        self._row_before[by_node[again + 1]] = by_node[again]
        self._last_row = np.full(self.nodes, -1, dtype=np.int32)
        self._last_row[row_node[by_node]] = by_node                 # the last assignment stays
        self.live_rows, self.live_nodes = int(row_live.sum()), int(np.count_nonzero(self._uses))
        self._sort_digests()

    def _reserve(self, rows: int) -> None:
        """Make room for so many rows, hence at most as many nodes."""
        for name in ("_labels", "_row_node", "_row_live", "_row_before", "_last_row", "_uses", "_digests"):
            setattr(self, name, grown(getattr(self, name), rows))
