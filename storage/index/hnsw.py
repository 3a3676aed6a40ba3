"""HNSW by hnswlib 0.8.0 (Malkov and Yashunin, TPAMI 2020), behind every fence that a long-running process needs."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import hnswlib
import numpy as np

from storage.base import Float32, Int64, Neighbour, StorageError
from storage.index.table import VectorTable, unit_query
from storage.locks import ReadersWriterLock

GRAPH_FILE = "graph.hnsw"
TABLE_FILE = "table.npz"

#: A graph with more deleted nodes than this share is built anew (90 % deleted made it 15 times slower).
REBUILD_DELETED_SHARE = 0.2
#: With fewer vectors than this a scan is as fast as the graph, and exact.
SCAN_BELOW = 512
#: So many allowed vectors are scanned rather than sieved out of the graph's answers.
SCAN_ALLOWED_BELOW = 8192
#: Vectors added to the graph before waiting searches get their turn.
ADD_CHUNK = 64
_SEED = 100


class HnswIndex:
    """A VectorIndex over an hnswlib graph whose labels are the nodes of a VectorTable.

    One writer at a time (`_writer`); readers stay out only while the graph itself changes (`_lock`). A graph is never
    resized under a reader, and rebuilt beside the old one, which answers meanwhile.
    """

    def __init__(
        self, dim: int, *, m: int = 24, ef_construction: int = 200, ef_search: int = 128, threads: int = 0
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
        self._table = VectorTable(dim)
        self._graph = self._new_graph(1024)
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

    def add(self, labels: Int64, vectors: Float32) -> None:
        """Add vectors of unit length under new labels; all or none (BadVector, BadLabel)."""
        with self._writer:
            labels, vectors = self._table.checked(labels, vectors)
            chunk = max(ADD_CHUNK, len(labels) // 64)
            for start in range(0, len(labels), chunk):
                with self._lock.writing():
                    known = self._table.nodes
                    fresh = self._table.append(labels[start : start + chunk], vectors[start : start + chunk])
                    self._insert(self._graph, self._table, fresh[fresh >= known])
                    for node in fresh[fresh < known].tolist():
                        self._graph.unmark_deleted(node)

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
        table = self._table.compacted()                             # nobody writes meanwhile: we hold the writer lock
        graph = self._new_graph(max(1024, table.nodes * 5 // 4))
        self._insert(graph, table, np.arange(table.nodes, dtype=np.int64))
        with self._lock.writing():
            self._table, self._graph = table, graph

    def _new_graph(self, capacity: int) -> hnswlib.Index:
        graph = hnswlib.Index(space="ip", dim=self.dim)             # unit vectors: inner product is the cosine
        graph.init_index(capacity, M=self.m, ef_construction=self.ef_construction, random_seed=_SEED)
        graph.set_ef(self.ef_search)
        if self.threads:
            graph.set_num_threads(self.threads)
        return graph

    def _insert(self, graph: hnswlib.Index, table: VectorTable, nodes: Int64) -> None:
        """Insert new nodes; the caller keeps readers off this graph, also while it grows."""
        if not len(nodes):
            return
        needed = int(nodes[-1]) + 1
        if needed > graph.get_max_elements():
            graph.resize_index(max(needed, 2 * graph.get_max_elements()))
        graph.add_items(table.vectors()[nodes], nodes, num_threads=self.threads or -1)

    # ------------------------------------------------------------------------------------ searches

    def search(self, vector: Float32, k: int, allowed: Int64 | None = None) -> list[Neighbour]:
        """Return the min(k, live, live allowed) nearest labels, best first.

        Approximate without `allowed`, or when most of what lies near is allowed; else exact.
        """
        query = unit_query(vector, self.dim)
        with self._lock.reading():
            table = self._table
            if k <= 0 or not table.live_rows:
                return []
            if allowed is not None:
                return self._search_allowed(query, k, allowed)
            nodes = self._nearest_nodes(query, min(k, table.live_nodes))
            if nodes is None:
                return table.neighbours(*table.scan(query), k)
            return table.neighbours(*table.scan(query, nodes), k)

    def _search_allowed(self, query: Float32, k: int, allowed: Int64) -> list[Neighbour]:
        """Few allowed: scan just these. Many: take more from the graph than asked for, and widen until k pass."""
        table = self._table
        rows = table.live_rows_of(allowed)
        if not len(rows):
            return []
        nodes = table.nodes_of_rows(rows)
        wanted = min(k, len(nodes))
        passes = np.zeros(table.nodes, dtype=np.bool_)
        passes[nodes] = True
        reach = max(self.ef_search, wanted * 3 * table.live_nodes // (2 * len(nodes)))
        while len(nodes) > SCAN_ALLOWED_BELOW and reach * 8 < len(nodes):
            nearest = self._nearest_nodes(query, reach)
            if nearest is None:
                break
            nearest = nearest[passes[nearest]]
            if len(nearest) >= wanted:
                return table.neighbours(*table.scan(query, nearest), k, rows)
            reach *= 4
        return table.neighbours(*table.scan(query, nodes), k, rows)

    def _nearest_nodes(self, query: Float32, k: int) -> Int64 | None:
        """Return about k nearest live nodes by the graph, or None where only a scan is sure to find k."""
        live = self._table.live_nodes
        if live < SCAN_BELOW or k * 4 > live:
            return None
        try:                                                        # hnswlib searches with ef or k, the larger one, so
            nodes, _ = self._graph.knn_query(query, k=k, num_threads=1)         # k beyond ef needs no set_ef (a race)
        except RuntimeError:                                        # fewer than k can be reached
            return None
        return np.asarray(nodes[0], dtype=np.int64)

    def vectors(self, labels: Sequence[int]) -> Float32:
        """Return the vectors of labels, float32 (n, dim); BadLabel if one is not there."""
        with self._lock.reading():
            return self._table.vectors_of(labels)

    # ------------------------------------------------------------------------------------ files

    def save(self, folder: Path) -> None:
        """Write what `load` needs; changes wait meanwhile, searches don't.

        hnswlib reports no write error (``/dev/full`` passed): the snapshot compares size and hash afterwards.
        """
        with self._writer, self._lock.reading():
            self._table.save(folder / TABLE_FILE)
            self._graph.save_index(str(folder / GRAPH_FILE))
            expected = self._graph.index_file_size()
        written = (folder / GRAPH_FILE).stat().st_size
        if written != expected:
            raise StorageError(f"{GRAPH_FILE}: {written} of {expected} bytes were written; is the disk full?")

    @classmethod
    def load(
        cls, folder: Path, dim: int, *, m: int = 24, ef_construction: int = 200, ef_search: int = 128, threads: int = 0
    ) -> HnswIndex:
        """Return the index of a folder whose bytes have been verified (4 KB of bit rot load, then crash).

        Raises
        ------
        StorageError
            If graph and table don't belong together or were made with other parameters.
        """
        index = cls(dim, m=m, ef_construction=ef_construction, ef_search=ef_search, threads=threads)
        table = VectorTable.load(folder / TABLE_FILE, dim)
        header = np.fromfile(folder / GRAPH_FILE, dtype=np.uint64, count=6)
        # offsetLevel0, max_elements, cur_element_count, size_data_per_element, label_offset, offsetData: the element
        # size tells the dimension and M, which hnswlib doesn't check (another dimension ends in a heap abort).
        element_bytes = (2 * m * 4 + 4) + dim * 4 + 8
        if len(header) != 6 or int(header[2]) != table.nodes or int(header[3]) != element_bytes:
            raise StorageError(f"{GRAPH_FILE} does not fit {TABLE_FILE}, dim {dim} and M {m}; rebuild the index")
        graph = hnswlib.Index(space="ip", dim=dim)
        try:
            graph.load_index(str(folder / GRAPH_FILE), max_elements=max(1024, table.nodes * 5 // 4))
        except RuntimeError as error:
            raise StorageError(f"{GRAPH_FILE} cannot be loaded ({error}); rebuild the index") from error
        graph.set_ef(ef_search)                                     # not kept in the file: 10 after loading
        if threads:
            graph.set_num_threads(threads)
        index._table, index._graph = table, graph
        return index
