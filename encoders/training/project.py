"""Fit the map from subspace embedding and predictions to the indexed vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from encoders.base import Float32
from encoders.towers.projection import Projection, slots
from encoders.towers.subspace import IMAGE, TEXT


@dataclass(frozen=True, slots=True)
class ProjectionOptions:
    """How the slots are weighted; chosen on validation.

    Attributes
    ----------
    embedding : float
        Weight of the (whitened) embedding; its part of the squared length before normalising is embedding².
    embedding_dim : int
        Principal axes kept of it.
    shrinkage : float
        0: full whitening; large: none (covariance + shrinkage · mean variance).
    heads : mapping of str to float
        Weight of the predictions of each head.
    head_whitening : float
        Exponent: each prediction is divided by (its standard deviation) ** head_whitening.
    """

    embedding: float = 1.0
    embedding_dim: int = 256
    shrinkage: float = 1.0
    heads: Mapping[str, float] = field(default_factory=lambda: {"findings": 1.0})
    head_whitening: float = 0.5


def fit_projection(
    embeddings: Mapping[str, Float32], logits: Mapping[str, Mapping[str, Float32]], options: ProjectionOptions
) -> Projection:
    """Return the projection fitted on training images and reports.

    Parameters
    ----------
    embeddings : mapping of modality to float32 (n, dim)
    logits : mapping of modality to head to float32 (n, columns)
    """
    heads = tuple(options.heads)
    raw = {m: slots(embeddings[m], logits[m], heads) for m in (IMAGE, TEXT)}
    centre = {m: rows.mean(0) for m, rows in raw.items()}
    centred = np.concatenate([raw[m] - centre[m] for m in (IMAGE, TEXT)])
    width = embeddings[IMAGE].shape[1]
    variance, axes = np.linalg.eigh(np.cov(centred[:, :width].T))
    kept = min(options.embedding_dim, width)
    variance, axes = np.maximum(variance[::-1][:kept], 0), axes[:, ::-1][:, :kept]
    whiten = axes / np.sqrt(variance + options.shrinkage * variance.mean() + 1e-12)

    def scaled(matrix: np.ndarray, rows: np.ndarray, weight: float) -> np.ndarray:
        length = float(np.sqrt(((rows @ matrix) ** 2).sum(1).mean()))
        return np.asarray(matrix * (weight / max(length, 1e-12)))

    blocks = [scaled(whiten, centred[:, :width], options.embedding)]
    place = width
    for head, weight in options.heads.items():
        columns = logits[IMAGE][head].shape[1]
        rows = centred[:, place : place + columns]
        spread = np.maximum(rows.std(0), 1e-3) ** options.head_whitening
        blocks.append(scaled(np.diag(1 / spread), rows, weight))
        place += columns
    matrix = np.zeros((centred.shape[1], sum(block.shape[1] for block in blocks)), np.float32)
    row = column = 0
    for block in blocks:
        matrix[row : row + block.shape[0], column : column + block.shape[1]] = block
        row, column = row + block.shape[0], column + block.shape[1]
    return Projection(heads, {m: value.astype(np.float32) for m, value in centre.items()}, matrix)
