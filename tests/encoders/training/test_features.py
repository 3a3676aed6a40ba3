"""A tower that does not learn is run once; experiments on it train on its features."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from encoders.preprocess import Preprocessing
from encoders.training.arrays import build_arrays, exchanged
from encoders.training.build import load_run
from encoders.training.experiment import ExperimentError, load_experiment
from encoders.training.features import with_features
from encoders.training.manifest import read_manifest
from encoders.training.trainer import STATE_FILE, Trainer, train
from encoders.training.validation import run

TOML = """
name = "tiny"
[data]
manifest = "{manifest}"
cache_size = 40
[image]
size = 32
pretrained = false
freeze = 99
augment = 0.0
[text]
width = 16
extra_batch = 0
prompts = false
[subspace]
hidden = 32
dim = 16
[train]
epochs = 1
batch = 8
threads = 1
"""


@pytest.fixture
def frozen(tmp_path, manifest):
    path = tmp_path / "frozen.toml"
    path.write_text(TOML.format(manifest=manifest), encoding="utf-8")
    return path


def _over(base, text):
    path = base.parent / "over.toml"
    path.write_text(f'base = "{base.name}"\n{text}', encoding="utf-8")
    return load_experiment(path)


def test_features_stand_in_for_images_and_give_the_same_outputs(frozen, tmp_path, manifest):
    trained = load_run(train(load_experiment(frozen), tmp_path / "run").parent)
    arrays = build_arrays(read_manifest(manifest, "val"), (), (32,), tmp_path / "cache")
    features = with_features(trained.model, arrays, Preprocessing(size=32), tmp_path / "cache")
    assert features.images.shape == (16, 1280)
    by_image = run(trained.model, arrays, trained.constants)
    by_feature = run(trained.model, features, trained.constants)
    assert np.allclose(by_image.embeddings, by_feature.embeddings, atol=1e-4)
    assert np.allclose(by_image.features, features.images, atol=1e-4)


def test_features_are_computed_once_for_a_tower_and_again_for_another(frozen, tmp_path, manifest):
    model = load_run(train(load_experiment(frozen), tmp_path / "run").parent).model
    arrays = build_arrays(read_manifest(manifest, "val"), (), (32,), tmp_path / "cache")
    first = with_features(model, arrays, Preprocessing(size=32), tmp_path / "cache")
    black = replace(arrays, images=np.zeros_like(arrays.images))
    assert np.array_equal(with_features(model, black, Preprocessing(size=32), tmp_path / "cache").images, first.images)
    with torch.no_grad():
        next(model.image_tower.parameters()).add_(1.0)
    again = with_features(model, arrays, Preprocessing(size=32), tmp_path / "cache")
    assert not np.allclose(again.images, first.images)


def test_the_tower_is_run_at_every_step_where_it_learns_or_images_are_augmented(frozen, tmp_path):
    for number, change in enumerate(("[image]\nfreeze = 2\n", "[image]\naugment = 1.0\n")):
        trainer = Trainer(_over(frozen, change), tmp_path / str(number))
        assert trainer.arrays.images.ndim == 3
    assert Trainer(load_experiment(frozen), tmp_path / "2").arrays.images.ndim == 2


def test_a_tower_is_taken_out_of_a_run_by_its_name(frozen, tmp_path):
    train(_over(frozen, "[image]\nfreeze = 6\n"), tmp_path / "classifier")
    tower = load_run(tmp_path / "classifier").model.image_tower.state_dict()
    trainer = Trainer(_over(frozen, '[image]\nweights = "classifier"\n'), tmp_path / "mmdl")
    taken = trainer.model.image_tower.state_dict()
    assert all(torch.equal(taken[name], tower[name]) for name in tower)


def test_without_the_reports_share_the_image_branch_learns_alone(frozen, tmp_path):
    trainer = Trainer(_over(frozen, "[loss]\nreports = 0.0\n[train]\nweight_decay = 0.0\n"), tmp_path / "run")
    before = {name: value.clone() for name, value in trainer.model.subspace.first.state_dict().items()}
    trainer.run_epoch()
    after = trainer.model.subspace.first.state_dict()
    assert torch.equal(before["text.weight"], after["text.weight"])
    assert not torch.equal(before["image.weight"], after["image.weight"])


def test_exchanged_images_leave_labels_reports_and_sources_where_they_are(manifest, tmp_path):
    samples = read_manifest(manifest, "train")
    samples = [replace(sample, dataset=f"source-{n % 2}") for n, sample in enumerate(samples)]
    arrays = build_arrays(samples, (), (16,), tmp_path)
    control = exchanged(arrays, seed=1, within_source=True)
    assert np.array_equal(control.labels, arrays.labels, equal_nan=True)
    moved = [not np.array_equal(a, b) for a, b in zip(arrays.images, control.images, strict=True)]
    assert np.mean(moved) > 0.7
    for source in (0, 1):
        rows = arrays.source == source
        assert sorted(i.sum() for i in control.images[rows]) == sorted(i.sum() for i in arrays.images[rows])
    everywhere = exchanged(arrays, seed=1)
    assert sorted(i.sum() for i in everywhere.images) == sorted(i.sum() for i in arrays.images)
    assert sorted(i.sum() for i in everywhere.images[rows]) != sorted(i.sum() for i in arrays.images[rows])


def test_an_experiment_changes_a_few_keys_of_another(frozen):
    experiment = _over(frozen, '[data]\npaired_fraction = 0.25\n[train]\nepochs = 3\n')
    assert (experiment.data.paired_fraction, experiment.data.cache_size) == (0.25, 40)
    assert (experiment.train.epochs, experiment.train.batch) == (3, 8)
    frozen.write_text('base = "over.toml"\n', encoding="utf-8")
    with pytest.raises(ExperimentError, match=r"key base: .* goes back to this file"):
        load_experiment(frozen)


def test_a_resumed_run_that_is_done_trains_no_more(frozen, tmp_path):
    first = train(load_experiment(frozen), tmp_path / "run")
    before = first.stat().st_mtime_ns
    assert train(load_experiment(frozen), tmp_path / "run", resume=True) == tmp_path / "run" / STATE_FILE
    assert first.stat().st_mtime_ns == before
