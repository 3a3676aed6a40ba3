"""Which runtime computes: the configured one, or the fastest that agrees with torch on this machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import structlog

from encoders.base import Float32
from encoders.runtimes import Engine, Outputs, RuntimeChoice, RuntimeUnusable, missing_packages
from encoders.runtimes.engines import ENGINES
from encoders.runtimes.graph import GraphFile

log = structlog.get_logger(__name__)

#: The least cosine between a runtime's vector of an image and torch's.
LEAST_COSINE = 0.999
#: The furthest that a probability of a finding may move.
FURTHEST_PROBABILITY = 0.01
#: What a runtime that is broken, or does not know an operator, can raise.
_ENGINE_FAULTS = (RuntimeError, ValueError, TypeError, OSError, ImportError)
#: How often each engine computes the probe images when speeds are compared.
_TRIES = 5


@dataclass(frozen=True, slots=True)
class Probe:
    """Images to compare engines with, and what becomes of an engine's outputs.

    Attributes
    ----------
    inputs : ndarray of float32, shape (n, 1, rows, columns)
        Standardised sheets.
    finish : callable
        From outputs to unit vectors (n, dim) and findings' probabilities (n, 14), as the encoder makes them.
    """

    inputs: Float32
    finish: Callable[[Outputs], tuple[Float32, Float32]]

    def disagreement(self, engine: Engine, reference: Outputs) -> str:
        """Return in what an engine differs from torch's outputs, "" when it agrees."""
        vectors, findings = self.finish(engine(self.inputs))
        expected_vectors, expected_findings = self.finish(reference)
        cosine = float((vectors * expected_vectors).sum(1).min())
        moved = float(np.abs(findings - expected_findings).max())
        if cosine >= LEAST_COSINE and moved <= FURTHEST_PROBABILITY:            # NaN agrees with nothing
            return ""
        return f"cosine {cosine:.4f} (needed: {LEAST_COSINE}), probabilities moved by {moved:.3f}"

    def seconds(self, engines: Sequence[Engine]) -> dict[str, float]:
        """Return the least time that each engine took for all images, by its name.

        They compute by turns: what else runs on the machine then slows them all, not the one whose turn it is.
        """
        times = dict.fromkeys((engine.name for engine in engines), math.inf)
        for _ in range(_TRIES):
            for engine in engines:
                began = time.perf_counter()
                engine(self.inputs)
                times[engine.name] = min(times[engine.name], time.perf_counter() - began)
        return times


def choose(wanted: RuntimeChoice, torch_engine: Engine, file: GraphFile, probe: Probe, threads: int) -> Engine:
    """Return the engine to compute with; the fastest where more than one may be used.

    Parameters
    ----------
    threads : int
        0 for as many as there are cores.

    Raises
    ------
    RuntimeUnusable
        If the runtime that was named does not agree with torch in any precision that may be used.
    """
    names = [name for name in ENGINES if not missing_packages(name)] if wanted.name == "auto" else [wanted.name]
    reference = torch_engine(probe.inputs)
    usable, reasons = _usable(names, wanted.precision, file, probe, reference, threads)
    if wanted.name == "auto":
        usable.append(torch_engine)
    if not usable:
        raise RuntimeUnusable(
            f'encoder.runtime = "{wanted.name}" cannot be used: {"; ".join(reasons)}; set another one, or "torch"'
        )
    if len(usable) == 1:
        chosen, times = usable[0], {}
    else:
        times = probe.seconds(usable)
        chosen = min(usable, key=lambda engine: times[engine.name])
    ms_per_image = {name: round(seconds * 1e3 / len(probe.inputs), 2) for name, seconds in times.items()}
    log.info("runtime.chosen", runtime=chosen.name, ms_per_image=ms_per_image, refused=reasons)
    return chosen


def _usable(
    names: list[str], precision: str, file: GraphFile, probe: Probe, reference: Outputs, threads: int
) -> tuple[list[Engine], list[str]]:
    """Return the engines that agree with torch, and why each other one does not."""
    usable: list[Engine] = []
    reasons: list[str] = []
    for name in names:
        for each in ENGINES[name].precisions():
            if precision not in ("auto", each):
                continue
            try:
                engine = ENGINES[name](file.ready(), each, threads)
                fault = probe.disagreement(engine, reference)
            except RuntimeUnusable as error:        # the export failed: it would for the others, too
                return usable, [*reasons, str(error)]
            except _ENGINE_FAULTS as error:
                fault = type(error).__name__
            if fault:
                reasons.append(f"{name} {each}: {fault}")
            else:
                usable.append(engine)
        if precision not in ("auto", *ENGINES[name].precisions()):
            reasons.append(f"{name} does not compute in {precision} on this CPU")
    return usable, reasons
