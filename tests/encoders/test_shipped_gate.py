"""The shipped gate and view on real images: radiographs of the validation split, and files that show something else."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoders.base import Radiograph, UnreadableInstance
from encoders.readers import read_instance
from encoders.registry import load_encoder

DATA = Path(os.environ.get("CXRFIND_TEST_DATA", "/nonexistent"))
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="CXRFIND_TEST_DATA names no folder of real data")

#: Of each source and view, so many.
IMAGES = 50


@pytest.fixture(scope="module")
def encoder():
    return load_encoder(threads=2)


def test_the_gate_keeps_98_of_100_radiographs_and_their_view_is_known(encoder):
    kinds = {}
    with (DATA / "cxr" / "studies.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["split"] == "val":
                kinds.setdefault((row["dataset"], row["view"]), []).append(row)
    rows = [row for some in kinds.values() for row in some[:: max(1, len(some) // IMAGES)][:IMAGES]]
    images = [
        np.asarray(Image.open(DATA / "cxr" / row["image_path"]).convert("L"), np.float32) / 255 for row in rows
    ]
    encoded = encoder.encode_images(images)
    assert len(rows) > 150
    assert (encoded.chest >= encoder.chest_threshold).mean() >= 0.98
    known = np.array([row["view"] in ("frontal", "lateral") for row in rows])
    frontal = np.array([row["view"] == "frontal" for row in rows])
    assert ((encoded.frontal > 0.5) == frontal)[known].mean() >= 0.98


def test_the_gate_rejects_every_picture_that_is_no_chest(encoder):
    pictures = {}
    for path in sorted((DATA / "dicom" / "other").iterdir()):
        try:
            content = read_instance(path, 512).content
        except UnreadableInstance:
            continue                                                # without pixels, or refused by its header
        if isinstance(content, Radiograph):
            pictures[path.name] = content.pixels
    encoded = encoder.encode_images(list(pictures.values()))
    passed = [
        name for name, chest in zip(pictures, encoded.chest, strict=True) if chest >= encoder.chest_threshold
    ]
    assert len(pictures) > 40
    assert passed == []
