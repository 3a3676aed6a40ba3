"""The site's own Catalogue as a training set: every searchable image with its study's prevailing report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
from PIL import Image

from daemon.config import Config
from daemon.finder.keeper import catalogue_of
from encoders.base import EncodersError
from encoders.datasets import Example, split_by_patient, write_manifest
from encoders.findings import label
from encoders.readers.anatomy import normalised, view_in
from storage.base import Catalogue, Kind, StudyRecord
from storage.renditions import RenditionDamaged, Renditions

CATALOGUE_DATASET = "catalogue"

_FRONTAL, _LATERAL = {"PA", "AP"}, {"LL", "RL"}                     # PS3.3 C.8.1.1.1 View Position


class NothingToTrainOn(EncodersError):
    """The Catalogue has no images to train on; the message says what to do."""


def _searchable(catalogue: Catalogue, generation_id: int) -> dict[str, list[str]]:
    """Return the SOP Instance UIDs of the searchable images of each study."""
    images: dict[str, dict[str, None]] = {}
    reached = -1
    while True:
        changes = catalogue.changes(generation_id, max(reached, 0))
        for row in changes.added:
            if row.kind is Kind.IMAGE:
                images.setdefault(row.study_instance_uid, {})[row.sop_instance_uid] = None
        if changes.sequence <= reached:
            return {study: list(uids) for study, uids in images.items()}
        reached = changes.sequence


def _views(catalogue: Catalogue, study_instance_uid: str) -> dict[str, str]:
    """Return the view of each instance of a study by its header: frontal, lateral or unknown."""
    key = {"0020000D": {"vr": "UI", "Value": [study_instance_uid]}}
    answers, _ = catalogue.find("IMAGE", key, 10_000)

    def first(answer: dict[str, object], tag: str) -> str:
        element = answer.get(tag)
        values = element.get("Value") if isinstance(element, dict) else None
        return str(values[0]) if values else ""

    views = {}
    for answer in answers:
        position = first(answer, "00185101").upper()
        words = normalised(f"{first(answer, '0008103E')} {position}")
        views[first(answer, "00080018")] = (
            "frontal" if position in _FRONTAL else "lateral" if position in _LATERAL else view_in(words)
        )
    return views


def _value(study: StudyRecord, tag: str) -> str:
    values = study.attributes.get(tag, {}).get("Value") or [""]
    return str(values[0])


def _age(text: str) -> str:
    """Return whole years of an Age String (PS3.5, VR AS); "" where it says none."""
    return str(int(text[:3])) if text[:3].isdigit() and text[3:] == "Y" else "0" if text[3:] in ("D", "W", "M") else ""


def catalogue_examples(catalogue: Catalogue, renditions: Renditions, images: Path) -> Iterator[Example]:
    """Yield every searchable image of the Catalogue with its study's prevailing report, labelled by its text.

    Parameters
    ----------
    images : Path
        Folder that gets each rendition as a PNG, for training to read. These are patients' images.
    """
    generation = catalogue.active_generation()
    searchable = _searchable(catalogue, generation.generation_id) if generation else {}
    images.mkdir(parents=True, exist_ok=True, mode=0o700)
    for study_uid, instances in searchable.items():
        study = catalogue.studies([study_uid]).get(study_uid)
        if study is None:                                           # deleted while this runs
            continue
        report, views = study.report, _views(catalogue, study_uid)
        labels = label(report.findings, report.impression) if report else None
        for sop_uid in instances:
            key = catalogue.rendition_of(study_uid, sop_uid)
            if key is None:
                continue
            path = images / f"{key}.png"
            try:
                if not path.exists():
                    Image.fromarray(renditions.load(key)).save(path)
            except RenditionDamaged as error:
                click.echo(f"left out: {error}", err=True)
                continue
            yield Example(
                dataset=CATALOGUE_DATASET, study_id=study_uid, patient_id=study.patient_key or study_uid, image=path,
                view=views.get(sop_uid, "unknown"), findings=report.findings if report else "",
                impression=report.impression if report else "", indication=report.indication if report else "",
                labels={name: value for name, value in labels.items() if value is not None} if labels else None,
                sex=_value(study, "00100040"), age=_age(_value(study, "00101010")), licence="the site's own",
            )


def catalogue_manifest(config: Config, path: Path, seed: int) -> Path:
    """Write the site's own Catalogue as a manifest, its images beside it; return its path.

    Raises
    ------
    NothingToTrainOn
        If no image is searchable.
    """
    renditions = Renditions(config.storage.directory / "renditions")
    examples = catalogue_examples(catalogue_of(config), renditions, path.parent / "images")
    split = list(split_by_patient(examples, seed))
    if not split:
        raise NothingToTrainOn(
            f"{config.storage.directory}: no image is searchable; send studies to the running service first"
        )
    path.touch(0o600)                                               # report texts
    write_manifest(split, path)
    return path
