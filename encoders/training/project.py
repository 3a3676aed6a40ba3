"""Fit the projection into the indexed space on training images and reports.

The appearance has three blocks: the image descriptor's principal axes, whitened with shrinkage (a report lands there by
ridge regression over the pairs), the subspace embedding's principal axes (both modalities share them), and the
canonical directions in which descriptor and text features go together (regularised canonical correlation; Hotelling
1936, Vinod 1976). The findings block needs no fitting: `encoders.towers.projection`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from encoders.base import ABNORMAL_COLUMNS, Basis, EncodersError, Float32
from encoders.towers.projection import Projection, descriptor, image_slots, sigmoid, text_slots, unit_rows
from encoders.towers.subspace import IMAGE, TEXT
from encoders.training.arrays import Arrays, taken_as_frontal
from encoders.training.validation import Outputs

Float = NDArray[np.float64]

#: Of the frontal and of the lateral images, the share that a head must tell as such to be believed.
TOLD_VIEWS = 0.8


class NothingToFitOn(EncodersError):
    """The training data lack what the projection is fitted on; the message says what and what to do."""


@dataclass(frozen=True, slots=True)
class ProjectionOptions:
    """Choices made on validation; the weights are root mean square lengths of a block before normalising.

    Attributes
    ----------
    paired : str
        Prefix of the data set whose normal studies are the centre and whose pairs lead reports to images.
    descriptor_dim, embedding_dim, canonical_dim : int
        Directions kept in each block, fewer where there are not so many; with the 12 findings the vectors' length.
    findings_weight, report_findings_weight, text_findings_weight : float
        w of the findings block, √p of each abnormal finding times w, for images, reports and texts that are asked for.
        A report is sure of what it says; it is held low so that an image finds its own one, and not that with the most
        findings.
    root : float
        Power of the pooled features that makes the descriptor.
    shrinkage : float
        Added to the variance of each axis, in units of their mean, before it is made 1.
    image_weights, text_weights : three floats
        Of descriptor, embedding and canonical block.
    ridge, canonical_ridge : float
        Penalties, in units of the inputs' mean variance.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    paired: str = "iu-xray"
    descriptor_dim: int = 404
    embedding_dim: int = 64
    canonical_dim: int = 32
    findings_weight: float = 0.65
    report_findings_weight: float = 0.05
    text_findings_weight: float = 0.5
    root: float = 0.35
    shrinkage: float = 0.1
    image_weights: tuple[float, float, float] = (1.0, 0.05, 0.2)
    text_weights: tuple[float, float, float] = (0.0, 0.3, 1.0)
    ridge: float = 1.0
    canonical_ridge: float = 5.0


def _axes(rows: NDArray[np.floating], kept: int) -> Float:
    """Return (columns, kept): principal axes, largest variance first."""
    _, axes = np.linalg.eigh(np.cov(rows.T))
    return np.asarray(axes[:, ::-1][:, :kept], dtype=np.float64)


def _white_axes(rows: NDArray[np.floating], kept: int, shrinkage: float) -> Float:
    """Return (columns, kept): principal axes, scaled so that each one's variance becomes 1, or less if it is small."""
    values, axes = np.linalg.eigh(np.cov(rows.T))
    values, axes = values[::-1][:kept], axes[:, ::-1][:, :kept]
    return np.asarray(axes / np.sqrt(values + shrinkage * values.mean()), dtype=np.float64)


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
    kept = min(kept, len(correlation))
    root = np.sqrt(correlation[:kept])
    return white_x @ left[:, :kept] * root, white_y @ right.T[:, :kept] * root


def _healthy(labels: Float32) -> NDArray[np.bool_]:
    """Return which rows are known to have no abnormal finding."""
    known = ~np.isnan(labels).all(1)
    return np.asarray(known & (np.nan_to_num(labels[:, ABNORMAL_COLUMNS]).sum(1) == 0))


def tells_views(view: Float32, frontal: Float32) -> bool:
    """Return whether logits of a frontal view (n, 1) tell most frontal and most lateral images, where there are any.

    A head that no loss taught (``loss.view = 0``) does not, nor one that has seen no image of a known view.
    """
    said = view.reshape(-1) > 0
    if np.isnan(frontal).all():
        return False
    return all((said[frontal == truth] == truth).mean() >= TOLD_VIEWS for truth in (0, 1) if (frontal == truth).any())


def fit_projection(arrays: Arrays, outputs: Outputs, options: ProjectionOptions) -> Projection:
    """Return the projection for a model's outputs on its training data.

    Lateral images have a centre of their own where the model tells the views (`tells_views`).

    Raises
    ------
    NothingToFitOn
        If the paired data set has no normal frontal images with reports.
    """
    frontal, lateral = taken_as_frontal(arrays), arrays.frontal == 0
    home = np.array([s.dataset.startswith(options.paired) for s in arrays.samples])
    normal, text_normal = _healthy(arrays.labels), _healthy(arrays.text_labels)
    front = home & frontal
    if not ((front & normal).any() and text_normal.any()):
        raise NothingToFitOn(
            f"{options.paired}: no normal studies with a frontal image and a report to fit on; export with --options, "
            "[projection] paired = another data set of the manifest, or train with --no-export"
        )
    looks, places = descriptor(outputs.features, options.root).astype(np.float64), unit_rows(outputs.embeddings)
    words = text_slots(outputs.text_features, outputs.text_embeddings).astype(np.float64)
    width = outputs.text_features.shape[1]
    centre, word_centre = looks[front & normal].mean(0), words[text_normal].mean(0)
    aside = home & lateral & normal
    known = aside.any() and tells_views(outputs.logits["view"], arrays.frontal)
    sideways = looks[aside].mean(0) - centre if known else np.zeros_like(centre)
    seen = looks - centre - lateral[:, None] * sideways
    pairs = np.flatnonzero(front & (arrays.text >= 0))
    told = arrays.text[pairs]
    look_axes = _white_axes(seen[frontal | lateral], options.descriptor_dim, options.shrinkage)
    lead = ridge_map(words[told] - word_centre, seen[pairs] @ look_axes, options.ridge)
    place_axes = _axes(np.concatenate([places[frontal], words[:, width:]]), options.embedding_dim)
    look_canon, word_canon = canonical_maps(
        seen[pairs] - seen[pairs].mean(0),
        words[told] - words[told].mean(0),
        options.canonical_ridge,
        options.canonical_dim,
    )
    view = outputs.logits["view"]
    slots = image_slots(outputs.features, outputs.embeddings, view, options.root).astype(np.float64)[front]
    place_centre = places[front & normal].mean(0)
    no_look, no_place = np.zeros((len(centre), place_axes.shape[1])), np.zeros(places.shape[1])
    seen_from = np.concatenate([centre, no_place, [0.0]])

    def of_looks(axes: Float) -> Float:
        return np.concatenate([axes, np.zeros((len(no_place), axes.shape[1])), -(sideways @ axes)[None]])

    image = _assemble(
        slots,
        [
            (seen_from, of_looks(look_axes)),
            (
                np.concatenate([np.zeros_like(centre), place_centre, [0.0]]),
                np.concatenate([no_look, place_axes, np.zeros((1, place_axes.shape[1]))]),
            ),
            (seen_from, of_looks(look_canon)),
        ],
        options.image_weights,
    )
    text = _assemble(
        words,
        [
            (word_centre, lead),
            (word_centre, np.concatenate([np.zeros((width, place_axes.shape[1])), place_axes])),
            (word_centre, word_canon),
        ],
        options.text_weights,
    )
    return Projection(
        {IMAGE: image[0], TEXT: text[0]},
        {IMAGE: image[1], TEXT: text[1]},
        np.asarray(outputs.features[front & normal].mean(0), dtype=np.float32),
        options.root,
        {
            Basis.IMAGE.value: options.findings_weight,
            Basis.REPORT.value: options.report_findings_weight,
            Basis.TEXT.value: options.text_findings_weight,
        },
    )


def _assemble(
    rows: Float, blocks: list[tuple[Float, Float]], weights: tuple[float, float, float]
) -> tuple[Float32, Float32]:
    """Return map and bias of blocks given as (centre, map), each scaled to its weight on `rows`."""
    scaled = [m * (w / _length((rows - c) @ m)) for (c, m), w in zip(blocks, weights, strict=True)]
    bias = np.concatenate([-c @ m for (c, _), m in zip(blocks, scaled, strict=True)])
    return np.concatenate(scaled, axis=1).astype(np.float32), bias.astype(np.float32)


def project_images(projection: Projection, outputs: Outputs, probabilities: Float32) -> Float32:
    """Return the indexed vectors of a model's images, whose findings have these calibrated probabilities (n, 14)."""
    slots = image_slots(outputs.features, outputs.embeddings, outputs.logits["view"], projection.root)
    return projection(slots, probabilities, Basis.IMAGE)


def project_texts(projection: Projection, outputs: Outputs) -> Float32:
    """Return the indexed vectors of a model's texts, as reports."""
    slots = text_slots(outputs.text_features, outputs.text_embeddings)
    return projection(slots, sigmoid(outputs.text_logits["findings"]), Basis.REPORT)
