"""The plain CSV manifest: one row per image, and what training reads from it."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from encoders.base import FINDING_NAMES, EncodersError

NAN = float("nan")

#: Findings that a source's labels cannot express; they count as unknown there, never as absent.
#: NIH ChestX-ray14 has no such labels among its 14 (Wang et al., CVPR 2017, table 1), VinDr-CXR none of devices
#: among its 28 (Nguyen et al., Scientific Data 9:429, table 2).
NOT_CODED: dict[str, tuple[str, ...]] = {
    "nih-chestxray14": ("Enlarged Cardiomediastinum", "Fracture", "Support Devices"),
    "vindr-cxr": ("Support Devices",),
}

REQUIRED = ("study_id", "image_path")
#: What a cell of `chexpert` may name: the 14 findings, and "Other" (labelled, none of the 14).
_CODES = {name.lower(): name for name in (*FINDING_NAMES, "Other")}


class ManifestError(EncodersError):
    """A manifest cannot be used; the message names the file, the row and the cure."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image, or one report without image, with what is known about it.

    Attributes
    ----------
    labels : tuple of 14 floats
        In the order of FINDING_NAMES: 1 present, 0 absent, NaN unknown.
    source_labels : tuple of str
        The source's own headings (MeSH headings of IU X-ray, the 14 labels of NIH), lower case, without qualifiers.
    """

    dataset: str
    study_id: str
    patient_id: str
    image_path: Path | None
    view: str = "unknown"
    findings: str = ""
    impression: str = ""
    labels: tuple[float, ...] = (NAN,) * len(FINDING_NAMES)
    source_labels: tuple[str, ...] = ()
    split: str = ""
    sex: str = ""
    age: float = NAN

    @property
    def has_report(self) -> bool:
        """Whether there is any report text."""
        return bool(self.findings.strip() or self.impression.strip())


def headings(source_labels: str) -> tuple[str, ...]:
    """Return the headings of ``Opacity/lung/base/left;Scoliosis``: ("opacity", "scoliosis"), sorted, each once."""
    return tuple(sorted({part.split("/")[0].strip().lower() for part in source_labels.split(";") if part.strip()}))


def coded_findings(names: Iterable[str], dataset: str) -> tuple[float, ...]:
    """Return the 14 labels of a coded study: 1 for the findings named, 0 for others, NaN where nothing was coded.

    Raises
    ------
    ManifestError
        If a name, in upper or lower case, is neither one of FINDING_NAMES nor "Other".
    """
    stripped = [name.strip() for name in names if name.strip()]
    wrong = [name for name in stripped if name.lower() not in _CODES]
    if wrong:
        known = ", ".join(_CODES.values())
        raise ManifestError(f"{wrong[0]!r} is no finding; known are, with ';' between them: {known}")
    present = {_CODES[name.lower()] for name in stripped}
    if not present:
        return (NAN,) * len(FINDING_NAMES)
    unknown = {name for prefix, names_ in NOT_CODED.items() if dataset.startswith(prefix) for name in names_}
    return tuple(1.0 if name in present else NAN if name in unknown else 0.0 for name in FINDING_NAMES)


def _age(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return NAN


def read_manifest(path: Path, split: str | None = None) -> list[Sample]:
    """Return the samples of a CSV with columns study_id, image_path and, if there, more.

    Parameters
    ----------
    path : Path
        Image paths in it are relative to its folder. Further columns: findings, impression, dataset, patient_id, view,
        source_labels, chexpert (names of the findings present, separated by semicolons; "Other": none of the 14; empty:
        not coded), split, sex, age.
    split : str or None
        Only the rows of this split.

    Raises
    ------
    ManifestError
        If the file cannot be read, lacks a column or names an unknown finding.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path}: cannot be read as CSV ({error}); name a UTF-8 CSV manifest") from error
    if rows:
        missing = [name for name in REQUIRED if name not in rows[0]]
        if missing:
            raise ManifestError(f"{path}: lacks the column {missing[0]!r}; it needs {', '.join(REQUIRED)}")
    samples = []
    for number, row in enumerate(rows, start=2):                    # the header is row 1
        value = {name: (text or "") for name, text in row.items() if isinstance(name, str)}
        if split is not None and value.get("split", "") != split:
            continue
        dataset = value.get("dataset", "")
        try:
            labels = coded_findings(value.get("chexpert", "").split(";"), dataset)
        except ManifestError as error:
            raise ManifestError(f"{path}, row {number}, column chexpert: {error}") from error
        samples.append(
            Sample(
                dataset=dataset,
                study_id=value["study_id"],
                patient_id=value.get("patient_id") or value["study_id"],
                image_path=path.parent / value["image_path"] if value["image_path"] else None,
                view=value.get("view") or "unknown",
                findings=value.get("findings", ""),
                impression=value.get("impression", ""),
                labels=labels,
                source_labels=headings(value.get("source_labels", "")),
                split=value.get("split", ""),
                sex=value.get("sex", ""),
                age=_age(value.get("age", "")),
            )
        )
    return samples
