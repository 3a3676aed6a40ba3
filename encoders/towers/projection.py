"""From what the towers say to the vector that is indexed, images and reports in one space.

An image fills its slots with its descriptor (square roots of pooled features) and its unit subspace embedding, a report
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


def descriptor(features: Float32) -> Float32:
    """Return square roots of pooled features, as MultimodalModel.descriptor does."""
    return np.sqrt(np.maximum(features, 0) + np.float32(1e-4))


def image_slots(features: Float32, embedding: Float32) -> Float32:
    """Return (n, channels + dim): descriptor, unit embedding."""
    return np.concatenate([descriptor(features), unit_rows(embedding)], axis=1)


def text_slots(features: Float32, embedding: Float32) -> Float32:
    """Return (n, width + dim): unit text features, unit embedding."""
    return np.concatenate([unit_rows(features), unit_rows(embedding)], axis=1)


@dataclass(frozen=True, slots=True)
class Projection:
    """Centre (slots,) and map (slots, dim) of each modality."""

    centre: Mapping[str, Float32]
    matrix: Mapping[str, Float32]

    def __call__(self, raw: Float32, modality: str) -> Float32:
        """Return unit vectors (n, dim) of filled slots."""
        moved = (raw - self.centre[modality]) @ self.matrix[modality]
        return unit_rows(np.asarray(moved, dtype=np.float32))
