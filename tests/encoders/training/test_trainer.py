"""A whole small training: phantoms in, a checkpoint out that the encoder loads."""

import shutil

import numpy as np
import pytest
import torch

from encoders.base import ReportText
from encoders.common_subspace import CommonSubspaceEncoder
from encoders.phantom import draw
from encoders.towers.subspace import IMAGE
from encoders.training import validation
from encoders.training.build import RunError, load_run
from encoders.training.experiment import ExperimentError, load_experiment
from encoders.training.export import ExportOptions, export, read_options
from encoders.training.project import ProjectionOptions
from encoders.training.run_files import CURVES_FILE
from encoders.training.trainer import STATE_FILE, Trainer, train


def test_a_run_becomes_a_checkpoint_that_encodes_both_modalities(tmp_path, small_experiment):
    run = tmp_path / "run"
    train(small_experiment(tmp_path, 1), run)
    small = ProjectionOptions(appearance_dim=20)
    folder = export(run, tmp_path / "checkpoint", ExportOptions(projection=small, negatives=12))
    encoder = CommonSubspaceEncoder.load(folder, "cpu", 1)
    images = encoder.encode_images([draw(99, 64)[0]])
    reports = encoder.encode_reports([ReportText("Heart size is normal.", "")])
    assert images.embeddings.shape == reports.embeddings.shape == (1, 32)
    assert np.isfinite(images.embeddings).all()
    assert np.isfinite(reports.embeddings).all()


def test_a_model_that_was_not_taught_the_views_says_so_and_takes_none_for_granted(tmp_path, manifest, small_experiment):
    rows = manifest.read_text().splitlines()
    shutil.copytree(manifest.parent, tmp_path / "set")
    path = tmp_path / "set" / manifest.name
    laterals = [line.replace(",frontal,", ",lateral,") for line in rows[1:]]
    path.write_text("\n".join(rows + laterals) + "\n")
    tiny = small_experiment(tmp_path)
    sections = {
        "data": tiny.data.model_copy(update={"manifest": path}),
        "loss": tiny.loss.model_copy(update={"view": 0.0}),
    }
    train(tiny.model_copy(update=sections), tmp_path / "run")
    small = ProjectionOptions(appearance_dim=20)
    folder = export(tmp_path / "run", tmp_path / "checkpoint", ExportOptions(projection=small, negatives=12))
    encoder = CommonSubspaceEncoder.load(folder, "cpu", 1)
    assert encoder.card["views"] is False
    assert not encoder._projection.matrix[IMAGE][-1].any()
    assert encoder.encode_images([draw(99, 64)[0]]).frontal == 0.5


def test_a_resumed_run_goes_on_where_it_stopped(tmp_path, small_experiment):
    seen = []
    train(small_experiment(tmp_path, 1), tmp_path / "run")
    train(small_experiment(tmp_path, 2), tmp_path / "run", True, lambda what, *_: seen.append(what))
    assert "epoch 2/2" in seen
    assert "epoch 1/2" not in seen
    assert len((tmp_path / "run" / CURVES_FILE).read_text().splitlines()) == 3


def test_with_too_few_validation_images_to_judge_by_the_last_epoch_is_kept(tmp_path, small_experiment):
    train(small_experiment(tmp_path, 2), tmp_path / "run")
    assert torch.load(tmp_path / "run" / STATE_FILE, weights_only=False)["epoch"] == 2


def test_an_unknown_key_is_named_with_its_file(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text('name = "x"\n[data]\nmanifest = "m.csv"\n[train]\nepoch = 3\n')
    with pytest.raises(ExperimentError, match=r"x\.toml, key train\.epoch"):
        load_experiment(path)


def _weight(folder):
    return load_run(folder).model.subspace.third.weight.detach()


def test_a_run_goes_on_from_a_named_run_beside_it_or_from_a_path(tmp_path, small_experiment):
    train(small_experiment(tmp_path, 1), tmp_path / "first" / "run")
    still = {"learning_rate": 1e-12, "tower_rate": 0.0, "ema": 0.0}
    for place, initial in (("second/run", "first"), ("other", str(tmp_path / "first" / "run"))):
        train(small_experiment(tmp_path, 1, initial=initial, **still), tmp_path / place)
        assert torch.allclose(_weight(tmp_path / place), _weight(tmp_path / "first"), atol=1e-6)


def test_a_run_to_go_on_from_that_is_not_there_is_named_with_the_places(tmp_path, small_experiment):
    with pytest.raises(RunError, match=r"'soup-9'.*best\.pt.*soup-9") as fault:
        train(small_experiment(tmp_path, 1, initial="soup-9"), tmp_path / "out" / "run")
    assert str(tmp_path / "out" / "soup-9") in str(fault.value)
    assert str(tmp_path / "soup-9") in str(fault.value)


@pytest.mark.parametrize(("keep", "kept"), [("best", None), ("last", 2)])
def test_the_last_epoch_is_kept_where_the_experiment_says_so(tmp_path, small_experiment, monkeypatch, keep, kept):
    monkeypatch.setattr(validation, "MIN_IMAGES", 8)                # these few are enough to judge by
    trainer = Trainer(small_experiment(tmp_path, 2, keep=keep), tmp_path / "run")
    trainer.best = 1e9                                              # nothing will ever look better
    epochs = list(trainer.epochs())
    assert [epoch for epoch, _ in epochs] == [1, 2]
    assert all(values for _, values in epochs)
    state = tmp_path / "run" / STATE_FILE
    assert (torch.load(state, weights_only=False)["epoch"] if state.exists() else None) == kept


def test_export_options_are_read_from_a_file_and_an_unknown_key_is_named(tmp_path):
    path = tmp_path / "export.toml"
    path.write_text('per_source = 40\n[projection]\nroot = 0.5\n[card]\nlicence = "x"\n')
    options = read_options(path)
    assert (options.per_source, options.projection.root) == (40, 0.5)
    assert options.card == {"licence": "x"}
    path.write_text("[projection]\nshft = 1\n")
    with pytest.raises(ExperimentError, match=r"export\.toml, key projection\.shft"):
        read_options(path)
