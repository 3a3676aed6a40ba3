"""The 256 greys in which images are kept, and the way back to what an encoder takes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from storage.base import Float32

Uint8 = NDArray[np.uint8]


def grey_levels(pixels: Uint8 | Float32) -> Uint8:
    """Return an image in the 256 greys in which it is kept.

    Raises
    ------
    ValueError
        If it is no picture of rows and columns, or neither uint8 nor floating.
    """
    if pixels.ndim != 2 or not pixels.size:
        raise ValueError(f"a rendition has rows and columns, not shape {pixels.shape}")
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels, dtype=np.uint8)
    if not np.issubdtype(pixels.dtype, np.floating):
        raise ValueError(f"a rendition is uint8 or floating 0..1, not {pixels.dtype}")
    if not (pixels.min() >= 0 and pixels.max() <= 1):               # of NaN, neither is true
        pixels = np.clip(np.nan_to_num(pixels), 0, 1)
    scaled = pixels * np.float32(255)
    return np.ascontiguousarray(np.rint(scaled, out=scaled).astype(np.uint8))


def unit_range(grey: Uint8) -> Float32:
    """Return 256 greys as an encoder takes them: float32 0..1."""
    return grey.astype(np.float32) / np.float32(255)
