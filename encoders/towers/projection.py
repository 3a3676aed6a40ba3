"""From what the towers say to the vector that is indexed, images and reports in one space.

A vector has two blocks. *Findings*: w √p for each abnormal finding; two studies' product there is w² Σ √(p q), the
Bhattacharyya coefficient of their findings without the normal ones, near 0 for a healthy study and the larger, the more
findings both have. *Appearance*: a whitened linear map of everything else, which makes any two people's images nearly
orthogonal, so that it decides among studies with the same findings; its length is what the findings leave of 1. (Where
both blocks are normalised together, or the appearance is not white, the findings do not count for what they are.)

An image fills the slots of its appearance with its descriptor (roots of pooled features), its unit subspace embedding
(which only checkpoints of before still map to anything) and how surely it is a lateral view, a report with its text
features and its embedding. Each modality, and each view, is seen from its *normal* studies. The report's map was fitted
to land where the paired images do.

References
----------
Bhattacharyya, "On a measure of divergence between two statistical populations", 1943.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from encoders.base import ABNORMAL_COLUMNS, Basis, Float32
from encoders.towers.subspace import IMAGE, TEXT

#: The findings block is never longer than this: something of a vector stays the study's own.
MOST_FINDINGS = 0.97


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


def image_slots(features: Float32, embedding: Float32, view: Float32, root: float) -> Float32:
    """Return (n, channels + dim + 1): descriptor, unit embedding, probability of a lateral view (from its logits)."""
    return np.concatenate([descriptor(features, root), unit_rows(embedding), sigmoid(-view.reshape(-1, 1))], axis=1)


def text_slots(features: Float32, embedding: Float32) -> Float32:
    """Return (n, width + dim): unit text features, unit embedding."""
    return np.concatenate([unit_rows(features), unit_rows(embedding)], axis=1)


@dataclass(frozen=True, slots=True)
class Projection:
    """Map (slots, appearance) and bias (appearance,) of each modality.

    Attributes
    ----------
    normal : (channels,)
        Mean pooled features of the normal images that the view is taken from.
    root : float
        Makes the image descriptor.
    findings_weight : mapping
        w of the findings block of an IMAGE, a REPORT and a TEXT that is asked for (`encoders.base.Basis`), and of a
        report that is fused with images (JOINT; earlier checkpoints have none: as it is); empty: there is no such block
        (checkpoints of formats 1 and 2).
    """

    matrix: Mapping[str, Float32]
    bias: Mapping[str, Float32]
    normal: Float32
    root: float
    findings_weight: Mapping[str, float]

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return next(iter(self.bias.values())).size + (len(ABNORMAL_COLUMNS) if self.findings_weight else 0)

    def __call__(self, slots: Float32, probabilities: Float32, basis: Basis) -> Float32:
        """Return unit vectors (n, dim) of filled slots and probabilities (n, 14) of the findings."""
        modality = IMAGE if basis is Basis.IMAGE else TEXT
        appearance = unit_rows(np.asarray(slots @ self.matrix[modality] + self.bias[modality], dtype=np.float32))
        if not self.findings_weight:
            return appearance
        block = np.float32(self.findings_weight[basis.value]) * np.sqrt(probabilities[:, ABNORMAL_COLUMNS])
        return _joined(block, appearance)

    def to_be_fused(self, reports: Float32) -> Float32:
        """Return unit vectors (n, dim) of reports as they are fused with images.

        As a REPORT a text says little of its findings, so that an image finds its own one. A fused vector is compared
        with fused ones only, whose reports are as sure of theirs.
        """
        weight, known = self.findings_weight.get(Basis.JOINT.value), self.findings_weight.get(Basis.REPORT.value)
        if weight is None or not known:                             # reports say nothing of findings
            return reports
        count = len(ABNORMAL_COLUMNS)
        block = reports[:, :count] * np.float32(weight / known)
        return _joined(block, unit_rows(reports[:, count:]))


def _joined(block: Float32, appearance: Float32) -> Float32:
    """Return unit vectors of findings, and of unit rows of appearance as long as these leave of 1."""
    length = np.linalg.norm(block, axis=1, keepdims=True)
    block = block * np.minimum(1, MOST_FINDINGS / np.maximum(length, 1e-12))
    rest = np.sqrt(1 - np.minimum(length, MOST_FINDINGS) ** 2)
    return unit_rows(np.concatenate([block, rest * appearance], axis=1))
