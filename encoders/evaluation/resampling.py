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


def _over_runs(total: Float, count: Float) -> Float:
    """Return the mean over the last axis, the runs, of total / count; NaN where no run counts any."""
    counted = count > 0
    means = np.where(counted, total / np.where(counted, count, 1), 0)
    runs = counted.sum(-1)
    return np.asarray(means.sum(-1) / np.where(runs > 0, runs, np.nan))


def mean_of(values: Float) -> float:
    """Return the mean over the runs of each run's mean, of values (n,) or (runs, n), NaN where there is none."""
    runs = np.atleast_2d(values)
    return float(_over_runs(np.nan_to_num(runs).sum(1), (~np.isnan(runs)).sum(1)))


def mean_draws(values: Float, times: Float) -> Float:
    """Return `mean_of` values (n,) or (runs, n) in each draw.

    An image counts in the runs that it has a value in: what a run leaves out does not choose among the others.
    """
    runs = np.atleast_2d(values)
    return _over_runs(times @ np.nan_to_num(runs).T, times @ (~np.isnan(runs)).T.astype(np.float64))


def summary(values: Float, times: Float) -> dict[str, Any]:
    """Return mean, interval and number of queries (of a run, on average) of values (n,) or (runs, n)."""
    low, high = interval(mean_draws(values, times))
    queries = round(float((~np.isnan(np.atleast_2d(values))).sum(1).mean()))
    return {"mean": mean_of(values), "low": low, "high": high, "queries": queries}


def difference(ours: Float, theirs: Float, times: Float) -> tuple[float, float, float]:
    """Return the mean of `ours` minus that of `theirs` and its 95 % interval, both in the same draws."""
    draws = mean_draws(ours, times) - mean_draws(theirs, times)
    return (mean_of(ours) - mean_of(theirs), *interval(draws))


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
