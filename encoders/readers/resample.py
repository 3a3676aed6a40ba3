"""Making images smaller by area: whole factors on stored integers first, the rest on the finished picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Float32 = NDArray[np.float32]
Bool = NDArray[np.bool_]


def _sum_lines(values: NDArray[Any], factor: int, dtype: Any) -> NDArray[Any]:
    """Return sums of `factor` rows each; a last group with fewer rows is scaled up to count as much."""
    whole = values.shape[0] // factor
    total = values[0 : whole * factor : factor].astype(dtype)
    for offset in range(1, factor):
        total += values[offset : whole * factor : factor]
    rest = values[whole * factor :]
    if not len(rest):
        return total
    last = rest.sum(0, keepdims=True, dtype=np.float64) * (factor / len(rest))
    return np.concatenate([total, last.astype(dtype)])


def _box_sum(values: NDArray[Any], factor: int, dtype: Any) -> NDArray[Any]:
    return _sum_lines(_sum_lines(values, factor, dtype).T, factor, dtype).T


def box_reduce(values: NDArray[Any], factor: int, mask: Bool | None = None) -> tuple[Float32, Bool | None]:
    """Return the mean over squares of factor x factor, and where more than half of a square is masked.

    Parameters
    ----------
    values : ndarray of int or float, shape (rows, columns)
    factor : int
        At least 1; squares cut by the lower and right edge are means of what they have.
    mask : ndarray of bool, shape (rows, columns), optional
        What takes no part in the means.

    Returns
    -------
    ndarray of float32, shape (ceil(rows / factor), ceil(columns / factor)), and a mask of the same shape or None
    """
    if factor <= 1:
        return values.astype(np.float32), mask
    if values.dtype.itemsize <= 2 and values.dtype.kind in "iu" and factor <= 64:
        dtype: Any = np.int32 if values.dtype.kind == "i" else np.uint32  # 64 * 64 * 65535 fits
    else:
        dtype = np.float64
    if mask is None:
        return (_box_sum(values, factor, dtype) / np.float32(factor * factor)).astype(np.float32), None
    total = _box_sum(np.where(mask, 0, values), factor, dtype)
    count = _box_sum(~mask, factor, np.uint32)
    return (total / np.maximum(count, 1)).astype(np.float32), np.asarray(2 * count < factor * factor)


#: Taps at -1, 0, 1 and 2 that make a low-pass band after 1, 2, 3 and more levels closest to means of squares: least
#: squares for a signal of correlation 0.95 a pixel with 2 % noise (other priors move a tap by less than 0.02).
_TO_MEANS: Mapping[bool, tuple[tuple[float, float, float, float], ...]] = {
    True: ((-0.011, 0.756, 0.264, -0.009), (-0.013, 0.632, 0.396, -0.015), (-0.015, 0.574, 0.458, -0.017)),    # 5/3
    False: ((-0.078, 0.854, 0.274, -0.050), (-0.099, 0.742, 0.438, -0.081), (-0.105, 0.677, 0.523, -0.095)),   # 9/7
}


def square_means(values: NDArray[Any], reduction: int, reversible: bool) -> NDArray[Any]:
    """Return a wavelet-reduced image as if each value were the mean of the square that it replaces.

    The low-pass samples of JPEG 2000 stand on every 2**n-th pixel of the whole image (ISO/IEC 15444-1 F.3), up to half
    a reduced pixel off the squares' middles, and their filters pass more of the fine detail than a mean does.

    Parameters
    ----------
    values : ndarray, shape (rows, columns)
    reduction : int
        2**n for n wavelet levels left out; at 1 the values come back as they are.
    reversible : bool
        Whether the wavelet is the 5/3 of lossless streams, else the 9/7.

    Returns
    -------
    ndarray of float32, shape (rows, columns)
    """
    if reduction == 1:
        return values
    taps = _TO_MEANS[reversible][min(reduction.bit_length() - 2, 2)]
    means = values.astype(np.float32)
    for axis in (0, 1):
        padded = np.pad(means, [(1, 2) if side == axis else (0, 0) for side in (0, 1)], mode="edge")
        length = means.shape[axis]
        parts = [padded[n : n + length] if axis == 0 else padded[:, n : n + length] for n in range(4)]
        means = sum((part * np.float32(tap) for part, tap in zip(parts[1:], taps[1:], strict=True)),
                    parts[0] * np.float32(taps[0]))
    return means


def fit(display: Float32, short_side: int, extent: tuple[float, float], aspect: float = 1.0) -> Float32:
    """Return a picture with square pixels whose short side is at most `short_side`.

    Parameters
    ----------
    display : ndarray of float32, shape (rows, columns), 0..1
    short_side : int
    extent : (float, float)
        Rows and columns that the image really covers: the last ones may stand for squares cut by the edge.
    aspect : float
        Height of a pixel over its width.
    """
    rows, columns = (min(covered, size) for covered, size in zip(extent, display.shape, strict=True))
    height, width = rows * max(aspect, 1.0), columns * max(1.0 / aspect, 1.0)
    scale = min(1.0, short_side / min(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size == (display.shape[1], display.shape[0]) == (columns, rows):
        return display
    larger = size[0] > columns or size[1] > rows
    resized = Image.fromarray(np.ascontiguousarray(display)).resize(
        size, Image.Resampling.BILINEAR if larger else Image.Resampling.BOX, box=(0, 0, columns, rows)
    )
    return np.clip(np.asarray(resized, np.float32), 0, 1)
