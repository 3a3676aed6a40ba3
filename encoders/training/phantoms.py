"""Simulated studies as training samples: a small share, so that the demo's answers make sense."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from encoders.base import FINDING_NAMES
from encoders.phantom import draw
from encoders.training.manifest import NAN, Sample

DATASET = "phantom"
#: Pixels that are drawn and thrown away to get at the words of a phantom whose picture is already there.
SMALL = 32


def phantom_samples(count: int, first_seed: int, size: int, folder: Path, split: str) -> list[Sample]:
    """Return samples of `count` frontal phantoms, seed by seed, drawn as PNG files into a folder the first time."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for seed in range(first_seed, first_seed + count):
        file = folder / f"phantom-{size}-{seed}.png"
        drawn = file.exists()
        pixels, findings, text, impression = draw(seed, SMALL if drawn else size)
        if not drawn:
            part = file.with_suffix(".part")                        # a training may be killed at any moment
            Image.fromarray((np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8)).save(part, format="PNG")
            os.replace(part, file)
        samples.append(
            Sample(
                dataset=DATASET,
                study_id=f"phantom_{seed}",
                patient_id=f"phantom_{seed}",
                image_path=file,
                view="frontal",
                findings=text,
                impression=impression,
                labels=tuple(NAN if findings[name] < 0 else findings[name] for name in FINDING_NAMES),
                split=split,
            )
        )
    return samples
