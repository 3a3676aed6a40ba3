"""Which images are ranked against which: one source, one view, one image of each study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoders.base import ABNORMAL_COLUMNS, ReportText
from encoders.towers.text import report_text
from encoders.training.manifest import ManifestError, Sample, read_manifest
from encoders.training.metrics import same

Float = NDArray[np.float64]
Rows = NDArray[np.intp]

#: Smaller pools are not judged: their intervals would span everything.
LEAST_IMAGES = 20

#: Headings that say nothing about what the image shows (MeSH of IU X-ray, labels of NIH).
EMPTY_HEADINGS = frozenset({"normal", "no finding", "no indexing", "technical quality of image unsatisfactory"})
LEAST_STUDIES_WITH_HEADING = 2


@dataclass(frozen=True, slots=True)
class Pool:
    """Images that are ranked among themselves.

    Attributes
    ----------
    source : str
        The manifest's column `dataset`; "manifest" where there is none.
    view : str
        ``frontal``, ``lateral`` or ``unknown``.
    rows : ndarray of intp (n,)
        Rows of `samples`, one image of each study.
    labels : ndarray (n, 14): 1, 0, NaN unknown
    headings : ndarray (n, columns): 1 or 0; no column where the source has no labels of its own
    """

    source: str
    view: str
    rows: Rows
    samples: tuple[Sample, ...]
    labels: Float
    headings: Float

    @property
    def same_patient(self) -> NDArray[np.bool_]:
        """Return (n, n): pairs that no query may find, its own study and patient."""
        return same([sample.patient_id for sample in self.samples])

    @property
    def abnormal(self) -> Float:
        """Return the labels of protocol B, (n, 12)."""
        return self.labels[:, ABNORMAL_COLUMNS]

    @property
    def texts(self) -> list[str]:
        """Return each image's report as one text, "" without."""
        return [text_of(sample) for sample in self.samples]


def text_of(sample: Sample) -> str:
    """Return Findings and Impression as one text, "" without a report."""
    return report_text(ReportText(sample.findings, sample.impression))


def load_samples(manifest: Path, split: str | None, limit: int, seed: int) -> list[Sample]:
    """Return the manifest's rows that have an image, of each source at most `limit` studies (0: all), drawn by `seed`.

    Raises
    ------
    ManifestError
        If none is left.
    """
    samples = [sample for sample in read_manifest(manifest, split) if sample.image_path is not None]
    if not samples:
        of = f"no image rows of split {split!r}" if split else "no image rows"
        raise ManifestError(f"{manifest}: {of}; name another file with --manifest, or another --split")
    if not limit:
        return samples
    generator = np.random.default_rng(seed)
    kept: set[tuple[str, str]] = set()
    for source in sorted({sample.dataset for sample in samples}):
        studies = sorted({sample.study_id for sample in samples if sample.dataset == source})
        kept |= {(source, studies[i]) for i in generator.permutation(len(studies))[:limit]}
    return [sample for sample in samples if (sample.dataset, sample.study_id) in kept]


def _headings(samples: Sequence[Sample]) -> Float:
    counts = Counter(heading for sample in samples for heading in sample.source_labels)
    names = sorted(
        name for name, n in counts.items() if n >= LEAST_STUDIES_WITH_HEADING and name not in EMPTY_HEADINGS
    )
    table = [[float(name in sample.source_labels) for name in names] for sample in samples]
    return np.array(table, dtype=np.float64).reshape(len(samples), len(names))


def pools(samples: Sequence[Sample], readable: Iterable[int]) -> list[Pool]:
    """Return a pool for each source and view with enough images, the largest view of a source first.

    Parameters
    ----------
    readable : rows of `samples` whose image could be read
    """
    members: dict[tuple[str, str], dict[str, int]] = {}
    for row in readable:
        sample = samples[row]
        members.setdefault((sample.dataset, sample.view), {}).setdefault(sample.study_id, row)
    result = []
    for (source, view), studies in members.items():
        if len(studies) < LEAST_IMAGES:
            continue
        rows = np.array(sorted(studies.values()), dtype=np.intp)
        chosen = tuple(samples[row] for row in rows)
        labels = np.array([sample.labels for sample in chosen], dtype=np.float64)
        result.append(Pool(source or "manifest", view, rows, chosen, labels, _headings(chosen)))
    views = ("frontal", "unknown", "lateral")
    return sorted(result, key=lambda pool: (pool.source, views.index(pool.view) if pool.view in views else 3))
