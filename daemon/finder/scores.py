"""Cosine to probability: the calibration of the model that made a generation."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from encoders.base import Basis, Encoder, Float32
from storage.base import Generation


class Scorer(Protocol):
    """Cosine to probability (``Encoder.score``)."""

    def __call__(self, cosines: Float32, query: Basis, entry: Basis) -> Float32: ...


class KeptScores:
    """The calibration that a generation keeps of its model: knots of cosine and probability for each pair of bases.

    `model` scores the pairs that have none.
    """

    def __init__(self, calibration: Mapping[str, Any], model: Scorer | None = None) -> None:
        self._model = model
        self._lines = {
            tuple(pair.split("/")): _line(knots["cosine"], knots["probability"]) for pair, knots in calibration.items()
        }

    def __call__(self, cosines: Float32, query: Basis, entry: Basis) -> Float32:
        """Return calibrated scores, as the model itself would."""
        scores = self.of(np.ravel(cosines).tolist(), query, entry)
        return np.asarray(scores, dtype=np.float32).reshape(np.shape(cosines))

    def of(self, cosines: Sequence[float], query: Basis, entry: Basis) -> list[float]:
        """Return what a call does; of a query's hundred, after a search, in half of the time."""
        pair = query.value, entry.value
        if self._model is not None and pair not in self._lines:
            return _listed(self._model, cosines, query, entry)
        at, known, slopes = self._lines[pair]
        scores, last, lower, upper = [], len(at) - 1, 0.0, 0.0
        for cosine in cosines:
            if not lower <= cosine < upper:         # most lie between the same knots as the one before
                place = bisect_right(at, cosine) - 1
                lower = at[place] if place >= 0 else -math.inf
                upper = at[place + 1] if place < last else math.inf
                slope, place = slopes[place] if 0 <= place < last else 0.0, max(place, 0)
                begin, base = at[place], known[place]
            scores.append(base + slope * (cosine - begin))
        return scores


def _line(cosines: Sequence[float], probabilities: Sequence[float]) -> tuple[list[float], list[float], list[float]]:
    """Return knots and the slope after each but the last."""
    at, known = [float(cosine) for cosine in cosines], [float(probability) for probability in probabilities]
    steps = zip(pairwise(at), pairwise(known), strict=True)
    return at, known, [(high - low) / (right - left) if right > left else 0.0 for (left, right), (low, high) in steps]


def scores_of(score: Scorer, cosines: Sequence[float], query: Basis, entry: Basis) -> list[float]:
    """Return the scores of cosines, 0..1."""
    scores = (score.of if isinstance(score, KeptScores) else partial(_listed, score))(cosines, query, entry)
    return scores if min(scores) >= 0 and max(scores) <= 1 else [min(max(score, 0.0), 1.0) for score in scores]


def _listed(score: Scorer, cosines: Sequence[float], query: Basis, entry: Basis) -> list[float]:
    found: list[float] = score(np.asarray(cosines, dtype=np.float32), query, entry).tolist()
    return found


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
