"""The runtimes, one class each."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch

from encoders.base import Float32
from encoders.runtimes import Engine, Outputs
from encoders.runtimes.cutting import cut
from encoders.runtimes.graph import INPUT, OUTPUTS, ImageGraph, arrays


class TorchEngine:
    """The model as it is, on any device."""

    name = "torch f32"

    def __init__(self, graph: ImageGraph, device: torch.device) -> None:
        self._graph, self._device = graph, device

    def __call__(self, inputs: Float32) -> Outputs:
        """Compute with torch, eagerly."""
        with torch.inference_mode():
            batch = torch.from_numpy(inputs).to(self._device, memory_format=torch.channels_last)
            return cast(Outputs, arrays(self._graph(batch)))


#: Layers whose maps have more than this share of the input's rows compute in f32 in ``mixed``: stride 16 and below.
EARLY = 0.05


#: A batch is shared out among at most so many streams: threads that compute one layer together wait for each other at
#: its end, and each stream holds feature maps of its own.
STREAMS = 4


class OpenVinoEngine:
    """OpenVINO on the CPU; in bfloat16 only where the CPU has instructions for it.

    ``mixed``: the early layers in f32, whose rounding all others carry on, and the rest in bfloat16.
    """

    @staticmethod
    def precisions() -> tuple[str, ...]:
        """Return what this CPU computes in."""
        import openvino

        capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return ("f32", "mixed", "bf16") if "BF16" in capabilities else ("f32",)

    def __init__(self, path: Path, precision: str, threads: int) -> None:
        import openvino

        core = openvino.Core()
        self._streams = min(threads or torch.get_num_threads(), STREAMS)
        settings: dict[str, Any] = {
            "NUM_STREAMS": self._streams,
            "ENABLE_CPU_PINNING": False,            # decoders and other workers share the cores
        }
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        self.name = f"openvino {precision}"
        model = core.read_model(path)
        parts = [(model, precision)]
        if precision == "mixed":
            rows = model.input(INPUT).get_partial_shape()[2].get_length()
            parts = list(zip(cut(model, max(2, round(EARLY * rows))), ("f32", "bf16"), strict=True))
        self._compiled: list[Any] = [
            core.compile_model(part, "CPU", {**settings, "INFERENCE_PRECISION_HINT": hint}) for part, hint in parts
        ]

    def __call__(self, inputs: Float32) -> Outputs:
        """Compute with OpenVINO, a share of the batch in each stream; requests of its own for each call."""
        shares = [[share] for share in np.array_split(inputs, min(self._streams, len(inputs)))]
        for part in self._compiled:
            requests = [part.create_infer_request() for _ in shares]
            for request, share in zip(requests, shares, strict=True):
                request.start_async(dict(enumerate(share)), share_inputs=True)
            for request in requests:
                request.wait()
            shares = [[tensor.data for tensor in request.output_tensors] for request in requests]
        names = [output.any_name for output in self._compiled[-1].outputs]
        columns = dict(zip(names, zip(*shares, strict=True), strict=True))
        return cast(Outputs, tuple(np.concatenate(columns[name]).astype(np.float32, copy=False) for name in OUTPUTS))


class OnnxRuntimeEngine:
    """ONNX Runtime on the CPU."""

    @staticmethod
    def precisions() -> tuple[str, ...]:
        """Return the only one that it has on CPUs."""
        return ("f32",)

    def __init__(self, path: Path, precision: str, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads      # 0: as many as there are cores
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")    # decoders need the cores, too
        self.name = f"onnxruntime {precision}"
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:                  # its own classes have no base in common
            raise RuntimeError(f"{path}: {error}") from error

    def __call__(self, inputs: Float32) -> Outputs:
        """Compute with ONNX Runtime."""
        return cast(Outputs, tuple(self._session.run(list(OUTPUTS), {INPUT: inputs})))


class ExportedEngine(Engine, Protocol):
    """An engine that computes an exported model."""

    @staticmethod
    def precisions() -> tuple[str, ...]:
        """Return in what it can compute on this machine: ``f32``, ``mixed``, ``bf16``."""

    def __init__(self, path: Path, precision: str, threads: int) -> None:
        """Compile an ONNX file; 0 threads for as many as there are cores."""


#: Runtimes of an exported model; each name is that of its package and of our extra.
ENGINES: dict[str, type[ExportedEngine]] = {"openvino": OpenVinoEngine, "onnxruntime": OnnxRuntimeEngine}
