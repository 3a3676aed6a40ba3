"""Features of an image tower that does not learn: computed once, kept on disk, and trained on instead of the images."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from encoders.base import Float32
from encoders.preprocess import Preprocessing, UInt8
from encoders.towers.image import ImageTower
from encoders.towers.model import MultimodalModel
from encoders.towers.side_by_side import SideBySide
from encoders.training.arrays import Arrays, Progress
from encoders.training.augment import plain, standardised
from encoders.training.experiment import ImageSection

BATCH = 64


def always_the_same(model: MultimodalModel, image: ImageSection) -> bool:
    """Return whether an image gives the same features at every step: its tower frozen, and no augmentation."""
    return not image.augment and all(not p.requires_grad for p in model.image_tower.parameters())


def with_features(
    model: MultimodalModel, arrays: Arrays, constants: Preprocessing, folder: Path, progress: Progress | None = None
) -> Arrays:
    """Return the arrays with pooled features, float32 (n, channels), in the place of their images.

    The files below `folder`, one for each tower, are named by its weights and the images' paths, so that every
    experiment on the same tower shares them.
    """
    tower = model.image_tower
    if not isinstance(tower, SideBySide) or model.attention != "none":      # what is attended to is of all towers
        compute = _Features(tower, model.image_features, model.attention, constants)
        return replace(arrays, images=compute.kept(arrays, arrays.images, folder, progress))
    parts = []
    for member, (rows, columns) in zip(tower.members, tower.squares(constants.size), strict=True):
        compute = _Features(member, member.pooled, model.attention, replace(constants, size=rows.stop, others=()))
        parts.append(compute.kept(arrays, arrays.images[:, rows, columns], folder, progress))
    return replace(arrays, images=np.concatenate(parts, 1))


@dataclass(frozen=True)
class _Features:
    """Pooled features of one tower."""

    tower: ImageTower
    pooled: Callable[[Tensor], Tensor]
    attention: str
    constants: Preprocessing

    def kept(self, arrays: Arrays, images: UInt8, folder: Path, progress: Progress | None) -> Float32:
        """Return those of the arrays' samples, whose sheets are `images`: out of the folder, or computed."""
        file = folder / f"features-{self._digest(arrays, images)}.npy"
        if not file.exists():
            part = file.with_suffix(f".{os.getpid()}.part")
            with part.open("wb") as opened:
                np.save(opened, self._computed(images, progress))
            os.replace(part, file)
        return np.asarray(np.load(file), dtype=np.float32)

    def _digest(self, arrays: Arrays, images: UInt8) -> str:
        digest = hashlib.sha256(repr((self.attention, self.constants, images.shape)).encode())
        digest.update("".join(m.extra_repr() for m in self.tower.modules() if isinstance(m, ImageTower)).encode())
        digest.update(repr([str(sample.image_path) for sample in arrays.samples]).encode())
        for name, tensor in self.tower.state_dict().items():
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _computed(self, images: UInt8, progress: Progress | None) -> Float32:
        device = next(self.tower.parameters()).device
        self.tower.eval()
        rows = []
        with torch.inference_mode():
            for start in range(0, len(images), BATCH):
                raw = torch.from_numpy(np.array(images[start : start + BATCH])).to(device)
                inputs = standardised(plain(raw, self.constants.sizes), self.constants)
                rows.append(self.pooled(inputs.to(memory_format=torch.channels_last)).float().cpu().numpy())
                if progress:
                    progress("features", min(start + BATCH, len(images)), len(images))
        return np.concatenate(rows) if rows else np.zeros((0, self.tower.channels), np.float32)
