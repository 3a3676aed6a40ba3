"""Both towers and the common subspace in one module."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from encoders.towers.image import ImageTower
from encoders.towers.scda import attended_boxes, crop
from encoders.towers.subspace import IMAGE, TEXT, CommonSubspace
from encoders.towers.text import TextTower

ATTENTION = ("none", "crop", "both")


class MultimodalModel(nn.Module):
    """Image tower, text tower and common subspace.

    Parameters
    ----------
    attention : str
        ``none``: the whole image. ``crop``: the region that its feature maps attend to instead (the paper's deep
        descriptors). ``both``: the mean of the two.
    """

    def __init__(
        self, image_tower: ImageTower, text_tower: TextTower, subspace: CommonSubspace, attention: str = "none"
    ) -> None:
        super().__init__()
        if attention not in ATTENTION:
            raise ValueError(f"attention is {attention!r}; known: {', '.join(ATTENTION)}")
        self.image_tower = image_tower
        self.text_tower = text_tower
        self.text_module = text_tower.module
        self.subspace = subspace
        self.attention = attention

    def image_features(self, images: Tensor) -> Tensor:  # (n, 1, s, s) -> (n, channels)
        maps = self.image_tower(images)
        pooled: Tensor = maps.float().mean((2, 3))
        if self.attention == "none":
            return pooled
        with torch.no_grad():
            attended = crop(images, attended_boxes(maps))
        focused: Tensor = self.image_tower(attended).float().mean((2, 3))
        return focused if self.attention == "crop" else (pooled + focused) / 2

    def embed_images(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return pooled features (n, channels) and embeddings in the common subspace (n, dim), not normalised."""
        features = self.image_features(images)
        return features, self.subspace(features, IMAGE)

    def embed_prepared(self, prepared: Tensor) -> Tensor:  # text tower's input -> (n, dim)
        embedding: Tensor = self.subspace(self.text_module(prepared), TEXT)
        return embedding

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return embeddings of texts (n, dim), not normalised."""
        device = next(self.subspace.parameters()).device
        return self.embed_prepared(self.text_tower.prepare(texts).to(device))
