"""Figures of systems with several seeds: mean, range over the seeds, and draws of one bootstrap that all share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from encoders.evaluation import retrieval
from encoders.evaluation.cross_modal import KS, found, within
from encoders.evaluation.pools import Float, Pool
from encoders.evaluation.resampling import auc_draws, interval, mean_draws, resamples
from encoders.evaluation.systems import System
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
    """Yield each retrieval figure with its values (runs, n) by pool row, NaN where the row is no query."""
    ranking = retrieval.rank(system, pool)
    if len(ranking.rows) < len(pool.rows) / 2:
        return
    graded = retrieval.graded(ranking, pool.abnormal, pool.same_patient)
    for name in ("ndcg@10", "map@10"):
        yield name, graded[name]
    if pool.headings.shape[1]:
        yield "headings ndcg@10", retrieval.graded(ranking, pool.headings, pool.same_patient)["ndcg@10"]
    paper = retrieval.protocol_a(ranking, pool.labels, pool.same_patient)
    for name in ("map@10", "map0@10"):
        yield f"paper {name}", paper[name]
    both = found(system, pool)
    if both is not None:
        ranks = both.ranks["image_to_report"]
        for k in KS:
            yield f"r@{k}", within(ranks, k)


def _auc(system: System, pool: Pool, times: Float) -> Figure | None:
    """Return the AUC averaged over the findings with enough positives."""
    every = [findings[pool.rows].astype(np.float64) for findings in system.findings]
    labels = pool.labels.astype(np.float64)
    usable = [column for column in range(1, labels.shape[1]) if np.nansum(labels[:, column]) >= MIN_POSITIVES]
    if not every or not usable:
        return None
    draws = [np.nanmean([auc_draws(s[:, c], labels[:, c], times) for c in usable], axis=0) for s in every]
    values = tuple(mean_auc(scores[:, 1:], labels[:, 1:]) for scores in every)
    return Figure(values, np.mean(draws, axis=0), len(labels))


def judge(system: System, every: Sequence[Pool]) -> Judged:
    """Return all figures of a system, the largest view of each source."""
    judged: Judged = {}
    for pool in every:
        if any(source == pool.source for source, _ in judged):
            continue
        times = resamples(len(pool.rows))
        for name, values in by_query(system, pool):
            seeds = tuple(float(np.nanmean(run)) for run in values)
            queries = round(float((~np.isnan(values)).sum(1).mean()))
            judged[pool.source, name] = Figure(seeds, mean_draws(values, times), queries)
        auc = _auc(system, pool, times)
        if auc is not None:
            judged[pool.source, "auc"] = auc
    return judged
