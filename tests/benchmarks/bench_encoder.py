"""Images a second of the image tower: optional runtimes beside torch's eager mode, which every model starts with.

What is timed takes preprocessed images and gives what vectors are made of: features, embedding, logits. The last ratio
is of whole `encode_images` calls, with squeezing and standardising. A runtime that the comparison with torch at the
start refuses for this checkpoint is measured, too; a note says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import harness
import numpy as np
import torch

from encoders.common_subspace import CommonSubspaceEncoder
from encoders.phantom import draw
from encoders.runtimes import OPTIONAL, Engine, RuntimeChoice, missing_packages
from encoders.runtimes.engines import ENGINES, TorchEngine
from encoders.runtimes.graph import GraphFile, ImageGraph

TARGET = 2.5
BATCHES = (1, 8, 32)
#: Least time for one figure of one round.
SECONDS = 0.6
BASE = "torch f32"


def images_per_second(compute: Callable[[Any], object], batch: Any) -> float:
    """Return how many images a second a function computes, over at least SECONDS."""
    count, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < SECONDS:
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


def engines(encoder: CommonSubspaceEncoder, size: int, options: harness.Options) -> dict[str, Engine]:
    """Return torch and all that is installed, by name; nothing is refused here."""
    graph = ImageGraph(encoder._model)
    found: dict[str, Any] = {BASE: TorchEngine(graph, torch.device("cpu")), TorchAutocast.name: TorchAutocast(graph)}
    file = GraphFile(graph, size, encoder.fingerprint, options.work)
    for name in OPTIONAL:
        if not missing_packages(name):
            for precision in ENGINES[name].precisions():
                engine = ENGINES[name](file.ready(), precision, 0)
                found[engine.name] = engine
    return found


def run(options: harness.Options) -> harness.Suite:
    """Measure every runtime at every batch size; rounds alternate between them."""
    suite = harness.Suite("encoder", "Encoder: images a second, beside torch's eager mode on the same cores")
    encoder = CommonSubspaceEncoder.load()
    probe = encoder._probe()
    generator = np.random.default_rng(0)
    for size in dict.fromkeys((encoder.image_size, 224)):
        found = engines(encoder, size, options)
        refused = {}
        if size == encoder.image_size:
            reference = found[BASE](probe.inputs)
            refused = {name: probe.disagreement(each, reference) for name, each in found.items() if name in _exported()}
            suite.notes += [f"refused for this checkpoint: {name}: {why}" for name, why in refused.items() if why]
        for count in BATCHES:
            batch = generator.standard_normal((count, 1, size, size)).astype(np.float32) * 0.5
            values: dict[str, list[float]] = {name: [] for name in found}
            for each in found.values():
                each(batch)                         # the first one compiles
            for _ in range(options.rounds):
                for name, each in found.items():
                    values[name].append(images_per_second(each, batch))
            for name, measured in values.items():
                suite.figures.append(harness.Figure(f"{name}, {size} px, batch {count}", "images/s", tuple(measured)))
                if name != BASE:
                    target = TARGET if name in _exported() and count == 8 and "bf16" not in name else None
                    suite.ratios.append(
                        harness.ratio(f"{name} / torch, {size} px, batch {count}", measured, values[BASE], target)
                    )
    _whole_calls(suite, encoder, options)
    suite.notes.append(f"{torch.get_num_threads()} threads")
    return suite


def _exported() -> set[str]:
    return {f"{name} {each}" for name in OPTIONAL if not missing_packages(name) for each in ENGINES[name].precisions()}


def _whole_calls(suite: harness.Suite, encoder: CommonSubspaceEncoder, options: harness.Options) -> None:
    """Add encode_images of batches as the worker sends them, by torch and by what ``auto`` chooses."""
    chosen = CommonSubspaceEncoder.load(runtime=RuntimeChoice("auto", "auto", options.work))
    images = [draw(seed, 512)[0] for seed in range(8)]
    values: tuple[list[float], list[float]] = ([], [])
    for each in (encoder, chosen):
        each.encode_images(images)
    for _ in range(options.rounds):
        for measured, each in zip(values, (chosen, encoder), strict=True):
            measured.append(images_per_second(each.encode_images, images))
    name = f"auto: {chosen.runtime}"
    suite.figures.append(harness.Figure(f"{name}, whole calls of 8 images of 512 px", "images/s", tuple(values[0])))
    suite.figures.append(harness.Figure("torch f32, whole calls of 8 images of 512 px", "images/s", tuple(values[1])))
    suite.ratios.append(harness.ratio(f"{name} / torch, whole calls", values[0], values[1], TARGET))


if __name__ == "__main__":
    harness.main(run)
