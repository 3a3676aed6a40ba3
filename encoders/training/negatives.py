"""Pictures that are not chest radiographs, to teach the gate; drawn, since no such data may be assumed.

Kinds: noise and textures, pages of text, geometric scenes, limb-like and skull-like shadows, angiograms, smooth
grounds, and small cut-outs of true radiographs (a detail is not a chest).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage

from encoders.base import Float32

Generator = np.random.Generator


def _smooth(generator: Generator, size: int, scale: float) -> NDArray[np.float64]:
    field = ndimage.gaussian_filter(generator.normal(size=(size, size)), scale, mode="wrap")
    return np.asarray((field - field.min()) / max(float(np.ptp(field)), 1e-9))


def _texture(generator: Generator, size: int) -> NDArray[np.float64]:
    field = sum(_smooth(generator, size, s) * generator.random() for s in (0.5, 2, 6, 20))
    if generator.random() < 0.4:
        rows, columns = np.mgrid[0:size, 0:size] / size
        angle, waves = generator.random() * np.pi, generator.uniform(3, 40)
        field = field + np.sin(2 * np.pi * waves * (rows * np.cos(angle) + columns * np.sin(angle)))
    return np.asarray(field, dtype=np.float64)


def _page(generator: Generator, size: int) -> NDArray[np.float64]:
    image = Image.new("L", (size, size), 245 if generator.random() < 0.7 else 10)
    draw = ImageDraw.Draw(image)
    ink = 20 if image.getpixel((0, 0)) == 245 else 230
    y = int(generator.integers(2, 20))
    while y < size - 8:
        text = "".join(chr(int(c)) for c in generator.integers(97, 123, int(generator.integers(4, size // 6))))
        draw.text((int(generator.integers(2, 20)), y), text, fill=ink)
        y += int(generator.integers(9, 24))
    return np.asarray(image, dtype=np.float64)


def _scene(generator: Generator, size: int) -> NDArray[np.float64]:
    image = Image.new("L", (size, size), int(generator.integers(0, 256)))
    draw = ImageDraw.Draw(image)
    for _ in range(int(generator.integers(1, 14))):
        a, b = np.sort(generator.integers(0, size, (2, 2)), axis=0).tolist()
        shape = (draw.rectangle, draw.ellipse)[int(generator.integers(2))]
        shape([a[0], a[1], b[0] + 1, b[1] + 1], fill=int(generator.integers(0, 256)))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(float(generator.uniform(0, 4)))), dtype=np.float64)


def _limb(generator: Generator, size: int) -> NDArray[np.float64]:
    """Soft tissue around one to five long bones on black: an arm, a leg, a hand."""
    rows, columns = np.mgrid[0:size, 0:size] / size - 0.5
    angle = generator.normal(0, 0.35) + (np.pi / 2 if generator.random() < 0.25 else 0)
    along = rows * np.cos(angle) + columns * np.sin(angle)
    across = columns * np.cos(angle) - rows * np.sin(angle)
    bones = int(generator.integers(1, 6))
    tissue = np.zeros((size, size))
    bone = np.zeros((size, size))
    for place in np.linspace(-0.08 * bones, 0.08 * bones, bones) + generator.normal(0, 0.01, bones):
        width = generator.uniform(0.02, 0.07)
        bend = generator.normal(0, 0.3) * along**2
        distance = np.abs(across - place - bend)
        knuckle = 1 + 0.5 * np.exp(-(((along - generator.uniform(-0.4, 0.4)) / 0.06) ** 2))
        bone = np.maximum(bone, np.clip(1 - (distance / (width * knuckle)) ** 2, 0, 1) ** 0.5)
        tissue = np.maximum(tissue, np.clip(1 - (distance / (width * generator.uniform(2, 4))) ** 2, 0, 1) ** 0.5)
    return np.asarray(0.45 * tissue + 0.5 * bone * generator.uniform(0.6, 1.2) + 0.03 * _smooth(generator, size, 3))


def _skull(generator: Generator, size: int) -> NDArray[np.float64]:
    """A bright shell with inner structures on black: a head, an axial slice, a phantom."""
    rows, columns = np.mgrid[0:size, 0:size] / size - 0.5
    rows, columns = rows - generator.normal(0, 0.05), columns - generator.normal(0, 0.05)
    radius = np.hypot(rows / generator.uniform(0.3, 0.5), columns / generator.uniform(0.25, 0.5))
    shell = np.exp(-(((radius - 0.92) / generator.uniform(0.02, 0.08)) ** 2)) * generator.uniform(0.2, 1.5)
    inside = (radius < 0.92) * (0.4 + 0.4 * _smooth(generator, size, generator.uniform(2, 12)))
    for _ in range(int(generator.integers(0, 5))):
        r, c = generator.normal(0, 0.15, 2)
        s = generator.uniform(0.02, 0.12)
        inside += generator.normal(0, 0.5) * (np.hypot(rows - r, columns - c) < s) * (radius < 0.9)
    return np.asarray(shell + inside)


def _vessels(generator: Generator, size: int) -> NDArray[np.float64]:
    """A tree of winding vessels on a soft ground: an angiogram."""
    image = Image.new("F", (size, size), 0.0)
    draw = ImageDraw.Draw(image)
    for _ in range(int(generator.integers(2, 7))):
        place, heading = generator.uniform(0.2, 0.8, 2) * size, generator.uniform(0, 2 * np.pi)
        width = generator.uniform(0.01, 0.035) * size
        for _ in range(int(generator.integers(15, 45))):
            heading += generator.normal(0, 0.25)
            onward = place + 0.03 * size * np.array([np.cos(heading), np.sin(heading)])
            draw.line([*place.tolist(), *onward.tolist()], fill=1.0, width=max(1, round(width)))
            place, width = onward, width * 0.97
    soft = np.asarray(image, dtype=np.float64)
    ground = _smooth(generator, size, generator.uniform(8, 30))
    depth = generator.uniform(0.2, 0.8) * (1 if generator.random() < 0.3 else -1)
    return np.asarray(ground + depth * ndimage.gaussian_filter(soft, generator.uniform(0.3, 1.5)))


def _detail(generator: Generator, size: int, chests: NDArray[np.uint8]) -> NDArray[np.float64]:
    """A cut-out of a sixth to a third of the side."""
    chest = chests[int(generator.integers(len(chests)))].astype(np.float64)
    side = int(chest.shape[0] * generator.uniform(0.15, 0.33))
    r, c = generator.integers(0, chest.shape[0] - side, 2)
    return np.asarray(chest[r : r + side, c : c + side])


def draw_negatives(count: int, size: int, chests: NDArray[np.uint8], seed: int) -> Float32:
    """Return float32 (count, size, size) in 0..1: pictures that are no chest radiographs.

    Parameters
    ----------
    chests : ndarray of uint8 (n, c, c)
        True chest images, to cut details from.
    """
    generator = np.random.default_rng(seed)
    kinds = (_texture, _page, _scene, _limb, _limb, _skull, _skull, _vessels, _vessels)
    result = np.empty((count, size, size), np.float32)
    for row in range(count):
        choice = int(generator.integers(len(kinds) + 1))
        raw = _detail(generator, size, chests) if choice == len(kinds) else kinds[choice](generator, size)
        raw = raw + generator.uniform(0, 0.05) * float(raw.std() + 1e-3) * generator.normal(size=raw.shape)
        unit = (raw - raw.min()) / max(float(np.ptp(raw)), 1e-9)
        unit = unit ** generator.uniform(0.6, 1.6)
        if generator.random() < 0.3:
            unit = 1 - unit
        if generator.random() < 0.5:
            unit = np.rot90(unit, int(generator.integers(4)))
        picture = Image.fromarray(np.ascontiguousarray(unit, dtype=np.float32))
        result[row] = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR), dtype=np.float32)
    return np.clip(result, 0, 1)
