"""Vectors as 8-bit integers, a quarter of their size: what a scan reads; exact cosines are for the few left."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import simsimd
from numpy.typing import NDArray

from storage.base import Float32, Int64, StorageError
from storage.index.table import grown

_FILE = "codes.npy"
_SCALES_FILE = "scales.npy"
#: Bytes gathered at once, so that they are still in the processor's cache when they are multiplied.
_GATHERED = 256 * 1024
#: Vectors made codes at once, for the same reason.
_CODED_AT_ONCE = 128
#: Above this share of all rows, reading every one in order is faster than gathering some.
_GATHER_BELOW = 0.3
#: A code is wrong by at most half a step, evenly: a cosine by step/sqrt(12), normally. So many of these decide nothing
#: (one in three million beyond them goes unseen).
_SIGMAS = 5.0

_buffers = threading.local()                                        # one a thread: fresh memory costs a fault a page


def integer_dots(code: NDArray[np.int8], codes: NDArray[np.int8], rows: Int64 | None = None) -> Float32:
    """Return the products of one code, int8 (dim,), with rows (ascending; all by default) of codes, int8 (n, dim)."""
    if rows is None:
        return _dots(code, codes)
    if len(rows) > _GATHER_BELOW * len(codes):
        return _dots(code, codes)[rows]
    buffer = getattr(_buffers, "gathered", None)
    if buffer is None:
        buffer = _buffers.gathered = np.empty(_GATHERED, dtype=np.int8)
    block = _GATHERED // codes.shape[1]
    dots = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), block):
        some = rows[start : start + block]
        part = buffer[: some.size * len(code)].reshape(-1, len(code))
        np.take(codes, some, axis=0, out=part, mode="clip")         # "raise" would copy once more
        dots[start : start + len(some)] = _dots(code, part)
    return dots


def _dots(code: NDArray[np.int8], codes: NDArray[np.int8]) -> Float32:
    if not len(codes):
        return np.zeros(0, dtype=np.float32)
    return np.asarray(simsimd.cdist(code[None], codes, metric="dot", out_dtype="float32")).reshape(-1)


class CodeRows:
    """Rows of int8 with a step each: vector ~ code * step, the largest component is 127 steps.

    Not guarded by itself: the engine's lock is.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.count = 0
        self._codes: NDArray[np.int8] = np.zeros((0, dim), dtype=np.int8)
        self._steps: Float32 = np.zeros(0, dtype=np.float32)

    def reserve(self, count: int) -> None:
        """Make room for so many rows in all."""
        self._codes, self._steps = grown(self._codes, count), grown(self._steps, count)  # type: ignore[assignment]

    def append(self, vectors: Float32) -> None:
        """Append vectors, float32 (n, dim), unit rows."""
        end = self.count + len(vectors)
        self.reserve(end)
        for start in range(0, len(vectors), _CODED_AT_ONCE):
            some = vectors[start : start + _CODED_AT_ONCE]
            rows = slice(self.count + start, self.count + start + len(some))
            self._steps[rows] = steps = np.abs(some).max(axis=1) / np.float32(127)
            scaled = some / steps[:, None]
            self._codes[rows] = np.rint(scaled, out=scaled)
        self.count = end

    def scan(self, query: Float32, rows: Int64 | None = None) -> tuple[Float32, float]:
        """Return approximate cosines with rows (ascending; all by default), and the distance that decides nothing.

        Where two of these cosines are further apart than that, the exact ones are in the same order (in practice: it
        is five standard deviations of the rounding error).
        """
        step = float(np.abs(query).max()) / 127
        code = np.rint(query / np.float32(step)).astype(np.int8)
        dots = integer_dots(code, self._codes[: self.count], rows)
        steps = self._steps[: self.count] if rows is None else self._steps[rows]
        widest = float(steps.max()) if len(steps) else 0.0
        return dots * (steps * np.float32(step)), _SIGMAS * float(np.hypot(step, widest)) / 12**0.5

    def resemble(self, rows: Int64, vectors: Float32) -> NDArray[np.bool_]:
        """Return which vectors, float32 (n, dim), have these rows' codes; NaN has none."""
        steps = self._steps[rows, None]
        with np.errstate(invalid="ignore"):
            return np.asarray((np.abs(vectors - self._codes[rows] * steps) <= steps * 0.501).all(axis=1))

    def decoded(self, rows: Int64 | slice) -> Float32:
        """Return about what these rows were made of, float32 (n, dim)."""
        return np.asarray(self._codes[rows] * self._steps[rows, None])

    def kept(self, rows: Int64) -> CodeRows:
        """Return a copy with these rows only."""
        copy = CodeRows(self.dim)
        copy._codes, copy._steps, copy.count = self._codes[rows], self._steps[rows], len(rows)
        return copy

    def save(self, folder: Path) -> None:
        """Write what `load` needs."""
        np.save(folder / _FILE, self._codes[: self.count])
        np.save(folder / _SCALES_FILE, self._steps[: self.count])

    @classmethod
    def load(cls, folder: Path, dim: int) -> CodeRows:
        """Return the rows that `save` wrote; StorageError when they are of another dimension."""
        rows = cls(dim)
        codes, steps = np.load(folder / _FILE, mmap_mode="r"), np.load(folder / _SCALES_FILE, mmap_mode="r")
        rows.count = len(steps)
        if codes.shape != (rows.count, dim) or codes.dtype != np.int8 or steps.dtype != np.float32:
            raise StorageError(f"{_FILE} does not hold codes of dim {dim}; rebuild the index")
        # with room to spare from the start: the first addition would copy all, and glibc keeps much of what is freed
        rows._codes, rows._steps = codes, steps
        rows.reserve(rows.count + 1)
        return rows


def nearest(cosines: Float32, blur: float, k: int) -> Int64:
    """Return positions among which the k largest exact cosines are, when approximate ones are known.

    At most 4 k + 256 of them, the largest: where more are as good as equal, it matters little which are found.
    """
    if len(cosines) <= k:
        return np.arange(len(cosines), dtype=np.int64)
    kth = np.partition(cosines, len(cosines) - k)[len(cosines) - k]
    found = np.flatnonzero(cosines >= kth - blur)
    limit = 4 * k + 256
    return found if len(found) <= limit else found[np.argpartition(-cosines[found], limit)[:limit]]
