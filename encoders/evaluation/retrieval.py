"""Image to image: protocols A and B, shared headings, by k and by finding; a value for each query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from encoders.base import FINDING_NAMES
from encoders.evaluation.pools import Float, Pool
from encoders.evaluation.resampling import difference, resamples, summary
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


def _by_row(runs: Sequence[Mapping[str, Float]], rows: np.ndarray, n: int) -> dict[str, Float]:
    """Return figure -> (runs, n) values by the pool's own row, NaN where this row was no query."""
    wide = {name: np.full((len(runs), n), np.nan) for name in runs[0]}
    for number, run in enumerate(runs):
        for name, values in run.items():
            wide[name][number, rows] = values
    return wide


def possible(relevance: Float, excluded: np.ndarray) -> np.ndarray:
    """Return (queries,): whether any entry that a query may find is relevant to it. Others say nothing of a ranking."""
    return np.asarray(((relevance > 0) & ~excluded).any(1))


def graded(ranking: Ranking, labels: Float, excluded: np.ndarray) -> dict[str, Float]:
    """Return protocol B's figures (runs, n) by pool row: NDCG, mAP, P and ACG at 10, wMAP (NaN: nothing to find)."""
    known, apart = labels[ranking.rows], excluded[np.ix_(ranking.rows, ranking.rows)]
    runs = [metrics.protocol_b(scores, known, apart) for scores in ranking.cosines]
    queries = runs[0].queries
    asked = possible(np.nan_to_num(known[queries]) @ np.nan_to_num(known).T, apart[queries])
    values = [{name: value[asked] for name, value in run.values.items()} for run in runs]
    return _by_row(values, ranking.rows[queries[asked]], len(labels))


def variety(ranking: Ranking, labels: Float, excluded: np.ndarray) -> dict[str, int]:
    """Return how many different images stand among the first ten of all abnormal queries, and how many could."""
    sick = np.nan_to_num(labels[ranking.rows]).sum(1) > 0
    apart = excluded[np.ix_(ranking.rows, ranking.rows)]
    first = [
        np.argsort(-np.where(apart, -np.inf, cosines)[sick], axis=1, kind="stable")[:, :10]
        for cosines in ranking.cosines
    ]
    different = round(float(np.mean([len(np.unique(each)) for each in first])))
    return {"different": different, "at_most": min(first[0].size, len(ranking.rows))}


def protocol_a(ranking: Ranking, labels: Float, excluded: np.ndarray) -> dict[str, Float]:
    """Return the paper's figures (runs, n) by pool row: a hit shares any of the 14 labels, No Finding too.

    ``map@k`` is NaN for a query without a hit in the top k, ``map0@k`` counts it as 0, ``mapn@k`` divides by min(k, R).
    Every figure is NaN for a query that could not hit anything.
    """
    coded = np.flatnonzero(~np.isnan(labels[ranking.rows]).all(1))
    rows = ranking.rows[coded]
    known = np.nan_to_num(labels[rows])
    relevance, apart = (known @ known.T > 0).astype(np.float64), excluded[np.ix_(rows, rows)]
    asked = possible(relevance, apart)
    relevance, apart = relevance[asked], apart[asked]
    runs = []
    for every in ranking.cosines:
        scores = every[np.ix_(coded[asked], coded)]
        values: dict[str, Float] = {}
        for k in (1, 5, 10, 20, None):
            name = "all" if k is None else str(k)
            found = metrics.average_precision(scores, relevance, k, apart)
            values[f"map@{name}"], values[f"map0@{name}"] = found, np.nan_to_num(found)
            values[f"mapn@{name}"] = metrics.average_precision(scores, relevance, k, apart, "all")
        for k in (1, 5):
            values[f"acc@{k}"] = (metrics.precision_at(scores, relevance, k, apart) > 0).astype(np.float64)
        runs.append(values)
    return _by_row(runs, rows[asked], len(labels))


def by_k(ranking: Ranking, labels: Float, excluded: np.ndarray) -> dict[str, list[float]]:
    """Return protocol B's mean NDCG and mAP at each of KS; NaN without a query that could find anything."""
    known, apart = np.nan_to_num(labels[ranking.rows]), excluded[np.ix_(ranking.rows, ranking.rows)]
    queries = np.flatnonzero(possible(known @ known.T, apart))
    relevance, apart = known[queries] @ known.T, apart[queries]
    if len(queries) == 0:
        return {figure: [float("nan")] * len(KS) for figure in ("ndcg", "map")}

    def mean(k: int, figure: str) -> float:
        values = [
            metrics.ndcg(s[queries], relevance, k, apart)
            if figure == "ndcg"
            else metrics.average_precision(s[queries], relevance, k, apart, "all")
            for s in ranking.cosines
        ]
        return float(np.mean(values))

    return {figure: [mean(k, figure) for k in KS] for figure in ("ndcg", "map")}


def by_finding(ranking: Ranking, labels: Float, excluded: np.ndarray) -> dict[str, dict[str, float]]:
    """Return mAP@10 and P@10 for each finding on its own, with its queries and the P@10 of chance."""
    table: dict[str, dict[str, float]] = {}
    for column, name in enumerate(FINDING_NAMES):
        if name == "No Finding":
            continue
        coded = np.flatnonzero(~np.isnan(labels[ranking.rows, column]))
        rows = ranking.rows[coded]
        present = labels[rows, column] > 0
        apart = excluded[np.ix_(rows, rows)]
        asked = np.flatnonzero(present & possible(np.broadcast_to(present, apart.shape), apart))
        if len(asked) < LEAST_QUERIES:
            continue
        apart = apart[asked]
        relevance = np.repeat(present[None].astype(np.float64), len(asked), 0)
        scores = [cosines[np.ix_(coded[asked], coded)] for cosines in ranking.cosines]
        table[name] = {
            "queries": len(asked),
            "chance p@10": float(((relevance * ~apart).sum(1) / (~apart).sum(1)).mean()),
            "map@10": float(np.mean([metrics.average_precision(s, relevance, 10, apart, "all") for s in scores])),
            "p@10": float(np.mean([metrics.precision_at(s, relevance, 10, apart) for s in scores])),
        }
    return table


def summarised(values: Mapping[str, Mapping[str, Float]], reference: str) -> dict[str, dict[str, Any]]:
    """Return figure -> system -> mean, interval, number of queries, paired difference to the reference system.

    The difference is over the queries that both systems were asked, so that it is that of the means wherever these are
    all. A form that skips queries without a hit skips them in each run, draw and system by itself.

    Parameters
    ----------
    values : mapping of system to figure to (runs, n) values by pool row, NaN where there is none
    """
    asked = {
        system: np.any([~np.isnan(value).all(0) for value in figures.values()], axis=0)
        for system, figures in values.items()
    }
    times = resamples(len(asked[reference]))
    table: dict[str, dict[str, Any]] = {}
    for system, figures in values.items():
        for name, value in figures.items():
            if np.isnan(value).all():
                continue
            cell = summary(value, times)
            both = asked[system] & asked[reference]
            ours, theirs = (np.where(both, each, np.nan) for each in (values[reference][name], value))
            if system != reference and not (np.isnan(ours).all() or np.isnan(theirs).all()):
                cell["reference_minus_this"] = difference(ours, theirs, times)
            table.setdefault(name, {})[system] = cell
    return table
