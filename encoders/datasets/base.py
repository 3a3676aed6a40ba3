"""One interface for every data set: a folder in, examples out, in the layout of the plain CSV manifest."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path

from encoders.base import FINDING_NAMES, EncodersError

log = logging.getLogger(__name__)

#: The columns of a manifest, in order. `chexpert` holds the positive findings with ";" between them, "No Finding",
#: "Other" (labelled, none of the 14), or nothing (not labelled). `image_path` is relative to the manifest, or absolute.
MANIFEST_COLUMNS = (
    "dataset", "study_id", "patient_id", "image_path", "view", "findings", "impression", "indication",
    "source_labels", "chexpert", "split", "sex", "age", "licence",
)


class DatasetError(EncodersError):
    """A data set is not laid out as expected; the message names the file and what is missing."""


@dataclass(frozen=True, slots=True)
class Example:
    """One image of a study with what is known about it; `image` is None for a report alone.

    Attributes
    ----------
    view : str
        ``frontal``, ``lateral`` or ``unknown``.
    labels : mapping of finding name to 1 (present), 0 (absent) or -1 (uncertain); absent key: not mentioned.
        None when the study was not labelled at all.
    source_labels : tuple of str
        The data set's own labels, unmapped.
    split : str
        ``train``, ``val``, ``test``, or "" when the data set gives none.
    """

    dataset: str
    study_id: str
    patient_id: str
    image: Path | None
    view: str = "unknown"
    findings: str = ""
    impression: str = ""
    indication: str = ""
    labels: Mapping[str, float] | None = None
    source_labels: tuple[str, ...] = ()
    split: str = ""
    sex: str = ""
    age: str = ""
    licence: str = ""


Dataset = Callable[[Path], Iterator[Example]]


def read_table(path: Path, columns: Iterable[str]) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV (also .csv.gz).

    Raises
    ------
    DatasetError
        If the file or one of the columns is missing.
    """
    csv.field_size_limit(16 * 1024 * 1024)
    if not path.exists():
        raise DatasetError(f"{path} is missing; the data set's root folder should hold it")
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file)
        missing = [name for name in columns if name not in (table.fieldnames or ())]
        if missing:
            raise DatasetError(f"{path}: no column {', '.join(missing)}; is this the data set's own file?")
        yield from table


def either(root: Path, *names: str) -> Path:
    """Return the first of several files that exists below `root`, else the first name (for the error message)."""
    return next((root / name for name in names if (root / name).exists()), root / names[0])


def images_there(dataset: Dataset) -> Dataset:
    """Return a data set without the examples whose image is not there; how many those are is logged at the end.

    Raises
    ------
    DatasetError
        When iterated, if of the images that the data set names none is there.
    """

    @wraps(dataset)
    def examples(root: Path) -> Iterator[Example]:
        named, missing = 0, []
        for example in dataset(root):
            named += example.image is not None
            if example.image is not None and not example.image.is_file():
                missing.append(example.image)
            else:
                yield example
        if missing and len(missing) == named:
            raise DatasetError(f"{root} holds none of the {named} images that its tables name; the first: {missing[0]}")
        if missing:
            log.warning("%d of %d images are not there and left out; the first: %s", len(missing), named, missing[0])

    return examples


def chexpert_labels(row: Mapping[str, str]) -> dict[str, float]:
    """Return the CheXpert columns of a row: "1.0", "0.0", "-1.0" or empty (CheXpert and MIMIC-CXR-JPG files)."""
    return {name: float(row[name]) for name in FINDING_NAMES if row.get(name, "").strip()}


def _unit_interval(seed: int, key: str) -> float:
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8], "big") / 2**64


def split_by_patient(
    examples: Iterable[Example], seed: int = 0, validation: float = 0.1, test: float = 0.1
) -> Iterator[Example]:
    """Yield the examples with a split: by patient, and patients that share an identical report text together.

    A split that the data set gives is kept. Patients joined by identical report texts form one group, so that no text
    stands in two splits (946 of the 3,826 IU studies share a text). Groups come in an order drawn by `seed` and fill
    validation, then test, up to their shares of the images; a group that is larger than the room left trains.
    Most patients keep their split when a data set grows.
    """
    rows = list(examples)
    parent: dict[str, str] = {}

    def root_of(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for row in rows:
        text = f"{row.findings}\n{row.impression}".strip().lower()
        if text and not row.split:
            parent[root_of(f"text {text}")] = root_of(f"patient {row.patient_id}")
    members: dict[str, str] = {}
    for row in rows:
        group = root_of(f"patient {row.patient_id}")
        members[group] = min(members.get(group, row.patient_id), row.patient_id)
    sizes = Counter(root_of(f"patient {row.patient_id}") for row in rows if not row.split)
    room = {"val": validation * sizes.total(), "test": test * sizes.total(), "train": float("inf")}
    drawn = {}
    for group in sorted(sizes, key=lambda group: _unit_interval(seed, members[group])):
        drawn[group] = next(split for split, left in room.items() if sizes[group] <= left + 0.5)
        room[drawn[group]] -= sizes[group]
    for row in rows:
        yield row if row.split else replace(row, split=drawn[root_of(f"patient {row.patient_id}")])


def positives(labels: Mapping[str, float] | None) -> str:
    """Return the manifest's `chexpert` cell; uncertain counts as negative (U-Zero, Irvin et al. 2019)."""
    if labels is None:
        return ""
    return ";".join(name for name in FINDING_NAMES if labels.get(name) == 1.0) or "Other"


def write_manifest(examples: Iterable[Example], path: Path) -> int:
    """Write examples as the CSV manifest that training and evaluation read; return how many rows."""
    rows = list(examples)                               # before the file is made: a data set can be refused
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(MANIFEST_COLUMNS)
        for row in rows:
            image = row.image.absolute() if row.image else None
            if image and image.is_relative_to(path.parent.absolute()):
                image = image.relative_to(path.parent.absolute())
            table.writerow([
                row.dataset, row.study_id, row.patient_id, image or "", row.view, row.findings, row.impression,
                row.indication, ";".join(row.source_labels), positives(row.labels), row.split, row.sex, row.age,
                row.licence,
            ])
    return len(rows)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """How a data set's own label names map to the 14 CheXpert findings."""

    to_finding: Mapping[str, str]
    normal: frozenset[str] = field(default_factory=frozenset)

    def labels(self, names: Iterable[str]) -> dict[str, float]:
        """Return 1 for every finding named, and "No Finding" for a name that means normal."""
        found = {self.to_finding[name]: 1.0 for name in names if name in self.to_finding}
        if not found and any(name in self.normal for name in names):
            found["No Finding"] = 1.0
        return found
