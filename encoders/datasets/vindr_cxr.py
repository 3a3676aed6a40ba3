"""VinDr-CXR: image-level labels by radiologists, three readers each in training, a consensus of five in test.

Nguyen et al., "VinDr-CXR: An open dataset of chest X-rays with radiologist's annotations", Scientific Data 9:429, 2022.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from encoders.datasets.base import Example, Vocabulary, either, images_there, read_table

LICENCE = "PhysioNet Credentialed Health Data License 1.5.0"

VOCABULARY = Vocabulary(
    {
        "Atelectasis": "Atelectasis",
        "Cardiomegaly": "Cardiomegaly",
        "Clavicle fracture": "Fracture",
        "Consolidation": "Consolidation",
        "Edema": "Edema",
        "Infiltration": "Lung Opacity",
        "Lung Opacity": "Lung Opacity",
        "Lung cavity": "Lung Lesion",
        "Lung tumor": "Lung Lesion",
        "Mediastinal shift": "Enlarged Cardiomediastinum",
        "Nodule/Mass": "Lung Lesion",
        "Pleural effusion": "Pleural Effusion",
        "Pleural thickening": "Pleural Other",
        "Pneumonia": "Pneumonia",
        "Pneumothorax": "Pneumothorax",
        "Rib fracture": "Fracture",
    },
    normal=frozenset({"No finding"}),
)
NO_LABEL = {"image_id", "rad_id"}


@images_there
def vindr_cxr(root: Path) -> Iterator[Example]:
    """Yield VinDr-CXR: ``annotations/image_labels_{train,test}.csv``, ``train/*.dicom`` and ``test/*.dicom``.

    A training label holds when at least two of its three readers saw it. Each image is a patient of its own: the data
    set gives no patient identifiers.
    """
    for part, split in (("train", ""), ("test", "test")):
        name = f"image_labels_{part}.csv"
        votes: dict[str, Counter[str]] = {}
        readers: Counter[str] = Counter()
        for row in read_table(either(root, f"annotations/{name}", name), ("image_id", "No finding")):
            readers[row["image_id"]] += 1
            found = [label for label, cell in row.items() if label not in NO_LABEL and cell in {"1", "1.0"}]
            votes.setdefault(row["image_id"], Counter()).update(found)
        for image_id, counted in votes.items():
            needed = 2 if readers[image_id] > 1 else 1
            names = tuple(sorted(label for label, count in counted.items() if count >= needed))
            path = either(root, f"{part}/{image_id}.dicom", f"{part}/{image_id}.dcm", f"{part}/{image_id}.png")
            yield Example(
                dataset="vindr-cxr",
                study_id=image_id,
                patient_id=image_id,
                image=path,
                view="frontal",
                labels=VOCABULARY.labels(names),
                source_labels=names,
                split=split,
                licence=LICENCE,
            )
