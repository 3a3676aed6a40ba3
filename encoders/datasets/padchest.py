"""PadChest: 174 radiographic findings, labels per study, Spanish report texts.

Bustos et al., "PadChest: A large chest x-ray image dataset with multi-label annotated reports", Medical Image
Analysis 66:101797, 2020.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from encoders.datasets.base import Example, Vocabulary, either, images_there, read_table

LICENCE = "PadChest Dataset Research Use Agreement"
FRONTAL = {"PA", "AP", "AP_horizontal"}
LATERAL = {"L"}

_SYNONYMS = {
    "Cardiomegaly": ("cardiomegaly",),
    "Enlarged Cardiomediastinum": ("mediastinal enlargement", "superior mediastinal enlargement"),
    "Lung Opacity": ("infiltrates", "interstitial pattern", "alveolar pattern", "ground glass pattern",
                     "increased density", "reticular interstitial pattern", "reticulonodular interstitial pattern"),
    "Lung Lesion": ("nodule", "multiple nodules", "mass", "pulmonary mass", "pseudonodule", "cavitation"),
    "Edema": ("pulmonary edema", "kerley lines", "vascular redistribution"),
    "Consolidation": ("consolidation", "air bronchogram"),
    "Pneumonia": ("pneumonia", "atypical pneumonia"),
    "Atelectasis": ("atelectasis", "laminar atelectasis", "lobar atelectasis", "round atelectasis",
                    "segmental atelectasis", "total atelectasis", "atelectasis basal"),
    "Pneumothorax": ("pneumothorax", "hydropneumothorax"),
    "Pleural Effusion": ("pleural effusion", "loculated pleural effusion", "loculated fissural effusion",
                         "hydropneumothorax"),
    "Pleural Other": ("pleural thickening", "apical pleural thickening", "calcified pleural thickening",
                      "calcified pleural plaques", "pleural plaques", "pleural mass"),
    "Fracture": ("fracture", "rib fracture", "clavicle fracture", "vertebral fracture", "humeral fracture",
                 "callus rib fracture"),
    "Support Devices": ("endotracheal tube", "tracheostomy tube", "nsg tube", "chest drain tube",
                        "central venous catheter", "central venous catheter via jugular vein",
                        "central venous catheter via subclavian vein", "central venous catheter via umbilical vein",
                        "reservoir central venous catheter", "pacemaker", "dual chamber device",
                        "single chamber device", "dai", "sternotomy", "artificial heart valve"),
}
VOCABULARY = Vocabulary(
    {synonym: finding for finding, synonyms in _SYNONYMS.items() for synonym in synonyms}, frozenset({"normal"})
)
#: Labels of studies that were not read, and labels that say nothing of what is seen.
UNLABELLED = {"exclude"}
SILENT = {"suboptimal study", "unchanged"}


def _own_labels(cell: str) -> tuple[str, ...]:
    """Return the labels of a cell that holds a Python list, ``['pleural effusion', 'normal']``, or nothing."""
    if not cell.startswith("["):
        return ()
    return tuple(str(name).strip().lower() for name in ast.literal_eval(cell) if str(name).strip())


@images_there
def padchest(root: Path) -> Iterator[Example]:
    """Yield PadChest: the 160K labels CSV (also .gz), images in ``<ImageDir>/`` or directly in the root."""
    table = either(
        root, "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv",
        "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz",
    )
    columns = ("ImageID", "ImageDir", "StudyID", "PatientID", "PatientSex_DICOM", "Projection", "Report", "Labels")
    for row in read_table(table, columns):
        names = _own_labels(row["Labels"])
        projection = row["Projection"].strip()
        birth, taken = row.get("PatientBirth", "")[:4], row.get("StudyDate_DICOM", "")[:4]
        yield Example(
            dataset="padchest",
            study_id=row["StudyID"],
            patient_id=row["PatientID"],
            image=either(root, f"{row['ImageDir'].split('.')[0]}/{row['ImageID']}", row["ImageID"]),
            view="frontal" if projection in FRONTAL else "lateral" if projection in LATERAL else "unknown",
            findings=row["Report"].strip(),
            labels=VOCABULARY.labels(names) if UNLABELLED.isdisjoint(names) and set(names) - SILENT else None,
            source_labels=names,
            sex=row["PatientSex_DICOM"] if row["PatientSex_DICOM"] in {"M", "F"} else "",
            age=str(int(taken) - int(birth)) if birth.isdigit() and taken.isdigit() else "",
            licence=LICENCE,
        )
