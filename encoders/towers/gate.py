"""Chest radiograph or not, from pooled image features: a linear head and a distance to what it was trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from encoders.base import Float32
from encoders.towers.projection import sigmoid


@dataclass(frozen=True, slots=True)
class ChestGate:
    """Logistic regression on standardised features and on their Mahalanobis distance.

    Attributes
    ----------
    mean, scale : (channels,)
    axes : (channels, k)
        Principal axes of true chest images, divided by their standard deviations.
    weight : (channels + 1,), the last one for the logarithm of the distance
    offset : float
    """

    mean: Float32
    scale: Float32
    axes: Float32
    weight: Float32
    offset: float

    def inputs(self, features: Float32) -> Float32:
        """Return (n, channels + 1): standardised features, log distance."""
        standard = np.clip((features - self.mean) / self.scale, -5, 5)
        inside = standard @ self.axes  # (n, k), variance 1 on chest images
        rest = (standard**2).mean(1)
        distance = np.log1p((inside**2).mean(1) + rest)
        return np.concatenate([standard, distance[:, None]], axis=1).astype(np.float32)

    def __call__(self, features: Float32) -> Float32:
        """Return (n,): probability of a chest radiograph."""
        return sigmoid(self.inputs(features) @ self.weight + np.float32(self.offset))
