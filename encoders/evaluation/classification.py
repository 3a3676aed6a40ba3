"""Finding probabilities: AUC, average precision, calibration; and the calibration of the similarity score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.base import ABNORMAL_COLUMNS, FINDING_NAMES, Basis, Encoder, Float32, ReportText
from encoders.evaluation.pools import Float, Pool
from encoders.evaluation.resampling import auc_draws, interval, resamples
from encoders.evaluation.systems import System
from encoders.findings import label_array
from encoders.training import metrics
from encoders.training.calibration import expected_calibration_error

#: A finding with fewer positives, or fewer negatives, has no row.
LEAST_POSITIVES = 2
BINS = 10
AUC_ROUNDS = 200
#: Pairs that the score's calibration is judged on, at most.
MOST_PAIRS = 200_000


def _auc_interval(runs: Float, truth: Float) -> tuple[float, float]:
    generator = np.random.default_rng(0)
    drawn = [generator.integers(0, len(truth), len(truth)) for _ in range(AUC_ROUNDS)]
    values = np.array([np.mean([metrics.auc(scores[rows], truth[rows]) for scores in runs]) for rows in drawn])
    if np.isnan(values).all():
        return float("nan"), float("nan")
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)


def finding_table(system: System, pool: Pool) -> list[dict[str, Any]]:
    """Return a row for each finding: positives, share (the AP of chance), AUC with interval, AP."""
    if not system.findings:
        return []
    probabilities = np.array([findings[pool.rows] for findings in system.findings], dtype=np.float64)
    table = []
    for column, name in enumerate(FINDING_NAMES):
        truth, scores = pool.labels[:, column], probabilities[:, :, column]
        known = ~np.isnan(truth) & ~np.isnan(scores).any(0)
        truth, scores = truth[known], scores[:, known]
        if truth.sum() < LEAST_POSITIVES or (1 - truth).sum() < LEAST_POSITIVES:
            continue
        low, high = _auc_interval(scores, truth)
        relevance = np.tile(truth, (len(scores), 1))
        table.append(
            {
                "finding": name,
                "positives": int(truth.sum()),
                "share": float(truth.mean()),
                "auc": float(np.mean([metrics.auc(run, truth) for run in scores])),
                "low": low,
                "high": high,
                "ap": float(metrics.average_precision(scores, relevance, None, None, "all").mean()),
            }
        )
    return table


def macro_auc(table: list[dict[str, Any]]) -> float:
    """Return the AUC averaged over the findings proper; NaN without any."""
    values = [row["auc"] for row in table if row["finding"] != "No Finding"]
    return float(np.mean(values)) if values else float("nan")


def mean_auc(models: Sequence[System], pool: Pool) -> dict[str, dict[str, Any]]:
    """Return system -> AUC averaged over the findings proper, interval, paired difference to the first system.

    Empty where no finding has enough images of both kinds. Interval and difference: bootstrap over images.
    """
    labels = pool.labels.astype(np.float64)
    enough = [
        column
        for column in range(labels.shape[1])
        if FINDING_NAMES[column] != "No Finding"
        and min(np.nansum(labels[:, column]), np.nansum(1 - labels[:, column])) >= LEAST_POSITIVES
    ]
    times = resamples(len(labels))
    table: dict[str, dict[str, Any]] = {}
    first: Float | None = None
    for system in models if enough else ():
        if not system.findings:
            continue
        runs = [findings[pool.rows].astype(np.float64) for findings in system.findings]
        truths = [np.where(np.isfinite(scores), labels, np.nan) for scores in runs]     # unreadable images
        both = list(zip(runs, truths, strict=True))
        draws = np.mean(
            [np.nanmean([auc_draws(s[:, c], truth[:, c], times) for c in enough], axis=0) for s, truth in both], axis=0
        )
        low, high = interval(draws)
        mean = float(np.mean([[metrics.auc(s[:, c], truth[:, c]) for c in enough] for s, truth in both]))
        table[system.name] = {"mean": mean, "low": low, "high": high}
        if first is None:
            first, reference = draws, mean
        else:
            table[system.name]["reference_minus_this"] = (reference - mean, *interval(first - draws))
    return table


def reliability(probability: Float, truth: NDArray[np.bool_]) -> dict[str, Any]:
    """Return ECE, and predicted and observed share in bins of equal size."""
    parts = np.array_split(np.argsort(probability, kind="stable"), min(BINS, len(probability)))
    return {
        "n": len(probability),
        "ece": expected_calibration_error(probability, truth),
        "predicted": [float(probability[part].mean()) for part in parts],
        "observed": [float(truth[part].mean()) for part in parts],
    }


def mean_of_runs(diagrams: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Return the mean of several runs' reliability, bin by bin; None where a run has none."""
    every = [diagram for diagram in diagrams if diagram is not None]
    if not every or len(every) < len(diagrams):
        return None
    return {
        "n": every[0]["n"],
        "ece": float(np.mean([each["ece"] for each in every])),
        "predicted": np.mean([each["predicted"] for each in every], axis=0).tolist(),
        "observed": np.mean([each["observed"] for each in every], axis=0).tolist(),
    }


def finding_calibration(probabilities: Float32, pool: Pool) -> dict[str, Any] | None:
    """Return the reliability of all finding probabilities (n, 14) of a pool together."""
    probability, truth = probabilities.astype(np.float64), pool.labels
    known = ~np.isnan(truth) & ~np.isnan(probability)
    known[:, 0] = False                                             # No Finding is what the others leave
    return reliability(probability[known], truth[known] > 0.5) if known.any() else None


def score_calibration(encoder: Encoder, vectors: Float32, pool: Pool, seed: int = 0) -> dict[str, Any] | None:
    """Return the reliability of the score of image pairs of different patients: P(both share an abnormal finding)."""
    coded = np.isfinite(vectors).all(1) & ~np.isnan(pool.labels).all(1)
    rows = np.flatnonzero(coded)
    above = np.triu(np.ones((len(rows), len(rows)), dtype=bool), 1)
    pairs = np.argwhere(above & ~pool.same_patient[np.ix_(rows, rows)])
    if len(pairs) == 0:
        return None
    if len(pairs) > MOST_PAIRS:
        pairs = pairs[np.random.default_rng(seed).permutation(len(pairs))[:MOST_PAIRS]]
    known = np.nan_to_num(pool.labels[rows][:, ABNORMAL_COLUMNS])
    cosines = metrics.cosine_ranking(vectors[rows], vectors[rows])[pairs[:, 0], pairs[:, 1]]
    shared = (known @ known.T > 0)[pairs[:, 0], pairs[:, 1]]
    scores = encoder.score(cosines.astype(np.float32), Basis.IMAGE, Basis.IMAGE)
    return reliability(np.asarray(scores, dtype=np.float64), shared)


def labeler_table(pool: Pool) -> list[dict[str, Any]]:
    """Return precision, recall and F1 of the report labeler against the manifest's codes; uncertain is negative."""
    rows = [
        row for row, sample in enumerate(pool.samples) if sample.has_report and not np.isnan(pool.labels[row]).all()
    ]
    if not rows:
        return []
    found = label_array([ReportText(pool.samples[row].findings, pool.samples[row].impression) for row in rows]) == 1
    table = []
    for column, name in enumerate(FINDING_NAMES[1:], start=1):
        truth = pool.labels[rows, column]
        known = ~np.isnan(truth)
        coded, claimed = truth[known] > 0.5, found[known, column]
        hits, alarms, misses = (int(part.sum()) for part in (coded & claimed, ~coded & claimed, coded & ~claimed))
        if hits + misses == 0:
            continue
        table.append(
            {
                "finding": name,
                "coded": hits + misses,
                "precision": hits / max(1, hits + alarms),
                "recall": hits / (hits + misses),
                "f1": 2 * hits / (2 * hits + alarms + misses),
            }
        )
    return table
