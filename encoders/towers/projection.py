"""From what the towers say to the vector that is indexed, images and reports in one space.

An image fills its slots with its descriptor (roots of pooled features) and its unit subspace embedding, a report
with its text features and its embedding. Each modality is centred near its *normal* studies: seen from there, abnormal
studies lie in the direction of their findings and normal ones in no common direction, so that a high cosine means a
shared abnormality and not shared health. One linear map per modality leads into the common coordinates; the report's
was fitted to land where the paired images do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from encoders.base import Float32


def unit_rows(rows: Float32) -> Float32:
    """Return rows of length 1; a zero row becomes the first axis, so that no vector is ever zero or NaN."""
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    safe = np.where(norm > 1e-12, rows / np.maximum(norm, 1e-12), 0)
    safe[norm[:, 0] <= 1e-12, 0] = 1
    return np.asarray(safe, dtype=np.float32)


def sigmoid(logits: Float32) -> Float32:
    """Return probabilities."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -30, 30))), dtype=np.float32)


#: Added to pooled features before a root is taken of them.
FLOOR = 1e-4


def descriptor(features: Float32, root: float) -> Float32:
    """Return pooled features to the power of `root`: below 1 it tames the few channels that are large."""
    return np.asarray((np.maximum(features, 0) + np.float32(FLOOR)) ** np.float32(root), dtype=np.float32)


def image_slots(features: Float32, embedding: Float32, root: float) -> Float32:
    """Return (n, channels + dim): descriptor, unit embedding."""
    return np.concatenate([descriptor(features, root), unit_rows(embedding)], axis=1)


def text_slots(features: Float32, embedding: Float32) -> Float32:
    """Return (n, width + dim): unit text features, unit embedding."""
    return np.concatenate([unit_rows(features), unit_rows(embedding)], axis=1)


@dataclass(frozen=True, slots=True)
class Projection:
    """Map (slots, dim) and bias (dim,) of each modality.

    Attributes
    ----------
    normal : (channels,)
        Mean pooled features of the normal images that the view is taken from.
    root : float
        Makes the image descriptor.
    """

    matrix: Mapping[str, Float32]
    bias: Mapping[str, Float32]
    normal: Float32
    root: float

    def __call__(self, raw: Float32, modality: str) -> Float32:
        """Return unit vectors (n, dim) of filled slots."""
        moved = raw @ self.matrix[modality] + self.bias[modality]
        return unit_rows(np.asarray(moved, dtype=np.float32))
