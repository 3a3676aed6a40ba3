"""Which of 1,024 cells a vector lies in: two bytes that say of most that they are far from a query."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storage.base import Float32, Int64, StorageError
from storage.index.codes import integer_dots
from storage.index.table import grown

CELLS = 1024
#: So many rows tell where the centres are, in so many turns of k-means (Lloyd): 0.2 s, once in the life of an index.
_FITTED_TO, _TURNS = 16_384, 4
#: Of fewer vectors no filter passes so many that cells would save time.
FITTED_FROM = 65_536
_BLOCK = 2048
_FILE = "cells.npy"
_CENTRES_FILE = "centres.npy"

Rows = NDArray[np.int8]


class Cells:
    """The cells of a sketch's rows, int8 (n, width): of each the nearest centre's number.

    Follows those rows; empty until there are enough. Not guarded by itself: the engine's lock is.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self._take_centres(np.zeros((0, width), dtype=np.int8))
        self._cells = np.zeros(0, dtype=np.uint16)                  # of a row
        self._sizes = np.zeros(CELLS, dtype=np.int64)

    def _take_centres(self, centres: Rows) -> None:
        self._centres = centres
        self._halves = (centres.astype(np.float32) ** 2).sum(axis=1) / 2

    def follow(self, rows: Rows) -> None:
        """Take in the rows that are new."""
        if not len(self._centres):
            if len(rows) < FITTED_FROM:
                return
            self._fit(rows[np.linspace(0, len(rows) - 1, _FITTED_TO).astype(np.int64)].astype(np.float32))
        self._cells = np.asarray(grown(self._cells, len(rows)))
        for start in range(self.count, len(rows), _BLOCK):
            some = rows[start : start + _BLOCK]
            cells = self._nearest(some.astype(np.float32))
            self._cells[start : start + len(some)] = cells
            self._sizes += np.bincount(cells, minlength=CELLS)
        self.count = len(rows)

    def _fit(self, sample: Float32) -> None:
        centres = sample[:: len(sample) // CELLS][:CELLS].copy()
        for _ in range(_TURNS):
            self._take_centres(np.rint(centres).astype(np.int8))
            cells = self._nearest(sample)
            order = np.argsort(cells, kind="stable")
            held, first, sizes = np.unique(cells[order], return_index=True, return_counts=True)
            centres[held] = np.add.reduceat(sample[order], first) / sizes[:, None]
        self._take_centres(np.rint(centres).astype(np.int8))

    def _nearest(self, rows: Float32) -> Int64:
        return np.asarray((rows @ self._centres.T.astype(np.float32) - self._halves).argmax(axis=1), dtype=np.int64)

    def of(self, rows: Int64) -> NDArray[np.uint16]:
        """Return the cells of rows."""
        return np.asarray(self._cells.take(rows, mode="clip"))      # "raise" would copy once more

    def reached(self, row: Rows) -> NDArray[np.float64]:
        """Return for each cell, float64 (CELLS,), the share of all rows in it and in those nearer to this row."""
        order = np.argsort(self._halves - integer_dots(row, self._centres))
        reached = np.empty(CELLS)
        reached[order] = np.cumsum(self._sizes[order]) / self.count
        return reached

    def save(self, folder: Path) -> None:
        """Write what `load` needs."""
        np.save(folder / _CENTRES_FILE, self._centres)
        np.save(folder / _FILE, self._cells[: self.count])

    @classmethod
    def load(cls, folder: Path, rows: Rows) -> Cells:
        """Return the cells of rows: what `save` wrote, and what it did not; StorageError when they are of others."""
        cells = cls(rows.shape[1])
        if (folder / _FILE).exists():
            centres, held = np.load(folder / _CENTRES_FILE), np.load(folder / _FILE)
            if (
                centres.shape != (CELLS if len(held) else 0, rows.shape[1])
                or (centres.dtype, held.dtype) != (np.int8, np.uint16)
                or len(held) > len(rows)
                or held.max(initial=0) >= CELLS
            ):
                raise StorageError(f"{_FILE} does not belong to the sketch beside it; rebuild the index")
            cells._take_centres(centres)
            cells.count, cells._cells, cells._sizes = len(held), held, np.bincount(held, minlength=CELLS)
        cells.follow(rows)
        return cells
