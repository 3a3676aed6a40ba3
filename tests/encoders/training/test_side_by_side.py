"""Towers side by side: an ensemble that is one tower to everybody else."""

import numpy as np
import pytest
import torch

from encoders.towers.image import TowerError, build_image_tower
from encoders.training.build import load_run
from encoders.training.experiment import Experiment
from encoders.training.stack import StackError, stack_runs
from encoders.training.trainer import train


def test_each_member_sees_the_image_at_its_own_size_and_its_channels_lie_behind_the_others():
    torch.manual_seed(0)
    tower = build_image_tower("efficientnet-lite0@64+efficientnet-lite0@96", pretrained=False).eval()
    images = torch.randn(2, 1, 96, 96)
    smaller = torch.nn.functional.interpolate(images, (64, 64), mode="bilinear", align_corners=False)
    with torch.inference_mode():
        pooled = tower.pooled(images)
        alone = [tower.members[0].pooled(smaller), tower.members[1].pooled(images)]
        maps = tower(images)
    assert tower.channels == pooled.shape[1] == maps.shape[1] == 2560
    torch.testing.assert_close(pooled, torch.cat(alone, 1))
    torch.testing.assert_close(maps.mean((2, 3)), pooled, atol=1e-5, rtol=1e-4)


def test_a_size_that_is_no_number_is_refused_in_a_sentence():
    with pytest.raises(TowerError, match="efficientnet-lite0@160"):
        build_image_tower("efficientnet-lite0@large", pretrained=False)


@pytest.fixture
def trained(tmp_path, small_experiment):
    """Return a function seed, direct -> the folder of a run."""

    def run(seed, direct=True):
        experiment = small_experiment(tmp_path, 1, direct)
        train(experiment.model_copy(update={"seed": seed}), tmp_path / f"run-{seed}")
        return tmp_path / f"run-{seed}"

    return run


def test_stacked_runs_predict_the_mean_of_what_each_predicts_directly(tmp_path, trained):
    runs = [trained(1), trained(2)]
    stacked = load_run(stack_runs(runs, tmp_path / "both", hidden=24)).model
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 1, 32, 32)).astype(np.float32))
    with torch.inference_mode():
        each = [m.direct["findings"](m.image_features(images)) for m in (load_run(run).model for run in runs)]
        both = stacked.direct["findings"](stacked.image_features(images))
    torch.testing.assert_close(both, (each[0] + each[1]) / 2)
    assert not torch.allclose(each[0], each[1])


def test_a_stacked_run_is_trained_on_with_its_towers_left_as_they_are(tmp_path, trained):
    runs = [trained(1), trained(2)]
    stack_runs(runs, tmp_path / "both", hidden=24)
    before = load_run(tmp_path / "both")
    sections = before.experiment.model_dump(mode="json")
    sections["train"] |= {"initial": "both", "epochs": 1}
    train(Experiment.model_validate(sections), tmp_path / "subspace")
    after = load_run(tmp_path / "subspace").model.state_dict()
    start = before.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in start.items() if name.startswith("image_tower"))
    assert not torch.equal(start["subspace.third.weight"], after["subspace.third.weight"])


def test_runs_without_direct_predictions_are_not_stacked(tmp_path, trained):
    runs = [trained(1), trained(2, direct=False)]
    with pytest.raises(StackError, match="no direct predictions"):
        stack_runs(runs, tmp_path / "both")
