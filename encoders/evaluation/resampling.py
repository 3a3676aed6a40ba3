"""Bootstrap over images, the same draws for every system: the difference of two systems' draws is a paired one."""

from __future__ import annotations

from typing import Any

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
    """Return the mean of values (n,) or (runs, n), NaN where there is none, in each draw.

    An image counts in as many runs as it has a value in: what a run leaves out does not choose among the others.
    """
    runs = np.atleast_2d(values)
    total = times @ (~np.isnan(runs)).sum(0)
    return np.asarray(times @ np.nan_to_num(runs).sum(0) / np.where(total > 0, total, np.nan))


def summary(values: Float, times: Float) -> dict[str, Any]:
    """Return mean, interval and number of queries (of a run, on average) of values (n,) or (runs, n)."""
    low, high = interval(mean_draws(values, times))
    queries = round(float((~np.isnan(np.atleast_2d(values))).sum(1).mean()))
    return {"mean": float(np.nanmean(values)), "low": low, "high": high, "queries": queries}


def difference(ours: Float, theirs: Float, times: Float) -> tuple[float, float, float]:
    """Return the mean of `ours` minus that of `theirs` and its 95 % interval, both in the same draws."""
    draws = mean_draws(ours, times) - mean_draws(theirs, times)
    return (float(np.nanmean(ours) - np.nanmean(theirs)), *interval(draws))


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
