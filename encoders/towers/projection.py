"""From a subspace embedding and its predictions to the vector that is indexed.

Both modalities fill the same slots: the unit embedding, then the square roots of the predicted probabilities (the
Hellinger map: the inner product of two roots is the Bhattacharyya overlap). Each modality is centred on its own mean,
which takes the gap between image and report vectors away; one linear map weights and rotates the slots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def slots(embedding: Float32, logits: Mapping[str, Float32], heads: Sequence[str]) -> Float32:
    """Return (n, slots): unit embedding, then √probability of each head in turn."""
    return np.concatenate([unit_rows(embedding), *[np.sqrt(sigmoid(logits[head])) for head in heads]], axis=1)


@dataclass(frozen=True, slots=True)
class Projection:
    """Centre of each modality (slots,), and the common map (slots, dim)."""

    heads: tuple[str, ...]
    centre: Mapping[str, Float32]
    matrix: Float32

    def __call__(self, embedding: Float32, logits: Mapping[str, Float32], modality: str) -> Float32:
        """Return unit vectors (n, dim)."""
        raw = slots(embedding, logits, self.heads)
        return unit_rows(np.asarray((raw - self.centre[modality]) @ self.matrix, dtype=np.float32))
