"""One person's chest in centimetres, and where its parts lie in the frontal projection."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from encoders.base import Float32
from encoders.phantom.canvas import Point

SIDES: dict[str, int] = {"right": -1, "left": 1}      # a frontal film shows the patient's right on the image's left
ZONES: tuple[str, ...] = ("upper", "mid", "lower")


@dataclass(frozen=True, slots=True)
class Anatomy:
    """Sizes in cm on a detector 43 cm high; x from the midline, y from the top edge.

    Attributes
    ----------
    half_width : float
        Inner half-width of the thorax at its widest, half the denominator of the cardiothoracic ratio.
    heart_ratio : float
        Cardiothoracic ratio; adults' frontal films are normal up to 0.50.
    rotation : float
        Sideways displacement of the mediastinum in cm: a patient turned a little.
    """

    sex: str
    age: int
    scale: float
    half_width: float
    apex: float
    dome: dict[str, float]
    sulcus: float
    air_depth: float
    wall: float
    body_depth: float
    heart_ratio: float
    rotation: float
    scoliosis: float
    lean: float
    aorta: float
    breast: float
    stomach_gas: float
    shoulder: float
    mediastinum: float
    seed: int

    @property
    def base(self) -> float:
        """Return the height of the lowest lateral lung edge (the deeper costophrenic angle)."""
        return max(self.dome.values()) + self.sulcus

    @property
    def heart_half_width(self) -> float:
        """Return half the transverse diameter of the heart."""
        return self.heart_ratio * self.half_width

    @property
    def carina(self) -> Point:
        """Return where the trachea divides."""
        return 0.4 + 0.5 * self.rotation, self.apex + 8.2 * self.scale

    def lateral_edge(self, y: Float32) -> Float32:
        """Return the distance of the inner chest wall from the midline at heights `y`."""
        v = np.clip((y - self.apex) / (self.base - self.apex), 1e-4, 1)
        top = 5.2 * self.scale
        return np.asarray(top + (self.half_width - top) * (1 - (1 - v) ** 3.2) ** 0.62, dtype=np.float32)

    def medial_edge(self, y: Float32) -> Float32:
        """Return the distance of the lung's mediastinal edge from the midline, before the heart takes its room."""
        v = np.clip((y - self.apex) / (self.base - self.apex), 1e-4, 1)
        top, low = 5.2 * self.scale, self.mediastinum
        return np.asarray(top - (top - low) * (1 - (1 - v) ** 9) ** 0.6, dtype=np.float32)

    def diaphragm(self, x: Float32, side: str) -> Float32:
        """Return the height of one diaphragm dome over distances `x` >= 0 from the midline."""
        peak = 0.48 * self.half_width
        lateral = np.clip((x - peak) / (self.half_width - peak), 0, 1.2) ** 2.5 * self.sulcus
        medial = np.clip((peak - x) / peak, 0, 1) ** 2 * 1.5
        return np.asarray(self.dome[side] + lateral + medial, dtype=np.float32)

    def spine_x(self, y: float) -> float:
        """Return where the spine's middle lies at height `y`."""
        return self.scoliosis * float(np.sin((y - self.apex) / 9.0)) - 0.3 * self.rotation

    def place(self, side: str, zone: str, across: float = 0.55, up: float = 0.5) -> Point:
        """Return a point of a lung zone: `across` 0 medial to 1 lateral, `up` 0 lower to 1 upper end of the zone."""
        top, bottom = self.apex + 2.0, self.dome[side] - 0.6
        third = (bottom - top) / 3
        y = top + third * (ZONES.index(zone) + 1 - up)
        row = np.asarray([y], dtype=np.float32)
        outer = float(self.lateral_edge(row)[0])
        inner = max(float(self.medial_edge(row)[0]), self.heart_edge(side, y))
        return SIDES[side] * (inner + (outer - inner) * across), y

    def heart_edge(self, side: str, y: float) -> float:
        """Return about how far the heart reaches to one side at height `y` (0 above it)."""
        centre, semi = self.heart_centre[1], 5.6 * self.scale
        reach = float(max(0.0, 1 - ((y - centre) / semi) ** 2) ** 0.5)
        return reach * self.heart_half_width * (1.35 if side == "left" else 0.65)

    @property
    def heart_centre(self) -> Point:
        """Return the middle of the heart's shadow: two thirds lie left of the midline."""
        low = min(self.dome["left"], self.dome["right"] + 1.0)
        return 0.36 * self.heart_half_width + self.rotation, low - 3.9 * self.scale


def person(rng: np.random.Generator) -> Anatomy:
    """Return a random adult."""
    sex = "F" if rng.random() < 0.48 else "M"
    age = int(np.clip(rng.normal(58, 17), 18, 94))
    scale = float(np.clip(rng.normal(0.955 if sex == "F" else 1.03, 0.045), 0.85, 1.15))
    habitus = float(np.clip(rng.gamma(2.0, 0.42), 0.15, 2.6))
    apex = float(rng.uniform(4.4, 6.2))
    right = apex + scale * float(rng.normal(21.0, 1.2)) - 0.8 * habitus
    wide = float(rng.normal(13.1, 0.45)) * scale
    return Anatomy(
        sex=sex, age=age, scale=scale, half_width=wide, apex=apex,
        dome={"right": right, "left": right + float(rng.uniform(0.5, 1.7))},
        sulcus=float(rng.uniform(3.6, 5.2)),
        air_depth=float(rng.uniform(14.0, 17.0)) * scale,
        wall=1.4 + 1.5 * habitus + (0.3 if sex == "F" else 0.6),
        body_depth=19.5 * scale + 3.2 * habitus,
        heart_ratio=float(np.clip(rng.normal(0.432, 0.025), 0.37, 0.485)),
        rotation=float(rng.normal(0, 0.35)), scoliosis=float(rng.normal(0, 0.25)), lean=float(rng.normal(0, 0.014)),
        aorta=float(np.clip((age - 35) / 60 + rng.normal(0, 0.15), 0, 1)),
        breast=float(np.clip(rng.normal(1.0, 0.4) + 0.3 * habitus, 0.2, 2.2)) if sex == "F" else 0.0,
        stomach_gas=float(rng.uniform(0, 1)), shoulder=float(rng.uniform(-1.0, 1.0)),
        mediastinum=float(rng.uniform(1.5, 1.9)) * scale, seed=int(rng.integers(2**31)),
    )
