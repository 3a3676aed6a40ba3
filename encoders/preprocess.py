"""From pixels 0..1 of any size to the square, standardised input of an image tower."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoders.base import Float32

UInt8 = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Constants that travel with a checkpoint.

    Attributes
    ----------
    size : int
        Side of the square in pixels. The whole image is squeezed into it, not cropped: the costophrenic angles lie at
        the border, and the ratio of heart to thorax survives.
    spread : float
        Standard deviation after standardising each image on its own, so that windows of different vendors and
        sources look alike. ImageNet pictures have about 0.5 on the tower's scale of (x - 127) / 128.
    limit : float
        Values are clipped to this many standard deviations on both sides.
    """

    size: int = 224
    spread: float = 0.5
    limit: float = 3.0


def squeeze(pixels: Float32, size: int) -> Float32:
    """Return float32 (size, size): the image resized with antialiasing, aspect ratio given up."""
    clean = np.ascontiguousarray(pixels, dtype=np.float32)
    if not np.isfinite(clean.sum()):
        clean = np.nan_to_num(clean, nan=0.0, posinf=1.0, neginf=0.0)
    if clean.shape == (size, size):
        return clean
    return np.asarray(Image.fromarray(clean).resize((size, size), Image.Resampling.BILINEAR), dtype=np.float32)


def squeeze_to_bytes(image: Image.Image, size: int) -> UInt8:
    """Return uint8 (size, size) of a picture, for the cache of decoded training images."""
    grey = image if image.mode == "L" else image.convert("L")
    return np.asarray(grey.resize((size, size), Image.Resampling.BILINEAR), dtype=np.uint8)


def standardise(batch: Float32, constants: Preprocessing) -> Float32:
    """Return float32 (n, size, size) with mean 0 and the wanted spread in each image; a blank image stays 0."""
    mean = batch.mean(axis=(1, 2), keepdims=True, dtype=np.float64)
    spread = batch.std(axis=(1, 2), keepdims=True, dtype=np.float64)
    unit = np.clip((batch - mean) / np.maximum(spread, 1e-3), -constants.limit, constants.limit)
    return np.asarray(unit * constants.spread, dtype=np.float32)
