"""Image to image: protocols A and B, shared headings, by k and by finding; a value for each query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from encoders.base import FINDING_NAMES
from encoders.evaluation.pools import Float, Pool
from encoders.evaluation.systems import System
from encoders.training import metrics

KS = (1, 5, 10, 20, 50)
LEAD = "ndcg@10"
LEAST_QUERIES = 5


@dataclass(frozen=True, slots=True)
class Ranking:
    """One system's cosines in one pool, one matrix a seed, and the pool's rows that the system has vectors for."""

    cosines: tuple[Float, ...]
    rows: np.ndarray


def rank(system: System, pool: Pool) -> Ranking:
    """Return the cosines of a pool's images."""
    first = system.runs[0][pool.rows]
    rows = np.flatnonzero(np.isfinite(first).all(1))
    if system.score is not None:
        return Ranking((system.score(pool.rows[rows]),), rows)
    chosen = [run[pool.rows][rows] for run in system.runs]
    return Ranking(tuple(metrics.cosine_ranking(vectors, vectors) for vectors in chosen), rows)


def _mean_over_runs(values: Sequence[Mapping[str, Float]]) -> dict[str, Float]:
    return {name: np.mean([value[name] for value in values], axis=0) for name in values[0]}


def _spread(values: Float, rows: np.ndarray, n: int) -> Float:
    """Return values by the pool's own row, NaN where this row was no query."""
    wide = np.full(n, np.nan)
    wide[rows] = values
    return wide


def graded(ranking: Ranking, labels: Float, excluded: np.ndarray) -> dict[str, Float]:
    """Return protocol B's figures by pool row: NDCG, mAP, P and ACG at 10, wMAP (NaN: no query)."""
    known, apart = labels[ranking.rows], excluded[np.ix_(ranking.rows, ranking.rows)]
    runs = [metrics.protocol_b(scores, known, apart) for scores in ranking.cosines]
    queries = ranking.rows[runs[0].queries]
    return {
        name: _spread(values, queries, len(labels))
        for name, values in _mean_over_runs([run.values for run in runs]).items()
    }


def variety(ranking: Ranking, labels: Float, excluded: np.ndarray) -> dict[str, int]:
    """Return how many different images stand among the first ten of all abnormal queries, and how many could."""
    sick = np.nan_to_num(labels[ranking.rows]).sum(1) > 0
    scores = np.where(excluded[np.ix_(ranking.rows, ranking.rows)], -np.inf, ranking.cosines[0])[sick]
    first = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    return {"different": len(np.unique(first)), "at_most": min(first.size, len(ranking.rows))}


def protocol_a(ranking: Ranking, labels: Float, excluded: np.ndarray) -> dict[str, Float]:
    """Return the paper's figures by pool row: a hit shares any of the 14 labels, No Finding too.

    ``map@k`` is NaN for a query without a hit in the top k, ``map0@k`` counts it as 0, ``mapn@k`` divides by min(k, R).
    """
    coded = np.flatnonzero(~np.isnan(labels[ranking.rows]).all(1))
    rows = ranking.rows[coded]
    known = np.nan_to_num(labels[rows])
    relevance, apart = (known @ known.T > 0).astype(np.float64), excluded[np.ix_(rows, rows)]
    runs = []
    for every in ranking.cosines:
        scores = every[np.ix_(coded, coded)]
        values: dict[str, Float] = {}
        for k in (1, 5, 10, 20, None):
            name = "all" if k is None else str(k)
            found = metrics.average_precision(scores, relevance, k, apart)
            values[f"map@{name}"], values[f"map0@{name}"] = found, np.nan_to_num(found)
            values[f"mapn@{name}"] = metrics.average_precision(scores, relevance, k, apart, "all")
        for k in (1, 5):
            values[f"acc@{k}"] = (metrics.precision_at(scores, relevance, k, apart) > 0).astype(np.float64)
        runs.append(values)
    return {name: _spread(values, rows, len(labels)) for name, values in _mean_over_runs(runs).items()}


def by_k(ranking: Ranking, labels: Float, excluded: np.ndarray) -> dict[str, list[float]]:
    """Return protocol B's mean NDCG and mAP at each of KS."""
    known, apart = np.nan_to_num(labels[ranking.rows]), excluded[np.ix_(ranking.rows, ranking.rows)]
    queries = np.flatnonzero(known.sum(1) > 0)
    relevance, apart = known[queries] @ known.T, apart[queries]

    def mean(k: int, figure: str) -> float:
        values = [
            metrics.ndcg(s[queries], relevance, k, apart)
            if figure == "ndcg"
            else np.nan_to_num(metrics.average_precision(s[queries], relevance, k, apart, "all"))
            for s in ranking.cosines
        ]
        return float(np.nanmean(values))

    return {figure: [mean(k, figure) for k in KS] for figure in ("ndcg", "map")}


def by_finding(ranking: Ranking, labels: Float, excluded: np.ndarray) -> dict[str, dict[str, float]]:
    """Return mAP@10 and P@10 for each finding on its own, with its queries and share (what chance finds)."""
    table: dict[str, dict[str, float]] = {}
    for column, name in enumerate(FINDING_NAMES):
        if name == "No Finding":
            continue
        coded = ~np.isnan(labels[ranking.rows, column])
        rows = ranking.rows[coded]
        present = labels[rows, column] > 0
        if present.sum() < LEAST_QUERIES:
            continue
        apart = excluded[np.ix_(rows, rows)][present]
        relevance = np.repeat(present[None].astype(np.float64), int(present.sum()), 0)
        scores = [cosines[np.ix_(coded, coded)][present] for cosines in ranking.cosines]
        table[name] = {
            "queries": int(present.sum()),
            "share": float(present.mean()),
            "map@10": float(
                np.mean([np.nan_to_num(metrics.average_precision(s, relevance, 10, apart, "all")) for s in scores])
            ),
            "p@10": float(np.mean([metrics.precision_at(s, relevance, 10, apart) for s in scores])),
        }
    return table


def summarised(values: Mapping[str, Mapping[str, Float]], reference: str) -> dict[str, dict[str, Any]]:
    """Return figure -> system -> mean, interval, number of queries, paired difference to the reference system.

    Parameters
    ----------
    values : mapping of system to figure to (n,) per-query values, NaN where there is none
    """
    table: dict[str, dict[str, Any]] = {}
    for system, figures in values.items():
        for name, value in figures.items():
            if np.isnan(value).all():
                continue
            low, high = metrics.bootstrap(value)
            cell: dict[str, Any] = {
                "mean": float(np.nanmean(value)), "low": low, "high": high, "queries": int((~np.isnan(value)).sum()),
            }
            other = values[reference].get(name)
            if system != reference and other is not None and (~np.isnan(value) & ~np.isnan(other)).any():
                cell["reference_minus_this"] = metrics.paired_bootstrap(other, value)
            table.setdefault(name, {})[system] = cell
    return table
