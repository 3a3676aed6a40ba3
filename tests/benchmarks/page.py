"""bench.html: one file with tables and plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import charts
import report
from harness import Figure, Suite, number, spread, target_of, verdict
from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATE = Path(__file__).parent / "page.html"


def _by_unit(figures: Sequence[Figure]) -> dict[str, list[Figure]]:
    found: dict[str, list[Figure]] = {}
    for figure in figures:
        found.setdefault(figure.unit, []).append(figure)
    return found


def _section(each: dict[str, Any]) -> dict[str, Any]:
    if "error" in each:
        return {"run": each, "suite": None}
    suite = Suite.from_dict(each)
    return {
        "run": each,
        "suite": suite,
        "ratios": charts.ratio_chart(suite.ratios) if suite.ratios else "",
        "curves": [(curve, charts.curve_chart(curve)) for curve in suite.curves],
        "figures": [charts.figure_chart(unit, figures) for unit, figures in _by_unit(suite.figures).items()],
    }


def write(results: dict[str, Any], folder: Path, earlier: dict[str, Any] | None = None) -> Path:
    """Write bench.html into a folder; return its path."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"number": number, "spread": spread, "target_of": target_of, "verdict": verdict}
    with charts.styled():
        text = environment.get_template(TEMPLATE.name).render(
            results=results,
            verdicts=report.verdicts(results),
            overview=charts.overview_chart(list(report.all_ratios(results))),
            sections=[_section(each) for each in results["suites"]],
            changes=report.changes(earlier, results) if earlier else [],
        )
    path = folder / "bench.html"
    path.write_text(text, encoding="utf-8")
    return path
