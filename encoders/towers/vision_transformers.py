"""torchvision's vision transformers as feature maps: the tokens of ViT's patches on their grid, and MaxViT at any size.

Both hold the same tensors at every size: ViT's position embeddings stay those of the grid that they were learnt on and
are interpolated to the image's, MaxViT's are of the inside of a partition.

References
----------
Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021. Tu et al., "MaxViT: Multi-Axis Vision Transformer",
ECCV 2022.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.maxvit import PartitionAttentionLayer
from torchvision.models.vision_transformer import interpolate_embeddings

from encoders.towers.image import TowerError


def positions_at(embeddings: Tensor, side: int) -> Tensor:
    """Return the position embeddings (1, 1 + side * side, channels) of a grid, the class token's first."""
    state = OrderedDict({"encoder.pos_embedding": embeddings})
    result: Tensor = interpolate_embeddings(side, 1, state)["encoder.pos_embedding"]
    return result


def _demand_multiple(images: Tensor, step: int) -> None:
    side = images.shape[2]
    if side % step:
        fitting = " or ".join(str(size) for size in (side // step * step, (side // step + 1) * step) if size)
        raise TowerError(
            f"this image tower takes images whose side is a multiple of {step} pixels, not {side}; set image.size, or "
            f"what stands behind @ in image.tower, to {fitting}"
        )


class PatchMaps(nn.Module):
    """A VisionTransformer without its classifier: maps of the patches behind the last LayerNorm, without class token.

    Parameters
    ----------
    model : torchvision.models.VisionTransformer
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.conv_proj, self.class_token, self.encoder = model.conv_proj, model.class_token, model.encoder
        self.step: int = model.patch_size

    @property
    def stages(self) -> list[nn.Module]:
        """Return what is frozen one after the other: patches and positions, each layer, the last LayerNorm."""
        positions = nn.ParameterList([self.class_token, self.encoder.pos_embedding])
        return [nn.ModuleList([self.conv_proj, positions]), *self.encoder.layers, self.encoder.ln]

    def forward(self, images: Tensor) -> Tensor:  # (n, 1, s, s) -> (n, channels, s / step, s / step)
        _demand_multiple(images, self.step)
        patches = self.conv_proj(images)
        side = patches.shape[2]
        tokens = torch.cat([self.class_token.expand(images.shape[0], -1, -1), patches.flatten(2).mT], 1)
        tokens = self.encoder.dropout(tokens + positions_at(self.encoder.pos_embedding, side))
        result: Tensor = self.encoder.ln(self.encoder.layers(tokens))[:, 1:].mT.unflatten(2, (side, side))
        return result


def _fit_to_map(layer: Any, inputs: tuple[Tensor, ...]) -> None:
    """Make a layer part the map that comes (n, channels, rows, columns); it is built for one size."""
    layer.grid_size = tuple(inputs[0].shape[2:])
    if layer.partition_type == "grid":                              # so many parts of any size; a window: so large ones
        layer.p = layer.grid_size[0] // layer.g


class PartitionedMaps(nn.Sequential):
    """A MaxVit without its classifier, at every size that its partitions divide.

    Parameters
    ----------
    model : torchvision.models.MaxVit
    """

    def __init__(self, model: Any) -> None:
        stages: list[nn.Module] = [model.stem, *model.blocks]
        super().__init__(OrderedDict(stem=model.stem, blocks=nn.Sequential(*model.blocks)))
        self._stages = [stages]  # in a list: not registered as modules twice
        self.step: int = model.partition_size * 2 ** (1 + len(model.blocks))    # stem and blocks halve the map each
        for layer in self.modules():
            if isinstance(layer, PartitionAttentionLayer):
                layer.register_forward_pre_hook(_fit_to_map)

    @property
    def stages(self) -> list[nn.Module]:
        """Return what is frozen one after the other: the stem and each block."""
        return self._stages[0]

    def forward(self, images: Tensor) -> Tensor:  # (n, 1, s, s) -> (n, channels, h, w)
        _demand_multiple(images, self.step)
        result: Tensor = super().forward(images)  # type: ignore[no-untyped-call]
        return result
