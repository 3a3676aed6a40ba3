"""What every benchmark speaks: figures with a value for each round, ratios to a peer of the same round, curves.

A suite is a module ``bench_<name>.py`` in this folder with ``run(options: Options) -> Suite``; bench.py finds it by its
name. Rounds alternate between us and the peers, so that a ratio compares what the machine was like at one time.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


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
        return self.median >= self.target if self.at_least else self.median <= self.target


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


def ratio(
    name: str, ours: Sequence[float], peer: Sequence[float], target: float | None = None, *, at_least: bool = True
) -> Ratio:
    """Return the ratio of two lists of values of the same rounds."""
    return Ratio(name, tuple(a / b for a, b in zip(ours, peer, strict=True)), target, at_least)
