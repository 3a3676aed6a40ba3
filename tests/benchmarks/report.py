"""What bench.py prints: where and on what, failures, the count of targets, before and after, the Markdown table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import machine
from harness import Ratio, Suite, console, number, spread, target_of
from rich.markup import escape
from rich.table import Table

#: What stands around the generated part of a page.
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
#: A median that moved less than this is the same, whatever the rounds say.
SAME = 0.03


def machine_line(found: dict[str, Any]) -> str:
    """Return the machine in a sentence."""
    peers = [f"{name} {version}" for name, version in found["peers"].items() if version]
    libraries = [f"{name} {version}" for name, version in found["libraries"].items()]
    return (
        f"{found['cpu']}, {found['cores']} cores ({', '.join(found['instructions'])}), {found['memory_gib']:g} GiB, "
        f"{found['file_system']}, Linux {found['kernel']}, Python {found['python']}; {', '.join(libraries + peers)}"
    )


def head(results: dict[str, Any]) -> None:
    """Print the machine and what is missing on it."""
    out = console()
    out.print(machine_line(results["machine"]), markup=False)
    if missing := machine.missing_peers():
        out.print(missing, style="yellow", markup=False)
    if (load := results["machine"]["load_before"]) > 0.5:
        out.print(f"other programs are at work here (load {load:g}): figures suffer, ratios less", style="yellow")


def begin(name: str) -> None:
    """Print which suite begins; the suite's own process prints what it finds."""
    out = console()
    out.print()
    out.rule(f"[bold]{escape(name)}", align="left")
    out.file.flush()


def end(done: dict[str, Any]) -> None:
    """Print how a suite ended."""
    if "error" in done:
        console().print(f"{done['name']} failed: {done['error']}", style="red", markup=False)
    console().print(f"{done['seconds']:.0f} s", style="dim")


def all_ratios(results: dict[str, Any]) -> Iterator[tuple[str, Ratio]]:
    """Return each ratio with its suite's name."""
    for each in results["suites"]:
        if "error" not in each:
            yield from ((each["name"], found) for found in Suite.from_dict(each).ratios)


def verdicts(results: dict[str, Any]) -> str:
    """Return how many targets were met, what failed and how long it took, in a sentence."""
    judged = [each.met for _, each in all_ratios(results) if each.met is not None]
    failed = [each["name"] for each in results["suites"] if "error" in each]
    minutes = sum(each["seconds"] for each in results["suites"]) / 60
    said = f"{sum(judged)} of {len(judged)} targets met in {minutes:.1f} minutes"
    return said + (f"; failed: {', '.join(failed)}" if failed else "")


def summary(results: dict[str, Any]) -> None:
    """Print the verdicts."""
    console().print(f"\n{verdicts(results)}", style="bold", markup=False)


def changes(earlier: dict[str, Any], results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return for each ratio of both runs its medians, spreads and in a word what became of it.

    A change counts only where the rounds of before and after do not overlap.
    """
    before = {(name, each.name): each for name, each in all_ratios(earlier)}
    found = []
    for name, after in all_ratios(results):
        was = before.get((name, after.name))
        if was is None:
            continue
        change = after.median / was.median - 1 if was.median else 0.0
        apart = min(after.values) > max(was.values) or max(after.values) < min(was.values)
        word = ("better" if (change > 0) == after.at_least else "worse") if apart and abs(change) >= SAME else "same"
        found.append({"suite": name, "name": after.name, "before": was, "after": after, "change": change, "word": word})
    return found


def comparison(earlier: dict[str, Any], results: dict[str, Any]) -> None:
    """Print ratios before and after."""
    table = Table("suite", "ratio", "before", "least – most", "after", "least – most", "change", "", box=None)
    for each in changes(earlier, results):
        colour = {"better": "green", "worse": "red", "same": "default"}[each["word"]]
        before, after = each["before"], each["after"]
        table.add_row(
            each["suite"], escape(each["name"]), number(before.median), spread(before.values), number(after.median),
            spread(after.values), f"{each['change']:+.0%}", f"[{colour}]{each['word']}[/{colour}]",
        )  # fmt: skip
    console().print("\n[bold]Before and after[/bold] (same: the rounds overlap, or less than 3 %)")
    console().print(table)


def markdown_table(results: dict[str, Any]) -> str:
    """Return machine and ratios as Markdown."""
    commits = sorted({each["commit"] or "unknown" for each in results["suites"]})
    dates = sorted({each["date"][:10] for each in results["suites"]})
    lines = [
        f"{dates[0]}{f' to {dates[-1]}' if len(dates) > 1 else ''}, commit {', '.join(commits)}. "
        f"{machine_line(results['machine'])}. {verdicts(results)}.",
        "",
        "| suite | ratio | median | least – most | target | |",
        "|---|---|---|---|---|---|",
    ]
    for name, each in all_ratios(results):
        word = {None: "", True: "met", False: "**missed**"}[each.met]
        cells = [name, each.name.replace("|", "/"), number(each.median), spread(each.values), target_of(each), word]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def markdown(results: dict[str, Any], place: Path) -> None:
    """Print the Markdown table, or write it between the marks of a page.

    Raises
    ------
    SystemExit
        If the page has no marks.
    """
    table = markdown_table(results)
    if str(place) == "-":
        print(table, end="")
        return
    text = place.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{place} has no lines {BEGIN} and {END} to write between")
    before, _, rest = text.partition(BEGIN)
    place.write_text(f"{before}{BEGIN}\n{table}{END}{rest.partition(END)[2]}", encoding="utf-8")
