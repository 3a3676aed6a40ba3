"""IU X-ray / Open-i: one XML report a study with human MeSH codes, its frontal and lateral images as PNG or DICOM.

Demner-Fushman et al., "Preparing a collection of radiology examinations for distribution and retrieval", JAMIA 23:304,
2016.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from encoders.datasets.base import DatasetError, Example, Vocabulary

LICENCE = "CC BY-NC-ND 4.0"

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


def _image(root: Path, name: str) -> Path | None:
    folders = ("", "images", "NLMCXR_png", "NLMCXR_dcm")
    for folder in folders:
        for suffix in (".png", ".jpg", ".dcm"):
            if (path := root / folder / f"{name}{suffix}").exists():
                return path
    found = sorted(root.glob(f"NLMCXR_dcm/*/{name}.dcm"))
    return found[0] if found else None


def iu_xray(root: Path) -> Iterator[Example]:
    """Yield IU X-ray: ``ecgen-radiology/*.xml`` and the PNG or DICOM files; a study without image is a report alone.

    The view is not coded: pixels decide (the model's own frontal head). One patient a study is assumed.
    """
    reports = sorted((root / "ecgen-radiology").glob("*.xml"))
    if not reports:
        raise DatasetError(f"{root / 'ecgen-radiology'} holds no XML report; unpack NLMCXR_reports there")
    for path in reports:
        tree = ElementTree.parse(path).getroot()
        number = tree.find(".//uId")
        study = number.get("id", path.stem) if number is not None else path.stem
        codes = tuple((node.text or "").strip() for node in tree.findall(".//MeSH/major") if (node.text or "").strip())
        named = [_image(root, node.get("id", "")) for node in tree.findall(".//parentImage")]
        present: list[Path | None] = [image for image in named if image]
        for image in present or [None]:
            yield Example(
                dataset="iu-xray",
                study_id=study,
                patient_id=study,
                image=image,
                findings=_text(tree, "FINDINGS"),
                impression=_text(tree, "IMPRESSION"),
                indication=_text(tree, "INDICATION"),
                labels=labels_of(codes) if codes else None,
                source_labels=codes,
                licence=LICENCE,
            )
