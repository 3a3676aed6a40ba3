"""The ablation table as numbers for JSON, and as Markdown."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from encoders.evaluation.ablation_figures import Figure, Judged
from encoders.evaluation.resampling import interval
from encoders.evaluation.systems import RANDOM

if TYPE_CHECKING:
    from encoders.evaluation.ablation import Results


def _cell(figure: Figure) -> dict[str, Any]:
    low, high = figure.interval
    return {
        "mean": figure.mean, "low": low, "high": high, "queries": figure.queries,
        "seeds": list(figure.seeds),
    }


def _difference(figure: Figure, other: Figure) -> dict[str, float]:
    draws = figure.draws - other.draws
    low, high = interval(draws)
    return {"mean": figure.mean - other.mean, "low": low, "high": high}


def tables(results: Results) -> dict[str, Any]:
    """Return every figure of every system, and its paired difference to the row that it is against."""
    shown = {row.name: row for row in results.table.rows if row.shown}
    against = {name: row.against for name, row in shown.items()}
    rows = []
    for name, judged in results.judged.items():
        other: Judged = results.judged.get(against.get(name, ""), {})
        figures: dict[str, dict[str, Any]] = {}
        for (source, figure), value in judged.items():
            cell = _cell(value)
            if (source, figure) in other:
                cell["difference"] = _difference(value, other[source, figure])
            figures.setdefault(source, {})[figure] = cell
        cost = {"seconds": round(results.seconds[name], 1), "passes": shown[name].passes} if name in shown else None
        rows.append({"name": name, "against": against.get(name, ""), "cost": cost, "figures": figures})
    return {
        "columns": [column.model_dump() for column in results.table.columns],
        "notes": list(results.table.notes),
        "chance": RANDOM,
        "rows": rows,
    }


def short(value: float | None, *, sign: bool = False) -> str:
    """Return .315, or +.012 with a sign."""
    if value is None or not math.isfinite(value):
        return "-"
    text = f"{abs(value):.3f}".removeprefix("0")
    return f"{'−' if value < 0 else '+'}{text}" if sign else text


def _value(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "-"
    return f"{short(cell['mean'])} ({short(cell['low'])}–{short(cell['high'])})"


def _range(cell: dict[str, Any] | None) -> str:
    if cell is None or len(cell["seeds"]) < 2:
        return "-"
    return f"{short(min(cell['seeds']))}–{short(max(cell['seeds']))}"


def _gain(cell: dict[str, Any] | None) -> str:
    if cell is None or "difference" not in cell:
        return "-"
    gain = cell["difference"]
    text = f"{short(gain['mean'], sign=True)} ({short(gain['low'], sign=True)} to {short(gain['high'], sign=True)})"
    return f"**{text}**" if gain["low"] > 0 or gain["high"] < 0 else text


def markdown(values: dict[str, Any]) -> str:
    """Return the tables as Markdown: figures with intervals, ranges over seeds, differences."""
    columns = values["columns"]

    def lines(first: str, rows: list[dict[str, Any]], write: Any, more: str = "") -> list[str]:
        head = [first, *([more] if more else []), *(column["title"] for column in columns)]
        result = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
        for row in rows:
            cells = [write(row["figures"].get(c["source"], {}).get(c["figure"])) for c in columns]
            result.append(f"| {' | '.join([row['name'], *([row['against']] if more else []), *cells])} |")
        return [*result, ""]

    counts = {
        c["source"]: values["rows"][0]["figures"][c["source"]]["ndcg@10"]["queries"] for c in columns
    }
    text = [
        "# Ablations",
        "",
        "The experiments are the TOML files in `ablation/`; all figures stand in the JSON beside them. Written by",
        "",
        "    python -m encoders.evaluation.ablation --manifest studies.csv --output runs \\",
        "        --checkpoint encoders/weights",
        "",
        "Trained on the `train` split, judged on `val`, frontal images, one of each study, same patient left out;",
        "nothing of the validation split enters a training (no early stopping). Abnormal queries of protocol B: "
        + ", ".join(f"{source} {count}" for source, count in counts.items()) + ".",
        "",
        *(f"- {note}" for note in values["notes"]),
        *([""] if values["notes"] else []),
        "## Figures",
        f"Mean over the seeds (95 % interval: bootstrap over images). `{values['chance']}` is chance.",
        "",
        *lines("system", values["rows"], _value),
        "## Range over seeds",
        "Smallest and largest of the seeds' own figures; `-`: one seed.",
        "",
        *lines("system", [r for r in values["rows"] if r["name"] != values["chance"]], _range),
        "## Differences",
        "Paired, image by image (95 % interval); bold: the interval leaves out 0.",
        "",
        *lines("system", [r for r in values["rows"] if r["against"]], _gain, "minus"),
        "## Cost",
        "Seconds of one core for a row's own training, on kept features where its tower is frozen (the towers are rows",
        "of their own, or stand in `ablation/curves`); passes of the tower for each image.",
        "",
        "| system | training, s | passes |",
        "|---|---|---|",
        *(
            f"| {row['name']} | {row['cost']['seconds']:.0f} | {row['cost']['passes']} |"
            for row in values["rows"] if row.get("cost")
        ),
        "",
    ]
    return "\n".join(text)
