"""Images a second of the image tower: optional runtimes beside torch's eager mode, which every model starts with.

What is timed takes preprocessed images and gives what vectors are made of: features, embedding, logits. The last ratios
are of whole `encode_images` calls, with squeezing and standardising. A runtime that the comparison with torch at the
start refuses for this checkpoint is measured, too; a note says so. Torch is as it comes, but for one ratio: glibc's
malloc gives memory back to the kernel after each layer, and the worker has it keep it (daemon.roles.keep_memory).

The ratios with one thread are of images a second of CPU time, which other programs on the same cores hardly change;
with several threads a busy machine makes torch look far slower than it is, for its threads wait for one another.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch

from encoders.common_subspace import CommonSubspaceEncoder
from encoders.preprocess import sheet_shape
from encoders.runtimes import OPTIONAL, Engine, missing_packages
from encoders.runtimes.engines import ENGINES, TorchEngine
from encoders.runtimes.graph import GraphFile, ImageGraph
from encoders.towers.model import MultimodalModel

TARGET = 2.5
BATCHES = (1, 8, 32)
#: Least time for one figure of one round.
SECONDS = 0.6
BASE = "torch f32"


Clock = Callable[[], float]


def images_per_second(compute: Callable[[Any], object], batch: Any, clock: Clock = time.perf_counter) -> float:
    """Return how many images a second of a clock a function computes, over at least SECONDS."""
    count, began = 0, clock()
    while (took := clock() - began) < SECONDS:
        compute(batch)
        count += len(batch)
    return count / took


class TorchAutocast:
    """Torch in bfloat16, channels last: what a model gains without any other runtime."""

    name = "torch bf16"

    def __init__(self, graph: ImageGraph) -> None:
        self._graph = graph

    def __call__(self, inputs: Any) -> Any:
        batch = torch.from_numpy(inputs).to(memory_format=torch.channels_last)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            return self._graph(batch)


@dataclass(frozen=True)
class Case:
    """A model and the shape of its input: ``what`` they are called in the report."""

    what: str
    model: MultimodalModel
    shape: tuple[int, int]
    key: str


def cases(encoder: CommonSubspaceEncoder) -> list[Case]:
    """Return the shipped model with its own sheets, and its first tower alone at the 224 px of the literature."""
    model, sizes = encoder._model, encoder.constants.sizes
    towers = getattr(model.image_tower, "members", [model.image_tower])
    alone = MultimodalModel(towers[0], model.text_tower, model.subspace).eval()
    return [
        Case(" and ".join(map(str, sizes)) + " px", model, sheet_shape(sizes), encoder.fingerprint),
        Case("first tower, 224 px", alone, (224, 224), encoder.fingerprint[::-1]),
    ]


def engines(case: Case, options: harness.Options, threads: int = 0) -> dict[str, Engine]:
    """Return torch and all that is installed, by name; nothing is refused here."""
    graph = ImageGraph(case.model)
    found: dict[str, Any] = {BASE: TorchEngine(graph, torch.device("cpu")), TorchAutocast.name: TorchAutocast(graph)}
    file = GraphFile(graph, case.shape, case.key, options.work)
    for name in OPTIONAL:
        if not missing_packages(name):
            for precision in ENGINES[name].precisions():
                engine = ENGINES[name](file.ready(), precision, threads)
                found[engine.name] = engine
    return found


def run(options: harness.Options) -> harness.Suite:
    """Measure every runtime at every batch size; rounds alternate between them."""
    suite = harness.Suite("encoder", "Encoder: images a second, beside torch's eager mode on the same cores")
    encoder = CommonSubspaceEncoder.load()
    threads = torch.get_num_threads()
    suite.notes.append(f"{threads} threads where not said otherwise")
    for case in cases(encoder):
        torch.set_num_threads(1)
        alone = engines(case, options, 1)
        if case.model is encoder._model:
            suite.notes += refused(encoder, alone)
        compare(suite, alone, case, 8, "one thread, CPU time", time.process_time, options.rounds)
        torch.set_num_threads(threads)
        found = engines(case, options)
        for count in BATCHES:
            compare(suite, found, case, count, "", time.perf_counter, options.rounds)
    _whole_calls(suite, options)
    return suite


def refused(encoder: CommonSubspaceEncoder, found: dict[str, Engine]) -> list[str]:
    """Return what the comparison with torch would refuse, and why."""
    probe = encoder._probe()
    reference = found[BASE](probe.inputs)
    faults = {name: probe.disagreement(each, reference) for name, each in found.items() if name in _exported()}
    return [f"refused for this checkpoint: {name}: {fault}" for name, fault in faults.items() if fault]


def compare(
    suite: harness.Suite, found: dict[str, Engine], case: Case, count: int, how: str, clock: Clock, rounds: int
) -> None:
    """Add the figures of all engines at one batch size, and their ratios to torch."""
    batch = np.random.default_rng(0).standard_normal((count, 1, *case.shape)).astype(np.float32) * np.float32(0.5)
    values: dict[str, list[float]] = {name: [] for name in found}
    for each in found.values():
        each(batch)                                 # the first one compiles
    for _ in range(rounds):
        for name, each in found.items():
            values[name].append(images_per_second(each, batch, clock))
    what = f"{case.what}, batch {count}" + (f", {how}" if how else "")
    for name, measured in values.items():
        suite.figures.append(harness.Figure(f"{name}, {what}", "images/s", tuple(measured)))
        if name != BASE:
            target = TARGET if name in _exported() and count == 8 and "bf16" not in name else None
            suite.ratios.append(harness.ratio(f"{name} / torch, {what}", measured, values[BASE], target))


def _exported() -> set[str]:
    return {f"{name} {each}" for name in OPTIONAL if not missing_packages(name) for each in ENGINES[name].precisions()}


#: encode_images of batches as the worker sends them: images a second for each line read. Arguments: runtime, cache, and
#: whether malloc keeps memory as in the worker, or is as it comes.
_WHOLE = """
import sys
from pathlib import Path
from bench_encoder import images_per_second
from daemon.roles import keep_memory
from encoders.common_subspace import CommonSubspaceEncoder
from encoders.phantom import draw
from encoders.runtimes import RuntimeChoice
runtime, cache, memory = sys.argv[1:]
if memory == "kept":
    keep_memory()
encoder = CommonSubspaceEncoder.load(runtime=RuntimeChoice(runtime, "auto", Path(cache)))
images = [draw(seed, 512)[0] for seed in range(8)]
encoder.encode_images(images)
print(encoder.runtime, flush=True)
for line in sys.stdin:
    print(images_per_second(encoder.encode_images, images), flush=True)
"""


@contextlib.contextmanager
def _process(runtime: str, memory: str, cache: Path) -> Iterator[tuple[str, Callable[[], float]]]:
    """Give the name of what computes in a process of its own, and a function that measures whole calls there."""
    here = Path(__file__).parent
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": f"{here}{os.pathsep}{here.parents[1]}"}
    command = [sys.executable, "-c", _WHOLE, runtime, str(cache), memory]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ask, answers = process.stdin, process.stdout

        def measured() -> float:
            print(file=ask, flush=True)
            return float(answers.readline())

        line = next((line for line in answers if line.startswith(("torch", *OPTIONAL))), "")
        assert line, f"{runtime}: the process that measures it ended"
        yield line.strip(), measured
        ask.close()


def _whole_calls(suite: harness.Suite, options: harness.Options) -> None:
    """Add whole calls by what ``auto`` chooses, beside torch as it comes, and with the worker's memory settings.

    Each in a process of its own: what one runtime has freed, malloc keeps for the next.
    """
    what = "whole calls of 8 images of 512 px"
    with contextlib.ExitStack() as stack:
        found = {
            (runtime, memory): stack.enter_context(_process(runtime, memory, options.work))
            for runtime, memory in (("auto", "kept"), ("torch", "as it comes"), ("torch", "kept"))
        }
        values: dict[tuple[str, str], list[float]] = {key: [] for key in found}
        for _ in range(options.rounds):
            for key, (_, measured) in found.items():
                values[key].append(measured())
    name = f"auto: {found['auto', 'kept'][0]}"
    for (runtime, memory), measured in values.items():
        title = name if runtime == "auto" else found[runtime, memory][0]
        suite.figures.append(harness.Figure(f"{title}, {what}, memory {memory}", "images/s", tuple(measured)))
    ours = values["auto", "kept"]
    suite.ratios += [
        harness.ratio(f"{name} / torch, whole calls", ours, values["torch", "as it comes"], TARGET),
        harness.ratio(f"{name} / torch with the worker's memory settings, whole calls", ours, values["torch", "kept"]),
    ]


if __name__ == "__main__":
    harness.main(run)
