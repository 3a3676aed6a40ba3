"""Put the image towers of several models side by side in one run: an ensemble that is exported as one model.

Subspace, coupling and text tower are the first member's; they read its channels only, so that reports stay where they
were. What the other members predict beyond it is a linear map of all channels, fitted to the mean of the members'
predictions on training images: the ensemble distilled (Hinton, Vinyals, Dean, 2015) into what one model already has.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from encoders.base import EncodersError
from encoders.checkpoint import CARD_FILE
from encoders.common_subspace import CommonSubspaceEncoder
from encoders.towers.image import ImageTower
from encoders.towers.model import DIRECT_SHARE, MultimodalModel
from encoders.towers.side_by_side import SideBySide
from encoders.towers.subspace import IMAGE
from encoders.training.arrays import build_arrays
from encoders.training.build import STATE_FILE, Trained, build_model, load_run
from encoders.training.experiment import Experiment
from encoders.training.export import balanced_rows
from encoders.training.features import with_features
from encoders.training.selection import select
from encoders.training.trainer import CACHE_FOLDER

#: Penalty of the linear map, in units of the features' mean variance; .01 to 1 gave the same AUC on validation.
RIDGE = 0.1

Progress = Callable[[str, int, int], None]


class StackError(EncodersError):
    """Models cannot be put side by side; the message says which and why."""


@dataclass(frozen=True, slots=True)
class _Member:
    """A model that is put beside others; it may be towers side by side itself."""

    model: MultimodalModel
    names: tuple[str, ...]                                          # of its towers, each with its input size
    vocabularies: dict[str, tuple[str, ...]]
    run: Trained | None                                             # None of a checkpoint

    @property
    def towers(self) -> list[ImageTower]:
        tower = self.model.image_tower
        return tower.members if isinstance(tower, SideBySide) else [tower]


def _sized(tower: str, size: int) -> tuple[str, ...]:
    return tuple(name if "@" in name else f"{name}@{size}" for name in tower.split("+"))


def _load(folder: Path) -> _Member:
    """Return the model of a run or of a checkpoint."""
    if (folder / CARD_FILE).exists():
        encoder = CommonSubspaceEncoder.load(folder)
        image = encoder.card["architecture"]["image"]
        labels = {name: tuple(labels) for name, labels in encoder.card["vocabularies"].items()}
        return _Member(encoder.model, _sized(image["tower"], encoder.image_size), labels, None)
    run = load_run(folder)
    image_section = run.experiment.image
    labels = {v.name: v.labels for v in run.vocabularies}
    return _Member(run.model, _sized(image_section.tower, image_section.size), labels, run)


def _predict(model: MultimodalModel, features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the findings' logits (n, 14) by the subspace, and those of the encoder, direct predictions included."""
    embedding = model.subspace(features, IMAGE)
    return model.subspace.predict(embedding, "findings"), model.findings(features, embedding)


def ridge(features: Tensor, wanted: Tensor, penalty: float = RIDGE) -> tuple[Tensor, Tensor]:
    """Return weight (outputs, channels) and bias of the linear map that leads features to what is wanted."""
    centre, mean = features.double().mean(0), wanted.double().mean(0)
    rows = features.double() - centre
    gram = rows.T @ rows
    gram += penalty * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    weight = torch.linalg.solve(gram, rows.T @ (wanted.double() - mean))
    return weight.T.float(), (mean - centre @ weight).float()


def _experiment(members: Sequence[_Member], run: Trained, name: str) -> Experiment:
    """Return the experiment that describes the members side by side, with a run's data."""
    first = members[0].model
    names = [name for member in members for name in member.names]
    sections = run.experiment.model_dump(mode="json")
    sections["name"] = name
    sections["image"] |= {
        "tower": "+".join(names),
        "size": max(int(name.rpartition("@")[2]) for name in names),
        "pretrained": False, "weights": None, "freeze": 99, "drop_path": 0.0,
    }  # fmt: skip
    sections["subspace"] |= {
        "hidden": first.subspace.second.in_features,
        "dim": first.subspace.third.out_features,
        "channels": first.subspace.first[IMAGE].in_features,
    }
    return Experiment.model_validate(sections)


def stack_runs(
    folders: Sequence[Path], output: Path, *, per_source: int = 5200, progress: Progress | None = None
) -> Path:
    """Write a run whose image tower is those of other runs or checkpoints side by side; return its folder.

    Parameters
    ----------
    folders : sequence of Path
        Runs, or folders of checkpoints; one run at least, whose data the ensemble is fitted on.
    per_source : int
        Training images of each source that it is fitted on, at most.

    Raises
    ------
    StackError
        If they do not predict the same things, or none is a run.
    """
    members = [_load(folder) for folder in folders]
    run = next((member.run for member in members if member.run), None)
    if run is None:
        raise StackError("none of these is a run, whose training data the ensemble is fitted on; name one at least")
    for folder, member in zip(folders, members, strict=True):
        if member.vocabularies != members[0].vocabularies or "findings" not in member.model.direct:
            raise StackError(f"{folder}: other labels than {folders[0]}, or no direct predictions; train it anew")
    first = members[0].model
    experiment = _experiment(members, run, output.name)
    model = build_model(experiment, first.text_tower, run.vocabularies)
    model.text_module.load_state_dict(first.text_module.state_dict())
    model.subspace.load_state_dict(first.subspace.state_dict())
    tower = model.image_tower
    assert isinstance(tower, SideBySide)
    for place, known in zip(tower.members, [tower for member in members for tower in member.towers], strict=True):
        place.load_state_dict(known.state_dict())
    _fit_predictions(model, members, experiment, run, output.parent, per_source, progress)
    output.mkdir(parents=True, exist_ok=True)
    part = output / f"{STATE_FILE}.part"
    torch.save(
        {
            "experiment": experiment.model_dump(mode="json"),
            "model": model.state_dict(),
            "figures": {},
            "epoch": 0,
            "text_card": first.text_tower.card(),
            "text_tensors": first.text_tower.tensors(),
            "vocabularies": [(v.name, v.datasets, v.labels, v.uncoded) for v in run.vocabularies],
        },
        part,
    )
    os.replace(part, output / STATE_FILE)
    return output


def _fit_predictions(
    model: MultimodalModel,
    members: Sequence[_Member],
    experiment: Experiment,
    run: Trained,
    folder: Path,
    per_source: int,
    progress: Progress | None,
) -> None:
    """Set the direct predictions so that the model predicts the mean of its members' findings, each tower one voice."""
    voices = [len(member.towers) / sum(len(member.towers) for member in members) for member in members]
    cache = folder / CACHE_FOLDER
    constants = experiment.image.preprocessing
    arrays = build_arrays(select(experiment, "train"), run.vocabularies, constants.sizes, cache)
    arrays = with_features(model, arrays, constants, cache, progress)
    features = torch.from_numpy(arrays.images[balanced_rows(arrays, per_source, experiment.seed)])
    with torch.inference_mode():
        own = torch.split(features, [member.model.image_tower.channels for member in members], 1)
        said = [_predict(member.model, part) for member, part in zip(members, own, strict=True)]
        wanted = torch.stack([voice * both for voice, (_, both) in zip(voices, said, strict=True)]).sum(0)
        weight, bias = ridge(features, (wanted - said[0][0]) / DIRECT_SHARE)
    for name, layer in model.direct.items():
        parts = [member.model.direct[name].state_dict() for member in members]
        mean = torch.cat([voice * part["weight"] for voice, part in zip(voices, parts, strict=True)], 1)
        offset = torch.stack([voice * part["bias"] for voice, part in zip(voices, parts, strict=True)]).sum(0)
        findings = name == "findings"
        layer.load_state_dict({"weight": weight if findings else mean, "bias": bias if findings else offset})
