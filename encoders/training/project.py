"""Fit the projection into the indexed space on training images and reports.

Its coordinates are three blocks: the image descriptor's principal axes (a report lands there by ridge regression over
the pairs), the subspace embedding's principal axes (both modalities share them), and the canonical directions in which
descriptor and text features go together (regularised canonical correlation; Hotelling 1936, Vinod 1976).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoders.base import Float32
from encoders.towers.projection import Projection, descriptor, image_slots, text_slots, unit_rows
from encoders.towers.subspace import IMAGE, TEXT
from encoders.training.arrays import Arrays
from encoders.training.validation import ABNORMAL, Outputs

Float = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ProjectionOptions:
    """Choices made on validation; the weights are root mean square lengths of a block before normalising.

    Attributes
    ----------
    paired : str
        Prefix of the data set whose normal studies are the centre and whose pairs lead reports to images.
    descriptor_dim, embedding_dim, canonical_dim : int
        Directions kept in each block; their sum is the vectors' length.
    shift : float
        How far the descriptor's centre lies beyond the normal mean, away from the abnormal one, in their distances.
    image_weights, text_weights : three floats
        Of descriptor, embedding and canonical block.
    ridge, canonical_ridge : float
        Penalties, in units of the inputs' mean variance.
    """

    paired: str = "iu-xray"
    descriptor_dim: int = 384
    embedding_dim: int = 64
    canonical_dim: int = 64
    shift: float = 0.5
    image_weights: tuple[float, float, float] = (1.0, 0.5, 0.5)
    text_weights: tuple[float, float, float] = (0.6, 0.5, 0.5)
    ridge: float = 1.0
    canonical_ridge: float = 1.0


def _axes(rows: NDArray[np.floating], kept: int) -> Float:
    """Return (columns, kept): principal axes, largest variance first."""
    _, axes = np.linalg.eigh(np.cov(rows.T))
    return np.asarray(axes[:, ::-1][:, :kept], dtype=np.float64)


def _length(rows: NDArray[np.floating]) -> float:
    return max(float(np.sqrt((rows**2).sum(1).mean())), 1e-9)


def _gram(rows: Float, penalty: float) -> Float:
    gram = rows.T @ rows
    return np.asarray(gram + penalty * np.trace(gram) / len(gram) * np.eye(len(gram)))


def ridge_map(x: Float, y: Float, penalty: float) -> Float:
    """Return the matrix that leads rows of x to rows of y."""
    return np.asarray(np.linalg.solve(_gram(x, penalty), x.T @ y))


def canonical_maps(x: Float, y: Float, penalty: float, kept: int) -> tuple[Float, Float]:
    """Return maps of centred paired rows to `kept` canonical directions, times the roots of their correlations."""

    def whitener(rows: Float) -> Float:
        values, axes = np.linalg.eigh(_gram(rows, penalty))
        return np.asarray(axes / np.sqrt(values) @ axes.T)

    white_x, white_y = whitener(x), whitener(y)
    left, correlation, right = np.linalg.svd(white_x @ (x.T @ y) @ white_y)
    root = np.sqrt(correlation[:kept])
    return white_x @ left[:, :kept] * root, white_y @ right.T[:, :kept] * root


def _health(labels: Float32) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which rows are known to be normal, and which abnormal."""
    known = ~np.isnan(labels).all(1)
    sick = np.nan_to_num(labels[:, ABNORMAL]).sum(1) > 0
    return known & ~sick, known & sick


def fit_projection(arrays: Arrays, outputs: Outputs, options: ProjectionOptions) -> Projection:
    """Return the projection for a model's outputs on its training data.

    Raises
    ------
    ValueError
        If the paired data set has no normal or no abnormal frontal images with reports.
    """
    frontal = arrays.frontal == 1
    home = frontal & np.array([s.dataset.startswith(options.paired) for s in arrays.samples])
    normal, abnormal = _health(arrays.labels)
    text_normal, _ = _health(arrays.text_labels)
    if not all(rows.any() for rows in (home & normal, home & abnormal, text_normal)):
        raise ValueError(f"{options.paired}: no normal or no abnormal studies with image and report to fit on")
    looks, places = descriptor(outputs.features), unit_rows(outputs.embeddings)
    words = text_slots(outputs.text_features, outputs.text_embeddings).astype(np.float64)
    width = outputs.text_features.shape[1]
    health, disease = looks[home & normal].mean(0), looks[home & abnormal].mean(0)
    centre = {
        IMAGE: np.concatenate([health + options.shift * (health - disease), places[home & normal].mean(0)]),
        TEXT: words[text_normal].mean(0),
    }
    channels = looks.shape[1]
    seen = (looks - centre[IMAGE][:channels]).astype(np.float64)
    placed = (places - centre[IMAGE][channels:]).astype(np.float64)
    said = words - centre[TEXT]
    pairs = np.flatnonzero(home & (arrays.text >= 0))
    pair_words = said[arrays.text[pairs]]

    look_axes = _axes(looks[frontal], options.descriptor_dim)
    lead = ridge_map(pair_words, seen[pairs] @ look_axes, options.ridge)
    place_axes = _axes(np.concatenate([places[frontal], words[:, width:]]), options.embedding_dim)
    # The canonical directions are found around the pairs' own means, and seen from the normal centre.
    look_mean, word_mean = seen[pairs].mean(0), pair_words.mean(0)
    look_canon, word_canon = canonical_maps(
        seen[pairs] - look_mean, pair_words - word_mean, options.canonical_ridge, options.canonical_dim
    )
    none = np.zeros((width, options.embedding_dim))
    image_blocks = [(seen[home], look_axes), (placed[home], place_axes), (seen[home], look_canon)]
    text_blocks = [(said, lead), (said, np.concatenate([none, place_axes])), (said, word_canon)]

    def weighted(blocks: list[tuple[Float, Float]], weights: tuple[float, float, float]) -> list[Float]:
        return [m * (w / _length(rows @ m)) for (rows, m), w in zip(blocks, weights, strict=True)]

    look, place, canon = weighted(image_blocks, options.image_weights)
    empty = np.zeros((places.shape[1], options.descriptor_dim)), np.zeros((places.shape[1], options.canonical_dim))
    image = np.block([[look, np.zeros((channels, options.embedding_dim)), canon], [empty[0], place, empty[1]]])
    text = np.concatenate(weighted(text_blocks, options.text_weights), axis=1)
    return Projection(
        {name: value.astype(np.float32) for name, value in centre.items()},
        {IMAGE: image.astype(np.float32), TEXT: text.astype(np.float32)},
    )


def project_images(projection: Projection, outputs: Outputs) -> Float32:
    """Return the indexed vectors of a model's images."""
    return projection(image_slots(outputs.features, outputs.embeddings), IMAGE)


def project_texts(projection: Projection, outputs: Outputs) -> Float32:
    """Return the indexed vectors of a model's texts."""
    return projection(text_slots(outputs.text_features, outputs.text_embeddings), TEXT)
