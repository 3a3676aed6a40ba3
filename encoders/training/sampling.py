"""Which images an epoch shows, and in which order."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from encoders.base import ABNORMAL_COLUMNS
from encoders.training.arrays import Arrays


def image_weights(
    arrays: Arrays, by_dataset: Mapping[str, float], abnormal: float, lateral: float = 1.0
) -> NDArray[np.float64]:
    """Return how often an epoch shows each image, on average."""
    weights = np.ones(len(arrays.samples))
    for row, sample in enumerate(arrays.samples):
        fitting = [prefix for prefix in by_dataset if sample.dataset.startswith(prefix)]
        if fitting:
            weights[row] = by_dataset[max(fitting, key=len)]
    sick = np.nan_to_num(arrays.labels[:, ABNORMAL_COLUMNS]).sum(1) > 0
    weights[sick] *= abnormal
    weights[arrays.frontal == 0] *= lateral
    return weights


def epoch_order(
    arrays: Arrays,
    weights: NDArray[np.float64],
    batch: int,
    seed: tuple[int, int],
    *,
    pairs_only: bool = False,
    rank: int = 0,
    world: int = 1,
) -> NDArray[np.int64]:
    """Return image rows, shuffled, a multiple of the batch long; the same for the same seed (and epoch).

    An image of weight 2.3 comes twice and in three of ten epochs a third time. Of `world` processes each gets its part,
    all as many.
    """
    generator = np.random.default_rng(seed)
    times = np.floor(weights + generator.random(len(weights))).astype(np.int64)
    if pairs_only:
        times[arrays.text < 0] = 0
    rows = np.repeat(np.arange(len(weights)), times)
    generator.shuffle(rows)
    rows = rows[rank : len(rows) // world * world : world]          # as many for each: all must take the same steps
    usable = len(rows) // batch * batch if len(rows) >= batch else len(rows)
    return np.asarray(rows[:usable], dtype=np.int64)
