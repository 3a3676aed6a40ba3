"""Fit the projection into the indexed space on training images and reports.

Its coordinates are three blocks: the image descriptor's principal axes (a report lands there by ridge regression over
the pairs), the subspace embedding's principal axes (both modalities share them), and the canonical directions in which
descriptor and text features go together (regularised canonical correlation; Hotelling 1936, Vinod 1976).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from encoders.base import Float32
from encoders.towers.projection import Projection, descriptor, image_slots, text_slots, unit_rows
from encoders.towers.subspace import IMAGE, TEXT
from encoders.training.arrays import Arrays
from encoders.training.validation import ABNORMAL, Outputs

Float = NDArray[np.float64]

#: A label with fewer positive images says nothing about a channel.
MIN_EXAMPLES = 8


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
    root : float
        Power of the pooled features that makes the descriptor.
    emphasis : float
        Each channel is multiplied by (how strongly it tells findings apart) ** emphasis.
    shares : tuple of float
        Of towers side by side: each one's channels are multiplied by its share; empty: all alike.
    canonical_shift : float
        As `shift`, for the canonical block.
    image_weights, text_weights : three floats
        Of descriptor, embedding and canonical block.
    ridge, canonical_ridge : float
        Penalties, in units of the inputs' mean variance.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    paired: str = "iu-xray"
    descriptor_dim: int = 416
    embedding_dim: int = 64
    canonical_dim: int = 32
    shift: float = 1.25
    root: float = 0.35
    emphasis: float = 1.5
    shares: tuple[float, ...] = ()
    canonical_shift: float = 0.0
    image_weights: tuple[float, float, float] = (1.0, 0.05, 0.1)
    text_weights: tuple[float, float, float] = (0.0, 0.6, 0.8)
    ridge: float = 1.0
    canonical_ridge: float = 5.0


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


def discrimination(arrays: Arrays, looks: Float32, frontal: NDArray[np.bool_]) -> Float:
    """Return (channels,), mean 1: how strongly each channel tells findings and headings apart within a source.

    Root mean square over labels of the standardised difference of means (Cohen's d), averaged over the label sets of
    each source that has any.
    """
    sets: list[tuple[NDArray[np.bool_], Float32]] = []
    for source in np.unique(arrays.source):
        of_source = frontal & (arrays.source == source)
        for labels in (arrays.labels[:, ABNORMAL], *arrays.auxiliary.values()):
            if labels.shape[1]:
                sets.append((of_source & ~np.isnan(labels).all(1), labels))
    found = []
    for rows, labels in sets:
        truth = np.nan_to_num(labels) > 0
        usable = [column for column in range(truth.shape[1]) if (truth[:, column] & rows).sum() >= MIN_EXAMPLES]
        if not usable:
            continue
        spread = looks[rows].std(0) + 1e-6
        effects = [
            (looks[rows & truth[:, c]].mean(0) - looks[rows & ~truth[:, c]].mean(0)) / spread
            for c in usable
            if (rows & ~truth[:, c]).any()
        ]
        size = np.sqrt(np.mean(np.square(effects), axis=0))
        found.append(size / size.mean())
    return np.mean(found, axis=0) if found else np.ones(looks.shape[1])


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
    looks, places = descriptor(outputs.features, options.root), unit_rows(outputs.embeddings)
    telling = discrimination(arrays, looks, frontal)[:, None] ** options.emphasis
    if options.shares:
        telling *= np.repeat(options.shares, telling.size // len(options.shares))[:, None]
    words = text_slots(outputs.text_features, outputs.text_embeddings).astype(np.float64)
    width, channels = outputs.text_features.shape[1], looks.shape[1]
    health, disease = looks[home & normal].mean(0), looks[home & abnormal].mean(0)
    normal_features = np.asarray(outputs.features[home & normal].mean(0), dtype=np.float32)
    pairs = np.flatnonzero(home & (arrays.text >= 0))
    told = arrays.text[pairs]

    def seen_from(shift: float) -> Float:
        return np.asarray(health + shift * (health - disease), dtype=np.float64)

    look_centre, word_centre = seen_from(options.shift), words[text_normal].mean(0)
    look_axes = telling * _axes(looks[frontal] * telling.T, options.descriptor_dim)
    lead = ridge_map(words[told] - word_centre, (looks[pairs] - look_centre) @ look_axes, options.ridge)
    place_axes = _axes(np.concatenate([places[frontal], words[:, width:]]), options.embedding_dim)
    look_canon, word_canon = canonical_maps(
        looks[pairs] - looks[pairs].mean(0),
        words[told] - words[told].mean(0),
        options.canonical_ridge,
        options.canonical_dim,
    )
    canon_look = seen_from(options.canonical_shift)
    image_rows = image_slots(outputs.features, outputs.embeddings, options.root).astype(np.float64)[home]
    no_look, no_place = np.zeros(channels), np.zeros(places.shape[1])
    place_centre = places[home & normal].mean(0)
    image = _assemble(
        image_rows,
        [
            (np.concatenate([look_centre, no_place]), _below(look_axes, places.shape[1])),
            (
                np.concatenate([no_look, place_centre]),
                np.concatenate([np.zeros((channels, options.embedding_dim)), place_axes]),
            ),
            (np.concatenate([canon_look, no_place]), _below(look_canon, places.shape[1])),
        ],
        options.image_weights,
    )
    text = _assemble(
        words,
        [
            (word_centre, lead),
            (word_centre, np.concatenate([np.zeros((width, options.embedding_dim)), place_axes])),
            (word_centre, word_canon),
        ],
        options.text_weights,
    )
    return Projection({IMAGE: image[0], TEXT: text[0]}, {IMAGE: image[1], TEXT: text[1]}, normal_features, options.root)


def _below(matrix: Float, rows: int) -> Float:
    """Return a matrix with so many rows of zeros below it: slots that do not enter a block."""
    return np.concatenate([matrix, np.zeros((rows, matrix.shape[1]))])


def _assemble(
    rows: Float, blocks: list[tuple[Float, Float]], weights: tuple[float, float, float]
) -> tuple[Float32, Float32]:
    """Return map and bias of blocks given as (centre, map), each scaled to its weight on `rows`."""
    scaled = [m * (w / _length((rows - c) @ m)) for (c, m), w in zip(blocks, weights, strict=True)]
    bias = np.concatenate([-c @ m for (c, _), m in zip(blocks, scaled, strict=True)])
    return np.concatenate(scaled, axis=1).astype(np.float32), bias.astype(np.float32)


def project_images(projection: Projection, outputs: Outputs) -> Float32:
    """Return the indexed vectors of a model's images."""
    return projection(image_slots(outputs.features, outputs.embeddings, projection.root), IMAGE)


def project_texts(projection: Projection, outputs: Outputs) -> Float32:
    """Return the indexed vectors of a model's texts."""
    return projection(text_slots(outputs.text_features, outputs.text_embeddings), TEXT)
