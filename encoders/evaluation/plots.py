"""Figures as PNG data URLs, so that the page needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np

from encoders.base import ABNORMAL_FINDINGS, FINDING_NAMES
from encoders.evaluation.evaluate import PoolResult

INK, MUTED, REFERENCE = "#1f2933", "#9aa5b1", "#0b6e99"
OTHERS = ("#c4601d", "#6b4fa1", "#3b7d3b", "#a13b5b", "#7b8794", "#b8912f", "#52606d", "#9aa5b1", "#cbd2d9")
#: Points of the map of the subspace, at most: t-SNE's cost grows fast.
MOST_POINTS = 800
COLOURED_FINDINGS = 5
WIDTH_IN, HEIGHT_IN, DPI = 6.4, 4.0, 110


def _axes(width: float = WIDTH_IN, height: float = HEIGHT_IN) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)
    return figure, axes


def _data_url(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def curves_by_k(by_k: Mapping[str, Any], reference: str, figure_name: str) -> str:
    """Return one line a system: NDCG or mAP against k."""
    figure, axes = _axes(height=max(HEIGHT_IN, 0.17 * len(by_k)))           # its legend has a line for each
    others = cycle((colour, style) for style in ("-", "--", ":") for colour in OTHERS[:6])    # the rest is pale
    for name, values in by_k.items():
        if name == "k":
            continue
        mine = name == reference
        colour, style = (REFERENCE, "-") if mine else next(others)
        axes.plot(
            by_k["k"], values[figure_name], marker="o", markersize=3, linewidth=2.4 if mine else 1.3, color=colour,
            linestyle=style, label=name, zorder=3 if mine else 2,
        )
    axes.set_xscale("log")
    axes.set_xticks(by_k["k"], [str(k) for k in by_k["k"]])
    axes.set_xlabel("k")
    axes.set_ylabel({"ndcg": "NDCG@k", "map": "mAP@k"}[figure_name])
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7.5, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return _data_url(figure)


def finding_bars(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return each system's AUC by finding with intervals, the first system's best first, and a line at chance."""
    first, *_ = tables.values()
    ordered = sorted((row for row in first if row["finding"] != "No Finding"), key=lambda row: row["auc"])
    figure, axes = _axes(WIDTH_IN, 0.9 + (0.16 + 0.13 * len(tables)) * max(1, len(ordered)))
    places, thick = np.arange(len(ordered)), 0.75 / len(tables)
    for number, ((name, rows), colour) in enumerate(zip(tables.items(), (REFERENCE, *OTHERS * 2), strict=False)):
        known = {row["finding"]: row for row in rows}
        shown = [(place, known[row["finding"]]) for place, row in enumerate(ordered) if row["finding"] in known]
        level = np.array([place for place, _ in shown]) + ((len(tables) - 1) / 2 - number) * thick
        axes.barh(level, [row["auc"] for _, row in shown], color=colour, height=0.9 * thick, label=name)
        for height, (_, row) in zip(level, shown, strict=True):
            axes.plot([row["low"], row["high"]], [height, height], color=INK, linewidth=1)
    axes.axvline(0.5, color=MUTED, linewidth=1, linestyle="--")
    axes.set_yticks(places, [f"{row['finding']} (n={row['positives']})" for row in ordered], fontsize=8)
    axes.set_xlim(0, 1)
    axes.set_xlabel("AUC (dashed: chance)")
    if len(tables) > 1:
        figure.legend(fontsize=8, frameon=False, loc="outside upper left", ncols=2)
    return _data_url(figure)


def reliability_diagram(diagrams: Mapping[str, Mapping[str, Any]]) -> str:
    """Return observed against predicted share, one line a diagram."""
    figure, axes = _axes(4.2, 4.0)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--")
    top = 0.05
    for (name, diagram), colour in zip(diagrams.items(), (REFERENCE, *OTHERS), strict=False):
        axes.plot(
            diagram["predicted"], diagram["observed"], marker="o", markersize=4, color=colour,
            label=f"{name}, ECE {diagram['ece']:.3f}",
        )
        top = max(top, *diagram["predicted"], *diagram["observed"])
    axes.set_xlim(0, min(1, 1.08 * top))
    axes.set_ylim(0, min(1, 1.08 * top))
    axes.set_xlabel("predicted probability")
    axes.set_ylabel("observed share")
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    return _data_url(figure)


def subspace_map(drawn: PoolResult, seed: int = 0) -> str | None:
    """Return a t-SNE of the image vectors, coloured by the commonest abnormal findings; None with too few images."""
    from sklearn.manifold import TSNE

    rows = np.flatnonzero(np.isfinite(drawn.vectors).all(1))
    rows = np.sort(np.random.default_rng(seed).permutation(rows)[:MOST_POINTS])
    if len(rows) < 10:
        return None
    perplexity = min(30.0, (len(rows) - 1) / 3)
    points = TSNE(perplexity=perplexity, metric="cosine", init="random", random_state=seed).fit_transform(
        drawn.vectors[rows]
    )
    labels = np.nan_to_num(drawn.pool.labels[rows])
    counts = {name: labels[:, FINDING_NAMES.index(name)].sum() for name in ABNORMAL_FINDINGS}
    shown = sorted((name for name in counts if counts[name]), key=lambda name: -counts[name])[:COLOURED_FINDINGS]
    figure, axes = _axes(6.8, 4.8)
    axes.scatter(*points.T, s=9, color="#d5dae0", label="other or none", linewidths=0)
    for name, colour in zip(shown, (REFERENCE, *OTHERS), strict=False):
        has = labels[:, FINDING_NAMES.index(name)] > 0
        axes.scatter(*points[has].T, s=15, color=colour, label=name, alpha=0.85, linewidths=0)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return _data_url(figure)
