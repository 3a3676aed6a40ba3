"""From pixels 0..1 of any size to the standardised input of an image tower.

Towers side by side may each want the image at a size of their own. All sizes of one image travel together as a *sheet*:
squares side by side, the largest first, zeros below the smaller ones. The sheet of one size is its square.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        Side of the square in pixels, of the largest one where there are several. The whole image is squeezed into it,
        not cropped: the costophrenic angles lie at the border, and the ratio of heart to thorax survives.
    spread : float
        Standard deviation after standardising each image on its own, so that windows of different vendors and
        sources look alike. ImageNet pictures have about 0.5 on the tower's scale of (x - 127) / 128.
    limit : float
        Values are clipped to this many standard deviations on both sides.
    others : tuple of int
        Sides of the smaller squares of a sheet, falling.
    """

    size: int = 224
    spread: float = 0.5
    limit: float = 3.0
    others: tuple[int, ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Return the sides of all squares, falling."""
        return (self.size, *self.others)


def places(sizes: Sequence[int]) -> dict[int, tuple[slice, slice]]:
    """Return rows and columns of each square of a sheet, by its side."""
    ends = np.cumsum(sizes).tolist()
    return {size: (slice(0, size), slice(end - size, end)) for size, end in zip(sizes, ends, strict=True)}


def tower_sizes(name: str, size: int) -> tuple[int, ...]:
    """Return the sides that the towers of a name see, falling, e.g. 192 and 160 of ``a@160+b@192``.

    A tower without a size of its own sees `size`.
    """
    sides = (part.partition("@")[2] for part in name.split("+"))
    return tuple(sorted({int(side) if side.isdecimal() else size for side in sides}, reverse=True))


def sheet_shape(sizes: Sequence[int]) -> tuple[int, int]:
    """Return rows and columns of a sheet."""
    return max(sizes), sum(sizes)


def squeeze(pixels: Float32, size: int) -> Float32:
    """Return float32 (size, size): the image resized with antialiasing, aspect ratio given up."""
    return sheet(pixels, (size,))


def sheet(pixels: Float32, sizes: Sequence[int]) -> Float32:
    """Return float32 (rows, columns): the image squeezed to each of the sizes, never one made of another."""
    clean = np.ascontiguousarray(pixels, dtype=np.float32)
    if not np.isfinite(clean.sum()):
        clean = np.nan_to_num(clean, nan=0.0, posinf=1.0, neginf=0.0)
    picture = Image.fromarray(clean)                                # copied twice: once for all sizes
    result = np.zeros(sheet_shape(sizes), np.float32)
    for size, place in places(sizes).items():
        square = clean.shape == (size, size)
        result[place] = clean if square else np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))
    return result


def sheet_of_bytes(image: Image.Image, sizes: Sequence[int]) -> UInt8:
    """Return uint8 (rows, columns), the sheet of a picture, for the cache of decoded training images."""
    grey = image if image.mode == "L" else image.convert("L")
    result = np.zeros(sheet_shape(sizes), np.uint8)
    for size, place in places(sizes).items():
        result[place] = np.asarray(grey.resize((size, size), Image.Resampling.BILINEAR), dtype=np.uint8)
    return result


def _standardised(batch: Float32, constants: Preprocessing) -> Float32:
    centred: Float32 = batch - batch.mean(axis=(1, 2), keepdims=True, dtype=np.float64).astype(np.float32)
    spread = np.sqrt(np.square(centred).mean(axis=(1, 2), keepdims=True, dtype=np.float64)).astype(np.float32)
    centred /= np.maximum(spread, np.float32(1e-3))
    np.clip(centred, -constants.limit, constants.limit, out=centred)
    centred *= np.float32(constants.spread)
    return centred


def standardise(batch: Float32, constants: Preprocessing) -> Float32:
    """Return sheets, float32 (n, rows, columns), each square with mean 0 and the wanted spread; a blank one stays 0."""
    if not constants.others:
        return _standardised(batch, constants)
    result = np.zeros(batch.shape, np.float32)
    for rows, columns in places(constants.sizes).values():
        result[:, rows, columns] = _standardised(batch[:, rows, columns], constants)
    return result
