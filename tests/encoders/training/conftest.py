"""A small training set of phantoms and an experiment on it, for every test of the training."""

import csv

import numpy as np
import pytest
from PIL import Image

from encoders.phantom import draw
from encoders.training.experiment import load_experiment

TOML = """
name = "tiny"
[data]
manifest = "{manifest}"
cache_size = 40
[image]
size = 32
pretrained = false
[text]
width = 16
extra_batch = 8
[subspace]
hidden = 32
dim = 16
direct = true
[loss]
direct = 0.5
descriptor = 0.1
crossmodal = 0.1
triplet = 0.1
view = 0.1
[train]
epochs = {epochs}
batch = 8
threads = 1
ema = 0.5
"""


@pytest.fixture(scope="session")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    path = folder / "studies.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["dataset", "study_id", "image_path", "view", "findings", "impression", "chexpert", "split"])
        for seed in range(48):
            pixels, findings, text, impression = draw(seed, 48)
            Image.fromarray((pixels * 255).astype(np.uint8)).save(folder / f"{seed}.png")
            present = ";".join(name for name, value in findings.items() if value == 1)
            split = "val" if seed % 3 == 0 else "train"
            rows.writerow(["iu-xray", f"s{seed}", f"{seed}.png", "frontal", text, impression, present, split])
    return path


@pytest.fixture
def small_experiment(manifest):
    """Return a function (folder, epochs, direct, settings of [train]) -> Experiment."""

    def write(folder, epochs=1, direct=True, **settings):
        path = folder / f"tiny-{epochs}-{direct}.toml"
        text = TOML.format(manifest=manifest, epochs=epochs)
        path.write_text(text.replace("direct = true", f"direct = {str(direct).lower()}"))
        experiment = load_experiment(path)
        return experiment.model_copy(update={"train": experiment.train.model_copy(update=settings)})

    return write
