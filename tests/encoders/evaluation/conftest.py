"""Pictures in which each finding is a bright square of its own place, and a model that reads just these squares."""

import csv

import numpy as np
import pytest
from PIL import Image

from encoders.base import FINDING_NAMES, ImageEncoding, ReportEncoding

SIDE, CELL = 64, 16
DRAWN = ("Cardiomegaly", "Edema", "Pneumothorax", "Pleural Effusion")
COLUMNS = [FINDING_NAMES.index(name) for name in DRAWN]


def _unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class SquareReader:
    """Encoder of the drawn pictures: what it says is right, or guessed."""

    fingerprint, dim, image_size, chest_threshold = "0" * 64, 1 + len(DRAWN), SIDE, 0.0

    def __init__(self, name="squares", *, blind=False, seed=0):
        self.model_id, self.blind, self.seed = name, blind, seed

    def _vectors(self, present, seeds):
        rows = np.concatenate([np.full((len(present), 1), 0.2), present], axis=1)
        noise = np.array([np.random.default_rng([seed, self.seed]).normal(size=rows.shape[1]) for seed in seeds])
        return _unit(noise if self.blind else rows + 0.02 * noise)

    def encode_images(self, images):
        places = [slice(CELL * n, CELL * (n + 1)) for n in range(len(DRAWN))]
        present = np.array([[float(image[:CELL, place].mean() > 0.5) for place in places] for image in images])
        findings = np.full((len(images), len(FINDING_NAMES)), 0.05, np.float32)
        numbers = [[int(image.sum()), self.seed] for image in images]
        guessed = np.array([np.random.default_rng(number).random(len(places)) for number in numbers])
        findings[:, COLUMNS] = 0.1 + 0.8 * (guessed if self.blind else present)
        ones = np.ones(len(images), np.float32)
        return ImageEncoding(self._vectors(present, [int(image.sum()) for image in images]), findings, ones, ones)

    def encode_reports(self, reports):
        present = np.array([[float(name.lower() in report.findings) for name in DRAWN] for report in reports])
        seeds = [len(report.findings) for report in reports]
        return ReportEncoding(self._vectors(present, seeds), np.full((len(reports), len(FINDING_NAMES)), np.nan))

    def encode_text(self, text):
        return self._vectors(np.array([[float(name.lower() in text) for name in DRAWN]]), [len(text)])[0]

    def fuse(self, images, report):
        return _unit(np.concatenate([images, report[None] if report is not None else images[:0]]).mean(0)[None])[0]

    def score(self, cosines, query, entry):
        return ((np.asarray(cosines) + 1) / 2).astype(np.float32)


def _write(folder, rows):
    path = folder / "studies.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="session")
def squares(tmp_path_factory):
    """Return a manifest of two sources with 60 and 40 frontal studies, and 4 laterals; every third has no finding."""
    folder = tmp_path_factory.mktemp("squares")
    generator = np.random.default_rng(11)
    rows = []
    for number in range(104):
        source = "big" if number < 60 else "small"
        present = [] if number % 3 == 0 else sorted({DRAWN[i] for i in generator.integers(0, len(DRAWN), 2)})
        pixels = generator.uniform(0.1, 0.3, (SIDE, SIDE))
        for name in present:
            place = DRAWN.index(name)
            pixels[:CELL, CELL * place : CELL * (place + 1)] = 0.9
        Image.fromarray((pixels * 255).astype(np.uint8)).save(folder / f"{number}.png")
        words = f"{' and '.join(present).lower() or 'clear lungs'}. study word{number}."
        rows.append(
            {
                "dataset": source,
                "study_id": f"s{number}",
                "patient_id": f"p{number // 2}",
                "image_path": f"{number}.png",
                "view": "lateral" if number >= 100 else "frontal",
                "findings": words if number < 60 else "",
                "impression": "",
                "source_labels": ";".join(f"{name}/marked" for name in present) or "normal",
                "chexpert": ";".join(present) or "No Finding",
                "split": "val" if number % 2 else "train",
                "sex": "FM"[number // 2 % 2],
                "age": str(20 + number % 60),
            }
        )
    return _write(folder, rows)


@pytest.fixture
def rewrite(squares, tmp_path):
    """Return a function that writes the manifest again with each row changed (None: left out)."""

    def change(each):
        with squares.open(newline="", encoding="utf-8") as file:
            rows = [each(dict(row)) for row in csv.DictReader(file)]
        for row in rows:
            if row and row["image_path"] and not row["image_path"].startswith("/"):
                row["image_path"] = str(squares.parent / row["image_path"])
        return _write(tmp_path, [row for row in rows if row])

    return change


@pytest.fixture
def reader():
    return SquareReader


@pytest.fixture(scope="session")
def judged(squares):
    """Return the evaluation of a model that sees and one that guesses, without the baselines that need networks."""
    from encoders.evaluation import EvaluationOptions, evaluate

    encoders = {"seeing": [SquareReader("seeing")], "blind": [SquareReader("blind", blind=True)]}
    return evaluate(squares, encoders, EvaluationOptions(baselines=False))
