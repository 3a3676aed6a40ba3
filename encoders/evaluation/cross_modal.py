"""Image to report and report to image: where the right one stands."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.evaluation.pools import LEAST_IMAGES, Float, Pool
from encoders.evaluation.systems import System
from encoders.training import metrics

KS = (1, 5, 10)


def right_ranks(scores: Float, right: NDArray[np.bool_]) -> Float:
    """Return the rank, from 1, of the best right entry of each query; ties count half.

    Parameters
    ----------
    right : ndarray of bool (n, m)
        At least one right entry in each row.
    """
    best = np.where(right, scores, -np.inf).max(1, keepdims=True)
    wrong = np.where(right, -np.inf, scores)
    return np.asarray(1 + (wrong > best).sum(1) + (wrong == best).sum(1) / 2, dtype=np.float64)


def _direction(ranks: Float, chance: Float) -> dict[str, Any]:
    figures: dict[str, Any] = {"queries": len(ranks), "median_rank": float(np.median(ranks))}
    for k in KS:
        low, high = metrics.bootstrap((ranks <= k).astype(np.float64))
        figures[f"r@{k}"] = {
            "mean": float((ranks <= k).mean()), "low": low, "high": high, "chance": float((chance <= k).mean()),
        }
    figures["chance_median_rank"] = float(np.median(chance))
    return figures


def cross_modal(system: System, pool: Pool, seeds: int = 20) -> dict[str, Any] | None:
    """Return both directions' R@k and median rank, or None without enough images that have a report.

    Identical texts are one report, and every image that has it is right.
    """
    if system.report is None:
        return None
    image, report = system.runs[0][pool.rows], system.report[pool.rows]
    texts = np.array(pool.texts, dtype=object)
    usable = np.isfinite(image).all(1) & np.isfinite(report).all(1) & (texts != "")
    if usable.sum() < LEAST_IMAGES:
        return None
    image, report, texts = image[usable], report[usable], texts[usable]
    distinct, first, of_image = np.unique(texts.astype(str), return_index=True, return_inverse=True)
    right = of_image[:, None] == np.arange(len(distinct))[None]
    scores = metrics.cosine_ranking(image, report[first])
    generator = np.random.default_rng(0)
    drawn = [generator.random(scores.shape) for _ in range(seeds)]
    return {
        "images": len(image),
        "reports": len(distinct),
        "image_to_report": _direction(
            right_ranks(scores, right), np.concatenate([right_ranks(d, right) for d in drawn])
        ),
        "report_to_image": _direction(
            right_ranks(scores.T, right.T), np.concatenate([right_ranks(d.T, right.T) for d in drawn])
        ),
    }
