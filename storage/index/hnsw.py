"""HNSW by hnswlib 0.8.0 (Malkov and Yashunin, TPAMI 2020), behind every fence that a long-running process needs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storage.base import Float32, Int64, Neighbour, Neighbours, StorageError
from storage.index.codes import CodeRows, nearest
from storage.index.native import hnswlib
from storage.index.pages import collapse
from storage.index.saved import GraphHeader, SavedVectors
from storage.index.sketch import CELLS_FROM, Sketch
from storage.index.table import LabelTable, ascending, unit_query
from storage.locks import ReadersWriterLock

GRAPH_FILE = "graph.hnsw"
TABLE_FILE = "labels.npz"
DEPTH_FILE = "depth.json"

#: A graph with more deleted nodes than this share is built anew (90 % deleted made it 15 times slower).
REBUILD_DELETED_SHARE = 0.2
#: With fewer vectors than this a scan is as fast as the graph, and exact; `deepen` raises it.
SCAN_BELOW = 512
#: So many codes are read one after another, which is exact, in the time that the graph takes for one more of its ef: 35
#: to 100 by size and by what else runs (1.7 to 2.8 us among 12,000 to 40,000 of 512; 30 to 50 ns a code).
CODES_FOR_ONE_EF = 64
#: So many vectors are scanned by the sketch in the time that the graph takes for one more of its ef: 100 to 170 at
#: 230,000 of 512 (80 ns, and 7 to 14 us by what else runs), 150 to 230 at 1,000,000.
SCANNED_FOR_ONE_EF = 120
#: So many product codes are read in the time that the graph takes for one more of its ef: 13 ns a vector at 230,000.
PRODUCTS_FOR_ONE_EF = 500
#: And so many where cells tell of most that they are far: at 1,000,000 of 512, 50,000 take as long as 250 more of ef
#: with what sieving adds, 100,000 as 330.
SCANNED_BY_CELLS = 300
#: How many times as many neighbours are taken from the graph as would do if those allowed were spread evenly; and never
#: fewer than ef times the root of what one in so many passes (up to 2): at 50 % the 20 nearest are as sure by 1.4 ef as
#: the 10 nearest by ef (.992 and .994 of hard vectors).
OVERSAMPLING = 1.4
#: The graph's list has gaps towards its end: the k-th allowed one in it must stand so far from there. Where what passes
#: is away from the query (half of the clusters, say), it does not, and the list is made longer.
LIST_OVER_RANK = 1.2
#: Vectors added to the graph before waiting searches get their turn, but for a 64th of a large batch.
ADD_CHUNK = 2
#: The same of an index that nobody has asked yet: the first search waits for one chunk, about a second.
FIRST_CHUNK = 2048
#: `deepen` goes no further in the graph.
LARGEST_EF = 4096
#: Vectors read out of the graph at once: hnswlib makes Python numbers of them, and holds the GIL.
_READ_CHUNK = 256
_SEED = 100


def _with_room(count: int) -> int:
    """Return the capacity of a graph that begins with so many nodes; each that is spare takes 44 bytes."""
    return count + max(1024, count // 128)


class HnswIndex:
    """A VectorIndex over an hnswlib graph whose labels are the nodes of a LabelTable.

    The graph holds the only copy of the full vectors. Its own answers have exact cosines. Scans (of allowed labels, of
    a small index) read 8-bit codes, of many allowed labels a sketch of these first, and take the full vectors of what
    is left from the snapshot's file, which is much faster than from the graph, or from there where they are newer.

    One writer at a time (`_writer`); readers stay out only while the graph itself changes (`_lock`). A graph is never
    resized under a reader, and rebuilt beside the old one, which answers meanwhile.
    """

    def __init__(
        self, dim: int, *, m: int = 16, ef_construction: int = 128, ef_search: int = 128, threads: int = 0
    ) -> None:
        """Make an empty index.

        Parameters
        ----------
        m, ef_construction, ef_search : int
            hnswlib's M, efConstruction and ef.
        threads : int
            For adding; 0 for all cores. 1 makes the graph, hence the answers, reproducible.
        """
        self.dim = dim
        self.m, self.ef_construction, self.ef_search, self.threads = m, ef_construction, ef_search, threads
        self._configured_ef = ef_search
        self._table = LabelTable(dim)
        self._codes = CodeRows(dim)
        self._sketch = Sketch(dim)
        self._graph = self._new_graph(1024)
        self._saved: SavedVectors | None = None
        self._scan_below = SCAN_BELOW
        self._asked = False                                         # nobody waits for an index that is being built
        self._moved = False                                         # the graph's memory, out of its huge pages
        self._lock = ReadersWriterLock()
        self._writer = threading.Lock()

    def __len__(self) -> int:
        return self._table.live_rows

    def __contains__(self, label: int) -> bool:
        with self._lock.reading():
            return label in self._table

    def labels(self) -> Int64:
        """Return the live labels, ascending."""
        with self._lock.reading():
            return self._table.live_labels()

    # ------------------------------------------------------------------------------------ changes

    def reserve(self, count: int) -> None:
        """Make room for so many vectors in all.

        A graph that grows step by step is moved each time, and loses its huge pages; codes are copied each time.
        """
        with self._writer, self._lock.writing():
            if count > self._graph.get_max_elements():
                if self._table.nodes:
                    self._graph.resize_index(_with_room(count))
                    self._moved = True
                else:
                    self._graph = self._new_graph(_with_room(count))
            self._codes.reserve(count)

    def add(self, labels: Int64, vectors: Float32) -> None:
        """Add vectors of unit length under new labels; all or none (BadVector, BadLabel)."""
        with self._writer:
            labels, vectors = self._table.checked(labels, vectors)
            chunk = max(ADD_CHUNK, len(labels) // 64) if self._asked else FIRST_CHUNK
            for start in range(0, len(labels), chunk):
                self._sketch.fit(self._codes)                       # takes long, and changes nothing that is read
                with self._lock.writing():
                    known = self._table.nodes
                    some = vectors[start : start + chunk]
                    first, revived = self._table.append(labels[start : start + chunk], some)
                    new = some[first] if len(first) < len(some) else some
                    self._codes.append(new)
                    self._sketch.follow(self._codes)
                    self._insert(self._graph, known, new)
                    for node in revived.tolist():
                        self._graph.unmark_deleted(node)
            if self._moved and self._asked:                         # while it is built it moves again and again
                self._moved = False
                collapse()

    def remove(self, labels: Iterable[int]) -> None:
        """Take labels out; BadLabel, and nothing done, if one is not there."""
        with self._writer:
            with self._lock.writing():
                for node in self._table.drop(labels).tolist():
                    self._graph.mark_deleted(node)
            deleted = self._table.nodes - self._table.live_nodes
            if deleted > REBUILD_DELETED_SHARE * self._table.nodes:
                self._rebuild()

    def _rebuild(self) -> None:
        """Build a graph of the live vectors only, and put it in place of the old one."""
        table, nodes = self._table.compacted()                      # nobody writes meanwhile: we hold the writer lock
        codes, sketch = self._codes.kept(nodes), Sketch(self.dim)
        sketch.fit(codes)
        sketch.follow(codes)
        graph = self._new_graph(_with_room(table.nodes))
        for start in range(0, len(nodes), _READ_CHUNK):
            self._insert(graph, start, self._full(nodes[start : start + _READ_CHUNK]))
        with self._lock.writing():
            self._table, self._codes, self._sketch, self._graph, self._saved = table, codes, sketch, graph, None
            graph.set_ef(self.ef_search)                            # searches may have been made deeper meanwhile

    def _new_graph(self, capacity: int) -> hnswlib.Index:
        graph = hnswlib.Index(space="ip", dim=self.dim)             # unit vectors: inner product is the cosine
        graph.init_index(capacity, M=self.m, ef_construction=self.ef_construction, random_seed=_SEED)
        graph.set_ef(self.ef_search)
        if self.threads:
            graph.set_num_threads(self.threads)
        return graph

    def _insert(self, graph: hnswlib.Index, start: int, vectors: Float32) -> None:
        """Insert vectors as nodes from `start` on; the caller keeps readers off this graph, also while it grows."""
        if not len(vectors):
            return
        needed = start + len(vectors)
        if needed > graph.get_max_elements():
            graph.resize_index(max(needed, graph.get_max_elements() * 9 // 8))
            self._moved = True
        graph.add_items(vectors, np.arange(start, needed), num_threads=self.threads or -1)

    # ------------------------------------------------------------------------------------ searches

    def search(self, vector: Float32, k: int, allowed: Int64 | None = None) -> list[Neighbour]:
        """Return the min(k, live, live allowed) nearest labels, best first.

        Approximate where the graph answers: without `allowed`, or when many are. A sketch, for fewer, misses next to
        nobody; of few, all codes are read.
        """
        return self.nearest(vector, k, allowed).rows()

    def nearest(self, vector: Float32, k: int, allowed: Int64 | None = None) -> Neighbours:
        """Return what `search` does, as columns."""
        query = unit_query(vector, self.dim)
        self._asked = True
        with self._lock.reading():
            if k <= 0 or not self._table.live_rows:
                return Neighbours.none()
            if allowed is not None:
                return self._search_allowed(query, k, ascending(allowed))
            reach = k + 1                                           # one more tells whether it is as near as the last
            while reach * 4 <= self._table.live_nodes and (found := self._from_graph(query, reach)) is not None:
                near = self._table.nearest(*found, k)
                if near is not None:
                    return near
                reach *= 8
            return self._scan(query, k)

    def exact(self, vector: Float32, k: int) -> list[Neighbour]:
        """Return what `search` would if the graph missed nobody."""
        query = unit_query(vector, self.dim)
        with self._lock.reading():
            if k <= 0 or not self._table.live_rows:
                return []
            nodes = self._table.live_node_ids()
            return self._best(query, k, nodes, *self._codes.scan(query, nodes)).rows()

    def deepen(self) -> bool:
        """Let searches go through twice as much of the graph; return whether that was still possible.

        Or scan, where that takes no longer: of the shipped model's vectors a graph finds .99 of 12,000 at 1,000 of ef,
        and of 40,000 not at 2,000.
        """
        live, deeper = self._table.live_nodes, 2 * self.ef_search
        if live < self._scan_below:
            return False
        scanned = deeper * (CODES_FOR_ONE_EF if self._sketch.products is None else PRODUCTS_FOR_ONE_EF)
        if live < scanned:
            self._scan_below = scanned
        elif deeper <= LARGEST_EF:
            self.ef_search = deeper
            self._graph.set_ef(deeper)                              # a number that searches read when they begin
        else:
            return False
        return True

    def _search_allowed(self, query: Float32, k: int, allowed: Int64) -> Neighbours:
        """Take more from the graph than asked for, and widen until k pass, while that is cheaper than a scan."""
        thinned = self._table.live_rows / max(1, len(allowed))      # the k-th allowed is so many times as far down
        reach = int(max(self.ef_search * min(2.0, max(1.0, thinned) ** 0.5), OVERSAMPLING * k * thinned))
        scan = self._price_of_scan(len(allowed))
        while reach < scan:
            near = self._from_graph(query, reach)
            if near is None:
                break
            cosines = np.float32(1) - near[1]
            found = self._table.neighbours(near[0].astype(np.int64), cosines, k, allowed)
            whole = len(found.labels) == k
            if whole:
                before = np.count_nonzero(cosines >= found.similarities[-1])
                if before * LIST_OVER_RANK <= reach:
                    return found
            reach *= 2 if whole else 4
        return self._scan(query, k, allowed)

    def _price_of_scan(self, count: int) -> float:
        """Return what it takes to scan so many allowed vectors, in units of ef."""
        if self._sketch.products is not None:
            return min(count / CODES_FOR_ONE_EF, self._table.nodes / PRODUCTS_FOR_ONE_EF)
        if not self._sketch.count:
            return count / CODES_FOR_ONE_EF
        by_cells = count >= CELLS_FROM and self._sketch.has_cells
        return count / (SCANNED_BY_CELLS if by_cells else SCANNED_FOR_ONE_EF)

    def _from_graph(self, query: Float32, reach: int) -> tuple[NDArray[np.uint64], Float32] | None:
        """Return `reach` near live nodes, or all, and their distances, nearest first; None where a scan has to do it.

        hnswlib goes through the graph by its own ef, or by `reach` where that is more, and fails where it meets fewer
        than `reach` live nodes.
        """
        live = self._table.live_nodes
        if live < self._scan_below:
            return None
        try:
            nodes, distances = self._graph.knn_query(query, k=min(reach, live), num_threads=1)
        except RuntimeError:                                        # fewer than k can be reached
            return None
        return nodes[0], distances[0]

    def _scan(self, query: Float32, k: int, allowed: Int64 | None = None) -> Neighbours:
        """Return the nearest of all or of `allowed` (ascending) by the sketch, then by codes, then by full vectors."""
        table = self._table
        nodes = table.live_node_ids() if allowed is None else table.live_nodes_of(allowed)
        return self._best(query, k, *self._sketch.scan(self._codes, query, nodes, k), allowed)

    def _best(
        self, query: Float32, k: int, nodes: Int64, cosines: Float32, blur: float, allowed: Int64 | None = None
    ) -> Neighbours:
        """Return the nearest of nodes, whose cosines are known but for the blur."""
        best = nodes[nearest(cosines, blur, k)]
        return self._table.neighbours(best, self._full(best) @ query, k, allowed)

    def _full(self, nodes: Int64) -> Float32:
        """Return the vectors of live nodes, float32 (n, dim): those of the last snapshot from its file."""
        vectors = np.full((len(nodes), self.dim), np.nan, dtype=np.float32)
        saved = self._saved
        if saved is not None:
            old = nodes < saved.count
            vectors[old] = saved.read(nodes[old])
            vectors[~self._codes.resemble(nodes, vectors)] = np.nan  # the disk gave something else
        left = np.flatnonzero(np.isnan(vectors[:, 0]))
        for start in range(0, len(left), _READ_CHUNK):
            some = left[start : start + _READ_CHUNK]
            vectors[some] = self._graph.get_items(nodes[some])
        return vectors

    def _one(self, node: int) -> Float32:
        """Return what `_full` does of one node, in a third of the time."""
        if self._saved is not None and node < self._saved.count:
            data = self._saved.read_bytes(node)
            if self._table.is_of(node, data):
                return np.frombuffer(data, dtype=np.float32).reshape(1, self.dim)
        return np.asarray(self._graph.get_items([node]), dtype=np.float32)

    def vectors(self, labels: Sequence[int]) -> Float32:
        """Return the vectors of labels, float32 (n, dim); BadLabel if one is not there."""
        with self._lock.reading():
            if len(labels) == 1:                                    # the example of most queries
                return self._one(self._table.node_of(int(labels[0])))
            return self._full(self._table.nodes_of(np.asarray(labels, dtype=np.int64).reshape(-1)))

    # ------------------------------------------------------------------------------------ files

    def save(self, folder: Path) -> None:
        """Write what `load` needs; changes wait meanwhile, searches don't.

        hnswlib reports no write error (``/dev/full`` passed): the snapshot compares size and hash afterwards.
        """
        with self._writer, self._lock.reading():
            self._table.save(folder / TABLE_FILE)
            self._codes.save(folder)
            self._sketch.save(folder)
            if self.ef_search > self._configured_ef or self._scan_below > SCAN_BELOW:
                depth = {"ef_search": self.ef_search, "scan_below": self._scan_below}
                (folder / DEPTH_FILE).write_text(json.dumps(depth), encoding="ascii")
            self._graph.save_index(str(folder / GRAPH_FILE))
            expected = self._graph.index_file_size()
            written = (folder / GRAPH_FILE).stat().st_size
            if written != expected:
                raise StorageError(f"{GRAPH_FILE}: {written} of {expected} bytes were written; is the disk full?")
            self._saved = SavedVectors(folder / GRAPH_FILE, self.dim)

    @classmethod
    def load(
        cls, folder: Path, dim: int, *, m: int = 16, ef_construction: int = 128, ef_search: int = 128, threads: int = 0
    ) -> HnswIndex:
        """Return the index of a folder whose bytes have been verified (4 KB of bit rot load, then crash).

        Raises
        ------
        StorageError
            If graph and table don't belong together or were made with other parameters.
        """
        index = cls(dim, m=m, ef_construction=ef_construction, ef_search=ef_search, threads=threads)
        table, codes = LabelTable.load(folder / TABLE_FILE, dim), CodeRows.load(folder, dim)
        header = GraphHeader.of(folder / GRAPH_FILE)
        element_bytes = (2 * m * 4 + 4) + dim * 4 + 8               # another dimension would end in a heap abort
        if len({table.nodes, codes.count, header.count}) != 1 or header.element_bytes != element_bytes:
            raise StorageError(f"{GRAPH_FILE} does not fit {TABLE_FILE}, dim {dim} and M {m}; rebuild the index")
        graph = hnswlib.Index(space="ip", dim=dim)
        try:
            graph.load_index(str(folder / GRAPH_FILE), max_elements=_with_room(table.nodes))
        except RuntimeError as error:
            raise StorageError(f"{GRAPH_FILE} cannot be loaded ({error}); rebuild the index") from error
        if (folder / DEPTH_FILE).exists():                          # how deep `deepen` made searches go
            depth = json.loads((folder / DEPTH_FILE).read_text(encoding="ascii"))
            index.ef_search = max(ef_search, int(depth["ef_search"]))
            index._scan_below = max(SCAN_BELOW, int(depth["scan_below"]))
        graph.set_ef(index.ef_search)                               # not kept in the file: 10 after loading
        if threads:
            graph.set_num_threads(threads)
        index._table, index._codes, index._graph = table, codes, graph
        index._sketch = Sketch.load(folder, codes)
        index._saved = SavedVectors(folder / GRAPH_FILE, dim)
        return index
