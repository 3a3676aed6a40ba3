"""CheXpert: train.csv and valid.csv with the 14 labels in columns; no reports.

Irvin et al., "CheXpert: A Large Chest Radiograph Dataset with Uncertainty Labels and Expert Comparison", AAAI 2019.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from encoders.datasets.base import DatasetError, Example, chexpert_labels, images_there, read_table

LICENCE = "Stanford University Dataset Research Use Agreement"
COLUMNS = ("Path", "Sex", "Age", "Frontal/Lateral", "No Finding")


@images_there
def chexpert(root: Path) -> Iterator[Example]:
    """Yield CheXpert; ``Path`` (``CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg``) starts above root.

    valid.csv is the test split: it is labelled by radiologists, and too small to tune on.
    """
    for name, split in (("train.csv", ""), ("valid.csv", "test")):
        for row in read_table(root / name, COLUMNS):
            parts = Path(row["Path"]).parts
            if len(parts) < 4 or not parts[-3].startswith("patient"):
                raise DatasetError(f"{root / name}: Path {row['Path']!r} has no patient and study folder")
            yield Example(
                dataset="chexpert",
                study_id=f"{parts[-3]}/{parts[-2]}",
                patient_id=parts[-3],
                image=root.joinpath(*parts[1:]),
                view={"Frontal": "frontal", "Lateral": "lateral"}.get(row["Frontal/Lateral"], "unknown"),
                labels=chexpert_labels(row),
                split=split,
                sex={"Male": "M", "Female": "F"}.get(row["Sex"], ""),
                age=row["Age"],
                licence=LICENCE,
            )
