"""Generalised-mean pooling of any image tower: high activations count more than in the plain mean.

References
----------
Radenovic, Tolias, Chum, "Fine-Tuning CNN Image Retrieval with No Human Annotation", IEEE TPAMI 41(7), 2019.
"""

from __future__ import annotations

from torch import Tensor

from encoders.towers.image import ImageTower

#: Least activation: a channel that is dark everywhere still has a root.
LEAST = 1e-6


class GeneralisedMean(ImageTower):
    """A tower whose feature maps have as their plain mean the generalised one of the tower's own.

    With g = (mean x^p)^(1/p), the maps x^p / g^(p-1) have the mean g. So whatever takes the mean of feature maps, or
    says which region brought it about, needs to know nothing of it. The weights are those of the tower itself.

    Parameters
    ----------
    tower : ImageTower
    exponent : float
        p, at least 1; 1 is the plain mean of what is not negative, large ones come near the largest activation.
    """

    def __init__(self, tower: ImageTower, exponent: float) -> None:
        super().__init__(tower.body, tower.channels, tower._stages[0])
        self.exponent = exponent

    def extra_repr(self) -> str:
        """Return the exponent: the weights do not tell it."""
        return f"exponent={self.exponent:g}"

    def forward(self, images: Tensor) -> Tensor:  # (n, 1, s, s) -> (n, c, h, w)
        """Return feature maps, none of them negative."""
        maps = super().forward(images).float().clamp_min(LEAST)
        largest = maps.amax((2, 3), keepdim=True)
        powers = (maps / largest).pow(self.exponent)            # no overflow, whatever the exponent
        mean = powers.mean((2, 3), keepdim=True)
        result: Tensor = largest * powers * mean.pow(1 / self.exponent - 1)
        return result
