"""The image side of a model as one graph, and its ONNX file: written once, verified at every start."""

from __future__ import annotations

import fcntl
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from encoders.base import Float32
from encoders.checkpoint import sha256_of
from encoders.runtimes import RuntimeUnusable
from encoders.towers.model import MultimodalModel

#: Raised when ImageGraph computes something else than before: files of an older number are not used again.
GRAPH = 2

INPUT = "images"
#: No name of an operator, such as view: the exporter names values by them, and no two may be called alike.
OUTPUTS = ("features", "embedding", "findings", "frontal")


class ImageGraph(nn.Module):
    """Standardised sheets (n, 1, rows, columns) to pooled features, embeddings, logits of findings and of the view."""

    def __init__(self, model: MultimodalModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        features, embedding = self.model.embed_images(images)
        findings = self.model.findings(features, embedding)
        return features, embedding, findings, self.model.subspace.predict(embedding, "view")


class GraphFile:
    """The ONNX file of one checkpoint in a cache folder; whoever finds none writes it.

    Its name tells the weights, the exporter and this module's own version: it is the same for every runtime and
    precision, which are chosen when it is compiled. Beside it lies its sha256. The folder may be emptied at any time.
    """

    def __init__(self, graph: ImageGraph, shape: tuple[int, int], fingerprint: str, folder: Path) -> None:
        self._graph, self._shape = graph, shape
        self.path = folder / f"{fingerprint[:16]}-{shape[0]}x{shape[1]}-torch{torch.__version__}-{GRAPH}.onnx"
        self._sum = self.path.with_suffix(".sha256")

    def ready(self) -> Path:
        """Return the file, exported first if there is none or it is damaged.

        Raises
        ------
        RuntimeUnusable
            If it cannot be exported or written.
        """
        if not self._intact():
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with _alone(self.path.parent / "export.lock"):
                    if not self._intact():          # another process may have written it meanwhile
                        self._write()
            except OSError as error:
                raise RuntimeUnusable(
                    f"{self.path.parent}: the exported model cannot be written ({error.strerror}); give the folder to "
                    'this user, or set encoder.runtime = "torch"'
                ) from error
        return self.path

    def _intact(self) -> bool:
        try:
            return self._sum.read_text(encoding="ascii").strip() == sha256_of(self.path)
        except (OSError, ValueError):
            return False

    def _write(self) -> None:
        self._sum.unlink(missing_ok=True)
        part = self.path.with_suffix(f".{os.getpid()}.part")
        try:
            export(self._graph, self._shape, part)
            with part.open("rb") as written:
                os.fsync(written.fileno())
            checksum = sha256_of(part)
            part.replace(self.path)
        finally:
            part.unlink(missing_ok=True)
        part.write_text(checksum, encoding="ascii")
        part.replace(self._sum)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def export(graph: ImageGraph, shape: tuple[int, int], path: Path) -> None:
    """Write a graph as one ONNX file for any number of sheets of a shape (rows, columns).

    Raises
    ------
    RuntimeUnusable
        If the exporter is not installed or does not know what the model does.
    """
    if graph.model.attention != "none":
        raise RuntimeUnusable(
            f'a model with attention = "{graph.model.attention}" cuts out regions between two passes, which is no one '
            'graph; set encoder.runtime = "torch"'
        )
    example = torch.zeros(2, 1, *shape)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")         # torch's own deprecations
            program = torch.onnx.export(
                graph, (example,), dynamo=True, verbose=False, input_names=[INPUT], output_names=list(OUTPUTS),
                dynamic_shapes=({0: torch.export.Dim("n", min=1)},),
            )  # fmt: skip
        assert program is not None
        program.save(str(path), external_data=False)
    except ImportError as error:
        raise RuntimeUnusable(
            f"{error.name} is missing, which exports the model: pip install 'cxrfind[openvino]'"
        ) from error
    except RuntimeError as error:                   # torch.onnx.ExporterError is one
        raise RuntimeUnusable(
            f'the model cannot be exported ({type(error).__name__}); set encoder.runtime = "torch"'
        ) from error


def arrays(tensors: tuple[Tensor, ...]) -> tuple[Float32, ...]:
    """Return float32 arrays of tensors on any device."""
    return tuple(tensor.float().cpu().numpy() for tensor in tensors)
