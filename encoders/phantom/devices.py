"""Tubes, lines and pacemakers of the frontal projection."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from encoders.base import Float32
from encoders.phantom.anatomy import SIDES, Anatomy
from encoders.phantom.canvas import Canvas, Line, Point
from encoders.phantom.disease import Abnormality, Kind


def devices(canvas: Canvas, anatomy: Anatomy, abnormalities: Iterable[Abnormality]) -> Float32:
    """Return the attenuation of everything man-made, float32 (rows, columns)."""
    total = np.zeros((canvas.rows, canvas.columns), dtype=np.float32)
    faint: list[Line] = []
    dense: list[Line] = []
    for each in abnormalities:
        if each.kind is Kind.ET_TUBE:
            path = et_tube(anatomy, each.size)
            faint += [(path, 1.0, 0.6), (path, 0.66, 0.2)]
            dense.append((path, 0.2, 0.7))
        elif each.kind is Kind.CENTRAL_LINE:
            dense.append((central_line(anatomy, each.side), 0.24, 0.55))
        elif each.kind is Kind.FEEDING_TUBE:
            dense.append((feeding_tube(anatomy), 0.34, 0.6))
        elif each.kind is Kind.PACEMAKER:
            box, leads = pacemaker(anatomy, each.side)
            inner = [(0.86 * x + 0.14 * _mean(box)[0], 0.86 * y + 0.14 * _mean(box)[1]) for x, y in box]
            total += 2.6 * canvas.polygons([(box, 0.75), (inner, 1.0)], 0.05 * canvas.px_per_cm)
            dense += [(lead, 0.22, 0.95) for lead in leads] + [(lead[-3:], 0.36, 1.0) for lead in leads]
    sharp = 0.03 * canvas.px_per_cm + 0.3
    if faint:
        total += 0.6 * canvas.lines(faint, sharp)
    if dense:
        total += 1.15 * canvas.lines(dense, sharp)
    return total


def et_tube(anatomy: Anatomy, above_carina_cm: float) -> list[Point]:
    """Return the middle of an endotracheal tube whose tip lies so far above the carina."""
    cx, cy = anatomy.carina
    tip = cy - above_carina_cm
    return [(cx * t - 0.35 * (1 - t), tip * t - 0.5 * (1 - t)) for t in np.linspace(0, 1, 12).tolist()]


def central_line(anatomy: Anatomy, side: str) -> list[Point]:
    """Return a jugular catheter to the lower superior vena cava."""
    s, sign = anatomy.scale, SIDES[side]
    x, y = anatomy.carina
    cava = (x - 2.2 * s, y + 1.2)
    if sign < 0:
        way = [(-4.6 * s, 0.4), (-3.9 * s, anatomy.apex - 1), (-2.8 * s, anatomy.apex + 2.5 * s),
               (x - 2.3 * s, y - 2), cava]
    else:
        way = [(4.8 * s, 0.4), (4.2 * s, anatomy.apex - 1), (3.0 * s, anatomy.apex + 2.4 * s),
               (0.2, anatomy.apex + 4.6 * s), (x - 1.9 * s, y - 1.8), cava]
    return smooth_curve(way)


def feeding_tube(anatomy: Anatomy) -> list[Point]:
    """Return a nasogastric tube: down the oesophagus, across the diaphragm, its tip in the stomach."""
    x, y = anatomy.carina
    low = anatomy.dome["left"]
    return smooth_curve([(0.1, -0.5), (x - 0.2, anatomy.apex), (x + 0.1, y), (x + 0.7, low - 4), (x + 1.6, low + 0.8),
                    (x + 4.4, low + 3.6), (x + 6.0, low + 5.6)])


def pacemaker(anatomy: Anatomy, side: str) -> tuple[list[Point], list[list[Point]]]:
    """Return the outline of a generator below the clavicle, and its atrial and ventricular leads."""
    s, sign = anatomy.scale, SIDES[side]
    bx, by = sign * 0.76 * anatomy.half_width, anatomy.apex + 5.4 * s
    box = [(bx + 2.3 * math.copysign(abs(math.cos(a)) ** 0.6, math.cos(a)),
            by + 2.0 * math.copysign(abs(math.sin(a)) ** 0.6, math.sin(a))) for a in np.linspace(0, 2 * math.pi, 40)]
    x, y = anatomy.carina
    hx, hy = anatomy.heart_centre
    w = anatomy.heart_half_width
    entry = [(bx - sign * 1.5, by - 1.9), (sign * 5.4 * s, anatomy.apex + 2.6 * s),
             (sign * 2.2 * s, anatomy.apex + 3.6 * s)]
    cava = [(x - 1.7 * s, y - 1.5), (x - 2.2 * s, y + 3.0)]
    ventricle = smooth_curve([*entry, *cava, (hx - 0.55 * w, hy + 0.9), (hx - 0.1 * w, hy + 3.0),
                              (hx + 0.5 * w, hy + 2.9)])
    beside = [(p[0], p[1] + 0.25) for p in entry]
    atrium = smooth_curve([*beside, *cava, (hx - 0.78 * w, hy + 0.2), (hx - 0.5 * w, hy - 0.9)])
    return box, [ventricle, atrium]


def _mean(points: list[Point]) -> Point:
    return sum(p[0] for p in points) / len(points), sum(p[1] for p in points) / len(points)


def smooth_curve(points: list[Point], steps: int = 8) -> list[Point]:
    """Return a Catmull-Rom curve through the points."""
    p = np.asarray([points[0], *points, points[-1]])
    curve: list[Point] = []
    for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False):
        for t in np.linspace(0, 1, steps, endpoint=False):
            q = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
            curve.append((float(q[0]), float(q[1])))
    return [*curve, points[-1]]
