"""results.json and report.html of an evaluation."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from encoders.evaluation import plots
from encoders.evaluation.evaluate import Evaluation, PoolResult
from encoders.evaluation.sheets import contact_sheets

RESULTS_FILE, PAGE_FILE = "results.json", "report.html"
TEMPLATE = Path(__file__).parent / "report.html"

#: Figures shown of each protocol, in this order.
COLUMNS = {
    "B": ("ndcg@10", "map@10", "p@10", "acg@10", "wmap"),
    "headings": ("ndcg@10", "map@10", "p@10"),
    "A": ("map@10", "map@5", "map@20", "map@all", "map0@1", "map0@10", "mapn@10", "acc@5"),
}


def plain(value: Any) -> Any:
    """Return what JSON can say: numbers rounded to five places, null instead of NaN."""
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return round(float(value), 5) if math.isfinite(value) else None
    return value


def _pictures(result: dict[str, Any], drawn: PoolResult, results: dict[str, Any], sheets: bool) -> dict[str, Any]:
    reference = results["reference"]
    calibration = result["calibration"][reference]
    findings = {name: result["findings"][name] for name in results["checkpoints"] if name in result["findings"]}
    diagrams = {
        name: calibration[kind]
        for name, kind in (("findings", "findings"), ("score of pairs", "score"))
        if calibration[kind] is not None
    }
    return {
        "ndcg": plots.curves_by_k(result["retrieval"]["by_k"], reference, "ndcg"),
        "map": plots.curves_by_k(result["retrieval"]["by_k"], reference, "map"),
        "findings": plots.finding_bars(findings) if findings[reference] else None,
        "calibration": {name: plots.reliability_diagram({name: diagram}) for name, diagram in diagrams.items()},
        "subspace": plots.subspace_map(drawn),
        "sheets": contact_sheets(drawn) if sheets else [],
    }


def write_page(evaluation: Evaluation, folder: Path, *, sheets: bool = True) -> Path:
    """Write results.json and the self-contained report.html into a folder; return the page's path.

    With contact sheets the page holds small pictures of the manifest's images: guard it as these.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder.mkdir(parents=True, exist_ok=True)
    results = plain(evaluation.results)
    (folder / RESULTS_FILE).write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(TEMPLATE.name).render(
        results=results,
        columns=COLUMNS,
        sheets=sheets,
        pictures=[
            _pictures(result, drawn, results, sheets)
            for result, drawn in zip(evaluation.results["pools"], evaluation.pools, strict=True)
        ],
    )
    path = folder / PAGE_FILE
    path.write_text(page, encoding="utf-8")
    return path
