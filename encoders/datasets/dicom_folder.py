"""A folder of DICOM files, radiographs and their structured reports, as a site exports them from its PACS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from encoders.base import Radiograph, ReadInstance, Report, UnreadableInstance
from encoders.datasets.base import DatasetError, Example
from encoders.findings import label
from encoders.readers import read_instance

SHORT_SIDE = 64                                     # headers and texts are wanted here, hardly any pixels


def _value(instance: ReadInstance, tag: str) -> str:
    values: list[Any] = instance.header.attributes.get(tag, {}).get("Value") or [""]
    return str(values[0])


def dicom_folder(root: Path) -> Iterator[Example]:
    """Yield every chest radiograph below `root` with its study's last report, labelled by the report's text."""
    images: list[tuple[Path, ReadInstance, Radiograph]] = []
    reports: dict[str, Report] = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        try:
            instance = read_instance(path, SHORT_SIDE)
        except UnreadableInstance:
            continue
        if isinstance(instance.content, Radiograph) and not instance.content.gate_reason:
            images.append((path, instance, instance.content))
        elif isinstance(instance.content, Report):
            studies = instance.content.referenced_study_uids or (instance.header.study_instance_uid,)
            reports |= dict.fromkeys(studies, instance.content)
    if not images:
        raise DatasetError(f"{root} holds no readable chest radiograph (CR, DX or SC)")
    for path, instance, radiograph in images:
        study = instance.header.study_instance_uid
        report = reports.get(study)
        yield Example(
            dataset="dicom-folder",
            study_id=study,
            patient_id=_value(instance, "00100020") or study,
            image=path,
            view=radiograph.view,
            findings=report.findings if report else "",
            impression=report.impression if report else "",
            indication=report.indication if report else "",
            labels=(
                {name: value for name, value in label(report.findings, report.impression).items() if value is not None}
                if report else None
            ),
            sex=_value(instance, "00100040"),
            age=_value(instance, "00101010").lstrip("0").rstrip("Y"),
            licence="the site's own",
        )
