"""A whole small training: phantoms in, a checkpoint out that the encoder loads."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from encoders.base import ReportText
from encoders.common_subspace import CommonSubspaceEncoder
from encoders.phantom import draw
from encoders.training.experiment import ExperimentError, load_experiment
from encoders.training.export import ExportOptions, export
from encoders.training.project import ProjectionOptions
from encoders.training.trainer import CURVES_FILE, STATE_FILE, train

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


@pytest.fixture(scope="module")
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


def _experiment(folder, manifest, epochs):
    path = folder / f"tiny-{epochs}.toml"
    path.write_text(TOML.format(manifest=manifest, epochs=epochs))
    return load_experiment(path)


def test_a_run_becomes_a_checkpoint_that_encodes_both_modalities(tmp_path, manifest):
    run = tmp_path / "run"
    train(_experiment(tmp_path, manifest, 1), run)
    small = ProjectionOptions(descriptor_dim=12, embedding_dim=4, canonical_dim=4)
    folder = export(run, tmp_path / "checkpoint", ExportOptions(projection=small, negatives=12))
    encoder = CommonSubspaceEncoder.load(folder, "cpu", 1)
    images = encoder.encode_images([draw(99, 64)[0]])
    reports = encoder.encode_reports([ReportText("Heart size is normal.", "")])
    assert images.embeddings.shape == reports.embeddings.shape == (1, 20)
    assert np.isfinite(images.embeddings).all()
    assert np.isfinite(reports.embeddings).all()


def test_a_resumed_run_goes_on_where_it_stopped(tmp_path, manifest):
    seen = []
    train(_experiment(tmp_path, manifest, 1), tmp_path / "run")
    train(_experiment(tmp_path, manifest, 2), tmp_path / "run", True, lambda what, *_: seen.append(what))
    assert "epoch 2/2" in seen
    assert "epoch 1/2" not in seen
    assert len((tmp_path / "run" / CURVES_FILE).read_text().splitlines()) == 3


def test_with_too_few_validation_images_to_judge_by_the_last_epoch_is_kept(tmp_path, manifest):
    train(_experiment(tmp_path, manifest, 2), tmp_path / "run")
    assert torch.load(tmp_path / "run" / STATE_FILE, weights_only=False)["epoch"] == 2


def test_an_unknown_key_is_named_with_its_file(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text('name = "x"\n[data]\nmanifest = "m.csv"\n[train]\nepoch = 3\n')
    with pytest.raises(ExperimentError, match=r"x\.toml, key train\.epoch"):
        load_experiment(path)
