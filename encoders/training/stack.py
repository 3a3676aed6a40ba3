"""Put the image towers of several runs side by side in one run: an ensemble that is exported as one model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from encoders.base import EncodersError
from encoders.towers.side_by_side import SideBySide
from encoders.training.build import STATE_FILE, build_model, load_run
from encoders.training.experiment import Experiment


class StackError(EncodersError):
    """Runs cannot be put side by side; the message says which and why."""


def stack_runs(runs: Sequence[Path], output: Path, hidden: int = 512) -> Path:
    """Write a run whose image tower is those of other runs side by side; return its folder.

    Text tower and vocabularies are the first run's; the direct predictions are the mean of all. The subspace starts
    anew: train it on the frozen towers by an experiment with ``train.initial`` set to the output, ``image.freeze = 99``
    and the same ``subspace.hidden``.

    Parameters
    ----------
    runs : sequence of Path
        Folders of runs, each with a tower of its own and direct predictions of the same vocabularies.
    hidden : int
        Width of the new subspace's hidden layers.

    Raises
    ------
    StackError
        If the runs do not predict the same things.
    """
    members = [load_run(run) for run in runs]
    first = members[0]
    for run, member in zip(runs, members, strict=True):
        if member.vocabularies != first.vocabularies or not member.experiment.subspace.direct:
            raise StackError(f"{run}: not the same vocabularies as {runs[0]}, or no direct predictions; train it anew")
    tower = "+".join(f"{m.experiment.image.tower}@{m.experiment.image.size}" for m in members)
    sections = first.experiment.model_dump(mode="json")
    sections["name"] = output.name
    sections["image"] |= {
        "tower": tower,
        "size": max(m.experiment.image.size for m in members),
        "pretrained": False,
        "weights": None,
        "freeze": 99,
        "drop_path": 0.0,
    }
    sections["subspace"]["hidden"] = hidden
    experiment = Experiment.model_validate(sections)
    model = build_model(experiment, first.model.text_tower, first.vocabularies)
    side_by_side = model.image_tower
    assert isinstance(side_by_side, SideBySide)
    with torch.no_grad():
        for place, member in zip(side_by_side.members, members, strict=True):
            place.load_state_dict(member.model.image_tower.state_dict())
        for name, layer in model.direct.items():
            parts = [member.model.direct[name].state_dict() for member in members]
            layer.load_state_dict(
                {
                    "weight": torch.cat([part["weight"] for part in parts], 1) / len(parts),
                    "bias": torch.stack([part["bias"] for part in parts]).mean(0),
                }
            )
    state = {
        "experiment": experiment.model_dump(mode="json"),
        "model": model.state_dict(),
        "figures": {},
        "epoch": 0,
        "text_card": first.model.text_tower.card(),
        "text_tensors": first.model.text_tower.tensors(),
        "vocabularies": [(v.name, v.datasets, v.labels, v.uncoded) for v in first.vocabularies],
    }
    output.mkdir(parents=True, exist_ok=True)
    part_file = output / f"{STATE_FILE}.part"
    torch.save(state, part_file)
    os.replace(part_file, output / STATE_FILE)
    return output
