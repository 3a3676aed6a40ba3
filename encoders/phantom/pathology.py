"""What illness does to a lung's air: fluid, collapse, consolidation, haze, nodules, free air; one side at a time.

All functions take `xs`, the distance from the midline in cm on that side, float32 (rows, columns of that half).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from encoders.base import Float32
from encoders.phantom.anatomy import SIDES, Anatomy
from encoders.phantom.canvas import smoothstep
from encoders.phantom.disease import Abnormality, Kind


@dataclass(frozen=True, slots=True)
class LungSurface:
    """What lies between lung and chest wall: `aerated` 0..1, `free_air` 0..1 (pneumothorax), `pleural_line` in cm."""

    aerated: Float32 | np.float32
    free_air: Float32 | np.float32
    pleural_line: Float32 | np.float32


def lung_surface(xs: Float32, y: Float32, anatomy: Anatomy, side: str,
                 abnormalities: Sequence[Abnormality]) -> LungSurface:
    """Return effusion, pneumothorax and pleural thickening of one side."""
    aerated: Float32 | np.float32 = np.float32(1)
    free: Float32 | np.float32 = np.float32(0)
    line: Float32 | np.float32 = np.float32(0)
    for each in abnormalities:
        if each.side != side:
            continue
        if each.kind is Kind.EFFUSION:
            aerated = aerated * _above_fluid(xs, y, anatomy, side, each.size)
        elif each.kind is Kind.PLEURAL_THICKENING:
            cap = anatomy.apex + 0.9 + 1.3 * each.size - 0.02 * (xs - 6.0) ** 2
            aerated = aerated * (0.25 + 0.75 * smoothstep((y - cap) / 0.35))
        elif each.kind is Kind.PNEUMOTHORAX:
            edge = _distance_to_wall(xs, y, anatomy) - each.size * _gap(y, anatomy)
            free = smoothstep(-edge / 0.10 + 0.5)
            line = np.float32(1.15) * np.exp(-(edge / 0.085) ** 2) * (_gap(y, anatomy) > 0.08)
            aerated = aerated * np.float32(1 - 0.05 * each.size)
    return LungSurface(aerated, free, line)


def _above_fluid(xs: Float32, y: Float32, anatomy: Anatomy, side: str, size: float) -> Float32:
    """Return 0 in the fluid, 1 above: the meniscus rises towards the chest wall."""
    span = anatomy.base - anatomy.apex
    outer = anatomy.lateral_edge(y)
    u = np.clip((xs - 2.0) / (outer - 2.0), 0, 1)
    level = anatomy.base - 2.3 - size * 0.50 * span
    rise = (1.6 + 4.0 * size) * u ** 3.2 - 1.2 * (1 - u)
    depth = (y - (level - rise + 1.2)) / (1.1 + 1.6 * size)
    return np.asarray(1 - smoothstep(depth), dtype=np.float32)


def _gap(y: Float32, anatomy: Anatomy) -> Float32:
    """Return how the pleural gap of an upright pneumothorax narrows downwards, 1 at the apex."""
    v = (y - anatomy.apex) / (anatomy.base - anatomy.apex)
    return np.asarray(np.clip(1.05 - 1.25 * v, 0, 1) ** 0.8, dtype=np.float32)


def _distance_to_wall(xs: Float32, y: Float32, anatomy: Anatomy) -> Float32:
    """Return about the distance in cm from the inner chest wall, rounded where wall and apex meet."""
    lateral = np.maximum(anatomy.lateral_edge(y) - xs, 1e-3)
    vertical = np.maximum((y - anatomy.apex) * 0.9, 1e-3)
    return np.asarray((lateral**-2 + vertical**-2) ** -0.5, dtype=np.float32)


def opacities(xs: Float32, y: Float32, anatomy: Anatomy, side: str, abnormalities: Sequence[Abnormality], *,
              cloud: Float32, wisps: Float32) -> Float32 | np.float32:
    """Return the share of air left by consolidation, atelectasis and nodules of one side."""
    left: Float32 | np.float32 = np.float32(1)
    for each in abnormalities:
        if each.side != side or each.place is None:
            continue
        cx, cy = each.place[0] * SIDES[side], each.place[1]
        if each.kind is Kind.CONSOLIDATION:
            r = np.sqrt(((xs - cx) / (2.2 + 2.6 * each.size)) ** 2 + ((y - cy) / (2.0 + 2.0 * each.size)) ** 2)
            edge = 1.2 - r + 0.17 * cloud + 0.07 * wisps
            left = left * (1 - (0.62 + 0.25 * each.size) * smoothstep(edge / 0.85) * (1 - 0.10 * np.clip(wisps, 0, 1)))
        elif each.kind is Kind.NODULE:
            radius = each.size / 2
            r2 = ((xs - cx) / radius) ** 2 + ((y - cy) / (radius * 0.94)) ** 2 + 0.12 * wisps
            path = each.size * np.sqrt(np.clip(1 - r2, 0, 1))
            solid = smoothstep((1 - r2) * each.size / 0.5) * np.float32(0.20) + path * np.float32(0.085)
            left = left * (1 - np.clip(solid, 0, 0.85))
        elif each.kind is Kind.ATELECTASIS:
            left = left * _plates(xs, y, cx, cy, each.size)
    return left


def _plates(xs: Float32, y: Float32, cx: float, cy: float, size: float) -> Float32:
    """Return the air left by plate-like (discoid) atelectasis: thin, nearly horizontal bands above the dome."""
    left = np.ones(np.broadcast_shapes(xs.shape, y.shape), dtype=np.float32)
    for k, (dy, slope, thick) in enumerate(((0.0, 0.14, 0.30), (1.5, -0.10, 0.22), (-1.7, 0.24, 0.18))):
        if k > 0 and size < 0.25 * k:
            break
        reach = 3.3 + 1.6 * size - 0.7 * k
        across = np.clip(1 - (np.abs(xs - cx - 0.5 * k) / reach) ** 4, 0, 1)
        band = np.exp(-((y - cy - dy - slope * (xs - cx)) / (thick + 0.18 * size)) ** 2)
        left *= 1 - (0.46 + 0.12 * size) * across * band
    base = smoothstep((y - cy + 0.5) / 3.0) * np.exp(-((xs - cx) / 5.0) ** 2)
    return np.asarray(left * (1 - 0.28 * size * base), dtype=np.float32)


def haze(xs: Float32, y: Float32, anatomy: Anatomy, side: str, abnormalities: Sequence[Abnormality], *,
         wisps: Float32) -> Float32 | np.float32:
    """Return the share of air left by oedema: a perihilar haze, and short septal (Kerley B) lines at the bases."""
    edema = max((each.size for each in abnormalities if each.kind is Kind.EDEMA), default=0.0)
    if not edema:
        return np.float32(1)
    s = anatomy.scale
    hx, hy = 3.6 * s, anatomy.apex + 11.5 * s
    r = ((xs - hx) / ((4.2 + 2.6 * edema) * s)) ** 2 + ((y - hy) / ((6.2 + 2.5 * edema) * s)) ** 2
    wings = np.exp(-r ** 1.3) * (1 + 0.20 * wisps)
    low = np.clip((y - anatomy.apex) / (anatomy.base - anatomy.apex), 0, 1)
    lateral = np.exp(-((anatomy.lateral_edge(y) - xs - 0.7) / 0.75) ** 2) * smoothstep((low - 0.45) / 0.15)
    kerley = lateral * (np.sin(y * np.float32(7.0) + 1.5 * (xs - hx)) > 0.72)
    share = 1 - (0.28 + 0.36 * edema) * np.clip(wings, 0, 1.15) - 0.10 * edema * low - 0.16 * kerley * (0.4 + edema)
    return np.asarray(np.clip(share, 0.08, 1), dtype=np.float32)
