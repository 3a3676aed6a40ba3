"""Generalised-mean pooling as a tower: its maps have the generalised mean of the tower's own as their mean."""

import numpy as np
import pytest
import torch

from encoders.preprocess import Preprocessing
from encoders.towers.image import TowerError, build_image_tower
from encoders.training.features import _Features

NAME = "torchvision:resnet18"


@pytest.fixture
def images():
    return torch.rand(3, 1, 96, 96, generator=torch.Generator().manual_seed(1))


def pair(name):
    plain, pooling = build_image_tower(NAME, False), build_image_tower(name, False)
    pooling.load_state_dict(plain.state_dict())
    return plain.eval(), pooling.eval()


@pytest.mark.parametrize("exponent", [1, 3, 60])
def test_the_mean_of_the_maps_is_the_generalised_mean_of_the_towers_own(images, exponent):
    plain, pooling = pair(f"gem{exponent}:{NAME}")
    with torch.inference_mode():
        maps = plain(images).double().clamp_min(1e-6)
        expected = maps.pow(exponent).mean((2, 3)).pow(1 / exponent)
        torch.testing.assert_close(pooling.pooled(images).double(), expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(pooling(images).mean((2, 3)), pooling.pooled(images))


def test_gradients_reach_the_weights_even_of_channels_that_are_dark(images):
    _, pooling = pair(f"gem3:{NAME}")
    pooling.pooled(images * 0).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in pooling.parameters() if p.grad is not None)


def test_kept_features_of_one_exponent_are_not_taken_for_those_of_another(images, tmp_path):
    plain, pooling = pair(f"gem3:{NAME}")

    class Nothing:
        samples = ()

    sheets, constants = np.zeros((3, 96, 96), np.uint8), Preprocessing(size=96)
    towers = (plain, pooling, pair(f"gem2:{NAME}")[1])
    digests = {_Features(tower, tower.pooled, "none", constants)._digest(Nothing(), sheets) for tower in towers}
    assert len(digests) == 3


def test_side_by_side_each_tower_may_pool_in_its_own_way(images):
    both = build_image_tower(f"gem3:{NAME}@64+{NAME}@96", False)
    assert both.channels == 1024
    assert [member.extra_repr() for member in both.members] == ["exponent=3", ""]


def test_an_exponent_below_one_is_refused():
    with pytest.raises(TowerError, match="at least 1"):
        build_image_tower(f"gem0.5:{NAME}", False)
