"""Several image towers that look at the same image side by side: an ensemble that is one tower to everybody else."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from encoders.preprocess import places
from encoders.towers.image import ImageTower


class SideBySide(ImageTower):
    """Members whose channels lie behind one another.

    Towers that were trained apart err apart: features of both tell more than those of either (Lakshminarayanan et al.,
    NeurIPS 2017). Each member sees its square of the image's sheet (encoders.preprocess): the whole image squeezed to
    the size that it was trained at. A square made of a larger one instead cost a tower .007 AUC.

    Parameters
    ----------
    members : sequence of ImageTower
    sizes : sequence of int
        Side in pixels of each member's input; 0: the largest there is.
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

    def squares(self, largest: int) -> list[tuple[slice, slice]]:
        """Return rows and columns of each member's square in a sheet."""
        sizes = [size or largest for size in self.sizes]
        where = places(sorted(set(sizes), reverse=True))
        return [where[size] for size in sizes]

    def _each(self, images: Tensor) -> list[Tensor]:  # (n, 1, rows, columns) -> of each member (n, c, h, w)
        squares = zip(self.members, self.squares(images.shape[2]), strict=True)
        return [member(images[:, :, rows, columns]) for member, (rows, columns) in squares]

    def pooled(self, images: Tensor) -> Tensor:  # (n, 1, rows, columns) -> (n, channels)
        """Return the means of the feature maps."""
        return torch.cat([maps.float().mean((2, 3)) for maps in self._each(images)], 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the members' feature maps on the coarsest grid that all of theirs divide: means stay what they are."""
        each = self._each(images)
        grid = [math.lcm(*(maps.shape[axis] for maps in each)) for axis in (2, 3)]
        return torch.cat([functional.interpolate(maps, grid, mode="nearest") for maps in each], 1)
