"""Image to report and report to image: where the right one stands, and what the reports found have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.evaluation.pools import LEAST_IMAGES, Float, Pool
from encoders.evaluation.resampling import difference, resamples, summary
from encoders.evaluation.systems import System
from encoders.training import metrics

KS = (1, 5, 10)
GRADED = "ndcg@10"
#: How often chance is drawn.
SEEDS = 20


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


@dataclass(frozen=True, slots=True)
class Found:
    """What a system finds across modalities, and what chance would.

    Attributes
    ----------
    images, reports : int
        Images that have a report, and different texts among them.
    ranks, chance_ranks : direction -> (runs, n), (SEEDS, n)
        Rank of the right entry, by pool row (image to report) or by text of the pool (report to image); NaN: no query.
    gain, chance_gain : (runs, n), (SEEDS, n)
        NDCG@10 of each abnormal image's reports by pool row, NaN: no query.
    """

    images: int
    reports: int
    ranks: dict[str, Float]
    chance_ranks: dict[str, Float]
    gain: Float
    chance_gain: Float


def found(system: System, pool: Pool) -> Found | None:
    """Return what a system finds in a pool, or None without enough images that have a report.

    Identical texts are one report, and every image that has it is right. What image and report share: abnormal findings
    that the image is coded with and any image of that text, the image's own report among the entries.
    """
    if not system.reports:
        return None
    runs = [(image[pool.rows], report[pool.rows]) for image, report in zip(system.runs, system.reports, strict=True)]
    every, text_of_row = np.unique(np.array(pool.texts, dtype=np.str_), return_inverse=True)
    texts = np.array(pool.texts, dtype=np.str_)
    given = np.all([np.isfinite(image).all(1) & np.isfinite(report).all(1) for image, report in runs], axis=0)
    rows = np.flatnonzero(given & (texts != ""))
    if len(rows) < LEAST_IMAGES:
        return None
    distinct, first, of_image = np.unique(text_of_row[rows], return_index=True, return_inverse=True)
    right = of_image[:, None] == np.arange(len(distinct))[None]
    known = np.nan_to_num(pool.abnormal[rows])
    told = np.array([known[of_image == text].max(0) for text in range(len(distinct))])
    relevance = known @ told.T
    sick = np.flatnonzero(relevance.any(1))
    places = {"image_to_report": (rows, len(texts)), "report_to_image": (distinct, len(every))}

    def ranks(scores: Float) -> dict[str, Float]:
        result = {}
        for direction, (table, truth) in {
            "image_to_report": (scores, right), "report_to_image": (scores.T, right.T),
        }.items():
            place, length = places[direction]
            result[direction] = np.full(length, np.nan)
            result[direction][place] = right_ranks(table, truth)
        return result

    def gain(scores: Float) -> Float:
        wide = np.full(len(texts), np.nan)
        wide[rows[sick]] = metrics.ndcg(scores[sick], relevance[sick])
        return wide

    def both(every: Sequence[Float]) -> tuple[dict[str, Float], Float]:
        placed = [ranks(scores) for scores in every]
        return {way: np.array([each[way] for each in placed]) for way in places}, np.array([gain(s) for s in every])

    generator = np.random.default_rng(0)
    drawn = [generator.random(right.shape) for _ in range(SEEDS)]
    by_system = both([metrics.cosine_ranking(image[rows], report[rows][first]) for image, report in runs])
    by_chance = both(drawn)
    return Found(len(rows), len(distinct), by_system[0], by_chance[0], by_system[1], by_chance[1])


def _cell(ours: Float, chance: Float, reference: Float | None) -> dict[str, Any]:
    times = resamples(ours.shape[1])
    cell = {**summary(ours, times), "chance": float(np.nanmean(chance))}
    both = None if reference is None else ~np.isnan(ours).any(0) & ~np.isnan(reference).any(0)
    if reference is not None and both is not None and both.any():
        cell["reference_minus_this"] = difference(
            np.where(both, reference, np.nan), np.where(both, ours, np.nan), times
        )
    return cell


def within(ranks: Float, k: int) -> Float:
    """Return 1 where a rank is at most k, 0 where not, NaN where there is none."""
    return np.where(np.isnan(ranks), np.nan, (ranks <= k).astype(np.float64))


def _figures(mine: Found, reference: Found | None) -> dict[str, Any]:
    result: dict[str, Any] = {"images": mine.images, "reports": mine.reports}
    for direction, ranks in mine.ranks.items():
        chance = mine.chance_ranks[direction]
        figures: dict[str, Any] = {
            "queries": int((~np.isnan(ranks[0])).sum()),
            "median_rank": float(np.nanmedian(ranks, axis=1).mean()),
            "chance_median_rank": float(np.nanmedian(chance)),
        }
        for k in KS:
            other = None if reference is None else within(reference.ranks[direction], k)
            figures[f"r@{k}"] = _cell(within(ranks, k), within(chance, k), other)
        result[direction] = figures
    if not np.isnan(mine.gain).all():
        other = None if reference is None else reference.gain
        result["image_to_report"][GRADED] = _cell(mine.gain, mine.chance_gain, other)
    return result


def cross_modal(models: Sequence[System], pool: Pool) -> dict[str, dict[str, Any]]:
    """Return system -> both directions' R@k and median rank, and NDCG@10 of image to report.

    Each figure has its interval by bootstrap over queries, chance, and the paired difference to the first system, over
    the queries that both have. Systems without enough images that have a report are left out.
    """
    every = {system.name: each for system in models if (each := found(system, pool)) is not None}
    reference = models[0].name
    return {
        name: _figures(mine, every.get(reference) if name != reference else None) for name, mine in every.items()
    }
