"""Cosine to probability: the calibration of the model that made a generation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from encoders.base import Basis, Encoder, Float32
from storage.base import Float64, Generation


class Scorer(Protocol):
    """Cosine to probability (``Encoder.score``)."""

    def __call__(self, cosines: Float32, query: Basis, entry: Basis) -> Float32: ...


class KeptScores:
    """The calibration that a generation keeps of its model: knots of cosine and probability for each pair of bases.

    What is beyond 0..1 counts as that.

    `model` scores the pairs that have none.
    """

    def __init__(self, calibration: Mapping[str, Any], model: Scorer | None = None) -> None:
        self._model = model
        self._lines = {
            tuple(pair.split("/")): (
                np.asarray(knots["cosine"], float), np.clip(np.asarray(knots["probability"], float), 0, 1)
            )
            for pair, knots in calibration.items()
        }

    def __call__(self, cosines: Float32, query: Basis, entry: Basis) -> Float32:
        """Return calibrated scores, as the model itself would."""
        return self.of(np.asarray(cosines, dtype=np.float64), query, entry).astype(np.float32)

    def of(self, cosines: Float64, query: Basis, entry: Basis) -> Float64:
        """Return what a call does, not rounded."""
        pair = query, entry                         # texts, as their names in a calibration
        if self._model is not None and pair not in self._lines:
            return scores_of(self._model, cosines, query, entry)
        at, known = self._lines[pair]
        scores: Float64 = np.interp(cosines, at, known)
        return scores


def scores_of(score: Scorer, cosines: Float64, query: Basis, entry: Basis) -> Float64:
    """Return the scores of cosines, 0..1."""
    if isinstance(score, KeptScores):
        return score.of(cosines, query, entry)
    scores = np.asarray(score(cosines.astype(np.float32), query, entry), dtype=np.float64)
    return np.minimum(np.maximum(scores, 0.0), 1.0)


def score_of(generation: Generation, encoder: Encoder | None) -> Scorer:
    """Return a generation's calibration: the model's own, or that kept with the generation when the model is newer."""
    if encoder is not None and (encoder.fingerprint == generation.fingerprint or not generation.calibration):
        own = calibration_of(encoder)
        return KeptScores(own, encoder.score) if own else encoder.score
    return KeptScores(generation.calibration)


def calibration_of(encoder: Encoder) -> Mapping[str, Any] | None:
    """Return the score calibration of a model that has a card, to be kept with its generation."""
    card: Mapping[str, Any] = getattr(encoder, "card", {})
    found: Mapping[str, Any] | None = card.get("calibration", {}).get("scores")
    return found
