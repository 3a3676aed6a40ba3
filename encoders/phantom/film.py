"""From attenuation to a picture: scatter, the detector's noise, tone, collimation, side marker and banner."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from encoders.base import Float32
from encoders.phantom.anatomy import Anatomy
from encoders.phantom.canvas import Canvas, resized
from encoders.phantom.disease import Abnormality
from encoders.phantom.frontal import attenuation as frontal
from encoders.phantom.lateral import attenuation as lateral

BANNER = "SYNTHETIC - NOT A PATIENT"
#: Anatomy is drawn at no more rows than this and enlarged; noise, marker and banner are made at full size.
DRAWN_ROWS = 768
#: A detector's height in cm; its operator collimates to the patient.
HEIGHT_CM = (34.0, 43.0)


def expose(anatomy: Anatomy, abnormalities: Sequence[Abnormality], view: str, shape: tuple[int, int],
           rng: np.random.Generator) -> Float32:
    """Return the picture as a workstation shows it, float32 `shape` (rows, columns) 0..1, larger is brighter.

    `view` is ``frontal`` or ``lateral``.
    """
    rows, columns = shape
    shrink = min(1.0, DRAWN_ROWS / rows)
    height, width = round(rows * shrink), round(columns * shrink)
    canvas = Canvas(height, width, height / field_height(anatomy), anatomy.lean if view == "frontal" else 0.0)
    drawn = (frontal if view == "frontal" else lateral)(canvas, anatomy, abnormalities, rng)
    toned = _tone(canvas, _scattered(canvas, drawn), rng)
    picture = resized(toned, rows, columns)
    grain = rng.standard_normal((rows, columns), dtype=np.float32)
    grain *= np.float32(rng.uniform(0.006, 0.012)) * (np.float32(0.35) + picture)
    picture = np.clip(picture + grain, 0, 1, dtype=np.float32)
    _collimate(picture, rng)
    _write_on(picture, view, rng)
    return np.asarray(picture, dtype=np.float32)


def field_height(anatomy: Anatomy) -> float:
    """Return how many cm of the patient the picture's height shows."""
    return float(np.clip(anatomy.base + 3.2, *HEIGHT_CM))


def _scattered(canvas: Canvas, line_integral: Float32) -> Float32:
    """Return the negative logarithm of primary and scattered radiation."""
    primary = np.exp(-np.minimum(line_integral, 9))
    inside = np.minimum(primary, np.float32(0.25))    # open air scatters nothing
    total = (primary + np.float32(0.55) * canvas.blur(inside, 3.5) + np.float32(2e-3))
    return np.asarray(-np.log(total), dtype=np.float32)


def _tone(canvas: Canvas, density: Float32, rng: np.random.Generator) -> Float32:
    """Return 0..1: large differences of density are evened out, small ones kept, as detectors' processing does."""
    detail = density - canvas.blur(density, 1.6)
    evened = density + np.float32(0.75) * detail
    rows, columns = evened.shape
    part = slice(rows // 6, rows * 3 // 4, 4), slice(columns // 5, columns * 4 // 5, 4)
    inside = evened[part][density[part] > 0.7]        # not the open air beside the patient
    low, high = map(float, np.percentile(inside, [3, 98.5])) if inside.size else (0.0, 1.0)   # float64 would spread
    low -= (high - low) * float(rng.uniform(0.16, 0.30))
    high += (high - low) * float(rng.uniform(0.00, 0.10))
    level = np.maximum((evened - low) / (high - low), 0)
    knee = np.float32(0.72)                           # the curve's shoulder keeps a tube before the spine visible
    level = np.where(level < knee, level, 1 - (1 - knee) * np.exp(-(level - knee) / (1 - knee)))
    gamma = np.float32(rng.uniform(0.9, 1.15))
    return np.asarray(level**gamma * np.float32(0.97), dtype=np.float32)


def _collimate(picture: Float32, rng: np.random.Generator) -> None:
    """Blacken the shutters' edges on a share of the films."""
    if rng.random() < 0.35:
        rows, columns = picture.shape
        top, left, right = (round(float(v)) for v in rng.uniform(0, 0.02, 3) * (rows, columns, columns))
        picture[:top] = 0
        picture[:, :left] = 0
        picture[:, columns - right:] = 0


def _write_on(picture: Float32, view: str, rng: np.random.Generator) -> None:
    """Burn in the side marker and, at the lower edge, what this is."""
    rows, columns = picture.shape
    font = ImageFont.load_default(max(8.0, rows / 30))
    marker = {"frontal": "L", "lateral": "LAT"}[view]
    place = (columns * (0.93 if view == "frontal" else 0.06), rows * float(rng.uniform(0.07, 0.13)))
    stamp = Image.new("L", (columns, rows))
    pen = ImageDraw.Draw(stamp)
    pen.text(place, marker, fill=235, font=font, anchor="mm")
    np.maximum(picture, np.asarray(stamp, dtype=np.float32) / np.float32(255), out=picture)
    strip = max(12, rows // 28)
    banner = Image.new("L", (columns, strip))
    font = ImageFont.load_default(max(8.0, min(strip * 0.72, columns / 17)))
    ImageDraw.Draw(banner).text((columns / 2, strip / 2), BANNER, fill=255, font=font, anchor="mm")
    letters = np.asarray(banner, dtype=np.float32)
    picture[rows - strip:] = letters / max(float(letters.max()), 1.0)   # small letters too reach white
