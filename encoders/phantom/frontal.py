"""The frontal (postero-anterior) projection: path lengths through air, soft tissue, bone and metal.

Each finding changes the path lengths where it lies, so that its size and place in the picture are known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from encoders.base import Float32
from encoders.phantom.anatomy import SIDES, Anatomy
from encoders.phantom.bones import fracture_place, skeleton
from encoders.phantom.canvas import Canvas, smoothstep
from encoders.phantom.devices import devices
from encoders.phantom.disease import Abnormality, Kind
from encoders.phantom.pathology import haze, lung_surface, opacities
from encoders.phantom.vessels import vessels

#: Linear attenuation of soft tissue per cm at a chest beam (about 70 keV effective), water: 0.19 (NIST XCOM).
MU_SOFT = np.float32(0.19)


def attenuation(canvas: Canvas, anatomy: Anatomy, abnormalities: Sequence[Abnormality],
                rng: np.random.Generator) -> Float32:
    """Return the line integral of attenuation in front of each pixel, float32 (rows, columns), without scatter."""
    x, y = canvas.axes()
    body = _body(x, y, anatomy)
    organs = _heart_and_vessels(x, y, anatomy, abnormalities)
    air = np.zeros_like(body)
    texture = np.zeros_like(body)
    tree = vessels(canvas, anatomy, abnormalities)
    cloud = canvas.clouds(rng, 2.2)
    wisps = 0.6 * canvas.clouds(rng, 0.9) + 0.4 * canvas.clouds(rng, 0.45)
    for side, sign in SIDES.items():
        part = slice(0, canvas.columns // 2 + 1) if sign < 0 else slice(canvas.columns // 2 - 1, None)
        xs = x[:, part] * np.float32(sign)
        full, inside = _hemithorax(xs, y, anatomy, side)
        own = np.maximum(full - organs[:, part], 0)
        lung = lung_surface(xs, y, anatomy, side, abnormalities)
        aerated = opacities(xs, y, anatomy, side, abnormalities, cloud=cloud[:, part], wisps=wisps[:, part])
        share = lung.aerated * aerated * haze(xs, y, anatomy, side, abnormalities, wisps=wisps[:, part])
        free = np.clip(lung.free_air, 0, 1)
        air[:, part] += own * np.maximum(share, free)
        visible = np.clip(own / np.float32(6.0), 0, 1) * (1 - free)
        grain = tree[:, part] * np.float32(2.3) + np.float32(0.10) * wisps[:, part] * inside
        texture[:, part] += visible * grain * (0.35 + 0.65 * np.clip(share, 0, 1)) + lung.pleural_line * inside
    soft = np.maximum(body - air, np.float32(0)) + texture + _abdominal_gas(x, y, anatomy, body)
    soft = soft + _bruises(x, y, anatomy, abnormalities)
    bone = skeleton(canvas, anatomy, abnormalities) * np.clip(body / 6, 0, 1)
    metal = devices(canvas, anatomy, abnormalities)
    trachea = _trachea(x, y, anatomy)
    return np.asarray(np.maximum(MU_SOFT * (soft - trachea), 0) + bone + metal, dtype=np.float32)


def _body(x: Float32, y: Float32, anatomy: Anatomy) -> Float32:
    """Return the body's path length in cm: trunk, neck, shoulders and arms, breasts."""
    s = anatomy.scale
    top = anatomy.apex
    trunk_half = anatomy.half_width + anatomy.wall + 0.03 * (y - top)
    neck = 5.6 * s + 0.25 * anatomy.wall
    rise = np.clip((y - (top - 5.5 * s)) / (6.5 * s + anatomy.shoulder), 0, None)
    spread = anatomy.half_width + 6.5 * s + anatomy.wall * 0.5 - neck
    half = np.where(rise < 1, neck + spread * np.minimum(rise, 1) ** 2.2, np.float32(99))
    shoulder_zone = np.clip((top + 9 * s - y) / (8 * s), 0, 1)
    depth = anatomy.body_depth * (0.74 + 0.26 * np.clip((y - top + 4) / 14, 0, 1))
    trunk = depth * np.sqrt(np.clip(1 - np.abs(x / trunk_half) ** 2.6, 0, 1))
    yoke = 12.0 * s * np.sqrt(np.clip(1 - np.abs(x / np.minimum(half, anatomy.half_width + 9.5 * s)) ** 6, 0, 1))
    yoke = yoke * smoothstep(shoulder_zone * 2)
    column = 12.0 * s * np.sqrt(np.clip(1 - (x / neck) ** 2, 0, 1)) * np.clip((top + 6 - y) / 7, 0, 1)
    above = smoothstep((y - (top - 5.5 * s)) / 5.0)
    trunk = trunk * smoothstep((y - top + 6.5 * s) / (8.0 * s)) * np.clip((half - np.abs(x)) / 0.3, 0, 1)
    arm_x = anatomy.half_width + anatomy.wall + 4.6 * s + 0.12 * np.clip(y - top, 0, None)
    arm = 9.5 * s * np.sqrt(np.clip(1 - ((np.abs(x) - arm_x) / (4.3 * s)) ** 2, 0, 1))
    arm = arm * smoothstep((y - top - 1.0) / (4.0 * s))
    body = np.maximum(np.maximum(trunk, column), np.maximum(yoke * above, arm))
    if anatomy.breast:
        middle = 0.62 * anatomy.half_width
        low = min(top + 19.5 * s + 1.2 * anatomy.breast, anatomy.dome["right"] + 1.5)
        r = ((np.abs(x) - middle) / (6.0 * s)) ** 2 + ((y - low + 4.8 * s) / (6.2 * s)) ** 2
        body = body + np.float32(2.3 * anatomy.breast) * np.clip(1 - r, 0, 1) ** 0.6 * np.clip(trunk / 6, 0, 1)
    return np.asarray(body, dtype=np.float32)


def _hemithorax(xs: Float32, y: Float32, anatomy: Anatomy, side: str) -> tuple[Float32, Float32]:
    """Return one lung's path length in cm as if the heart were not there, and where the lung is (0..1)."""
    outer, inner = anatomy.lateral_edge(y), anatomy.medial_edge(y)
    u = (xs - inner) / np.maximum(outer - inner, 0.3)
    u = np.clip(u, 0, 1)
    across = np.sqrt(np.clip(1 - (2 * u - 1) ** 4, 0, 1)) * smoothstep(0.25 + u / 0.32)
    v = np.clip((y - anatomy.apex) / (anatomy.base - anatomy.apex), 0, 1)
    depth = anatomy.air_depth * (0.20 + 0.80 * np.sqrt(np.clip(v * 1.9, 0, 1)))
    floor = anatomy.diaphragm(xs[:1], side)
    above = smoothstep((floor - y) / 0.35 + 0.5)
    behind = np.clip(1 - (y - floor) / 4.5, 0, 1) * (1 - above) * np.float32(0.13)
    near = 1 - 0.25 * np.exp(-np.clip(floor - y, 0, None) / 1.5)
    inside = (u > 0) & (u < 1) & (y > anatomy.apex)
    full = depth * across * (above * near + behind) * inside
    return full.astype(np.float32), (inside * above).astype(np.float32)


def _heart_and_vessels(x: Float32, y: Float32, anatomy: Anatomy, abnormalities: Sequence[Abnormality]) -> Float32:
    """Return the path length in cm through heart, great vessels and hila, which the lungs leave room for."""
    s = anatomy.scale
    kinds = {each.kind: each for each in abnormalities}
    ratio = anatomy.heart_ratio
    if Kind.CARDIOMEGALY in kinds:
        ratio = 0.555 + 0.13 * kinds[Kind.CARDIOMEGALY].size
    grown = ratio / anatomy.heart_ratio
    w = ratio * anatomy.half_width
    cx, cy = anatomy.heart_centre
    cx = cx * (1 + 0.35 * (grown - 1))
    p, q = w / 0.90, 0.80 * w
    cos, sin = math.cos(0.72), math.sin(0.72)
    dx, dy = x - np.float32(cx), y - np.float32(cy + 0.2 * anatomy.scale)
    major, minor = dx * cos + dy * sin, -dx * sin + dy * cos
    heart = 11.5 * np.sqrt(np.clip(1 - (major / p) ** 2 - (minor / q) ** 2, 0, 1))
    right_atrium = 8.0 * np.sqrt(np.clip(1 - ((dx + 0.42 * w) / (0.50 * w)) ** 2 - (dy / (0.66 * w)) ** 2, 0, 1))
    wide = 1.55 + 0.6 * kinds[Kind.WIDE_MEDIASTINUM].size if Kind.WIDE_MEDIASTINUM in kinds else 1.0
    top = anatomy.apex
    arch_y, knob = top + (5.9 - 0.5 * anatomy.aorta) * s, (1.35 + 0.45 * anatomy.aorta) * s * (0.6 + 0.4 * wide)
    great = 7.0 * np.sqrt(np.clip(1 - np.abs((x - 0.15 - anatomy.rotation) / (2.75 * s * wide)) ** 2.4
                                  - np.abs((y - top - 8 * s) / (9.2 * s)) ** (4 if wide == 1 else 2), 0, 1))
    arch = 6.5 * np.sqrt(np.clip(1 - ((x - (1.95 + 0.5 * anatomy.aorta) * s - anatomy.rotation) / knob) ** 2
                                 - ((y - arch_y) / knob) ** 2, 0, 1))
    trunk = 5.0 * np.sqrt(np.clip(1 - ((x - 2.45 * s - anatomy.rotation) / (1.55 * s)) ** 2
                                  - ((y - top - 10.4 * s) / (2.9 * s)) ** 2, 0, 1))
    organs = np.maximum(np.maximum(heart, right_atrium), np.maximum(np.maximum(great, arch), trunk))
    down = np.clip((y - arch_y) / 1.5, 0, 1)
    aorta_x = (1.9 + 0.7 * anatomy.aorta - 0.012 * (y - arch_y)) * s + anatomy.rotation
    organs += 2.6 * down * np.sqrt(np.clip(1 - ((x - aorta_x) / (1.25 * s)) ** 2, 0, 1))
    for sign, low in ((-1, 10.9), (1, 9.9)):
        r = ((x - sign * 3.5 * s - anatomy.rotation) / (1.5 * s)) ** 2 + ((y - top - low * s) / (2.5 * s)) ** 2
        organs += 3.0 * np.clip(1 - r, 0, 1) ** 1.5
    return np.asarray(organs, dtype=np.float32)


def _bruises(x: Float32, y: Float32, anatomy: Anatomy, abnormalities: Sequence[Abnormality]) -> Float32:
    """Return the path length in cm of the haematoma around a fractured rib."""
    total = np.zeros(np.broadcast_shapes(x.shape, y.shape), dtype=np.float32)
    for each in abnormalities:
        if each.kind is Kind.FRACTURE:
            cx, cy = fracture_place(anatomy, each.side, each.rib)
            total += 2.8 * np.clip(1 - ((x - cx) / 1.5) ** 2 - ((y - cy - 0.5) / 1.9) ** 2, 0, 1)
    return total


def _trachea(x: Float32, y: Float32, anatomy: Anatomy) -> Float32:
    """Return the air path in cm of trachea and main bronchi."""
    cx, cy = anatomy.carina
    s = anatomy.scale
    width = 0.95 * s
    middle = cx * np.clip((y - anatomy.apex + 3) / (cy - anatomy.apex + 3), 0, 1)
    tube = np.sqrt(np.clip(1 - ((x - middle) / width) ** 2, 0, 1)) * np.clip((cy - y) / 0.5 + 0.5, 0, 1)
    air = 3.0 * tube
    for sign, slope, length in ((-1, 1.25, 3.0), (1, 0.8, 4.3)):
        along = sign * (x - cx)
        centre = cy + slope * along - 0.2
        inside = np.clip((length - along) / 1.0, 0, 1) * np.clip(along / 0.3 + 0.5, 0, 1)
        air = np.maximum(air, 1.9 * inside * np.sqrt(np.clip(1 - ((y - centre) / (0.85 * s)) ** 2, 0, 1)))
    return np.asarray(air, dtype=np.float32)


def _abdominal_gas(x: Float32, y: Float32, anatomy: Anatomy, body: Float32) -> Float32:
    """Return (negative) path length of the stomach bubble under the left dome."""
    if anatomy.stomach_gas < 0.35:
        return np.zeros_like(body)
    s, size = anatomy.scale, 0.6 + 0.8 * anatomy.stomach_gas
    top = anatomy.dome["left"] + 0.9
    level = top + 2.1 * size                            # upright: gas above, fluid below a flat line
    r = ((x - 0.45 * anatomy.half_width) / (3.0 * s * size)) ** 2 + ((y - level) / (2.0 * s * size)) ** 2
    return np.asarray(-4.5 * np.sqrt(np.clip(1 - r, 0, 1)) * smoothstep((level + 0.25 - y) / 0.5), dtype=np.float32)
