"""How many optimiser steps an epoch takes, when a training stops, and what it says if nothing can stop it."""

import csv

import numpy as np
import pytest
import torch

from encoders.training.run_files import CURVES_FILE, LAST_FILE
from encoders.training.trainer import Trainer, train


def with_sections(experiment, **sections):
    changed = {name: getattr(experiment, name).model_copy(update=values) for name, values in sections.items()}
    return experiment.model_copy(update=changed)


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 4), (3, 2), (4, 1), (9, 1)])
def test_the_last_batches_of_an_epoch_make_a_step_of_their_own(tmp_path, small_experiment, accumulate, steps):
    trainer = Trainer(small_experiment(tmp_path, 2, accumulate=accumulate), tmp_path / "run")
    rates = []
    trainer.optimiser.register_step_pre_hook(lambda optimiser, *_: rates.append(optimiser.param_groups[0]["lr"]))
    assert [epoch for epoch, _ in trainer.epochs()] == [1, 2]
    assert trainer.step == len(rates) == 2 * steps
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
    assert max(rates) == pytest.approx(3e-4)


def test_a_step_of_few_batches_takes_their_mean(tmp_path, small_experiment):
    """So 9 to a step, of which an epoch has 4, are the same step as 4."""
    for accumulate in (4, 9):
        train(small_experiment(tmp_path, 1, accumulate=accumulate), tmp_path / str(accumulate))
    few, whole = (torch.load(tmp_path / str(n) / LAST_FILE, weights_only=True)["optimiser"]["state"] for n in (9, 4))
    assert all(torch.equal(few[n]["exp_avg"], whole[n]["exp_avg"]) for n in whole)


@pytest.fixture
def constant(tmp_path, manifest, small_experiment):
    """Return a function (view, settings) -> Experiment of 112 val images that learns nothing."""

    def write(view, **settings):
        with manifest.open(newline="") as file:
            rows = list(csv.DictReader(file))
        more = [
            {**row, "study_id": f"{row['study_id']}-{copy}", "image_path": str(manifest.parent / row["image_path"])}
            for row in rows
            for copy in range(7 if row["split"] == "val" else 1)
        ]
        path = tmp_path / "more.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(more[0]))
            writer.writeheader()
            writer.writerows({**row, "view": view} for row in more)
        experiment = small_experiment(tmp_path, 6, learning_rate=1e-12, tower_rate=0.0, ema=0.0, **settings)
        return with_sections(
            experiment, data={"manifest": path}, image={"freeze": 99, "augment": 0.0}, loss={"descriptor": 0.0}
        )

    return write


@pytest.mark.parametrize("keep", ["best", "last"])
@pytest.mark.parametrize(("view", "patience", "epochs"), [("frontal", 1, 2), ("unknown", 3, 4), ("lateral", 1, 6)])
def test_a_training_stops_after_as_many_epochs_without_a_better_one(tmp_path, constant, view, patience, epochs, keep):
    said = []
    experiment = constant(view, patience=patience, keep=keep)
    train(experiment, tmp_path / "run", False, lambda what, done, of, note: said.append((what, note)))
    with (tmp_path / "run" / CURVES_FILE).open(newline="", encoding="utf-8") as file:
        curves = list(csv.DictReader(file))
    assert len(curves) == epochs
    unwatched = [note for what, note in said if what == "validation"]
    if view == "lateral":                                           # nothing to judge by, and told so once
        assert len(unwatched) == 1
        assert "100 frontal val images" in unwatched[0]
        assert {row["val"] for row in curves} == {"too few images"}
    else:
        assert not unwatched
        assert "val" not in curves[0]
        assert len({row["val.iu-xray.ndcg"] for row in curves}) == 1
        assert np.isfinite(float(curves[0]["val.iu-xray.ndcg"]))
