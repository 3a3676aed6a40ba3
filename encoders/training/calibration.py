"""From logits to probabilities, and from cosines to the probability of a shared abnormal finding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression, minimize

from encoders.base import Float32

Float = NDArray[np.float64]

#: Slope added between two knots of equal probability, so that the score orders as the cosine does.
RISE = 1e-4


def platt(logits: Float32, truth: Float32, prior: float = 4.0) -> tuple[Float, Float]:
    """Return slope and offset per column: P = σ(slope · logit + offset), by maximum a posteriori.

    Platt (1999), with a Gaussian prior of `prior` observations' weight that holds the slope at 1, so that a finding
    with two positives keeps the model's own opinion. Columns without both classes keep slope 1 and offset 0.
    """
    slopes, offsets = np.ones(logits.shape[1]), np.zeros(logits.shape[1])
    for column in range(logits.shape[1]):
        known = ~np.isnan(truth[:, column])
        x, y = logits[known, column].astype(np.float64), truth[known, column].astype(np.float64)
        if y.sum() < 1 or (1 - y).sum() < 1:
            continue

        def cost(theta: Float, x: Float = x, y: Float = y) -> float:
            z = np.exp(theta[0]) * x + theta[1]
            return float(np.sum(np.logaddexp(0, z) - y * z) + prior * theta[0] ** 2)

        found = minimize(cost, np.zeros(2), method="BFGS").x
        slopes[column], offsets[column] = np.exp(found[0]), found[1]
    return slopes, offsets


def score_knots(cosines: Float, shared: NDArray[np.bool_], knots: int = 33) -> dict[str, list[float]]:
    """Return ``{"cosine": [...], "probability": [...]}``: isotonic P(shared | cosine), strictly rising from −1 to 1."""
    order = np.argsort(cosines, kind="stable")
    x, y = cosines[order], shared[order].astype(np.float64)
    edges = np.unique(np.linspace(0, len(x), min(512, len(x)) + 1).astype(int))
    weight = np.diff(edges).astype(np.float64)
    bin_x = np.add.reduceat(x, edges[:-1]) / weight
    bin_y = (np.add.reduceat(y, edges[:-1]) + 0.5) / (weight + 1)  # never exactly 0 or 1
    fitted = isotonic_regression(bin_y, weights=weight).x
    grid = np.interp(np.linspace(0, 1, knots), np.linspace(0, 1, len(bin_x)), bin_x)
    top = np.quantile(x, np.linspace(0.99, 1, 9))  # where answers come from: finer there
    grid = np.unique(np.round(np.concatenate([[-1.0], grid, np.interp(top, bin_x, bin_x), [1.0]]), 5))
    level = np.interp(grid, bin_x, fitted)
    rising = np.minimum(level + RISE * (grid + 1), 1.0)
    return {"cosine": grid.tolist(), "probability": np.round(rising, 6).tolist()}


def expected_calibration_error(probability: Float, truth: NDArray[np.bool_], bins: int = 15) -> float:
    """Return the mean gap between predicted and observed share over bins of equal size (ECE)."""
    order = np.argsort(probability, kind="stable")
    parts = np.array_split(order, bins)
    gaps = [abs(probability[p].mean() - truth[p].mean()) * len(p) for p in parts if len(p)]
    return float(sum(gaps) / len(probability))
