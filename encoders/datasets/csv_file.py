"""A CSV of one's own, a row an image, that lacks splits or labels: the plain manifest before it is one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from encoders.base import FINDING_NAMES
from encoders.datasets.base import DatasetError, Example, images_there, read_table
from encoders.datasets.mimic_cxr import view_of
from encoders.findings import label

COLUMNS = ("study_id", "image_path")
SPLITS = {
    "": "", "train": "train", "val": "val", "valid": "val", "validate": "val", "validation": "val", "test": "test",
}


def _labels(row: dict[str, str]) -> dict[str, float] | None:
    """Return what the column chexpert names, else what the report's text says; None without both."""
    named = [name.strip() for name in row["chexpert"].split(";") if name.strip()]
    unknown = [name for name in named if name not in (*FINDING_NAMES, "Other")]
    if unknown:
        raise DatasetError(f"study {row['study_id']}: {unknown[0]!r} in chexpert is none of {', '.join(FINDING_NAMES)}")
    if named:
        return {name: 1.0 for name in named if name != "Other"}
    if not (row["findings"] + row["impression"]).strip():
        return None
    return {name: value for name, value in label(row["findings"], row["impression"]).items() if value is not None}


@images_there
def csv_file(root: Path) -> Iterator[Example]:
    """Yield the rows of a CSV with the columns study_id and image_path and any others of the manifest.

    `root` is the file itself; image paths are relative to its folder. Where chexpert is empty, labels are read from
    findings and impression. A ViewPosition (PA, LATERAL) is as good a view as frontal and lateral.

    Raises
    ------
    DatasetError
        If a column is missing, or a split or a finding has an unknown name.
    """
    if root.is_dir():
        raise DatasetError(f"{root} is a folder; of a CSV, name the file itself")
    for cells in read_table(root, COLUMNS):
        row = dict.fromkeys(
            ("chexpert", "findings", "impression", "indication", "source_labels", "view", "split", "sex", "age"), ""
        ) | {name: cell or "" for name, cell in cells.items() if isinstance(name, str)}
        split, view = row["split"].strip().lower(), row["view"].strip().lower()
        if split not in SPLITS:
            raise DatasetError(f"{root}: study {row['study_id']} has the split {split!r}; known: train, val, test")
        yield Example(
            dataset=row.get("dataset") or "csv",
            study_id=row["study_id"],
            patient_id=row.get("patient_id") or row["study_id"],
            image=root.parent / row["image_path"] if row["image_path"] else None,
            view=view if view in ("frontal", "lateral") else view_of(view),
            findings=row["findings"],
            impression=row["impression"],
            indication=row["indication"],
            labels=_labels(row),
            source_labels=tuple(name.strip() for name in row["source_labels"].split(";") if name.strip()),
            split=SPLITS[split],
            sex=row["sex"],
            age=row["age"],
            licence=row.get("licence") or "the owner's",
        )
