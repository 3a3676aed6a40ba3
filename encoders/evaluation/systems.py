"""What is compared: each system gives vectors for the same images; baselines and controls run beside the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoders.base import ABNORMAL_COLUMNS, Encoder, Float32, UnreadableInstance
from encoders.encode_manifest import encode_manifest, read_image
from encoders.preprocess import Preprocessing, squeeze, standardise
from encoders.training.manifest import Sample
from encoders.training.metrics import cosine_ranking

Progress = Callable[[int, int], None]

RANDOM, SHUFFLED, EXCHANGED = "random", "shuffled images", "answers of another query"
PIXELS, FROZEN, TFIDF = "raw pixels", "frozen ImageNet", "TF-IDF of reports"

#: Side of the pictures that raw pixels are compared at, and that the frozen network sees.
PIXEL_SIDE, FROZEN_SIDE = 32, 224
RANDOM_DIM = 64


@dataclass(frozen=True, slots=True)
class System:
    """One row of every table.

    Attributes
    ----------
    note : str
        What it is, for the reader of the table.
    runs : tuple of float32 (n, dim)
        Vectors of the samples' images, NaN rows where there are none; one array a seed. Every figure is the mean of
        the runs' own.
    reports : tuple of float32 (n, dim)
        Vectors of the reports, one array a run; empty where the system has no text side.
    findings : tuple of float32 (n, 14)
        Finding probabilities, one array a run; empty where it has none.
    score : callable or None
        Returns (n, n) for n rows of the samples: how each is ranked for each as a query. None: by the vectors' cosine.
    """

    name: str
    note: str
    runs: tuple[Float32, ...]
    reports: tuple[Float32, ...] = ()
    findings: tuple[Float32, ...] = ()
    score: Callable[[NDArray[np.intp]], NDArray[np.float64]] | None = None


def checkpoint_system(
    name: str, encoders: Sequence[Encoder], samples: Sequence[Sample], progress: Progress | None = None
) -> tuple[System, tuple[str, ...]]:
    """Return what one model, or several as the seeds of one system, say of samples, and the images nobody could read.

    Parameters
    ----------
    progress : callable or None
        Told (done, of) over all models.
    """
    encoded = []
    for number, encoder in enumerate(encoders):

        def tell(done: int, of: int, number: int = number) -> None:
            if progress:
                progress(number * of + done, len(encoders) * of)

        encoded.append(encode_manifest(samples, encoder, progress=tell))
    note = ", ".join(encoder.model_id for encoder in encoders)
    several = f"mean of {len(encoders)} models: " if len(encoders) > 1 else ""
    image, report, findings = (
        tuple(each.arrays[name] for each in encoded) for name in ("image", "report", "image_findings")
    )
    return System(name, several + note, image, report, findings), encoded[0].faults


def fused_system(model: System, encoders: Sequence[Encoder]) -> System:
    """Return a model's JOINT vectors: each image fused with its report (`Encoder.fuse`), NaN rows without one."""
    runs = []
    for encoder, images, reports in zip(encoders, model.runs, model.reports, strict=True):
        fused = np.full_like(images, np.nan)
        for row in np.flatnonzero(np.isfinite(images).all(1) & np.isfinite(reports).all(1)):
            fused[row] = encoder.fuse(images[row : row + 1], reports[row])
        runs.append(fused)
    return System(model.name, model.note, tuple(runs))


def among(system: System, rows: NDArray[np.bool_]) -> System:
    """Return a system that has the vectors of these rows (n,) only."""
    return System(system.name, system.note, tuple(np.where(rows[:, None], run, np.nan) for run in system.runs))


def classifier_system(model: System) -> System:
    """Return the model's finding probabilities as vectors: √p, whose inner product is the Bhattacharyya overlap."""
    vectors = tuple(np.sqrt(np.clip(findings, 0, 1)) for findings in model.findings)
    return System(f"{model.name}: findings only", "its 14 finding probabilities as a vector", vectors)


def _abnormal(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return how many abnormal findings are expected in each row."""
    return np.asarray(probabilities[:, ABNORMAL_COLUMNS].sum(1), dtype=np.float64)


def sickest_system(model: System) -> System:
    """Return a ranking that does not look at the query: the images in which the model sees most findings first.

    Protocol B asks abnormal queries only, and counts shared findings: what shows many is often right by itself. What a
    system is beyond that, it owes to the question.
    """
    expected = _abnormal(model.findings[0])

    def score(rows: NDArray[np.intp]) -> NDArray[np.float64]:
        return np.repeat(expected[rows][None], len(rows), 0)

    note = "no query: for all the same answers, those in which the model expects most abnormal findings"
    return System(f"{model.name}: sickest first", note, (expected[:, None].astype(np.float32),), score=score)


def exchanged_system(model: System, samples: Sequence[Sample]) -> System:
    """Return a control: each abnormal query is answered as another abnormal one of the same pool would be.

    What is left of a figure was owed to the answers, not to the question.
    """
    labels = np.array([sample.labels for sample in samples], dtype=np.float64)
    sick = np.nan_to_num(labels[:, ABNORMAL_COLUMNS]).sum(1) > 0

    def score(rows: NDArray[np.intp]) -> NDArray[np.float64]:
        cosines = cosine_ranking(model.runs[0][rows], model.runs[0][rows])
        asked = np.flatnonzero(sick[rows])
        order = np.random.default_rng(3).permutation(len(asked))
        given = cosines.copy()
        given[asked[order]] = cosines[asked[np.roll(order, 1)]]     # one circle: nobody keeps its own
        return np.asarray(given, dtype=np.float64)

    note = f"control: {model.name} with the abnormal queries exchanged; what its answers are worth by themselves"
    return System(EXCHANGED, note, model.runs, score=score)


def random_system(rows: int, seeds: int) -> System:
    """Return chance: random vectors."""
    runs = tuple(
        np.random.default_rng([seed, 1]).normal(size=(rows, RANDOM_DIM)).astype(np.float32) for seed in range(seeds)
    )
    return System(RANDOM, f"chance: random vectors, mean of {seeds} seeds", runs)


def shuffled_system(model: System, groups: Sequence[Sequence[int]], seeds: int) -> System:
    """Return a control that must fall to chance: the model's vectors, each given to another image of the same pool."""
    runs = []
    for seed in range(seeds):
        vectors = model.runs[0].copy()
        generator = np.random.default_rng([seed, 2])
        for group in groups:
            rows = np.asarray(group)
            vectors[rows] = model.runs[0][generator.permutation(rows)]
        runs.append(vectors)
    return System(SHUFFLED, f"control: {model.name} with its images exchanged; must be at chance", tuple(runs))


def _small_pictures(samples: Sequence[Sample], side: int) -> tuple[Float32, np.ndarray]:
    """Return the pictures as bytes (n, side, side), and which of them could be read."""
    pictures = np.zeros((len(samples), side, side), np.uint8)
    read = np.zeros(len(samples), dtype=bool)
    for row, sample in enumerate(samples):
        if sample.image_path is None:
            continue
        try:
            pictures[row] = squeeze(read_image(sample.image_path, side), side) * 255 + 0.5
        except UnreadableInstance:
            continue                                                # the model's own pass has named it already
        read[row] = True
    return np.asarray(pictures), read


def pixel_systems(samples: Sequence[Sample], progress: Progress | None = None) -> list[System]:
    """Return raw pixels and, where the ImageNet tensors are installed, frozen EfficientNet-Lite0 features."""
    from encoders.towers.image import TowerError, build_image_tower

    try:
        tower = build_image_tower("efficientnet-lite0", pretrained=True)
    except TowerError:
        tower = None
    pictures, read = _small_pictures(samples, FROZEN_SIDE)
    pixels = np.full((len(samples), PIXEL_SIDE**2), np.nan, np.float32)
    for row in np.flatnonzero(read):
        small = squeeze(pictures[row].astype(np.float32) / 255, PIXEL_SIDE)
        pixels[row] = standardise(small[None], Preprocessing(size=PIXEL_SIDE)).ravel()
    systems = [System(PIXELS, f"{PIXEL_SIDE} × {PIXEL_SIDE} standardised pixels", (pixels,))]
    if tower is not None:
        features = _frozen_features(tower, pictures, np.flatnonzero(read), progress)
        note = "EfficientNet-Lite0 as trained on ImageNet, pooled features, centred"
        systems.append(System(FROZEN, note, (features,)))
    return systems


def _frozen_features(tower: object, pictures: np.ndarray, rows: np.ndarray, progress: Progress | None) -> Float32:
    import torch

    assert isinstance(tower, torch.nn.Module)
    tower.eval()
    features = np.full((len(pictures), 1280), np.nan, np.float32)
    constants = Preprocessing(size=FROZEN_SIDE)
    with torch.inference_mode():
        for start in range(0, len(rows), 16):
            batch = rows[start : start + 16]
            inputs = standardise(pictures[batch].astype(np.float32) / 255, constants)
            features[batch] = tower(torch.from_numpy(inputs).unsqueeze(1)).mean((2, 3)).numpy()
            if progress:
                progress(start + len(batch), len(rows))
    return np.asarray(features - np.nanmean(features, axis=0), dtype=np.float32)


def tfidf_system(texts: Sequence[str]) -> System | None:
    """Return TF-IDF vectors of the reports themselves: what is reached by who has read the report. None without any."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    rows = [row for row, text in enumerate(texts) if text]
    if len(rows) < 2:
        return None
    try:
        table = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=5000).fit_transform(
            [texts[row] for row in rows]
        )
    except ValueError:                                              # no word in any report
        return None
    vectors = np.full((len(texts), table.shape[1]), np.nan, np.float32)
    vectors[rows] = table.toarray()
    return System(TFIDF, "upper reference: the reports' own words, no image seen", (vectors,))


def unique_name(name: str, taken: Sequence[str]) -> str:
    """Return the name, with a number where it is taken."""
    return name if name not in taken else next(f"{name} ({n})" for n in range(2, 100) if f"{name} ({n})" not in taken)


def checkpoint_name(folder: Path | None) -> str:
    """Return what a checkpoint is called in the tables."""
    return folder.resolve().name if folder else "shipped"
