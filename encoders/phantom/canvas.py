"""The drawing surface: a patient plane in centimetres, lines of given width, smooth random fields, wide blurs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from encoders.base import Float32

Point = tuple[float, float]
Line = tuple[Sequence[Point], float, float]           # points in cm, width in cm, value


@dataclass(frozen=True, slots=True)
class Canvas:
    """A detector plane: x in cm from its middle to the right (the patient's left), y in cm from its top downwards.

    Attributes
    ----------
    lean : float
        How far x moves sideways for each cm downwards: a patient who does not stand quite straight.
    """

    rows: int
    columns: int
    px_per_cm: float
    lean: float = 0.0

    @property
    def height_cm(self) -> float:
        """Return the height of the plane in cm."""
        return self.rows / self.px_per_cm

    def axes(self) -> tuple[Float32, Float32]:
        """Return x, shape (rows, columns), and y, shape (rows, 1), float32 in cm."""
        y = ((np.arange(self.rows, dtype=np.float32) + 0.5) / self.px_per_cm)[:, None]
        x = ((np.arange(self.columns, dtype=np.float32) + 0.5 - self.columns / 2) / self.px_per_cm)[None, :]
        shift = np.float32(self.lean) * (y - np.float32(self.height_cm / 2))
        return (x - shift).astype(np.float32), y

    def pixel(self, point: Point) -> tuple[float, float]:
        """Return (column, row) of a point in cm."""
        x = point[0] + self.lean * (point[1] - self.height_cm / 2)
        return x * self.px_per_cm + self.columns / 2, point[1] * self.px_per_cm

    def lines(self, lines: Iterable[Line], sharpness_px: float = 0.7) -> Float32:
        """Return float32 (rows, columns) 0..1 with polylines; a later line covers an earlier one.

        Small planes are drawn at twice their size, so that a rib's edge does not become a staircase.
        """
        over = 2 if self.rows < 400 else 1
        image = Image.new("L", (self.columns * over, self.rows * over))
        pen = ImageDraw.Draw(image)
        for points, width_cm, value in lines:
            width = max(1, round(width_cm * self.px_per_cm * over))
            # No rounded joints: the curves bend little from step to step, and Pillow draws joints slowly.
            pen.line(self._flat(points, over), fill=round(255 * min(max(value, 0.0), 1.0)), width=width)
        return self._finish(image, over, sharpness_px)

    def polygons(self, polygons: Iterable[tuple[Sequence[Point], float]], sharpness_px: float = 0.7) -> Float32:
        """Return float32 (rows, columns) 0..1 with filled polygons (points in cm, value)."""
        over = 2 if self.rows < 400 else 1
        image = Image.new("L", (self.columns * over, self.rows * over))
        pen = ImageDraw.Draw(image)
        for points, value in polygons:
            pen.polygon(self._flat(points, over), fill=round(255 * value))
        return self._finish(image, over, sharpness_px)

    def _flat(self, points: Sequence[Point], over: int) -> list[float]:
        """Return column, row, column, row ... of points in cm, on a plane `over` times as fine."""
        scale = self.px_per_cm * over
        shift, middle = self.columns * over / 2, self.height_cm / 2
        return [part for x, y in points for part in ((x + self.lean * (y - middle)) * scale + shift, y * scale)]

    def _finish(self, image: Image.Image, over: int, sharpness_px: float) -> Float32:
        if over > 1:
            image = image.reduce(over)
        drawn = np.asarray(image, dtype=np.float32) / np.float32(255)
        if sharpness_px > 0:
            drawn = gaussian_filter(drawn, sharpness_px, truncate=2.0)
        return drawn

    def clouds(self, rng: np.random.Generator, scale_cm: float) -> Float32:
        """Return a smooth random field, float32 (rows, columns), mean 0, deviation about 1, blobs of `scale_cm`."""
        height = max(4, round(self.height_cm / scale_cm))
        width = max(4, round(height * self.columns / self.rows))
        field = Image.fromarray(rng.standard_normal((height, width), dtype=np.float32))
        return np.asarray(field.resize((self.columns, self.rows), Image.Resampling.BICUBIC)) * np.float32(1.4)

    def blur(self, image: Float32, sigma_cm: float) -> Float32:
        """Return `image` blurred by a Gaussian that is wide against a pixel: done small, then enlarged."""
        factor = max(1, int(sigma_cm * self.px_per_cm / 3))
        small = np.asarray(Image.fromarray(image).reduce(factor)) if factor > 1 else image
        small = gaussian_filter(small, sigma_cm * self.px_per_cm / factor, mode="nearest", truncate=3.0)
        return resized(small, self.rows, self.columns)


def resized(image: Float32, rows: int, columns: int) -> Float32:
    """Return float32 (rows, columns) from an image of another size, by bicubic interpolation."""
    if image.shape == (rows, columns):
        return image
    picture = Image.fromarray(np.ascontiguousarray(image, dtype=np.float32))
    return np.asarray(picture.resize((columns, rows), Image.Resampling.BICUBIC))


def smoothstep(value: NDArray[np.floating[Any]]) -> Float32:
    """Return 0 below 0, 1 above 1, and a soft rise between."""
    t = np.clip(value, 0, 1)
    return np.asarray(t * t * (3 - 2 * t), dtype=np.float32)
