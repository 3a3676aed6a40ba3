"""Which samples of a manifest an experiment uses, as arrays, and whether they can teach what it asks for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from encoders.training.arrays import Arrays, Progress, Vocabulary, build_arrays
from encoders.training.experiment import Experiment
from encoders.training.manifest import ManifestError, Sample, read_manifest
from encoders.training.phantoms import phantom_samples

#: Seed of the first training phantom; demo and tests use small seeds.
FIRST_PHANTOM = 1_000_000


def select(experiment: Experiment, split: str) -> list[Sample]:
    """Return the samples that an experiment uses of one split."""
    data = experiment.data
    samples = [
        s
        for s in read_manifest(data.manifest, split)
        if (not data.datasets or any(s.dataset.startswith(prefix) for prefix in data.datasets))
        and (s.view in data.views or s.image_path is None)
    ]
    if not samples:
        if not any(s.split for s in read_manifest(data.manifest)):
            cure = f"cxrfind manifest --dataset csv --root {data.manifest} --out split.csv makes one with splits"
            raise ManifestError(f"{data.manifest}: no row has a split (train, val); {cure}")
        raise ManifestError(f"{data.manifest}: no {split} rows of the data sets and views asked for; see [data]")
    if split == "train" and data.limit and len(samples) > data.limit:
        chosen = np.random.default_rng(experiment.seed).permutation(len(samples))[: data.limit]
        samples = [samples[i] for i in sorted(chosen)]
    return samples


def _demand(experiment: Experiment, arrays: Arrays) -> None:
    """Raise ManifestError where an experiment would learn nothing from its training data."""
    path = experiment.data.manifest
    if not arrays.samples and not (arrays.texts and experiment.loss.reports and experiment.text.extra_batch):
        raise ManifestError(
            f"{path}: no train row has an image, and no report is to teach: add images (they need no report), or "
            "reports, with loss.reports and text.extra_batch above 0"
        )
    known = any(not np.isnan(labels).all() for labels in (arrays.labels, arrays.text_labels))
    if experiment.loss.findings and not known:
        raise ManifestError(
            f"{path}: no train row names a finding in its column chexpert; fill it (No Finding where there is none) or "
            "set [loss] findings = 0 to learn from the other losses alone"
        )


def chosen_arrays(
    experiment: Experiment,
    samples: Sequence[Sample],
    vocabularies: Sequence[Vocabulary],
    cache: Path,
    progress: Progress | None = None,
) -> tuple[Arrays, Arrays]:
    """Return what is trained on, simulated studies with it, and what is validated with.

    Parameters
    ----------
    samples : of the split train, as `select` returns them

    Raises
    ------
    ManifestError
        If the experiment would learn nothing from them.
    """
    data = experiment.data
    if data.phantoms:
        phantoms = phantom_samples(data.phantoms, FIRST_PHANTOM, data.cache_size, cache / "phantoms", "train")
        samples = [*samples, *phantoms]
    shown = build_arrays(
        samples, vocabularies, (data.cache_size,), cache,
        paired_fraction=data.paired_fraction, seed=experiment.seed, progress=progress,
    )  # fmt: skip
    _demand(experiment, shown)
    sizes = experiment.image.preprocessing.sizes
    return shown, build_arrays(select(experiment, "val"), vocabularies, sizes, cache, progress=progress)
