"""MIMIC-CXR-JPG and MIMIC-CXR (DICOM), 2.x: official splits, CheXpert labels, sections of the free-text reports.

Johnson et al., "MIMIC-CXR, a de-identified publicly available database of chest radiographs with free-text reports",
Scientific Data 6:317, 2019; MIMIC-CXR-JPG, arXiv:1901.07042.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from encoders.datasets.base import Example, chexpert_labels, either, images_there, read_table
from encoders.readers.sections import Sections, split_sections

log = logging.getLogger(__name__)
LICENCE = "PhysioNet Credentialed Health Data License 1.5.0"
SPLITS = {"train": "train", "validate": "val", "test": "test"}
FRONTAL = {"PA", "AP", "AP AXIAL", "PA LLD", "PA RLD", "AP LLD", "AP RLD"}
LATERAL = {"LATERAL", "LL", "RL"}


def view_of(position: str) -> str:
    """Return frontal, lateral or unknown for a ViewPosition (missing on 4 % of MIMIC-CXR)."""
    position = position.strip().upper()
    return "frontal" if position in FRONTAL else "lateral" if position in LATERAL else "unknown"


def _study_folder(subject: str, study: str) -> Path:
    return Path("files") / f"p{subject[:2]}" / f"p{subject}" / f"s{study}"


def _report_file(root: Path, subject: str, study: str) -> Path:
    name = _study_folder(subject, study).with_suffix(".txt")
    return either(root, str(name), str(Path("mimic-cxr-reports") / name), str(Path("reports") / name))


def _examples(root: Path, dataset: str, suffix: str) -> Iterator[Example]:
    split_file = either(root, "mimic-cxr-2.0.0-split.csv.gz", "mimic-cxr-2.0.0-split.csv")
    metadata_file = either(root, "mimic-cxr-2.0.0-metadata.csv.gz", "mimic-cxr-2.0.0-metadata.csv")
    label_file = either(root, "mimic-cxr-2.0.0-chexpert.csv.gz", "mimic-cxr-2.0.0-chexpert.csv")
    views = {row["dicom_id"]: row["ViewPosition"] for row in read_table(metadata_file, ("dicom_id", "ViewPosition"))}
    labels = {row["study_id"]: chexpert_labels(row) for row in read_table(label_file, ("study_id", "No Finding"))}
    last, report, studies = "", Sections(), 0
    without: list[Path] = []
    for row in read_table(split_file, ("dicom_id", "study_id", "subject_id", "split")):
        subject, study = row["subject_id"], row["study_id"]
        if last != study:
            last, studies, path = study, studies + 1, _report_file(root, subject, study)
            if path.exists():
                report = split_sections(path.read_text(encoding="utf-8", errors="replace"))
            else:
                report = Sections()
                without.append(path)
        yield Example(
            dataset=dataset,
            study_id=f"s{study}",
            patient_id=f"p{subject}",
            image=root / _study_folder(subject, study) / f"{row['dicom_id']}{suffix}",
            view=view_of(views.get(row["dicom_id"], "")),
            findings=report.findings,
            impression=report.impression,
            indication=report.indication,
            labels=labels.get(study),
            split=SPLITS[row["split"]],
            licence=LICENCE,
        )
    if without:
        log.warning("%d of %d studies have no report (unpack mimic-cxr-reports.zip); the first: %s",
                    len(without), studies, without[0])


@images_there
def mimic_cxr_jpg(root: Path) -> Iterator[Example]:
    """Yield MIMIC-CXR-JPG: ``files/p10/p10000032/s50414267/<dicom_id>.jpg`` and the CSV files beside ``files``."""
    return _examples(root, "mimic-cxr-jpg", ".jpg")


@images_there
def mimic_cxr_dicom(root: Path) -> Iterator[Example]:
    """Yield MIMIC-CXR in DICOM; the CSV files of MIMIC-CXR-JPG (splits, labels, metadata) stand in the same root."""
    return _examples(root, "mimic-cxr", ".dcm")


__all__ = ["mimic_cxr_dicom", "mimic_cxr_jpg", "view_of"]
