"""Features that an experiment names, each tried: bfloat16, loader processes, partial pairing, crops, text towers."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from encoders.base import ReportText
from encoders.common_subspace import CommonSubspaceEncoder
from encoders.phantom import draw
from encoders.towers.scda import attended_boxes, crop
from encoders.training.build import STATE_FILE
from encoders.training.export import ExportOptions, export
from encoders.training.project import ProjectionOptions
from encoders.training.trainer import Trainer, train


def with_sections(experiment, **sections):
    changed = {name: getattr(experiment, name).model_copy(update=values) for name, values in sections.items()}
    return experiment.model_copy(update=changed)


def weights(folder):
    return torch.load(folder / STATE_FILE, weights_only=False)["model"]


def test_bfloat16_trains_nearly_the_same_and_loader_processes_exactly(tmp_path, small_experiment):
    """Each in a process of its own, as it is used: loader processes are forked from it."""
    small_experiment(tmp_path, 1)
    text, told = (tmp_path / "tiny-1-True.toml").read_text(encoding="utf-8"), {}
    for name, setting in {"plain": "", "bfloat16": 'autocast = "bfloat16"', "workers": "workers = 2"}.items():
        (tmp_path / f"{name}.toml").write_text(text.replace("threads = 1", f"threads = 1\n{setting}"), encoding="utf-8")
        command = ["train", "--config", f"{name}.toml", "--out", name, "--no-export", "--quiet"]
        done = subprocess.run(
            [sys.executable, "-m", "daemon", *command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        told[name] = weights(tmp_path / name / "run")
    plain = told["plain"]
    assert all(torch.equal(value, told["workers"][name]) for name, value in plain.items())
    names = [name for name, value in plain.items() if name.startswith("subspace") and value.ndim == 2]
    differences = [float((plain[name] - told["bfloat16"][name]).norm() / plain[name].norm()) for name in names]
    assert 0 < max(differences) < 0.05


def test_of_partly_paired_studies_the_first_epochs_show_pairs_and_the_rest_all_images(tmp_path, small_experiment):
    experiment = small_experiment(tmp_path, 2, pairs_first_epochs=1)
    trainer = Trainer(with_sections(experiment, data={"paired_fraction": 0.5}), tmp_path / "run")
    arrays = trainer.arrays
    assert len(arrays.samples) == 32
    assert (arrays.text >= 0).sum() == 16
    assert {trainer.arrays.texts[row] for row in arrays.text if row >= 0} == set(arrays.texts)
    paired = set(np.flatnonzero(arrays.text >= 0).tolist())
    assert set(trainer.batches._order(0).tolist()) == paired
    assert set(trainer.batches._order(1).tolist()) == set(range(32))
    owned = [int(n) for batch in trainer.batches.each(0) for n in batch.own_text]
    assert len(owned) == 16
    assert min(owned) >= 0


def test_what_is_attended_to_is_the_box_of_the_largest_region_above_the_mean():
    maps = torch.zeros(1, 2, 4, 8)
    maps[0, 0, 1:3, 2:5] = 1.0                                      # six of them, found by the sum of the channels
    maps[0, 1, 1, 5] = 1.0
    maps[0, 1, 3, 7] = 9.0                                          # the strongest, and touches by a corner at most
    boxes = attended_boxes(maps)
    assert boxes.tolist() == [[1 / 4, 2 / 8, 3 / 4, 6 / 8]]
    image = torch.arange(8.0).repeat(4, 1).reshape(1, 1, 4, 8)
    assert crop(image, boxes)[0, 0, 0].tolist() == pytest.approx([1.75, 2.25, 2.75, 3.25, 3.75, 4.25, 4.75, 5.25])
    assert attended_boxes(torch.ones(1, 1, 3, 3)).tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize("tower", ["doc2vec", "transformer"])
def test_every_text_tower_comes_through_training_and_export_to_the_encoder(tmp_path, small_experiment, tower):
    train(with_sections(small_experiment(tmp_path, 1), text={"tower": tower}), tmp_path / "run")
    small = ProjectionOptions(appearance_dim=20)
    folder = export(tmp_path / "run", tmp_path / "checkpoint", ExportOptions(projection=small, negatives=12))
    encoder = CommonSubspaceEncoder.load(folder, "cpu", 1)
    texts = [ReportText(draw(seed, 32)[2], "") for seed in range(12)]
    reports = encoder.encode_reports(texts).embeddings
    again = CommonSubspaceEncoder.load(folder, "cpu", 1).encode_reports(texts).embeddings
    np.testing.assert_array_equal(reports, again)
    assert np.isfinite(reports).all()
    assert np.ptp(reports, axis=0).max() > 1e-3                     # not the same for all
