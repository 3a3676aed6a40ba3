"""The report's plots as SVG text, so that the page needs no other file."""

from __future__ import annotations

import html
import io
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
from harness import Curve, Figure, Ratio, number, target_of
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

INK, MUTED, FAINT = "#1f2933", "#7b8794", "#e4e7eb"
MET, MISSED, FREE = "#2f855a", "#c53030", "#0b6e99"
LINES = ("#0b6e99", "#c4601d", "#6b4fa1", "#3b7d3b", "#a13b5b", "#b8912f", "#52606d", "#17a2b8")
MARKS = "osD^vPX*"
WIDTH_IN, ROW_IN, NAME_LETTERS = 10.4, 0.34, 56
#: Text stays text: it can be selected and found.
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bench",
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": INK,
    "axes.axisbelow": True,
}


def _axes(width: float, height: float) -> tuple[Drawing, Any]:
    drawing = Drawing(figsize=(width, height), layout="constrained")
    axes = drawing.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return drawing, axes


def _svg(drawing: Drawing, label: str) -> str:
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    drawing.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    # Verdana has DejaVu's widths, by which matplotlib has placed the text.
    text = buffer.getvalue().replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")
    return text[text.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{html.escape(label)}" ', 1)


def _log_axis(axes: Any, values: Sequence[float]) -> None:
    least, most = min(values), max(values)
    room = max((most / least) ** 0.06, 1.08)
    axes.set_xscale("log")
    axes.set_xlim(least / room, most * room)
    if most / least < 6:
        axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        subs = (1,) if most / least > 3000 else (1, 2, 5)
        axes.xaxis.set_major_locator(LogLocator(base=10, subs=subs, numticks=20))
        axes.xaxis.set_minor_locator(LogLocator(base=10, subs=range(1, 10), numticks=40))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", color=FAINT, linewidth=0.8)


def _rows(axes: Any, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [textwrap.fill(name, NAME_LETTERS) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _colour(each: Ratio) -> str:
    return {None: FREE, True: MET, False: MISSED}[each.met]


def ratio_chart(ratios: Sequence[Ratio]) -> str:
    """Return bars from 1 (as fast as the peer) to the median, each round as a dot, the target as a mark."""
    drawing, axes = _axes(WIDTH_IN, 0.7 + ROW_IN * len(ratios))
    shown = [value for each in ratios for value in (*each.values, each.target or 1.0) if value > 0]
    _log_axis(axes, [*shown, 1.0])
    for place, each in enumerate(ratios):
        colour = _colour(each)
        axes.barh(place, each.median - 1, left=1, height=0.56, color=colour, alpha=0.30, linewidth=0)
        axes.plot([max(min(each.values), 1e-9), max(each.values)], [place] * 2, color=colour, linewidth=1.6)
        axes.scatter(each.values, [place] * len(each.values), s=9, color=colour, linewidths=0)
        axes.plot([each.median] * 2, [place - 0.28, place + 0.28], color=colour, linewidth=2.2)
        if each.target is not None:
            mark = ">" if each.at_least else "<"
            axes.plot([each.target] * 2, [place - 0.42, place + 0.42], color=INK, linewidth=1.3)
            axes.scatter([each.target], [place - 0.42], marker=mark, s=16, color=INK, linewidths=0, clip_on=False)
    axes.axvline(1, color=MUTED, linewidth=1)
    _rows(axes, [each.name for each in ratios])
    return _svg(drawing, "ratios against targets")


def overview_chart(ratios: Sequence[tuple[str, Ratio]]) -> str:
    """Return how far past its target each ratio is: right of 1 met, left of it missed."""
    rows = []
    for suite, each in ratios:
        if each.target and min(each.values) > 0:
            past = [value / each.target if each.at_least else each.target / value for value in each.values]
            rows.append((f"{suite}: {each.name}", each, past))
    if not rows:
        return ""
    drawing, axes = _axes(WIDTH_IN, 0.8 + ROW_IN * len(rows))
    _log_axis(axes, [*(value for _, _, past in rows for value in past), 1.0])
    for place, (_, each, past) in enumerate(rows):
        median = each.median / each.target if each.at_least else each.target / each.median  # type: ignore[operator]
        axes.barh(place, median - 1, left=1, height=0.62, color=_colour(each), alpha=0.8, linewidth=0)
        axes.plot([min(past), max(past)], [place] * 2, color=INK, linewidth=1)
        at_right = median >= 1
        axes.annotate(
            f"{number(each.median)}  (target {target_of(each)})", (max(past) if at_right else min(past), place),
            (5 if at_right else -5, 0), textcoords="offset points", va="center", ha="left" if at_right else "right",
            fontsize=7.5, color=MUTED,
        )  # fmt: skip
    least, most = axes.get_xlim()
    axes.set_xlim(least / (most / least) ** 0.14, most * (most / least) ** 0.14)
    axes.axvline(1, color=INK, linewidth=1.2)
    axes.set_xlabel("times as good as the target asks (log scale; right of the line: met)")
    _rows(axes, [name for name, _, _ in rows])
    return _svg(drawing, "all targets")


def curve_chart(curve: Curve) -> str:
    """Return a curve's lines."""
    drawing, axes = _axes(7.2, 3.6)
    for (name, points), colour, mark in zip(curve.series.items(), LINES * 3, MARKS * 3, strict=False):
        x, y = zip(*sorted(points), strict=True)
        axes.plot(x, y, marker=mark, markersize=4, linewidth=1.6, color=colour, label=name)
    if curve.log_x:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.set_xlabel(curve.x_label)
    axes.set_ylabel(curve.y_label)
    heights = [y for points in curve.series.values() for _, y in points]
    if not 0.5 < min(heights) <= max(heights) <= 1:  # a recall of .97 must be told from one of .99; all else shows 0
        axes.set_ylim(min(0, *heights), max(heights) * 1.05)
    axes.grid(color=FAINT, linewidth=0.8)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return _svg(drawing, "curve")


def figure_chart(unit: str, figures: Sequence[Figure]) -> str:
    """Return figures of one unit as bars, each round as a dot."""
    drawing, axes = _axes(WIDTH_IN, 0.8 + ROW_IN * len(figures))
    values = [value for figure in figures for value in figure.values]
    log = min(values) > 0 and max(values) / min(values) > 30
    if log:
        _log_axis(axes, values)
    else:
        axes.set_xlim(min(0, *values), max(0, *values) * 1.06 or 1)
        axes.grid(axis="x", color=FAINT, linewidth=0.8)
    for place, figure in enumerate(figures):
        left = axes.get_xlim()[0] if log else 0
        axes.barh(place, figure.median - left, left=left, height=0.56, color=FREE, alpha=0.25, linewidth=0)
        axes.plot([min(figure.values), max(figure.values)], [place] * 2, color=FREE, linewidth=1.6)
        axes.scatter(figure.values, [place] * len(figure.values), s=9, color=FREE, linewidths=0)
        axes.plot([figure.median] * 2, [place - 0.28, place + 0.28], color=FREE, linewidth=2.2)
    axes.set_xlabel(unit + (" (log scale)" if log else ""))
    _rows(axes, [figure.name for figure in figures])
    return _svg(drawing, f"figures in {unit}")


def styled() -> Any:
    """Return the context in which to draw."""
    return matplotlib.rc_context(STYLE)
