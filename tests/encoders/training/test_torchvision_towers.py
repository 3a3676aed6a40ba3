"""torchvision's backbones as image towers: the same features, its own weights files, and what is refused."""

import pytest
import torch

from encoders.towers.image import TowerError, build_image_tower, take_weights, tower_of
from encoders.towers.torchvision_ops import declare_missing_operators
from encoders.training.build import build_model
from encoders.training.experiment import Experiment

declare_missing_operators()
import torchvision.models as zoo  # noqa: E402


@pytest.fixture
def original():
    """Return a function (name) -> torchvision's model with random weights and running statistics of its own."""

    def make(name):
        torch.manual_seed(7)
        model = zoo.get_model(name, weights=None)
        for part in model.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(part.running_mean, -0.5, 0.5)
        return model.eval()

    return make


def pooled(model, images):
    """Return the features that torchvision's classifier is given."""
    given = []
    head = next(getattr(model, name) for name in ("classifier", "fc", "head") if hasattr(model, name))
    head.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    model(images.repeat(1, 3, 1, 1))
    return given[0]


@pytest.mark.parametrize(
    ("name", "old"),
    [("densenet121", False), ("densenet121", True), ("resnet50", False), ("mobilenet_v2", False),
     ("swin_t", False), ("regnet_y_400mf", False), ("shufflenet_v2_x0_5", False)],
)  # fmt: skip
def test_a_file_of_torchvisions_weights_gives_its_features_of_a_grey_picture(tmp_path, original, name, old):
    model = original(name)
    state = dict(model.state_dict())
    if old:                                                         # as the first files were written
        for part in ("norm", "conv"):
            for n in "12":
                state = {key.replace(f".{part}{n}.", f".{part}.{n}."): value for key, value in state.items()}
        state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "weights.pth")
    image = {"tower": f"torchvision:{name}", "weights": tmp_path / "weights.pth", "size": 64}
    experiment = Experiment.model_validate({"name": "x", "data": {"manifest": "x.csv"}, "image": image})
    text = type("Text", (), {"width": 8, "module": torch.nn.Identity()})()
    tower = build_model(experiment, text, ()).image_tower.eval()
    images = torch.randn(2, 1, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(tower.pooled(images), pooled(model, images), atol=1e-4, rtol=1e-4)
    assert tower(images).shape[1] == tower.channels


def test_weights_of_another_tower_are_refused_with_the_first_that_does_not_fit(tmp_path, original):
    tower = build_image_tower("torchvision:resnet18", False)
    for name, told in (("resnet50", "layer1.0.conv3.weight"), ("densenet121", "features.conv0.weight")):
        with pytest.raises(TowerError, match=rf"w\.pth: not the tensors.*({told}).*image\.tower"):
            take_weights(tower, original(name).state_dict(), tmp_path / "w.pth")
    with pytest.raises(TowerError, match=r"body\.0\.weight is missing"):
        take_weights(tower, {}, tmp_path / "w.pth")


@pytest.mark.parametrize(
    "name",
    ["swin_t", "regnet_y_400mf", "shufflenet_v2_x0_5", "mnasnet0_5", "googlenet", "inception_v3", "efficientnet_b0",
     "convnext_tiny", "squeezenet1_1", "vgg11"],
)  # fmt: skip
def test_each_family_ends_in_feature_maps_of_so_many_channels(name):
    tower = build_image_tower(f"torchvision:{name}", False).eval()
    with torch.inference_mode():
        maps = tower(torch.randn(2, 1, 128, 128))
    assert maps.ndim == 4
    assert maps.shape[:2] == (2, tower.channels)
    assert maps.shape[2] == maps.shape[3] < 16                      # rows and columns, whatever the channels are


def test_a_model_without_feature_maps_is_refused():
    with pytest.raises(TowerError, match=r"Linear has no feature maps.*densenet121"):
        tower_of(torch.nn.Linear(2, 2))


def test_that_torchvision_carries_no_weights_is_told_with_the_way_to_them():
    with pytest.raises(TowerError, match=r"image\.weights to a file.*\.pth.*pretrained = false"):
        build_image_tower("torchvision:densenet121", True)
