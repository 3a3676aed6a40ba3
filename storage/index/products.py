"""Vectors that no few directions tell, as 4-bit product codes: a scan learns who may be near; codes then say who is.

Product quantisation (Jégou, Douze, Schmid, TPAMI 2011) after a random rotation, read from the processor's registers
(André, Kermarrec, Le Scouarnec, VLDB 2015), by faiss.
"""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from storage.base import Float32, Int64, StorageError
from storage.index.codes import CodeRows

#: Numbers that share a code of 4 bits: of 512, 64 bytes a vector.
_TOGETHER = 4
#: Turns of k-means over 4,096 vectors; 25 took three times as long and told no more.
_TURNS = 8
#: So many new vectors are taken in at once, and read by their codes until then: to turn a few takes as long as many.
_AT_ONCE = 256
#: Codes are read of so many that look nearest: some for each neighbour wanted, and some more. Of 230,000 vectors like
#: the shipped model's, the 10 nearest are among the first third of them for six queries in seven. With 1,664 for 10 the
#: median took a seventh longer and the slowest twentieth a twelfth less, with 704 that a third longer; the mean stayed.
_FOR_EACH, _MORE = 48, 544
#: The farthest-looking of the neighbours found must stand in the first third of them, else four times as many are read.
_ROOM, _WIDENING = 3, 4
#: Where fewer than an eighth of all pass, or more than an eighth of those would be left, codes are read faster at once.
_SHARE = 8
_FILE = "products.faiss"


class Products:
    """The product codes of a CodeRows' first `count` rows, and how to find those nearest to a query.

    Not guarded by itself: the engine's lock is.
    """

    def __init__(self, index: faiss.Index) -> None:
        self._index = index

    @property
    def count(self) -> int:
        """How many rows have product codes; the rest are too new."""
        return int(self._index.ntotal)

    @classmethod
    def fitted(cls, sample: Float32) -> Products:
        """Return the codes of no rows yet, with centroids of a sample, float32 (n, dim)."""
        dim = sample.shape[1]
        parts = -(-dim // _TOGETHER)
        faiss.omp_set_num_threads(1)
        coded = faiss.IndexPQFastScan(parts * _TOGETHER, parts, 4, faiss.METRIC_INNER_PRODUCT)
        coded.pq.cp.niter = _TURNS
        index = faiss.IndexPreTransform(faiss.RandomRotationMatrix(dim, coded.d), coded)
        index.train(np.ascontiguousarray(sample))
        return cls(index)

    def follow(self, codes: CodeRows) -> None:
        """Take in what codes got since, once it is enough."""
        faiss.omp_set_num_threads(1)                                # of this thread; ours are never worth a second one
        while codes.count - self.count >= _AT_ONCE:
            self._index.add(codes.decoded(slice(self.count, self.count + _AT_ONCE)))

    def scan(self, codes: CodeRows, query: Float32, rows: Int64, k: int) -> tuple[Int64, Float32, float]:
        """Return those of rows (ascending) among which the k nearest are, and what `codes.scan` tells of them."""
        wanted = _FOR_EACH * k + _MORE
        if self.count and len(rows) * _SHARE >= codes.count:        # 0: fitted, and a writer waits for us to go
            passing = None
            if len(rows) < codes.count:
                passing = np.zeros(codes.count, dtype=np.bool_)
                passing[rows] = True
            newer = rows[np.searchsorted(rows, self.count) :]
            faiss.omp_set_num_threads(1)
            while wanted * _SHARE <= len(rows):
                looked = self._nearest(query, wanted * codes.count // len(rows), passing)
                wanted *= _WIDENING
                if len(looked) < k * _ROOM:                         # those that pass lie away from the query
                    continue
                some = np.concatenate([np.sort(looked), newer])
                cosines, blur = codes.scan(query, some)
                best = some[np.argpartition(cosines, len(some) - k)[len(some) - k :]]
                if not np.isin(looked[len(looked) // _ROOM :], best).any():
                    return some, cosines, blur
        return rows, *codes.scan(query, rows)

    def _nearest(self, query: Float32, wanted: int, passing: NDArray[np.bool_] | None) -> Int64:
        """Return the rows among the `wanted` that look nearest which pass, the nearest first."""
        found: Int64 = self._index.search(query[None], min(wanted, self.count))[1][0]
        return found if passing is None else found[passing[found]]

    def save(self, folder: Path) -> None:
        """Write what `load` needs."""
        faiss.write_index(self._index, str(folder / _FILE))

    @classmethod
    def load(cls, folder: Path, codes: CodeRows) -> Products | None:
        """Return what `save` wrote, None where it did not; StorageError when it is of others."""
        if not (folder / _FILE).exists():
            return None
        try:
            index = faiss.read_index(str(folder / _FILE))
        except RuntimeError as error:
            raise StorageError(f"{_FILE} cannot be loaded ({error}); rebuild the index") from error
        if index.d != codes.dim or index.ntotal > codes.count:
            raise StorageError(f"{_FILE} does not belong to the codes beside it; rebuild the index")
        return cls(index)
