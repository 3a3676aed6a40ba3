"""The left lateral projection: sternum on the image's left, spine on its right; simpler than the frontal one."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np

from encoders.base import Float32
from encoders.phantom.anatomy import Anatomy
from encoders.phantom.canvas import Canvas, Line, Point, smoothstep
from encoders.phantom.devices import smooth_curve
from encoders.phantom.disease import Abnormality, Kind
from encoders.phantom.frontal import MU_SOFT
from encoders.phantom.vessels import grow

#: How far in front of (negative) or behind the chest's middle, in half depths, each zone's consolidation is drawn.
_ZONE_X = {"upper": -0.1, "mid": -0.45, "lower": 0.45}


def attenuation(canvas: Canvas, anatomy: Anatomy, abnormalities: Sequence[Abnormality],
                rng: np.random.Generator) -> Float32:
    """Return the line integral of attenuation in front of each pixel, float32 (rows, columns), without scatter."""
    x, y = canvas.axes()
    half = 0.5 * anatomy.body_depth - 0.6             # chest's inner half depth
    v = np.clip((y - anatomy.apex) / (anatomy.base - anatomy.apex), 0, 1)
    front = -half * (0.12 + 0.88 * np.sin(np.minimum(v * 1.45, 1) * np.pi / 2))
    back = half * (0.62 + 0.45 * np.sin(np.clip(v * 1.1 + 0.05, 0, 1) * np.pi * 0.62))
    body = _body(x, y, anatomy, front, back)
    lung = _lung(x, y, anatomy, front, back)
    cloud, wisps = canvas.clouds(rng, 2.0), 0.6 * canvas.clouds(rng, 0.9) + 0.4 * canvas.clouds(rng, 0.45)
    share = _ill(x, y, anatomy, half, back, abnormalities=abnormalities, cloud=cloud, wisps=wisps)
    air = np.maximum(lung - _organs(x, y, anatomy, half, abnormalities), 0) * share
    seen = np.clip(air / 5, 0, 1)
    soft = np.maximum(body - air, 0) + seen * (1.3 * _vessels(canvas, anatomy) + 0.12 * wisps)
    trachea = 2.2 * np.sqrt(np.clip(1 - ((x - 0.6 - 0.12 * (y - anatomy.apex)) / 0.9) ** 2, 0, 1))
    trachea = trachea * np.clip((anatomy.carina[1] + 0.5 - y) / 1.0, 0, 1) * smoothstep((y - anatomy.apex + 1) / 3)
    bone = _bones(canvas, anatomy, half) * np.clip(body / 8, 0, 1)
    total = np.maximum(MU_SOFT * (0.82 * soft - trachea), 0) + bone + _devices(canvas, anatomy, half, abnormalities)
    return np.asarray(total, dtype=np.float32)


def _body(x: Float32, y: Float32, anatomy: Anatomy, front: Float32, back: Float32) -> Float32:
    s = anatomy.scale
    low, high = front - 1.6 - 0.5 * anatomy.wall, back + 2.2 + 0.7 * anatomy.wall
    if anatomy.breast:
        low = low - 1.4 * anatomy.breast * np.exp(-((y - anatomy.apex - 16.5 * s) / 5.0) ** 2)
    middle, reach = (low + high) / 2, (high - low) / 2
    trunk = 2 * (anatomy.half_width + 1.0) * np.sqrt(np.clip(1 - np.abs((x - middle) / reach) ** 2.4, 0, 1))
    arms = 13 * smoothstep((anatomy.apex + 4.5 - y + 0.35 * x) / 6.0) * np.clip(1 - ((x + 1.0) / 13.0) ** 4, 0, 1)
    arms = arms * np.clip(1 - np.clip((x + 2 - y * 0.9) / 14.0, 0, 1), 0, 1)
    return np.asarray(np.maximum(trunk * (0.8 + 0.2 * np.clip((y - anatomy.apex) / 8, 0, 1)), 0.6 * arms) + 0.3 * arms,
                      dtype=np.float32)


def _lung(x: Float32, y: Float32, anatomy: Anatomy, front: Float32, back: Float32) -> Float32:
    u = np.clip((x - front) / np.maximum(back - front, 0.5), 0, 1)
    across = np.sqrt(np.clip(1 - np.abs(2 * u - 1) ** 3.2, 0, 1))
    v = np.clip((y - anatomy.apex) / (anatomy.base - anatomy.apex), 0, 1)
    width = 1.45 * anatomy.half_width * np.clip(v * 2.6, 0, 1) ** 0.7
    total = np.zeros(np.broadcast_shapes(x.shape, y.shape), dtype=np.float32)
    for side, lift in (("right", -0.2), ("left", 0.4)):
        peak = -0.10 * anatomy.body_depth
        x_row = x[:1]
        floor = (anatomy.dome[side] + lift + np.clip((x_row - peak) / (0.5 * anatomy.body_depth), 0, 1.3) ** 1.9
                 * (anatomy.sulcus + 2.2) + np.clip((peak - x_row) / 6.0, 0, 1.5) ** 2 * 1.4)
        total += 0.5 * width * across * smoothstep((floor - y) / 0.35 + 0.5)
    return np.asarray(total * (y > anatomy.apex), dtype=np.float32)


def _organs(x: Float32, y: Float32, anatomy: Anatomy, half: float, abnormalities: Sequence[Abnormality]) -> Float32:
    s = anatomy.scale
    grown = next((1.18 + 0.18 * each.size for each in abnormalities if each.kind is Kind.CARDIOMEGALY), 1.0)
    dx, dy = x + 0.34 * half, y - (anatomy.dome["left"] - 3.3 * s)
    major, minor = 0.74 * dx + 0.67 * dy, -0.67 * dx + 0.74 * dy
    heart = 9.0 * np.clip(1 - (major / (6.6 * s * grown)) ** 2 - (minor / (5.3 * s * grown)) ** 2, 0, 1) ** 0.7
    arch = 3.0 * np.clip(1 - ((x - 1.2) / (3.4 * s)) ** 2 - ((y - anatomy.apex - 6.8 * s) / (2.4 * s)) ** 2, 0, 1)
    slanted = x + 0.9 + 0.32 * (y - anatomy.apex - 11.5 * s)
    root = 5.8 * np.clip(1 - (slanted / (4.2 * s)) ** 2 - ((y - anatomy.apex - 11.5 * s) / (6.5 * s)) ** 2, 0, 1) ** 0.8
    down = 1.8 * np.clip(1 - ((x - 0.50 * half) / (1.7 * s)) ** 2, 0, 1) * np.clip((y - anatomy.apex - 7) / 2, 0, 1)
    upper = 4.0 * np.clip(1 - np.abs(x - 0.8) / 4.0, 0, 1) * np.clip((anatomy.apex + 7 * s - y) / 5, 0, 1)
    organs = np.sqrt(heart**2 + root**2)               # a soft union: no waist between heart and great vessels
    return np.asarray(organs + arch + down + upper, dtype=np.float32)


def _ill(x: Float32, y: Float32, anatomy: Anatomy, half: float, back: Float32, *,
         abnormalities: Sequence[Abnormality], cloud: Float32, wisps: Float32) -> Float32:
    """Return the share of air left; one lung of the two is ill, so the other still shows through."""
    share = np.ones(np.broadcast_shapes(x.shape, y.shape), dtype=np.float32)
    for each in abnormalities:
        if each.kind is Kind.EFFUSION:
            rise = np.clip((x + 0.2 * half) / (back + 0.2 * half), 0, 1) ** 2.2 * (3.5 + 5.0 * each.size)
            level = anatomy.base + 1.8 - 3.0 * each.size * each.size * 2
            share *= 1 - 0.62 * smoothstep((y - level + rise) / 1.4)
        elif each.kind is Kind.CONSOLIDATION and each.place is not None:
            cx = _ZONE_X[each.zone] * half
            dx, dy = (x - cx) / (2.4 + 2.2 * each.size), (y - each.place[1]) / (2.0 + 2.0 * each.size)
            r = np.sqrt(dx**2 + dy**2)
            share *= 1 - 0.5 * smoothstep((1.2 - r + 0.17 * cloud + 0.07 * wisps) / 0.85)
        elif each.kind is Kind.NODULE and each.place is not None:
            cx = 0.45 * half * math.sin(7.0 * each.place[1])
            r2 = ((x - cx) ** 2 + (y - each.place[1]) ** 2) / (each.size / 2) ** 2
            share *= 1 - np.clip(0.12 + 0.05 * each.size, 0, 0.5) * smoothstep((1 - r2) * 2)
        elif each.kind is Kind.ATELECTASIS and each.place is not None:
            band = np.exp(-((y - each.place[1] - 0.25 * x) / 0.35) ** 2) * np.clip(1 - ((x - 1) / 5.0) ** 4, 0, 1)
            share *= 1 - (0.25 + 0.15 * each.size) * band
        elif each.kind is Kind.EDEMA:
            r = (x / 6.0) ** 2 + ((y - anatomy.apex - 11) / 8.0) ** 2
            share *= 1 - (0.2 + 0.3 * each.size) * np.exp(-r) * (1 + 0.14 * wisps)
    return np.asarray(np.clip(share, 0, 1), dtype=np.float32)


def _vessels(canvas: Canvas, anatomy: Anatomy) -> Float32:
    pick, lines = random.Random(anatomy.seed + 1), list[Line]()
    hilum = (0.2, anatomy.apex + 10.2 * anatomy.scale)
    for angle in (-70, -35, 30, 58, 80, 100, 122, 150, 215, 245):
        start = (hilum[0] + pick.uniform(-1.2, 1.2), hilum[1] + pick.uniform(-1.8, 1.8))
        grow(lines, pick, start, math.radians(angle + pick.uniform(-9, 9)), 1,
             width=0.62 * anatomy.scale, length=3.9, depth=0)
    lines.sort(key=lambda line: line[1])
    return canvas.lines(lines, 0.045 * canvas.px_per_cm + 0.35)


def _bones(canvas: Canvas, anatomy: Anatomy, half: float) -> Float32:
    s = anatomy.scale
    soft = 0.12 * canvas.px_per_cm
    bodies: list[tuple[list[Point], float]] = []
    y, height = anatomy.apex - 4.0, 1.7 * s
    while y < canvas.height_cm:
        v = min(1.0, max(0.0, (y - anatomy.apex) / (anatomy.base - anatomy.apex)))
        x = half * (0.60 + 0.36 * math.sin((v * 1.1 + 0.05) * math.pi * 0.62)) - 0.3
        w = (1.35 + 0.025 * y) * s
        bodies.append(([(x - w, y), (x + w, y + 0.15), (x + 0.92 * w, y + height / 2), (x + w, y + height + 0.15),
                        (x - w, y + height), (x - 0.92 * w, y + height / 2)], 0.8))
        y += height + 0.42 * s
        height += 0.06 * s
    ribs: list[Line] = []
    for rib in range(1, 11):
        y0 = anatomy.apex - 1.0 + rib * (anatomy.base - anatomy.apex) / 11.5
        for shift in (0.0, 0.8):
            path = [(half * (0.98 - 1.75 * t) + shift, y0 + shift + 5.5 * s * t ** 1.3 - 1.0 * math.sin(math.pi * t))
                    for t in np.linspace(0, 0.55 + 0.03 * rib, 14).tolist()]
            ribs += [(path, 0.95 * s, 0.7), (path, 0.6 * s, 0.4)]
    plate = [(-half * (0.45 + 0.55 * math.sin(min(1.0, 0.2 + t * 0.9) * math.pi / 2)) - 0.9,
              anatomy.apex + 4 + 14 * s * t)
             for t in np.linspace(0, 1, 12).tolist()]
    blade = [(half * 0.72, anatomy.apex + 1.0), (half * 1.02, anatomy.apex + 6.0), (half * 1.08, anatomy.apex + 11.0)]
    edges: list[Line] = [(plate, 1.1, 0.7), (plate, 0.7, 0.4), (blade, 0.5, 0.5)]
    drawn = 0.55 * canvas.polygons(bodies, soft) + 0.24 * canvas.lines(ribs, soft) + 0.45 * canvas.lines(edges, soft)
    return np.asarray(drawn, dtype=np.float32)


def _devices(canvas: Canvas, anatomy: Anatomy, half: float, abnormalities: Sequence[Abnormality]) -> Float32:
    lines: list[Line] = []
    total = np.zeros((canvas.rows, canvas.columns), dtype=np.float32)
    low = anatomy.dome["left"]
    for each in abnormalities:
        if each.kind is Kind.PACEMAKER:
            x, y = -half * 0.58 - 1.2, anatomy.apex + 6.0
            box = [(x - 0.5, y - 2), (x + 0.5, y - 2), (x + 0.3, y + 2), (x - 0.7, y + 2)]
            total += 2.4 * canvas.polygons([(box, 1.0)], 0.06 * canvas.px_per_cm)
            way = [(x, y - 2), (-2.0, anatomy.apex + 2.6), (0.2, anatomy.apex + 5), (0.4, anatomy.apex + 9),
                   (-0.1 * half, low - 4.5), (-0.6 * half, low - 2.2)]
            lines.append((smooth_curve(way), 0.22, 0.9))
        elif each.kind is Kind.FEEDING_TUBE:
            way = [(0.8, 0.0), (1.6, anatomy.apex + 6), (2.6, low - 4), (1.2, low + 2), (-1.0, low + 4)]
            lines.append((smooth_curve(way), 0.34, 0.6))
        elif each.kind is Kind.CENTRAL_LINE:
            lines.append(([(0.0, 0.0), (0.2, anatomy.apex + 4), (0.0, anatomy.apex + 9)], 0.24, 0.45))
        elif each.kind is Kind.ET_TUBE:
            lines.append(([(0.2, 0.0), (1.2, anatomy.carina[1] - each.size)], 0.2, 0.5))
    if lines:
        total += 1.15 * canvas.lines(lines, 0.03 * canvas.px_per_cm + 0.3)
    return total
