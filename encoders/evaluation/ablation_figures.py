"""Figures of systems with several seeds: mean, range over the seeds, and draws of one bootstrap that all share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoders.evaluation import retrieval
from encoders.evaluation.cross_modal import right_ranks
from encoders.evaluation.pools import LEAST_IMAGES, Float, Pool
from encoders.evaluation.resampling import auc_draws, interval, mean_draws, resamples
from encoders.evaluation.systems import System
from encoders.training import metrics
from encoders.training.validation import MIN_POSITIVES, mean_auc


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of one system in one pool.

    Attributes
    ----------
    seeds : tuple of float
        Its value, one a seed.
    draws : ndarray of float64 (ROUNDS,)
        Its mean over the seeds in resampled pools, the same images in the same draw for every system: the difference
        of two systems' draws is a paired bootstrap.
    queries : int
    """

    seeds: tuple[float, ...]
    draws: Float
    queries: int

    @property
    def mean(self) -> float:
        """Return the mean over the seeds."""
        return float(np.mean(self.seeds))

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval over queries."""
        return interval(self.draws)


#: (source, figure) -> what a system reaches there.
Judged = dict[tuple[str, str], Figure]


def by_query(system: System, pool: Pool) -> Iterator[tuple[str, Float]]:
    """Yield each retrieval figure with its values by pool row, NaN where the row is no query."""
    ranking = retrieval.rank(system, pool)
    if len(ranking.rows) < len(pool.rows) / 2:
        return
    graded = retrieval.graded(ranking, pool.abnormal, pool.same_patient)
    for name in ("ndcg@10", "map@10"):
        yield name, graded[name][0]
    if pool.headings.shape[1]:
        yield "headings ndcg@10", retrieval.graded(ranking, pool.headings, pool.same_patient)["ndcg@10"][0]
    paper = retrieval.protocol_a(ranking, pool.labels, pool.same_patient)
    for name in ("map@10", "map0@10"):
        yield f"paper {name}", paper[name][0]
    if system.report is not None:
        yield from _to_reports(system.report[pool.rows], system.runs[0][pool.rows], pool)


def _to_reports(reports: NDArray[np.float32], vectors: NDArray[np.float32], pool: Pool) -> Iterator[tuple[str, Float]]:
    texts = np.array(pool.texts, dtype=np.str_)
    rows = np.flatnonzero(np.isfinite(vectors).all(1) & np.isfinite(reports).all(1) & (texts != ""))
    if len(rows) < LEAST_IMAGES:
        return
    distinct, first, own = np.unique(texts[rows], return_index=True, return_inverse=True)
    scores = metrics.cosine_ranking(vectors[rows], reports[rows][first])
    ranks = right_ranks(scores, own[:, None] == np.arange(len(distinct))[None])
    for k in (1, 5, 10):
        hits = np.full(len(texts), np.nan)
        hits[rows] = ranks <= k
        yield f"r@{k}", hits


def _auc(runs: Sequence[System], pool: Pool, times: Float) -> Figure | None:
    """Return the AUC averaged over the findings with enough positives."""
    every = [run.findings[pool.rows].astype(np.float64) for run in runs if run.findings is not None]
    labels = pool.labels.astype(np.float64)
    usable = [column for column in range(1, labels.shape[1]) if np.nansum(labels[:, column]) >= MIN_POSITIVES]
    if not every or not usable:
        return None
    draws = [np.nanmean([auc_draws(s[:, c], labels[:, c], times) for c in usable], axis=0) for s in every]
    values = tuple(mean_auc(scores[:, 1:], labels[:, 1:]) for scores in every)
    return Figure(values, np.mean(draws, axis=0), len(labels))


def judge(runs: Sequence[System], every: Sequence[Pool]) -> Judged:
    """Return all figures of a system given as one System a seed, the largest view of each source."""
    judged: Judged = {}
    for pool in every:
        if any(source == pool.source for source, _ in judged):
            continue
        times = resamples(len(pool.rows))
        values: dict[str, list[Float]] = {}
        for run in runs:
            for name, value in by_query(run, pool):
                values.setdefault(name, []).append(value)
        for name, each in values.items():
            queries = round(float(np.mean([(~np.isnan(value)).sum() for value in each])))
            seeds = tuple(float(np.nanmean(value)) for value in each)
            draws = np.mean([mean_draws(value, times) for value in each], axis=0)
            judged[pool.source, name] = Figure(seeds, draws, queries)
        auc = _auc(runs, pool, times)
        if auc is not None:
            judged[pool.source, "auc"] = auc
    return judged
