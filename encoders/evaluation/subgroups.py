"""The lead figures within subgroups: for whom the model works less well."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.evaluation.classification import finding_table, macro_auc
from encoders.evaluation.pools import Float, Pool
from encoders.evaluation.systems import System
from encoders.training import metrics
from encoders.training.manifest import Sample

#: A subgroup with fewer queries has no figure.
LEAST_QUERIES = 10
AGE_BANDS = ((0, 18), (18, 40), (40, 60), (60, 75), (75, 200))


def age_band(age: float) -> str:
    """Return ``18-39``, ``75+`` and so on; "" for an unknown age."""
    for low, high in AGE_BANDS:
        if low <= age < high:
            return f"{low}+" if high == AGE_BANDS[-1][1] else f"{low}-{high - 1}"
    return ""


def _subgroup_of(sample: Sample) -> dict[str, str]:
    return {"sex": sample.sex, "age": age_band(sample.age)}


def _part(pool: Pool, members: NDArray[np.bool_]) -> Pool:
    chosen = np.flatnonzero(members)
    return Pool(
        pool.source, pool.view, pool.rows[chosen], tuple(pool.samples[row] for row in chosen), pool.labels[chosen],
        pool.headings[chosen],
    )


def subgroups(model: System, pool: Pool, lead: Float, chance: Float) -> list[dict[str, Any]]:
    """Return a row for the whole pool (its source and view) and each sex and age band in it.

    Parameters
    ----------
    lead, chance : (n,)
        NDCG@10 of each query by the model and by chance, NaN where there is no query. Subgroups are of queries: each is
        answered from the whole pool.
    """
    kinds = [_subgroup_of(sample) for sample in pool.samples]
    groups: list[tuple[str, str, NDArray[np.bool_]]] = [("view", pool.view, np.ones(len(kinds), dtype=bool))]
    for kind in ("sex", "age"):
        for value in sorted({each[kind] for each in kinds} - {""}):
            groups.append((kind, value, np.array([each[kind] == value for each in kinds])))
    table = []
    for kind, value, members in groups:
        values = np.where(members, lead, np.nan)
        queries = int((~np.isnan(values)).sum())
        if queries < LEAST_QUERIES:
            continue
        low, high = metrics.bootstrap(values)
        table.append(
            {
                "kind": kind,
                "value": value,
                "images": int(members.sum()),
                "queries": queries,
                "ndcg@10": float(np.nanmean(values)),
                "low": low,
                "high": high,
                "chance": float(np.nanmean(np.where(members, chance, np.nan))),
                "auc": macro_auc(finding_table(model, _part(pool, members))),
            }
        )
    return table
