"""A whole small training: phantoms in, a checkpoint out that the encoder loads."""


import numpy as np
import pytest
import torch

from encoders.base import ReportText
from encoders.common_subspace import CommonSubspaceEncoder
from encoders.phantom import draw
from encoders.training.experiment import ExperimentError, load_experiment
from encoders.training.export import ExportOptions, export
from encoders.training.project import ProjectionOptions
from encoders.training.trainer import CURVES_FILE, STATE_FILE, train


def test_a_run_becomes_a_checkpoint_that_encodes_both_modalities(tmp_path, small_experiment):
    run = tmp_path / "run"
    train(small_experiment(tmp_path, 1), run)
    small = ProjectionOptions(descriptor_dim=12, embedding_dim=4, canonical_dim=4)
    folder = export(run, tmp_path / "checkpoint", ExportOptions(projection=small, negatives=12))
    encoder = CommonSubspaceEncoder.load(folder, "cpu", 1)
    images = encoder.encode_images([draw(99, 64)[0]])
    reports = encoder.encode_reports([ReportText("Heart size is normal.", "")])
    assert images.embeddings.shape == reports.embeddings.shape == (1, 20)
    assert np.isfinite(images.embeddings).all()
    assert np.isfinite(reports.embeddings).all()


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
