"""IU X-ray / Open-i: one XML report a study with human MeSH codes, its frontal and lateral images as PNG or DICOM.

Demner-Fushman et al., "Preparing a collection of radiology examinations for distribution and retrieval", JAMIA 23:304,
2016.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from encoders.datasets.base import DatasetError, Example, Vocabulary, either, images_there, read_table

LICENCE = "CC BY-NC-ND 4.0"
REPORTS, PROJECTIONS = "indiana_reports.csv", "indiana_projections.csv"

#: First part of a MeSH code (``Opacity/lung/base/left``) -> finding.
VOCABULARY = Vocabulary(
    {
        "Airspace Disease": "Lung Opacity",
        "Cardiomegaly": "Cardiomegaly",
        "Catheters, Indwelling": "Support Devices",
        "Consolidation": "Consolidation",
        "Density": "Lung Opacity",
        "Fractures, Bone": "Fracture",
        "Implanted Medical Device": "Support Devices",
        "Infiltrate": "Lung Opacity",
        "Mass": "Lung Lesion",
        "Medical Device": "Support Devices",
        "Nodule": "Lung Lesion",
        "Opacity": "Lung Opacity",
        "Pleural Effusion": "Pleural Effusion",
        "Pneumonia": "Pneumonia",
        "Pneumothorax": "Pneumothorax",
        "Hydropneumothorax": "Pneumothorax",
        "Pulmonary Atelectasis": "Atelectasis",
        "Pulmonary Edema": "Edema",
        "Stents": "Support Devices",
        "Tube, Inserted": "Support Devices",
    },
    normal=frozenset({"normal"}),
)
ENLARGED = {"prominent", "enlarged", "large", "widened"}
DEGREES = {"borderline", "mild", "moderate", "severe"}


def labels_of(codes: tuple[str, ...]) -> dict[str, float]:
    """Return the findings of MeSH codes.

    A mediastinum or cardiac shadow counts only where all that is said of it is its size (``Mediastinum/lymph nodes``
    is no enlarged cardiomediastinum), the pleura only where it is thickened.
    """
    names = []
    enlarged = False
    for code in codes:
        heading, *qualifiers = (part.strip() for part in code.split("/"))
        if heading in {"Mediastinum", "Cardiac Shadow"}:
            enlarged |= bool(ENLARGED & set(qualifiers)) and set(qualifiers) <= ENLARGED | DEGREES
        else:
            names.append(heading)
    found = VOCABULARY.labels(names)
    if enlarged:
        found["Enlarged Cardiomediastinum"] = 1.0
    if "Hydropneumothorax" in names:
        found["Pleural Effusion"] = 1.0
    if any(code.startswith("Thickening/pleura") for code in codes):
        found["Pleural Other"] = 1.0
    return found


def _text(tree: ElementTree.Element, label: str) -> str:
    node = tree.find(f".//AbstractText[@Label='{label}']")
    return " ".join((node.text or "").split()) if node is not None else ""


def _image(root: Path, name: str) -> Path:
    """Return where an image lies, else should lie; ``CXR1_1_IM-0001-3001`` is ``1/1_IM-0001-3001.dcm`` in DICOM."""
    number = re.sub(r"^(?:CXR)?(\d*).*", r"\1", name)
    stems = dict.fromkeys((name, name.removeprefix("CXR"), re.sub(r"^CXR\d+_", "", name)))
    folders = ("", "images", "images/images_normalized", "NLMCXR_png", "NLMCXR_dcm", f"NLMCXR_dcm/{number}", number)
    return either(root, *(
        f"{folder}/{stem}{suffix}".lstrip("/")
        for folder in folders for stem in stems for suffix in (".png", ".jpg", ".dcm", "")
    ))


def _openi(root: Path) -> Iterator[Example]:
    reports = sorted((root / "ecgen-radiology").glob("*.xml"))
    if not reports:
        raise DatasetError(
            f"{root / 'ecgen-radiology'} holds no XML report; unpack NLMCXR_reports there (or {REPORTS} into {root})"
        )
    for path in reports:
        tree = ElementTree.parse(path).getroot()
        number = tree.find(".//uId")
        study = number.get("id", path.stem) if number is not None else path.stem
        codes = tuple((node.text or "").strip() for node in tree.findall(".//MeSH/major") if (node.text or "").strip())
        images = [(_image(root, node.get("id", "")), "unknown") for node in tree.findall(".//parentImage")]
        texts = (_text(tree, "FINDINGS"), _text(tree, "IMPRESSION"), _text(tree, "INDICATION"))
        yield from _study(study, codes, images, *texts)


def _kaggle(root: Path) -> Iterator[Example]:
    images: dict[str, list[tuple[Path, str]]] = {}
    for row in read_table(root / PROJECTIONS, ("uid", "filename", "projection")):
        view = {"Frontal": "frontal", "Lateral": "lateral"}.get(row["projection"], "unknown")
        images.setdefault(row["uid"], []).append((_image(root, row["filename"]), view))
    for row in read_table(root / REPORTS, ("uid", "MeSH", "indication", "findings", "impression")):
        codes = tuple(code.strip() for code in row["MeSH"].split(";") if code.strip())
        texts = (row["findings"], row["impression"], row["indication"])
        yield from _study(f"CXR{row['uid']}", codes, images.get(row["uid"], []), *texts)


def _study(
    study: str, codes: tuple[str, ...], images: Sequence[tuple[Path, str]], findings: str, impression: str,
    indication: str,
) -> Iterator[Example]:
    """Yield an example an image, there or not, and one without image where none is there."""
    alone: list[tuple[Path | None, str]] = [] if any(image.is_file() for image, _ in images) else [(None, "unknown")]
    for image, view in (*images, *alone):
        yield Example(
            dataset="iu-xray",
            study_id=study,
            patient_id=study,
            image=image,
            view=view,
            findings=findings,
            impression=impression,
            indication=indication,
            labels=labels_of(codes) if codes else None,
            source_labels=codes,
            licence=LICENCE,
        )


@images_there
def iu_xray(root: Path) -> Iterator[Example]:
    """Yield IU X-ray: ``ecgen-radiology/*.xml`` and the PNG or DICOM files; a study without image is a report alone.

    The view is not coded there: pixels decide (the model's own frontal head). Of Kaggle's copy, indiana_reports.csv and
    indiana_projections.csv, it is. One patient a study is assumed.
    """
    return _kaggle(root) if (root / REPORTS).exists() else _openi(root)
