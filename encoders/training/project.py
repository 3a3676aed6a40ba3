"""Fit the projection into the indexed space on training images and reports.

The appearance is the image descriptor along its principal axes, whitened with shrinkage; a report's words lead there by
ridge regression over the pairs: an image and its report or, where none has its own, one of the same findings. The
findings block needs no fitting: `encoders.towers.projection`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from encoders.base import ABNORMAL_COLUMNS, Basis, EncodersError, Float32
from encoders.towers.projection import Projection, descriptor, image_slots, sigmoid, text_slots
from encoders.towers.subspace import IMAGE, TEXT
from encoders.training.arrays import Arrays, taken_as_frontal
from encoders.training.validation import Outputs

Float = NDArray[np.float64]

#: Of the frontal and of the lateral images, the share that a head must tell as such to be believed.
TOLD_VIEWS = 0.8


class NothingToFitOn(EncodersError):
    """The training data lack what the projection is fitted on; the message says what and what to do."""


def nothing_paired(prefix: str, split: str) -> NothingToFitOn:
    """Return what is raised where a split has nothing that `with_pairs` could pair."""
    return NothingToFitOn(
        f"{prefix or 'manifest'}: no {split} image has a report, or just the findings that one tells of; name the "
        "findings of both (in column chexpert), export with --options, [projection] paired = another data set, or "
        "train with --no-export"
    )


@dataclass(frozen=True, slots=True)
class ProjectionOptions:
    """Choices made on validation.

    Attributes
    ----------
    paired : str
        Prefix of the data set whose normal studies are the centre and whose pairs lead reports to images.
    appearance_dim : int
        Whitened directions kept, fewer where there are not so many; with the 12 findings the vectors' length.
    findings_weight, report_findings_weight, text_findings_weight : float
        w of the findings block, √p of each abnormal finding times w, for images, reports and texts that are asked for.
        A report is sure of what it says; it is held low so that an image finds its own one, and not that with the most
        findings.
    fused_findings_weight : float
        w of the report's findings where it is fused with images, to be compared with other studies that have a report.
    root : float
        Power of the pooled features that makes the descriptor.
    shrinkage : float
        Added to the variance of each axis, in units of their mean, before it is made 1.
    ridge : float
        Penalty of the reports' map, in units of their mean variance.
    lateral_share : float
        How much a lateral image with its report counts in that map, beside a frontal one.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    paired: str = "iu-xray"
    appearance_dim: int = 500
    findings_weight: float = 0.65
    report_findings_weight: float = 0.08
    text_findings_weight: float = 0.5
    fused_findings_weight: float = 0.4
    root: float = 0.35
    shrinkage: float = 0.1
    ridge: float = 4.0
    lateral_share: float = 0.5


def _white_axes(rows: NDArray[np.floating], kept: int, shrinkage: float) -> Float:
    """Return (columns, kept): principal axes, scaled so that each one's variance becomes 1, or less if it is small."""
    values, axes = np.linalg.eigh(np.cov(rows.T))
    values, axes = values[::-1][:kept], axes[:, ::-1][:, :kept]
    return np.asarray(axes / np.sqrt(values + shrinkage * values.mean()), dtype=np.float64)


def ridge_map(x: Float, y: Float, weights: Float, penalty: float) -> Float:
    """Return the matrix that leads rows of x to rows of y by ridge regression; `weights` (rows,): what each counts."""
    weighted = (weights[:, None] * x).T
    gram = weighted @ x
    penalties = penalty * np.trace(gram) / len(gram) * np.eye(len(gram))
    return np.asarray(np.linalg.solve(gram + penalties, weighted @ y))


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


def with_pairs(arrays: Arrays, prefix: str, seed: int) -> tuple[Arrays, bool]:
    """Return arrays in which images of a data set have reports, and whether these are their own.

    Where no image has its own, each is given any of the reports that tell of just its abnormal findings; one whose
    findings are unknown, or that no report tells of, stays alone.
    """
    home = np.array([s.dataset.startswith(prefix) for s in arrays.samples], dtype=bool)
    if (arrays.text[home] >= 0).any():
        return arrays, True
    telling: dict[bytes, list[int]] = {}
    for row in np.flatnonzero(~np.isnan(arrays.text_labels).all(1)):
        telling.setdefault(_abnormal(arrays.text_labels[row]), []).append(int(row))
    generator = np.random.default_rng([seed, 5])
    text = np.full(len(arrays.samples), -1, np.int64)
    for row in np.flatnonzero(~np.isnan(arrays.labels).all(1)):
        text[row] = generator.choice(telling.get(_abnormal(arrays.labels[row]), [-1]))
    return replace(arrays, text=text), False


def _abnormal(labels: Float32) -> bytes:
    present: bytes = (labels[ABNORMAL_COLUMNS] == 1).tobytes()
    return present


def fit_projection(arrays: Arrays, outputs: Outputs, options: ProjectionOptions) -> Projection:
    """Return the projection for a model's outputs on its training data.

    Lateral images have a centre of their own where the model tells the views (`tells_views`).

    Raises
    ------
    NothingToFitOn
        If the paired data set has no normal frontal images, there is no normal report, or nothing is paired.
    """
    frontal, lateral = taken_as_frontal(arrays), arrays.frontal == 0
    home = np.array([s.dataset.startswith(options.paired) for s in arrays.samples])
    normal, text_normal = _healthy(arrays.labels), _healthy(arrays.text_labels)
    front = home & frontal
    if not ((front & normal).any() and text_normal.any()):
        raise NothingToFitOn(
            f"{options.paired or 'manifest'}: no normal studies with a frontal image and a report to fit on; export "
            "with --options, [projection] paired = another data set of the manifest, or train with --no-export"
        )
    pairs = np.flatnonzero(home & (frontal | lateral) & (arrays.text >= 0))
    if not len(pairs):
        raise nothing_paired(options.paired, "train")
    looks = descriptor(outputs.features, options.root).astype(np.float64)
    words = text_slots(outputs.text_features, outputs.text_embeddings).astype(np.float64)
    centre, word_centre = looks[front & normal].mean(0), words[text_normal].mean(0)
    aside = home & lateral & normal
    known = aside.any() and tells_views(outputs.logits["view"], arrays.frontal)
    sideways = looks[aside].mean(0) - centre if known else np.zeros_like(centre)
    seen = looks - centre - lateral[:, None] * sideways
    axes = _white_axes(seen[frontal | lateral], options.appearance_dim, options.shrinkage)
    counts = np.where(frontal[pairs], 1.0, options.lateral_share)
    lead = ridge_map(words[arrays.text[pairs]] - word_centre, seen[pairs] @ axes, counts, options.ridge)
    unused = np.zeros((outputs.embeddings.shape[1], axes.shape[1]))     # the image's embedding: its findings tell of it
    image = np.concatenate([axes, unused, -(sideways @ axes)[None]])
    return Projection(
        {IMAGE: image.astype(np.float32), TEXT: lead.astype(np.float32)},
        {IMAGE: (-centre @ axes).astype(np.float32), TEXT: (-word_centre @ lead).astype(np.float32)},
        np.asarray(outputs.features[front & normal].mean(0), dtype=np.float32),
        options.root,
        {
            Basis.IMAGE.value: options.findings_weight,
            Basis.REPORT.value: options.report_findings_weight,
            Basis.TEXT.value: options.text_findings_weight,
            Basis.JOINT.value: options.fused_findings_weight,
        },
    )


def project_images(projection: Projection, outputs: Outputs, probabilities: Float32) -> Float32:
    """Return the indexed vectors of a model's images, whose findings have these calibrated probabilities (n, 14)."""
    slots = image_slots(outputs.features, outputs.embeddings, outputs.logits["view"], projection.root)
    return projection(slots, probabilities, Basis.IMAGE)


def project_texts(projection: Projection, outputs: Outputs) -> Float32:
    """Return the indexed vectors of a model's texts, as reports."""
    slots = text_slots(outputs.text_features, outputs.text_embeddings)
    return projection(slots, sigmoid(outputs.text_logits["findings"]), Basis.REPORT)
