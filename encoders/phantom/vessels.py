"""Pulmonary vessels: trees that branch from each hilum and thin out towards the chest wall."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from encoders.base import Float32
from encoders.phantom.anatomy import SIDES, Anatomy
from encoders.phantom.canvas import Canvas, Line
from encoders.phantom.disease import Abnormality, Kind

#: Directions of the first branches, degrees from lateral, downwards positive, and their share of the hilum's calibre.
_BRANCHES = ((-78, 0.62), (-50, 0.66), (-22, 0.52), (6, 0.62), (30, 0.78), (52, 0.92), (72, 1.0), (86, 0.8))


def vessels(canvas: Canvas, anatomy: Anatomy, abnormalities: Sequence[Abnormality]) -> Float32:
    """Return the vessels' thickness in cm, float32 (rows, columns); oedema and a failing heart fill the upper ones."""
    edema = max((each.size for each in abnormalities if each.kind is Kind.EDEMA), default=0.0)
    pick = random.Random(anatomy.seed)                # one patient keeps the same tree from study to study
    lines: list[Line] = []
    for side, sign in SIDES.items():
        hilum = (sign * 3.1 * anatomy.scale + anatomy.rotation,
                 anatomy.apex + (10.6 if side == "right" else 9.8) * anatomy.scale)
        for angle, calibre in _BRANCHES:
            fuller = 1 + edema * (0.7 if angle < 0 else 0.15)
            start = (hilum[0] + pick.uniform(-0.3, 0.3), hilum[1] + angle / 60 + pick.uniform(-0.3, 0.3))
            grow(lines, pick, start, math.radians(angle + pick.uniform(-8, 8)), sign,
                 width=0.9 * calibre * fuller * anatomy.scale, length=4.6 * anatomy.scale, depth=0)
    lines.sort(key=lambda line: line[1])              # wide vessels cover thin ones
    return canvas.lines(lines, 0.045 * canvas.px_per_cm + 0.35)


def grow(lines: list[Line], pick: random.Random, start: tuple[float, float], angle: float, sign: int, *,
         width: float, length: float, depth: int) -> None:
    """Add one branch and, in turn, its two daughters."""
    points, (x, y) = [start], start
    bend = pick.uniform(-0.10, 0.10)
    for _ in range(4):
        angle += bend
        x += sign * math.cos(angle) * length / 4
        y += math.sin(angle) * length / 4
        points.append((x, y))
    lines.append((points, width, min(1.0, 0.10 + 0.95 * width)))
    if depth >= 4 or width < 0.10:
        return
    fork = pick.uniform(0.22, 0.5)
    for turn, thinner in ((fork, pick.uniform(0.60, 0.74)), (-fork * pick.uniform(0.6, 1.2), pick.uniform(0.66, 0.82))):
        grow(lines, pick, (x, y), angle + turn, sign, width=width * thinner, length=length * pick.uniform(0.62, 0.85),
             depth=depth + 1)
    if depth < 2:                                     # a side twig half-way
        grow(lines, pick, points[2], angle + pick.choice((-1, 1)) * pick.uniform(0.5, 0.9), sign,
             width=width * 0.5, length=length * 0.6, depth=depth + 2)
