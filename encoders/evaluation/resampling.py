"""Bootstrap over images, the same draws for every system: the difference of two systems' draws is a paired one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from encoders.evaluation.pools import Float

ROUNDS = 1000


def interval(draws: Float) -> tuple[float, float]:
    """Return the middle 95 % of draws."""
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return float(low), float(high)


def resamples(n: int) -> NDArray[np.float64]:
    """Return (ROUNDS, n): how often each image stands in each draw."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), ROUNDS).astype(np.float64)


def mean_draws(values: Float, times: Float) -> Float:
    """Return the mean of values (n,), NaN where there is none, in each draw."""
    known = ~np.isnan(values)
    total = times @ known
    return np.asarray(times @ np.nan_to_num(values) / np.where(total > 0, total, np.nan))


def auc_draws(scores: Float, truth: Float, times: Float) -> Float:
    """Return the AUC in each draw (ties count half); NaN where a draw lacks a class."""
    known = ~np.isnan(truth)
    order = np.argsort(scores[known], kind="stable")
    _, starts = np.unique(scores[known][order], return_index=True)
    positive, weights = truth[known][order] > 0.5, times[:, known][:, order]
    positives, negatives = (np.add.reduceat(weights * chosen, starts, axis=1) for chosen in (positive, ~positive))
    below = np.cumsum(negatives, 1) - negatives / 2
    pairs = positives.sum(1) * negatives.sum(1)
    return np.asarray((positives * below).sum(1) / np.where(pairs > 0, pairs, np.nan))
