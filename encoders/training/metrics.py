"""Retrieval and classification figures: what protocols A and B (ours) are made of, and cross-modal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]


def cosine_ranking(queries: NDArray[np.float32], database: NDArray[np.float32]) -> Float:
    """Return cosines (n, m) of rows."""
    a = queries / np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-9)
    b = database / np.maximum(np.linalg.norm(database, axis=1, keepdims=True), 1e-9)
    return np.asarray(a @ b.T, dtype=np.float64)


def _ranked(scores: Float, relevance: Float, excluded: Bool | None) -> tuple[Float, Bool]:
    """Return relevance in descending order of score (n, m), and which of these places count (excluded ones last)."""
    scores = scores.copy()
    if excluded is not None:
        scores[excluded] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")
    counted = np.isfinite(np.take_along_axis(scores, order, 1))
    return np.take_along_axis(relevance, order, 1) * counted, counted


def ndcg(scores: Float, relevance: Float, k: int = 10, excluded: Bool | None = None) -> Float:
    """Return NDCG@k of each query: gain 2^r − 1, the ideal list taken from the whole database; NaN without a hit."""
    ranked, _ = _ranked(scores, relevance, excluded)
    allowed = relevance if excluded is None else np.where(excluded, 0, relevance)
    ideal = -np.sort(-allowed, axis=1)[:, :k]
    discount = 1 / np.log2(np.arange(2, ideal.shape[1] + 2))
    best = ((2.0**ideal - 1) * discount).sum(1)
    got = ((2.0 ** ranked[:, :k] - 1) * discount).sum(1)
    return np.where(best > 0, got / np.where(best > 0, best, 1), np.nan)


def average_precision(
    scores: Float, relevance: Float, k: int | None = None, excluded: Bool | None = None, normalise: str = "found"
) -> Float:
    """Return AP@k of each query, a hit = any relevance; NaN where the query has no hit to count.

    Parameters
    ----------
    normalise : str
        ``found``: Σ rel·precision / Σ rel within the top k (the paper's family; NaN without a hit in the top k).
        ``all``: divided by min(k, number of relevant entries), so that missing ones cost.
    """
    ranked, _ = _ranked(scores, relevance, excluded)
    hits = ranked[:, :k] > 0
    precision = np.cumsum(hits, 1) / np.arange(1, hits.shape[1] + 1)
    total = (precision * hits).sum(1)
    if normalise == "found":
        count = hits.sum(1)
    else:
        everything = (ranked > 0).sum(1)
        count = everything if k is None else np.minimum(everything, k)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def precision_at(scores: Float, relevance: Float, k: int, excluded: Bool | None = None) -> Float:
    """Return the share of hits among the first k of each query."""
    ranked, counted = _ranked(scores, relevance, excluded)
    return np.asarray((ranked[:, :k] > 0).sum(1) / np.maximum(counted[:, :k].sum(1), 1), dtype=np.float64)


def accumulated_gain(scores: Float, relevance: Float, k: int, excluded: Bool | None = None) -> Float:
    """Return ACG@k of each query: the mean relevance among its first k."""
    ranked, counted = _ranked(scores, relevance, excluded)
    return np.asarray(ranked[:, :k].sum(1) / np.maximum(counted[:, :k].sum(1), 1), dtype=np.float64)


def weighted_map(scores: Float, relevance: Float, excluded: Bool | None = None) -> Float:
    """Return wMAP of each query: mean over its hits of ACG at their ranks (Zhao et al., CVPR 2015)."""
    ranked, _ = _ranked(scores, relevance, excluded)
    hits = ranked > 0
    gain = np.cumsum(ranked, 1) / np.arange(1, ranked.shape[1] + 1)
    count = hits.sum(1)
    return np.where(count > 0, (gain * hits).sum(1) / np.maximum(count, 1), np.nan)


def same(groups: Sequence[str], others: Sequence[str] | None = None) -> Bool:
    """Return (n, m): whether two rows belong to the same study or patient."""
    left = np.asarray(groups)
    right = left if others is None else np.asarray(others)
    return np.asarray(left[:, None] == right[None, :], dtype=bool)


@dataclass(frozen=True, slots=True)
class ProtocolB:
    """Per-query values of protocol B, for means, intervals and subgroups."""

    queries: NDArray[np.intp]
    values: dict[str, Float]

    def means(self) -> dict[str, float]:
        """Return the mean of each figure over the queries that have one."""
        return {name: float(np.nanmean(value)) if len(value) else float("nan") for name, value in self.values.items()}


def protocol_b(
    scores: Float, labels: Float, excluded: Bool, k: int = 10, entry_labels: Float | None = None
) -> ProtocolB:
    """Return graded retrieval of rows by rows: r = number of shared labels, queries with at least one label.

    Parameters
    ----------
    labels : ndarray (n, columns)
        The 12 abnormal findings (or headings) of the queries; NaN counts as absent.
    excluded : ndarray of bool (n, m)
        Entries that a query must not find: itself, its study, for NIH its patient.
    """
    known = np.nan_to_num(labels)
    entries = known if entry_labels is None else np.nan_to_num(entry_labels)
    queries = np.flatnonzero(known.sum(1) > 0)
    relevance = known[queries] @ entries.T
    s, e = scores[queries], excluded[queries]
    return ProtocolB(
        queries,
        {
            f"ndcg@{k}": ndcg(s, relevance, k, e),
            f"map@{k}": np.nan_to_num(average_precision(s, relevance, k, e, "all")),
            f"p@{k}": precision_at(s, relevance, k, e),
            f"acg@{k}": accumulated_gain(s, relevance, k, e),
            "wmap": weighted_map(s, relevance, e),
        },
    )


def auc(scores: Float, truth: Float) -> float:
    """Return the area under the ROC curve (ties count half); NaN unless both classes are there."""
    known = ~np.isnan(truth)
    s, t = scores[known], truth[known] > 0.5
    positives, negatives = int(t.sum()), int((~t).sum())
    if positives == 0 or negatives == 0:
        return float("nan")
    _, inverse, counts = np.unique(s, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    return float((mean_rank[inverse][t].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def cross_modal(scores: Float, query_text: Sequence[int], entry_text: Sequence[int]) -> dict[str, float]:
    """Return R@1/5/10 and the median rank of the right entry; identical texts are one entry and count as right.

    Parameters
    ----------
    query_text, entry_text : sequences of int
        Number of the text that belongs to a row; equal numbers are identical texts. Entries must be distinct.
    """
    column = {text: index for index, text in enumerate(entry_text)}
    if len(column) != len(entry_text):
        raise ValueError("entries hold a text twice; merge identical texts into one entry first")
    wanted = np.array([column[text] for text in query_text])
    own = scores[np.arange(len(scores)), wanted][:, None]
    rank = 1 + (scores > own).sum(1) + ((scores == own).sum(1) - 1) / 2
    return {**{f"r@{k}": float((rank <= k).mean()) for k in (1, 5, 10)}, "median_rank": float(np.median(rank))}


def bootstrap(values: Float, rounds: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of the mean over queries."""
    clean = values[~np.isnan(values)]
    if len(clean) == 0:
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    means = clean[generator.integers(0, len(clean), (rounds, len(clean)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
