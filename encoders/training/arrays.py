"""What the trainer's loop touches: samples as arrays, images decoded once."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoders.base import FINDING_NAMES, Float32, ReportText, UnreadableInstance
from encoders.pictures import deep_pixels
from encoders.preprocess import UInt8, sheet, sheet_of_bytes, sheet_shape
from encoders.towers.text import report_text
from encoders.training.experiment import AuxiliaryLabels
from encoders.training.manifest import ManifestError, Sample

Progress = Callable[[str, int, int], None]


def load_bytes(path: Path, sizes: Sequence[int]) -> UInt8:
    """Return the sheet, uint8 (rows, columns), of a JPEG, PNG or DICOM file."""
    try:
        pixels = deep_pixels(path, max(sizes))
        if pixels is not None:
            return np.asarray(sheet(pixels, sizes) * 255 + 0.5, dtype=np.uint8)
        with Image.open(path) as image:
            image.draft("L", (max(sizes), max(sizes)))
            return sheet_of_bytes(image, sizes)
    except (OSError, UnreadableInstance, Image.DecompressionBombError, ValueError) as error:
        raise ManifestError(f"{path}: cannot be decoded ({error}); leave it out of the manifest") from error


def cached_images(
    paths: Sequence[Path], sizes: Sequence[int], folder: Path, progress: Progress | None = None
) -> UInt8:
    """Return the sheets, uint8 (n, rows, columns), of files as a memory map, decoding them only the first time."""
    name = "-".join(map(str, sizes))
    digest = hashlib.sha256(repr((name, [str(path) for path in paths])).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"images-{name}-{digest}.npy"
    if not file.exists():
        part = file.with_suffix(f".{os.getpid()}.part")
        images = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=(len(paths), *sheet_shape(sizes)))
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for row, image in enumerate(pool.map(lambda path: load_bytes(path, sizes), paths)):
                images[row] = image
                if progress and row % 100 == 99:
                    progress("decode", row + 1, len(paths))
        images.flush()
        os.replace(part, file)
    return np.asarray(np.load(file, mmap_mode="r"))


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Columns of one auxiliary coupling matrix."""

    name: str
    datasets: tuple[str, ...]
    labels: tuple[str, ...]
    uncoded: tuple[str, ...] = ()

    def targets(self, sample: Sample) -> Float32:
        """Return float32 (columns,): 1 present, 0 absent, NaN where the source has no such labels."""
        carries = any(sample.dataset.startswith(prefix) for prefix in self.datasets)
        if not carries or set(sample.source_labels) <= set(self.uncoded):
            return np.full(len(self.labels), np.nan, np.float32)
        return np.array([label in sample.source_labels for label in self.labels], np.float32)


def build_vocabulary(rule: AuxiliaryLabels, samples: Sequence[Sample]) -> Vocabulary:
    """Return the labels that at least `min_count` studies of the rule's data sets have."""
    studies = {(s.dataset, s.study_id): s for s in samples if any(s.dataset.startswith(p) for p in rule.datasets)}
    counts = Counter(label for s in studies.values() for label in s.source_labels)
    left_out = {*rule.ignore, *rule.uncoded}
    kept = sorted(label for label, count in counts.items() if count >= rule.min_count and label not in left_out)
    return Vocabulary(rule.name, rule.datasets, tuple(kept), rule.uncoded)


@dataclass(frozen=True, slots=True)
class Arrays:
    """Samples as arrays; rows of `images` and of the label arrays are the samples that have an image.

    Attributes
    ----------
    images : ndarray of uint8 (n, rows, columns), sheets; float32 (n, channels) where features of a frozen tower stand
        in for them
    labels : ndarray of float32 (n, 14); NaN unknown
    auxiliary : dict of float32 (n, columns)
    frontal : ndarray of float32 (n,); 1 frontal, 0 lateral, NaN unknown
    source : ndarray of int64 (n,): number of the data set
    text : ndarray of int64 (n,): row in `texts`, -1 without report
    texts : distinct report texts, of reports without an image, too
    text_labels, text_auxiliary : as above, a row a text
    """

    samples: tuple[Sample, ...]
    images: NDArray[Any]
    labels: Float32
    auxiliary: dict[str, Float32]
    frontal: Float32
    source: NDArray[np.int64]
    text: NDArray[np.int64]
    texts: tuple[str, ...]
    text_labels: Float32
    text_auxiliary: dict[str, Float32]


def taken_as_frontal(arrays: Arrays) -> NDArray[np.bool_]:
    """Return which images (n,) are frontal, or of a source that tells the view of none of its images."""
    told = np.isin(arrays.source, arrays.source[~np.isnan(arrays.frontal)])
    return np.asarray((arrays.frontal == 1) | ~told, dtype=bool)


def _label_rows(samples: Sequence[Sample]) -> Float32:
    return np.array([s.labels for s in samples], np.float32).reshape(len(samples), len(FINDING_NAMES))


def build_arrays(
    samples: Sequence[Sample],
    vocabularies: Sequence[Vocabulary],
    sizes: Sequence[int],
    cache: Path,
    *,
    paired_fraction: float = 1.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Arrays:
    """Return the arrays of samples; with `paired_fraction` below 1 the other studies' reports are not used."""
    pictured = [s for s in samples if s.image_path is not None]
    paths = [s.image_path for s in pictured if s.image_path is not None]
    images = cached_images(paths, sizes, cache, progress)
    with_report = sorted({(s.dataset, s.study_id) for s in samples if s.has_report})
    order = np.random.default_rng(seed).permutation(len(with_report))
    used = {with_report[i] for i in order[: round(paired_fraction * len(with_report))]}
    first: dict[str, Sample] = {}
    for s in samples:
        if s.has_report and (s.dataset, s.study_id) in used:
            first.setdefault(report_text(ReportText(s.findings, s.impression)), s)
    row_of = {text: row for row, text in enumerate(first)}
    sources = sorted({s.dataset for s in samples})
    text = [
        row_of[report_text(ReportText(s.findings, s.impression))]
        if s.has_report and (s.dataset, s.study_id) in used
        else -1
        for s in pictured
    ]
    views = {"frontal": 1.0, "lateral": 0.0}

    def rows(vocabulary: Vocabulary, of: Sequence[Sample]) -> Float32:
        return np.array([vocabulary.targets(s) for s in of], np.float32).reshape(len(of), len(vocabulary.labels))

    return Arrays(
        samples=tuple(pictured),
        images=images,
        labels=_label_rows(pictured),
        auxiliary={v.name: rows(v, pictured) for v in vocabularies},
        frontal=np.array([views.get(s.view, np.nan) for s in pictured], np.float32),
        source=np.array([sources.index(s.dataset) for s in pictured], np.int64),
        text=np.array(text, np.int64),
        texts=tuple(first),
        text_labels=_label_rows(list(first.values())),
        text_auxiliary={v.name: rows(v, list(first.values())) for v in vocabularies},
    )


def exchanged(arrays: Arrays, seed: int, *, within_source: bool = False) -> Arrays:
    """Return a control: every image in the place of another one, so that no label or report fits.

    Within its source, a model can still learn how often each source has a finding, and tell sources apart by looks.
    """
    rows = np.arange(len(arrays.samples))
    groups = arrays.source if within_source else np.zeros_like(arrays.source)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        rows[members] = np.random.default_rng([seed, 3]).permutation(members)
    return replace(arrays, images=arrays.images[rows])
