"""Ribs, clavicles, shoulder girdle and spine of the frontal projection, as lines and polygons in cm."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from encoders.base import Float32
from encoders.phantom.anatomy import SIDES, Anatomy
from encoders.phantom.canvas import Canvas, Line, Point
from encoders.phantom.disease import Abnormality, Kind

_STEPS = 18
RIBS = 10


def posterior_rib(anatomy: Anatomy, side: str, rib: int) -> list[Point]:
    """Return the back half of a rib, from the spine to the chest wall; `rib` 1..10."""
    sign, s = SIDES[side], anatomy.scale
    i = rib - 1
    y0 = anatomy.apex - 0.4 * s + i * (anatomy.base - anatomy.apex) / 10.9
    drop = (2.8 + 0.42 * i) * s
    wall = _wall(anatomy, y0 + drop)
    start = 2.1 * s
    return [(anatomy.spine_x(y0) * (1 - t) + sign * (start + (wall - start) * math.sin(t * math.pi / 2) ** 0.95),
             y0 - (0.9 + 0.05 * i) * s * math.sin(math.pi * min(1, t * 1.5)) * (1 - t)
             + drop * (1 - math.cos(t * math.pi / 2)) ** 1.25)
            for t in _fractions()]


def anterior_rib(anatomy: Anatomy, side: str, rib: int) -> list[Point]:
    """Return the front half of a rib, from the chest wall down to its cartilage; `rib` 1..7."""
    sign, s = SIDES[side], anatomy.scale
    x0, y0 = posterior_rib(anatomy, side, rib)[-1]
    x0 = abs(x0)
    i = rib - 1
    end = (2.4, 4.2, 5.0, 5.6, 6.3, 7.2, 8.4)[i] * s
    fall = (1.6, 3.0, 3.8, 4.4, 4.8, 5.0, 4.8)[i] * s
    return [(sign * (x0 - (x0 - end) * (1 - math.cos(t * math.pi / 2)) ** 0.9),
             y0 + fall * math.sin(t * math.pi / 2) ** 0.9 - 0.5 * math.sin(math.pi * t) * (1 if rib > 1 else 0))
            for t in _fractions()]


def clavicle(anatomy: Anatomy, side: str) -> list[Point]:
    """Return the middle line of a clavicle, from the sternum to the shoulder."""
    sign, s = SIDES[side], anatomy.scale
    inner = 1.6 * s + 0.5 * anatomy.rotation * sign
    y0 = anatomy.apex + 2.6 * s
    outer = anatomy.half_width + 3.2
    return [(sign * (inner + (outer - inner) * t),
             y0 - (3.1 + anatomy.shoulder) * s * t ** 0.8 + 0.75 * math.sin(2 * math.pi * t + 0.3))
            for t in _fractions()]


def skeleton(canvas: Canvas, anatomy: Anatomy, abnormalities: Iterable[Abnormality]) -> Float32:
    """Return the bones' attenuation above that of soft tissue, float32 (rows, columns)."""
    broken = {(each.side, each.rib) for each in abnormalities if each.kind is Kind.FRACTURE}
    s = anatomy.scale
    total = np.zeros((canvas.rows, canvas.columns), dtype=np.float32)
    ends: list[Line] = []
    for group, width, count, strength in ((posterior_rib, 1.05, RIBS, 0.46), (anterior_rib, 1.3, 7, 0.34)):
        shell: list[Line] = []
        for side in SIDES:
            for rib in range(1, count + 1):
                line = group(anatomy, side, rib)
                pieces = _fractured(line, anatomy) if (side, rib) in broken and group is posterior_rib else [line]
                for piece in pieces:
                    shell += [(piece, width * s, 0.95), (piece, (width - 0.36) * s, 0.50)]
                if len(pieces) > 1:                   # the broken ends are seen end-on: denser
                    ends += [(pieces[0][-2:], width * s, 0.9), (pieces[1][:2], width * s, 0.9)]
        total += strength * canvas.lines(shell, 0.12 * canvas.px_per_cm)
    if ends:
        total += 0.4 * canvas.lines(ends, 0.12 * canvas.px_per_cm)
    collar: list[Line] = []
    for side in SIDES:
        line = clavicle(anatomy, side)
        collar += [(line, 1.35 * s, 0.95), (line, 0.85 * s, 0.6), (line[:3], 1.7 * s, 0.72)]
    total += 0.75 * canvas.lines(collar, 0.12 * canvas.px_per_cm)
    total += _shoulders(canvas, anatomy)
    return total + _spine(canvas, anatomy)


def _shoulders(canvas: Canvas, anatomy: Anatomy) -> Float32:
    s, bones = anatomy.scale, []
    outlines: list[Line] = []
    for sign in SIDES.values():
        x0, y0 = anatomy.half_width + 4.2 * s, anatomy.apex + (1.5 - anatomy.shoulder) * s
        head = [(sign * (x0 + 1.6 * s + 2.4 * s * math.cos(a)), y0 + 2.0 * s + 2.5 * s * math.sin(a))
                for a in np.linspace(0, 2 * math.pi, 28)]
        shaft = [(sign * (x0 + 0.9 * s), y0 + 3 * s), (sign * (x0 + 3.6 * s), y0 + 3 * s),
                 (sign * (x0 + 8.0 * s), y0 + 34 * s), (sign * (x0 + 5.6 * s), y0 + 34 * s)]
        blade = [(sign * x, y) for x, y in ((x0 - 0.6 * s, y0 + 2 * s), (x0 - 3.2 * s, y0 + 2.4 * s),
                                            (x0 - 4.3 * s, y0 + 8.5 * s), (x0 - 3.4 * s, y0 + 13.5 * s),
                                            (x0 - 2.4 * s, y0 + 11 * s), (x0 - 1.2 * s, y0 + 5.5 * s))]
        bones += [(blade, 0.22), (shaft, 0.7), (head, 0.75)]
        outlines += [(head, 0.35 * s, 0.5), ([blade[1], blade[2], blade[3]], 0.3 * s, 0.30),
                     ([blade[3], blade[4], blade[5], blade[0]], 0.4 * s, 0.45)]
    return 0.8 * canvas.polygons(bones, 0.14 * canvas.px_per_cm) + 0.5 * canvas.lines(outlines, 0.1 * canvas.px_per_cm)


def _spine(canvas: Canvas, anatomy: Anatomy) -> Float32:
    """Return vertebral bodies with paler discs between them, pedicles and spinous processes."""
    s = anatomy.scale
    bodies: list[tuple[list[Point], float]] = []
    details: list[Line] = []
    y, height = -1.0, 1.7 * s
    while y < canvas.height_cm + 1:
        half, x = (1.25 + 0.022 * y) * s, anatomy.spine_x(y)
        waist = 0.9 * half
        bodies.append(([(x - half, y), (x + half, y), (x + waist, y + height / 2), (x + half, y + height),
                        (x - half, y + height), (x - waist, y + height / 2)], 0.8))
        for sign in (-1, 1):
            details.append(([(x + sign * half * 0.62, y + 0.35 * height), (x + sign * half * 0.62, y + 0.65 * height)],
                            0.55 * s, 0.7))
        details.append(([(x, y + 0.7 * height), (x, y + 1.15 * height)], 0.5 * s, 0.8))
        y += height + 0.38 * s
        height += 0.055 * s
    blurred = 0.1 * canvas.px_per_cm
    return 0.36 * canvas.polygons(bodies, 1.6 * blurred) + 0.26 * canvas.lines(details, 1.4 * blurred)


def fracture_place(anatomy: Anatomy, side: str, rib: int) -> Point:
    """Return where a fractured rib is broken."""
    line = posterior_rib(anatomy, side, rib)
    return line[round(_STEPS * 0.62)]


def _fractured(line: list[Point], anatomy: Anatomy) -> list[list[Point]]:
    """Return a rib in two pieces, the outer one displaced by more than its width."""
    at, step = round(_STEPS * 0.62), 1.5 * anatomy.scale
    outer = [(x * 0.99, y + step * (1 - k / (len(line) - at))) for k, (x, y) in enumerate(line[at:])]
    return [line[:at], outer]


def _wall(anatomy: Anatomy, y: float) -> float:
    return float(anatomy.lateral_edge(np.asarray([y], dtype=np.float32))[0]) + 0.25


def _fractions() -> list[float]:
    return [k / _STEPS for k in range(_STEPS + 1)]
