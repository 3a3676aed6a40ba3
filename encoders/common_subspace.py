"""The shipped encoder: image and text towers into one common subspace, loaded from a checkpoint folder."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from encoders.base import (
    Basis,
    CheckpointError,
    Encoder,
    Float32,
    ImageEncoding,
    ReportEncoding,
    ReportText,
)
from encoders.checkpoint import EARLIER_FORMATS, SHIPPED, model_id, read_card, verify_weights
from encoders.findings import label_array
from encoders.preprocess import Preprocessing, sheet, sheet_shape, standardise, tower_sizes
from encoders.runtimes import TORCH, Engine, Outputs, RuntimeChoice, RuntimeUnusable, require
from encoders.runtimes.choosing import Probe, choose
from encoders.runtimes.engines import TorchEngine
from encoders.runtimes.graph import GraphFile, ImageGraph
from encoders.tensors import read_tensors
from encoders.towers.gate import ChestGate
from encoders.towers.image import build_image_tower
from encoders.towers.model import MultimodalModel
from encoders.towers.projection import Projection, image_slots, sigmoid, text_slots, unit_rows
from encoders.towers.subspace import IMAGE, TEXT, CommonSubspace
from encoders.towers.text import TextTower, build_text_tower, report_text

#: Images that go through the tower at once: larger batches are no faster on a CPU and take memory.
CHUNK = 16

#: Synthetic images that an optional runtime is compared with torch on.
PROBE_IMAGES = 8


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _array(tensor: Tensor) -> Float32:
    return np.asarray(tensor.float().numpy(), dtype=np.float32)


def _preprocessing(card: Mapping[str, Any]) -> Preprocessing:
    constants = Preprocessing(**{**card["preprocessing"], "others": tuple(card["preprocessing"].get("others", ()))})
    if constants.sizes != tower_sizes(card["architecture"]["image"]["tower"], constants.size):
        raise CheckpointError(
            f"{card['name']}: its towers saw sizes made of one another, which this cxrfind no longer does; export its "
            "run again"
        )
    return constants


def restore_text_tower(card: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> TextTower:
    """Return the text tower that a card and its tensors describe."""
    tower = build_text_tower(card["name"], width=card["width"])
    tower.restore(card, tensors)
    return tower


def chosen_device(name: str) -> torch.device:
    """Return a torch device; ``auto``: CUDA when there is one.

    Raises
    ------
    RuntimeUnusable
        If there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise RuntimeUnusable(
            f'encoder.device = "{name}" cannot be used here ({reason}); set "cpu" or "auto"'
        ) from error


class CommonSubspaceEncoder:
    """Implements encoders.base.Encoder.

    Images are computed by the configured runtime, which is opened with the first of them: who only encodes texts does
    not wait for it.
    """

    def __init__(
        self,
        card: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        device: str,
        threads: int,
        runtime: RuntimeChoice = TORCH,
    ) -> None:
        require(runtime.name, device)
        if threads:
            torch.set_num_threads(threads)
        self.card = card
        self.fingerprint = str(card["weights"]["sha256"])
        self.model_id = model_id(str(card["name"]), self.fingerprint)
        self.dim = int(card["dim"])
        self.constants = _preprocessing(card)
        self.image_size = self.constants.size
        self.chest_threshold = float(card["gate"]["threshold"]) if card.get("gate") else 0.0
        self._device = chosen_device(device)
        self._threads = threads
        self._runtime = runtime
        self._engine: Engine | None = None
        self._opening = threading.Lock()
        self._squeezing = ThreadPoolExecutor(torch.get_num_threads(), "squeeze")    # threads that it starts when needed
        shape = card["architecture"]
        text = restore_text_tower(shape["text"], _part(tensors, "text."))
        tower = build_image_tower(shape["image"]["tower"], pretrained=False)
        space = shape["subspace"]
        subspace = CommonSubspace(
            {IMAGE: space.get("channels") or tower.channels, TEXT: text.width},
            space["hidden"],
            space["dim"],
            dict(space["outputs"]),
            normalised_logits=bool(space["normalised_logits"]),
        )
        direct = bool(space["direct"])
        model = MultimodalModel(tower, text, subspace, shape["image"]["attention"], direct=direct)
        model.load_state_dict(_part(tensors, "model."))
        self._model: Any = model.eval().to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        matrices = {m: _array(tensors[f"projection.matrix.{m}"]) for m in (IMAGE, TEXT)}
        if int(card["format"]) in EARLIER_FORMATS:                  # the view did not count
            matrices[IMAGE] = np.pad(matrices[IMAGE], ((0, 1), (0, 0)))
        self._projection = Projection(
            matrices,
            {m: _array(tensors[f"projection.bias.{m}"]) for m in (IMAGE, TEXT)},
            _array(tensors["projection.normal"]),
            float(card["projection"]["root"]),
            dict(card["projection"].get("findings_weight", {})),
        )
        gate = {name: _array(value) for name, value in _part(tensors, "gate.").items()}
        self._gate = ChestGate(**gate, offset=float(card["gate"]["offset"])) if gate else None
        self._slope = np.array(card["calibration"]["findings"]["slope"], np.float32)
        self._offset = np.array(card["calibration"]["findings"]["offset"], np.float32)
        self._report_weight = float(card["fusion"]["report_weight"])
        self._scores = {
            tuple(key.split("/")): (np.array(knots["cosine"]), np.array(knots["probability"]))
            for key, knots in card["calibration"]["scores"].items()
        }

    @classmethod
    def load(
        cls,
        checkpoint: Path | None = None,
        device: str = "cpu",
        threads: int = 0,
        runtime: RuntimeChoice = TORCH,
    ) -> CommonSubspaceEncoder:
        """Return the encoder of a checkpoint folder (None: the shipped one).

        Raises
        ------
        RuntimeUnusable
            If the runtime is not installed here.
        CheckpointError
            If it is missing, damaged, or of an architecture that this cxrfind does not know.
        """
        folder = checkpoint or SHIPPED
        card = read_card(folder)
        tensors = read_tensors(verify_weights(folder, card))
        try:
            return cls(card, tensors, device, threads, runtime)
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"{folder}: card and weights do not fit this cxrfind ({error}); export it again"
            ) from error

    def _inputs(self, images: Sequence[Float32]) -> Float32:  # -> (n, rows, columns): standardised sheets
        sizes = self.constants.sizes
        if len(images) > 1:
            sheets = list(self._squeezing.map(lambda image: sheet(image, sizes), images))
        else:
            sheets = [sheet(image, sizes) for image in images]
        return standardise(np.stack(sheets), self.constants)

    def _open_engine(self) -> Engine:
        with self._opening:
            if self._engine is None:
                graph = ImageGraph(self._model)
                torch_engine = TorchEngine(graph, self._device)
                if self._runtime.name == "torch" or self._device.type != "cpu":
                    self._engine = torch_engine
                else:
                    file = GraphFile(graph, sheet_shape(self.constants.sizes), self.fingerprint, self._runtime.cache)
                    self._engine = choose(self._runtime, torch_engine, file, self._probe(), self._threads)
            return self._engine

    def _probe(self) -> Probe:
        from encoders.phantom import draw

        images = [draw(seed, self.image_size)[0] for seed in range(PROBE_IMAGES)]
        return Probe(self._inputs(images)[:, None], self._finish)

    @property
    def runtime(self) -> str:
        """What computes images, and in which precision; the configured name until the first image."""
        return self._engine.name if self._engine else self._runtime.name

    def _image_outputs(self, images: Sequence[Float32]) -> Outputs:
        """Return pooled features, embeddings, and the logits of findings and of the view."""
        engine = self._engine or self._open_engine()
        parts = [engine(self._inputs(images[start : start + CHUNK])[:, None]) for start in range(0, len(images), CHUNK)]
        features, embedding, findings, view = (np.concatenate(column) for column in zip(*parts, strict=True))
        return features, embedding, findings, view

    @property
    def model(self) -> MultimodalModel:
        """The towers and what is predicted from them, in evaluation mode."""
        return self._model  # type: ignore[no-any-return]

    def _finish(self, outputs: Outputs) -> tuple[Float32, Float32]:
        """Return unit vectors (n, dim) and the findings' probabilities (n, 14)."""
        features, embedding, findings, view = outputs
        probabilities = sigmoid(findings * self._slope + self._offset)
        slots = image_slots(features, embedding, view, self._projection.root)
        return self._projection(slots, probabilities, Basis.IMAGE), probabilities

    def encode_images(self, images: Sequence[Float32]) -> ImageEncoding:
        """Encode images, each float32 (rows, columns) 0..1, larger brighter, any size."""
        if not images:
            none = np.zeros(0, np.float32)
            return ImageEncoding(np.zeros((0, self.dim), np.float32), np.zeros((0, 14), np.float32), none, none)
        outputs = self._image_outputs(images)
        vectors, findings = self._finish(outputs)
        features, _, _, view = outputs
        chest = self._gate(features) if self._gate else np.ones(len(images), np.float32)
        return ImageEncoding(vectors, findings, chest, sigmoid(view[:, 0]))

    def _vectors_of_texts(self, texts: Sequence[str], basis: Basis) -> Float32:
        with torch.inference_mode():
            features, embedding = self._model.embed_texts(texts)
            findings = sigmoid(_array(self._model.subspace.predict(embedding, "findings").cpu()))
        return self._projection(text_slots(_array(features.cpu()), _array(embedding.cpu())), findings, basis)

    def encode_reports(self, reports: Sequence[ReportText]) -> ReportEncoding:
        """Encode reports; their findings are those of the rule-based labeler (encoders.findings)."""
        if not reports:
            return ReportEncoding(np.zeros((0, self.dim), np.float32), np.zeros((0, 14), np.float32))
        vectors = self._vectors_of_texts([report_text(report) for report in reports], Basis.REPORT)
        return ReportEncoding(vectors, label_array(reports))

    def encode_text(self, text: str) -> Float32:
        """Return the unit vector (dim,) of a free-text query."""
        return np.asarray(self._vectors_of_texts([text], Basis.TEXT)[0], dtype=np.float32)

    def fuse(self, images: Float32, report: Float32 | None) -> Float32:
        """Return the unit vector (dim,) of a study: the mean image vector, and its report's with the card's weight.

        Raises
        ------
        ValueError
            If there is neither an image nor a report.
        """
        if len(images) == 0 and report is None:
            raise ValueError("a study without image and report has no vector")
        parts = []
        if len(images):
            parts.append((1 - self._report_weight) * unit_rows(images.mean(0, keepdims=True)))
        if report is not None:
            said = self._projection.to_be_fused(np.asarray(report, dtype=np.float32)[None])
            parts.append(self._report_weight * said)
        return np.asarray(unit_rows(np.sum(parts, axis=0))[0], dtype=np.float32)

    def score(self, cosines: Float32, query: Basis, entry: Basis) -> Float32:
        """Return calibrated scores 0..1, monotonic in the cosine."""
        knots = self._scores[(query.value, entry.value)]
        return np.asarray(np.interp(cosines, *knots), dtype=np.float32)


def _is_encoder(encoder: CommonSubspaceEncoder) -> Encoder:
    """Hold the class to the Protocol when types are checked."""
    return encoder
