"""From an experiment and its data to a model, and from a run's folder back to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from encoders.base import FINDING_NAMES, EncodersError
from encoders.checkpoint import read_card, verify_weights
from encoders.preprocess import Preprocessing
from encoders.tensors import read_tensors
from encoders.towers.image import build_image_tower, take_weights
from encoders.towers.model import MultimodalModel
from encoders.towers.subspace import IMAGE, TEXT, CommonSubspace
from encoders.towers.text import TextTower, build_text_tower
from encoders.training.arrays import Vocabulary
from encoders.training.experiment import Experiment

STATE_FILE = "best.pt"


class RunError(EncodersError):
    """A training run cannot be found or averaged; the message says where it was looked for."""


def find_run(name: str, beside: Path) -> Path:
    """Return the folder of a run: a path, or the name of a run in the folder `beside` or in the one above it.

    ``cxrfind train --out X`` makes its run in ``X/run``: X names it, too.

    Raises
    ------
    RunError
        If there is no run there.
    """
    places = [Path(name), beside / name, beside.parent / name]
    for place in places:
        for folder in (place, place / "run"):
            if (folder / STATE_FILE).is_file():
                return folder
    looked = ", ".join(dict.fromkeys(str(place.absolute()) for place in places))
    raise RunError(f"there is no run {name!r}: no {STATE_FILE} in {looked}, nor in a folder 'run' there")


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run's folder holds."""

    experiment: Experiment
    model: MultimodalModel
    vocabularies: tuple[Vocabulary, ...]
    figures: dict[str, float]
    epoch: int

    @property
    def constants(self) -> Preprocessing:
        """Return the preprocessing that the model was trained with."""
        return self.experiment.image.preprocessing


def fit_text_tower(experiment: Experiment, texts: Sequence[str]) -> TextTower:
    """Return the experiment's text tower, fitted on the training reports."""
    options: dict[str, Any] = {"width": experiment.text.width}
    if experiment.text.folder:
        options["folder"] = experiment.text.folder
    tower = build_text_tower(experiment.text.tower, **options)
    tower.fit(texts, experiment.seed)
    return tower


def restored_text_tower(
    experiment: Experiment, card: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> TextTower:
    """Return the experiment's text tower as it was fitted; weights that learn are the model's."""
    tower = build_text_tower(experiment.text.tower, width=experiment.text.width)
    tower.restore(card, tensors)
    return tower


def _tower_tensors(start: Path) -> dict[str, torch.Tensor]:
    """Return the state-dict of an image tower: of a file of its own, out of a run's, or of a checkpoint's folder."""
    if start.is_dir():
        prefix = "model.image_tower."
        whole = read_tensors(verify_weights(start, read_card(start)))
    else:
        saved: dict[str, Any] = torch.load(start, map_location="cpu", weights_only=start.name != STATE_FILE)
        if start.name != STATE_FILE:
            return saved
        prefix, whole = "image_tower.", saved["model"]
    return {name.removeprefix(prefix): value.float() for name, value in whole.items() if name.startswith(prefix)}


def build_model(experiment: Experiment, text: TextTower, vocabularies: Sequence[Vocabulary]) -> MultimodalModel:
    """Return a new model with seeded weights."""
    torch.manual_seed(experiment.seed)
    start = experiment.image.weights
    image = build_image_tower(
        experiment.image.tower, experiment.image.pretrained and start is None, experiment.image.drop_path
    )
    if start is not None:
        take_weights(image, _tower_tensors(start), start)
    image.freeze(experiment.image.freeze)
    outputs = {"findings": len(FINDING_NAMES), "view": 1, **{v.name: len(v.labels) for v in vocabularies}}
    space = experiment.subspace
    subspace = CommonSubspace(
        {IMAGE: space.channels or image.channels, TEXT: text.width},
        space.hidden,
        space.dim,
        outputs,
        dropout=space.dropout,
        normalised_logits=space.normalised_logits,
    )
    model = MultimodalModel(image, text, subspace, experiment.image.attention, direct=space.direct)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def load_run(folder: Path) -> Trained:
    """Return the best model of a run.

    Raises
    ------
    RunError
        If the folder holds none.
    """
    folder = find_run(str(folder), folder.parent)
    saved = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=False)
    experiment = Experiment.model_validate(saved["experiment"])
    text = restored_text_tower(experiment, saved["text_card"], saved["text_tensors"])
    vocabularies = tuple(Vocabulary(*fields) for fields in saved["vocabularies"])
    image = experiment.image.model_copy(update={"pretrained": False, "weights": None})
    plain = experiment.model_copy(update={"image": image})
    model = build_model(plain, text, vocabularies)
    model.load_state_dict(saved["model"])
    model.eval()
    return Trained(experiment, model, vocabularies, saved["figures"], saved["epoch"])
