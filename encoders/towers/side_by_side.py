"""Several image towers that look at the same image side by side: an ensemble that is one tower to everybody else."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from encoders.towers.image import ImageTower


class SideBySide(ImageTower):
    """Members whose channels lie behind one another.

    Towers that were trained apart err apart: features of both tell more than those of either (Lakshminarayanan et al.,
    NeurIPS 2017). Each member sees the image at the size that it was trained at; made smaller by cubic convolution, for
    the image was smoothed when it came to the largest size, and linear interpolation would smooth it once more.

    Parameters
    ----------
    members : sequence of ImageTower
    sizes : sequence of int
        Side in pixels of each member's input; 0: as the image comes.
    """

    def __init__(self, members: Sequence[ImageTower], sizes: Sequence[int]) -> None:
        stages = [stage for member in members for stage in member._stages[0]]
        super().__init__(torch.nn.ModuleList(members), sum(member.channels for member in members), stages)
        self.sizes = tuple(sizes)
        self._members = [list(members)]  # in a list: registered once, as the body

    @property
    def members(self) -> list[ImageTower]:
        """Return the towers."""
        return self._members[0]

    def freeze(self, stages: int) -> None:
        """Keep the first stages of each member as they are."""
        for member in self.members:
            member.freeze(stages)

    def _each(self, images: Tensor) -> list[Tensor]:  # (n, 1, s, s) -> of each member (n, c, h, w)
        maps = []
        for member, size in zip(self.members, self.sizes, strict=True):
            own = images
            if size and size != images.shape[-1]:
                own = functional.interpolate(images, (size, size), mode="bicubic", align_corners=False)
            maps.append(member(own))
        return maps

    def pooled(self, images: Tensor) -> Tensor:  # (n, 1, s, s) -> (n, channels)
        """Return the means of the feature maps."""
        return torch.cat([maps.float().mean((2, 3)) for maps in self._each(images)], 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the members' feature maps on the coarsest grid that all of theirs divide: means stay what they are."""
        each = self._each(images)
        grid = [math.lcm(*(maps.shape[axis] for maps in each)) for axis in (2, 3)]
        return torch.cat([functional.interpolate(maps, grid, mode="nearest") for maps in each], 1)
