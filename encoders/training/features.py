"""Features of an image tower that does not learn: computed once, kept on disk, and trained on instead of the images."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from encoders.preprocess import Preprocessing
from encoders.towers.model import MultimodalModel
from encoders.training.arrays import Arrays, Progress
from encoders.training.augment import plain, standardised
from encoders.training.experiment import ImageSection

BATCH = 64


def always_the_same(model: MultimodalModel, image: ImageSection) -> bool:
    """Return whether an image gives the same features at every step: its tower frozen, and no augmentation."""
    return not image.augment and all(not p.requires_grad for p in model.image_tower.parameters())


def _digest(model: MultimodalModel, arrays: Arrays, constants: Preprocessing) -> str:
    digest = hashlib.sha256(repr((model.attention, constants, arrays.images.shape)).encode())
    digest.update(repr([str(sample.image_path) for sample in arrays.samples]).encode())
    for name, tensor in model.image_tower.state_dict().items():
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def with_features(
    model: MultimodalModel, arrays: Arrays, constants: Preprocessing, folder: Path, progress: Progress | None = None
) -> Arrays:
    """Return the arrays with pooled features, float32 (n, channels), in the place of their images.

    The file below `folder` is named by the tower's weights and the images' paths, so that every experiment on the same
    tower shares it.
    """
    file = folder / f"features-{_digest(model, arrays, constants)}.npy"
    if not file.exists():
        device = next(model.parameters()).device
        model.eval()
        rows = []
        with torch.inference_mode():
            for start in range(0, len(arrays.samples), BATCH):
                raw = torch.from_numpy(np.array(arrays.images[start : start + BATCH])).to(device)
                images = standardised(plain(raw, constants.size), constants).to(memory_format=torch.channels_last)
                rows.append(model.image_features(images).float().cpu().numpy())
                if progress:
                    progress("features", min(start + BATCH, len(arrays.samples)), len(arrays.samples))
        part = file.with_suffix(f".{os.getpid()}.part")
        with part.open("wb") as opened:
            np.save(opened, np.concatenate(rows) if rows else np.zeros((0, model.image_tower.channels), np.float32))
        os.replace(part, file)
    return replace(arrays, images=np.load(file))
