"""Both towers and the common subspace in one module."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from encoders.towers.image import ImageTower
from encoders.towers.scda import attended_boxes, crop
from encoders.towers.subspace import IMAGE, TEXT, CommonSubspace
from encoders.towers.text import TextTower

#: Weight of the direct predictions beside those through the subspace; chosen on validation.
DIRECT_SHARE = 0.5

ATTENTION = ("none", "crop", "both")


class MultimodalModel(nn.Module):
    """Image tower, text tower and common subspace.

    Parameters
    ----------
    attention : str
        ``none``: the whole image. ``crop``: the region that its feature maps attend to instead (the paper's deep
        descriptors). ``both``: the mean of the two.
    direct : bool
        Predict from the pooled image features, too, by one linear layer each: a second opinion that does not pass
        through the shared encoder, and a shorter way for the gradient.

    Attributes
    ----------
    normal : Tensor (channels,)
        Running mean of the descriptors of normal images while training; zeros before.
    """

    def __init__(
        self,
        image_tower: ImageTower,
        text_tower: TextTower,
        subspace: CommonSubspace,
        attention: str = "none",
        *,
        direct: bool = False,
    ) -> None:
        super().__init__()
        if attention not in ATTENTION:
            raise ValueError(f"attention is {attention!r}; known: {', '.join(ATTENTION)}")
        self.image_tower = image_tower
        self.text_tower = text_tower
        self.text_module = text_tower.module
        self.subspace = subspace
        self.attention = attention
        outputs = subspace.outputs if direct else {}
        self.dropout = nn.Dropout(subspace.dropout.p)
        self.direct = nn.ModuleDict({name: nn.Linear(image_tower.channels, n) for name, n in outputs.items()})
        for parameter in self.direct.parameters():
            nn.init.zeros_(parameter)
        self.normal: Tensor
        self.register_buffer("normal", torch.zeros(image_tower.channels))

    def image_features(self, images: Tensor) -> Tensor:  # (n, 1, s, s) -> (n, channels)
        if self.attention == "none":
            return self.image_tower.pooled(images)
        maps = self.image_tower(images)
        pooled: Tensor = maps.float().mean((2, 3))
        with torch.no_grad():
            attended = crop(images, attended_boxes(maps))
        focused = self.image_tower.pooled(attended)
        return focused if self.attention == "crop" else (pooled + focused) / 2

    @staticmethod
    def descriptor(features: Tensor) -> Tensor:
        """Return square roots of pooled features: they tame the few channels that are large."""
        return (features.clamp_min(0) + 1e-4).sqrt()

    def embed_images(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return pooled features (n, channels) and embeddings in the common subspace (n, dim), not normalised."""
        features = self.image_features(images)
        return features, self.subspace(features, IMAGE)

    def findings(self, features: Tensor, embedding: Tensor) -> Tensor:
        """Return the findings' logits (n, 14): by the subspace, and by the direct predictions where there are any."""
        logits = self.subspace.predict(embedding, "findings")
        if "findings" in self.direct:
            logits = logits + DIRECT_SHARE * self.direct["findings"](features)
        return logits

    def embed_prepared(self, prepared: Tensor) -> Tensor:  # text tower's input -> (n, dim)
        embedding: Tensor = self.subspace(self.text_module(prepared), TEXT)
        return embedding

    def embed_texts(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return text features (n, width) and embeddings in the common subspace (n, dim), not normalised."""
        device = next(self.subspace.parameters()).device
        features: Tensor = self.text_module(self.text_tower.prepare(texts).to(device))
        return features, self.subspace(features, TEXT)
