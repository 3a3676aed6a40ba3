"""Full vectors out of the graph's own file: hnswlib gives them as Python numbers, fifteen times slower than a read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from storage.base import Float32, Int64, StorageError

#: The file opens with offsetLevel0, max_elements, cur_element_count, size_data_per_element, label_offset, offsetData
#: (each size_t), maxlevel, entry point, maxM, maxM0, M, mult, efConstruction; elements follow (hnswalg.h, saveIndex).
_HEADER_BYTES = 6 * 8 + 2 * 4 + 3 * 8 + 8 + 8
_LABELS_AT_ONCE = 65536


@dataclass(frozen=True, slots=True)
class GraphHeader:
    """How elements lie in a graph's file; it tells dimension and M, which hnswlib itself does not compare."""

    count: int
    element_bytes: int
    label_offset: int
    vector_offset: int

    @classmethod
    def of(cls, path: Path) -> GraphHeader:
        """Return the header of a file; StorageError if it has none."""
        words = np.fromfile(path, dtype=np.uint64, count=6)
        if len(words) != 6:
            raise StorageError(f"{path.name} is too short; rebuild the index")
        return cls(*(int(word) for word in words[2:]))

    def place(self, element: int) -> int:
        """Return where an element begins."""
        return _HEADER_BYTES + element * self.element_bytes


class SavedVectors:
    """The vectors of nodes 0 to `count` - 1 in a graph's file, which may be renamed or deleted meanwhile.

    Memory: 4 bytes a node. The reads come from the page cache, or else from the disk.
    """

    def __init__(self, path: Path, dim: int) -> None:
        self.dim = dim
        self._header = header = GraphHeader.of(path)
        self.count = header.count
        self._file = path.open("rb")
        self._fd, self._vector_bytes, self._first = self._file.fileno(), dim * 4, header.place(0) + header.vector_offset
        self._element = np.empty(self.count, dtype=np.int32)        # of a node: threads add in an order of their own
        if path.stat().st_size < header.place(self.count):
            raise StorageError(f"{path.name} is cut short; rebuild the index")
        for start in range(0, self.count, _LABELS_AT_ONCE):
            elements = np.arange(start, min(start + _LABELS_AT_ONCE, self.count))
            mapped = np.memmap(
                self._file, np.uint8, "r", header.place(start), (len(elements), header.element_bytes)
            )
            labels = mapped[:, header.label_offset : header.label_offset + 8].copy().view(np.uint64).reshape(-1)
            if int(labels.max()) >= self.count:
                raise StorageError(f"{path.name} holds labels beyond its count; rebuild the index")
            self._element[labels.astype(np.int64)] = elements

    def read(self, nodes: Int64) -> Float32:
        """Return the vectors of nodes, float32 (n, dim); rows that cannot be read whole are NaN."""
        vectors = np.full((len(nodes), self.dim), np.nan, dtype=np.float32)
        for row, element in enumerate(self._element[nodes].tolist()):
            data = self._bytes_of(element)
            if len(data) == self.dim * 4:
                vectors[row] = np.frombuffer(data, dtype=np.float32)
        return vectors

    def read_bytes(self, node: int) -> bytes:
        """Return the bytes of a node's vector, fewer of one that cannot be read whole."""
        return self._bytes_of(self._element.item(node))

    def _bytes_of(self, element: int) -> bytes:
        return os.pread(self._fd, self._vector_bytes, self._first + element * self._header.element_bytes)
