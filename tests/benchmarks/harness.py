"""What every benchmark speaks: figures with a value for each round, ratios to a peer of the same round, curves.

A suite is a module ``bench_<name>.py`` in this folder with ``run(options: Options) -> Suite``; bench.py finds it by its
name. Rounds alternate between us and the peers, so that a ratio compares what the machine was like at one time. It ends
with ``if __name__ == "__main__": main(run)`` and so runs alone as well (``--full``, ``--rounds N``, ``--json FILE``).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import mmap
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

#: For every DCMTK and Orthanc process: without it Nagle and delayed ACK cost these peers ~45 ms an answer.
PEER_ENVIRONMENT = {"TCP_NODELAY": "1", "TCP_BUFFER_LENGTH": "4194304"}


@dataclass(frozen=True, slots=True)
class Options:
    """How long and how large a run may be.

    Attributes
    ----------
    work : Path
        Empty folder for the suite's files; removed afterwards.
    full : bool
        The long run: 230,000 and 1,000,000 vectors.
    rounds : int
        So many alternations between us and the peers.
    """

    work: Path
    full: bool = False
    rounds: int = 3


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured quantity: a value a round."""

    name: str
    unit: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """Return the median over rounds."""
        return statistics.median(self.values)


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ours over a peer's, round by round; `target` is what the project asks for.

    Attributes
    ----------
    at_least : bool
        True: the ratio must reach the target (throughput). False: it must not pass it (time, memory).
    """

    name: str
    values: tuple[float, ...]
    target: float | None = None
    at_least: bool = True

    @property
    def median(self) -> float:
        """Return the median over rounds."""
        return statistics.median(self.values)

    @property
    def met(self) -> bool | None:
        """Return whether the median reaches the target; None without one."""
        if self.target is None:
            return None
        return bool(self.median >= self.target if self.at_least else self.median <= self.target)  # of numpy's, too


@dataclass(frozen=True, slots=True)
class Curve:
    """Lines over a common axis, for the report's plots: series name -> points (x, y)."""

    name: str
    x_label: str
    y_label: str
    series: dict[str, list[tuple[float, float]]]
    log_x: bool = False


@dataclass(slots=True)
class Suite:
    """What one benchmark found."""

    name: str
    title: str
    figures: list[Figure] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can say, with medians and verdicts for readers that only read."""
        found = dataclasses.asdict(self)
        for said, figure in zip(found["figures"], self.figures, strict=True):
            said["median"] = figure.median
        for said, each in zip(found["ratios"], self.ratios, strict=True):
            said |= {"median": each.median, "met": each.met}
        return found

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Suite:
        """Return the suite that `to_dict` said."""
        return cls(
            found["name"],
            found["title"],
            [Figure(each["name"], each["unit"], tuple(each["values"])) for each in found["figures"]],
            [Ratio(r["name"], tuple(r["values"]), r["target"], r["at_least"]) for r in found["ratios"]],
            [
                Curve(
                    curve["name"], curve["x_label"], curve["y_label"],
                    {name: [(x, y) for x, y in points] for name, points in curve["series"].items()}, curve["log_x"],
                )
                for curve in found["curves"]
            ],
            list(found["notes"]),
        )  # fmt: skip


def ratio(
    name: str, ours: Sequence[float], peer: Sequence[float], target: float | None = None, *, at_least: bool = True
) -> Ratio:
    """Return the ratio of two lists of values of the same rounds."""
    return Ratio(name, tuple(a / b for a, b in zip(ours, peer, strict=True)), target, at_least)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that so many percent of all values do not pass (nearest rank)."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def await_listeners(port: int, wanted: int = 1, timeout_s: float = 60) -> None:
    """Wait until as many sockets listen on a port (PROC(5): state 0A of net/tcp).

    Raises
    ------
    TimeoutError
        If they do not in time.
    """
    deadline, mark = time.monotonic() + timeout_s, f":{port:04X} "
    while time.monotonic() < deadline:
        tables = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
        if sum(mark in line[:60] and line.split()[3] == "0A" for line in tables.splitlines()) >= wanted:
            return
        time.sleep(0.05)
    raise TimeoutError(f"fewer than {wanted} processes listen on port {port} after {timeout_s} s")


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a running process has used (PROC(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int | str = "self") -> int:
    """Return the memory that a running process holds (PROC(5))."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def claim_memory(size: int) -> None:
    """Have so many bytes, at most half of what is available, touched and free, so that what follows finds them.

    A virtual machine whose host takes free memory back (virtio balloon, free page reporting) pays for every page that
    it has not used lately: writing a 10 MB object cost 30 ms of CPU time there instead of 16, to whoever came late in
    a suite.
    """
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    size = min(size, available // 2)
    with mmap.mmap(-1, size) as memory:
        for place in range(0, size, mmap.PAGESIZE):
            memory[place] = 1


def end(process: subprocess.Popen[Any], grace_s: float = 15) -> float:
    """End a child, by force after `grace_s`; return the CPU seconds that it and its own children have used."""
    process.terminate()
    killer = threading.Timer(grace_s, process.kill)  # Orthanc does not end while it has work
    killer.start()
    _, status, usage = os.wait4(process.pid, 0)
    killer.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def number(value: float) -> str:
    """Return a value with about three digits that mean something."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 1:
        return f"{value:.1f}" if size >= 10 else f"{value:.2f}"
    return f"{value:.3f}" if size >= 0.01 else f"{value:.3g}"


def spread(values: Sequence[float]) -> str:
    """Return least and most."""
    return number(values[0]) if len(values) == 1 else f"{number(min(values))} – {number(max(values))}"


def target_of(each: Ratio) -> str:
    """Return the target in signs."""
    return "" if each.target is None else f"{'≥' if each.at_least else '≤'} {each.target:g}"


def verdict(each: Ratio) -> str:
    """Return the target's fate in a word."""
    return {None: "", True: "met", False: "missed"}[each.met]


def console() -> Console:
    """Return where to print; wide where no terminal says how wide."""
    return Console(width=None if sys.stdout.isatty() else 140, highlight=False)


def show(suite: Suite) -> None:
    """Print a suite as tables."""
    out = console()
    out.print()
    out.print(suite.title, style="bold", markup=False)
    if suite.ratios:
        table = Table("ratio", "median", "least – most", "target", "", box=None, pad_edge=False)
        for each in suite.ratios:
            colour = {None: "default", True: "green", False: "red"}[each.met]
            word = f"[{colour}]{verdict(each)}[/{colour}]"
            table.add_row(escape(each.name), number(each.median), spread(each.values), target_of(each), word)
        out.print(table)
    if suite.figures:
        table = Table("figure", "median", "least – most", "unit", box=None, pad_edge=False)
        for figure in suite.figures:
            table.add_row(escape(figure.name), number(figure.median), spread(figure.values), figure.unit)
        out.print(table)
    for note in suite.notes:
        out.print(f"  {note}", style="dim", markup=False)


def main(run: Callable[[Options], Suite]) -> None:
    """Run one suite from the command line: print it, write it as JSON where wanted, remove its folder."""
    parser = argparse.ArgumentParser(description=sys.modules[run.__module__].__doc__)
    parser.add_argument("--full", action="store_true", help="230,000 and 1,000,000 vectors")
    parser.add_argument("--rounds", type=int, default=3, help="alternations between us and the peers")
    parser.add_argument("--json", type=Path, help="write the suite's figures to this file")
    parser.add_argument("--work", type=Path, help="make the suite's folder here (default: the system's temporary)")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=wanted.work, ignore_cleanup_errors=True) as work:
        suite = run(Options(Path(work), wanted.full, wanted.rounds))
    show(suite)
    if wanted.json:
        wanted.json.write_text(json.dumps(suite.to_dict(), indent=1) + "\n")
