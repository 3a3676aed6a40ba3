"""An eighth of what codes hold, for scans of many: 64 numbers a vector say who may be near, codes then who is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storage.base import Float32, Int64, StorageError
from storage.index.cells import Cells
from storage.index.codes import CodeRows, integer_dots
from storage.index.products import Products
from storage.index.table import grown

#: Numbers a vector, each a byte: a cache line.
DIRECTIONS = 64
#: So many vectors tell the directions.
FITTED_TO = 4096
#: Of fewer, codes are scanned as fast, and a sketch would be a tenth of the time to build the index.
FITTED_FROM = 16_384
#: Vectors have product codes instead where the directions hold less than this of their squares: of radiographs by their
#: descriptors .94, of the benchmark's vectors .92 and .85, but .46 of the shipped model's, whose appearance is white.
#: There 99 of 100 neighbours were among the 6,200 of 11,500 that look nearest along the directions; by product codes,
#: as many bytes, among 565.
_TELLING = 0.7
#: Codes are read of so many of those that look nearest: some for each neighbour wanted, and some more.
_FOR_EACH, _MORE = 8, 128
#: The farthest-looking of the neighbours found must stand in the first third of them, else four times as many are read.
#: Queries for 10 and for 63 missed none in 60,000 benchmark vectors, one in 1,000 in 11,500 radiographs (descriptors of
#: three towers), and in white noise, which no directions describe, up to one in 200, for nearly all codes.
_ROOM, _WIDENING = 3, 4
#: Of so many, those in cells far from the query are left out before their sketch is read.
CELLS_FROM = 32_768
#: First the nearest cells with this share of all are looked into. The farthest of the neighbours found must stand in
#: the nearer half of these cells, else so many more are looked into that it does, or all: of the 10 and 63 nearest of
#: 46,000 to 200,000 benchmark vectors at most one in 1,500 was missed.
_CELLS_SHARE, _CELLS_ROOM, _CELLS_MOST = 0.25, 2, 0.5
#: So many are asked where they stand, at least: ten do not tell that noise in 64 dimensions has no neighbourhoods.
_CELLS_WITNESSES = 20
_FILE = "sketch.npy"
_DIRECTIONS_FILE = "directions.npy"
_BLOCK = 128


class Sketch:
    """The rows of a CodeRows along the directions in which they are longest, int8 (n, 64), or as product codes.

    Follows those rows; empty until there are enough. Not guarded by itself: the engine's lock is.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.count = 0
        self._width = min(DIRECTIONS, dim)
        self.products: Products | None = None                       # where directions would not tell
        self._directions: Float32 = np.zeros((dim, 0), dtype=np.float32)    # so long that components reach 127
        self._rows: NDArray[np.int8] = np.zeros((0, self._width), dtype=np.int8)
        self._cells = Cells(self._width)

    @property
    def has_cells(self) -> bool:
        """Whether there are so many rows that a scan of many looks into the cells near the query only."""
        return self._cells.count > 0

    @property
    def fitted(self) -> bool:
        """Whether it is known what tells these rows apart."""
        return bool(self._directions.size) or self.products is not None

    def fit(self, codes: CodeRows) -> None:
        """Find what tells the rows apart, once there are enough; it takes a tenth of a second, or half a one."""
        if not self.fitted and codes.count >= FITTED_FROM:
            self._fit(codes.decoded(np.linspace(0, codes.count - 1, FITTED_TO).astype(np.int64)))

    def follow(self, codes: CodeRows) -> None:
        """Take in the rows that codes got since, once it is fitted."""
        if self.products is not None:
            self.products.follow(codes)
        if not self._directions.size:
            return
        self._rows = grown(self._rows, codes.count)  # type: ignore[assignment]
        for start in range(self.count, codes.count, _BLOCK):
            end = min(start + _BLOCK, codes.count)
            self._rows[start:end] = self._sketched(codes.decoded(slice(start, end)))
        self.count = codes.count
        self._cells.follow(self._rows[: self.count])

    def _fit(self, sample: Float32) -> None:
        squares, axes = np.linalg.eigh(sample.T @ sample)           # ascending
        if squares[-self._width :].sum() < _TELLING * squares.sum():
            self.products = Products.fitted(sample)
        else:
            longest = np.ascontiguousarray(axes[:, -self._width :])
            self._directions = longest * (127 / np.abs(sample @ longest).max())

    def _sketched(self, vectors: Float32) -> NDArray[np.int8]:
        return np.asarray(np.clip(np.rint(vectors @ self._directions), -127, 127), dtype=np.int8)

    def scan(self, codes: CodeRows, query: Float32, rows: Int64, k: int) -> tuple[Int64, Float32, float]:
        """Return those of rows (ascending) among which the k nearest are, and what `codes.scan` tells of them.

        All of them where they are few, or where the sketch cannot tell.
        """
        if self.products is not None:
            return self.products.scan(codes, query, rows, k)
        if not self.count:
            return rows, *codes.scan(query, rows)
        code = self._sketched(query)
        if self.has_cells and len(rows) >= CELLS_FROM:
            reached, cells, share = self._cells.reached(code), self._cells.of(rows), _CELLS_SHARE
            while share <= _CELLS_MOST:
                near = rows.compress((reached <= share).take(cells, mode="clip"))
                found = self._scan_some(codes, query, code, near, k)
                if found is None:
                    break
                others = len(found[0]) - max(k, _CELLS_WITNESSES)
                best = found[0][np.argpartition(found[1], others)[others:]]
                farthest = float(reached[self._cells.of(best)].max())
                if farthest * _CELLS_ROOM <= share:
                    return found
                share = farthest * _CELLS_ROOM
        found = self._scan_some(codes, query, code, rows, k)
        return found or (rows, *codes.scan(query, rows))

    def _scan_some(
        self, codes: CodeRows, query: Float32, code: NDArray[np.int8], rows: Int64, k: int
    ) -> tuple[Int64, Float32, float] | None:
        """Return what `scan` does without a look at cells; None where all codes must be read."""
        wanted, many = _FOR_EACH * k + _MORE, len(rows) // _ROOM
        if wanted >= many:
            return None
        looks = integer_dots(code, self._rows[: self.count], rows)
        while wanted < many:
            some = np.flatnonzero(looks >= np.partition(looks, len(rows) - wanted)[len(rows) - wanted])
            cosines, blur = codes.scan(query, rows[some])
            best = np.argpartition(cosines, len(some) - k)[len(some) - k :]
            if np.count_nonzero(looks[some] >= looks[some[best]].min()) * _ROOM <= len(some):
                return rows[some], cosines, blur
            wanted *= _WIDENING
        return None

    def save(self, folder: Path) -> None:
        """Write what `load` needs."""
        if self.products is not None:
            self.products.save(folder)
        np.save(folder / _DIRECTIONS_FILE, self._directions)
        np.save(folder / _FILE, self._rows[: self.count])
        self._cells.save(folder)

    @classmethod
    def load(cls, folder: Path, codes: CodeRows) -> Sketch:
        """Return the sketch of codes: what `save` wrote, and what it did not; StorageError when it is of others."""
        sketch = cls(codes.dim)
        sketch.products = Products.load(folder, codes)
        if (folder / _FILE).exists():
            directions, rows = np.load(folder / _DIRECTIONS_FILE), np.load(folder / _FILE, mmap_mode="r")
            if directions.size:
                sketch._directions = directions
            sketch.count = len(rows)
            if rows.shape != (sketch.count, sketch._width) or rows.dtype != np.int8 or sketch.count > codes.count:
                raise StorageError(f"{_FILE} does not belong to the codes beside it; rebuild the index")
            sketch._rows = grown(rows, sketch.count + 1)  # type: ignore[assignment]
            sketch._cells = Cells.load(folder, sketch._rows[: sketch.count])
        sketch.fit(codes)
        sketch.follow(codes)
        return sketch
