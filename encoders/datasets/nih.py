"""NIH ChestX-ray14: 14 text-mined labels, no reports.

Wang et al., "ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks", CVPR 2017.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from encoders.datasets.base import Example, Vocabulary, either, images_there, read_table

LICENCE = "NIH Clinical Center, no restriction on use; cite the paper and link to the source"

VOCABULARY = Vocabulary(
    {
        "Atelectasis": "Atelectasis",
        "Cardiomegaly": "Cardiomegaly",
        "Effusion": "Pleural Effusion",
        "Infiltration": "Lung Opacity",
        "Mass": "Lung Lesion",
        "Nodule": "Lung Lesion",
        "Pneumonia": "Pneumonia",
        "Pneumothorax": "Pneumothorax",
        "Consolidation": "Consolidation",
        "Edema": "Edema",
        "Pleural_Thickening": "Pleural Other",
    },
    normal=frozenset({"No Finding"}),
)


def _listed(root: Path, names: str) -> set[str]:
    """Return the images of the official lists: test_list.txt, on other servers test_list_NIH.txt."""
    return {name for path in root.glob(names) for name in path.read_text(encoding="utf-8").split()}


@images_there
def nih_chestxray14(root: Path) -> Iterator[Example]:
    """Yield ChestX-ray14: Data_Entry_2017*.csv, ``images/`` or ``images_*/images/``, and one of the official lists.

    test_list*.txt is the test split, or what train_val_list*.txt leaves; the rest has no split of its own.
    """
    table = either(root, "Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
    tests, others = _listed(root, "test_list*.txt"), _listed(root, "train_val_list*.txt")
    places = {path.name: path for path in root.glob("images*/**/*.png")}
    for row in read_table(table, ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "Patient Gender")):
        name = row["Image Index"]
        names = tuple(row["Finding Labels"].split("|"))
        yield Example(
            dataset="nih-chestxray14",
            study_id=name.removesuffix(".png"),
            patient_id=row["Patient ID"],
            image=places.get(name, root / "images" / name),
            view="frontal",
            labels=VOCABULARY.labels(names),
            source_labels=names,
            split="test" if name in tests or (others and not tests and name not in others) else "",
            sex=row["Patient Gender"],
            age=row["Patient Age"].lstrip("0").rstrip("Y"),
            licence=LICENCE,
        )
