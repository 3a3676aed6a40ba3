"""Train from random weights on drawn studies, export, evaluate: the ML team's commands, end to end."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from encoders.checkpoint import SHIPPED
from encoders.datasets import Example, write_manifest
from encoders.phantom import draw

SIDE, TRAINING, HELD_OUT = 64, 160, 100

EXPERIMENT = """
name = "phantoms"
seed = 3
[data]
manifest = "studies.csv"
cache_size = 72
abnormal_weight = 1.5
[image]
tower = "torchvision:resnet18"
pretrained = false
size = 64
augment = 0.5
[text]
width = 64
extra_batch = 64
[subspace]
hidden = 128
dim = 64
[loss]
contrastive = 0.3
crossmodal = 0.1
[train]
epochs = 6
batch = 16
learning_rate = 1e-3
tower_rate = 1e-3
threads = 1
"""


def cxrfind(*arguments, cwd):
    command = [sys.executable, "-m", "daemon", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with drawn studies and an experiment."""
    root = tmp_path_factory.mktemp("scratch")
    examples = []
    for seed in range(TRAINING + HELD_OUT):
        pixels, findings, text, impression = draw(seed, SIDE)
        path = root / f"{seed}.png"
        Image.fromarray((pixels * 255).astype(np.uint8)).save(path)
        examples.append(
            Example(
                "phantom", f"s{seed}", f"p{seed}", path, "frontal", text, impression, labels=findings,
                split="train" if seed < TRAINING else "val",
            )
        )  # fmt: skip
    write_manifest(examples, root / "studies.csv")
    (root / "experiment.toml").write_text(EXPERIMENT, encoding="utf-8")
    return root


@pytest.mark.timeout(1200)
def test_training_from_scratch_ends_better_than_chance_on_held_out_phantoms(folder):
    cxrfind("train", "--config", "experiment.toml", "--out", "out", "--quiet", cwd=folder)
    with (folder / "out" / "run" / "curves.csv").open(newline="", encoding="utf-8") as file:
        curves = list(csv.DictReader(file))
    assert len(curves) == 6
    assert float(curves[-1]["loss.findings_image"]) < 0.8 * float(curves[0]["loss.findings_image"])

    said = cxrfind(
        "evaluate", "--manifest", "studies.csv", "--split", "val", "--checkpoint", "out/checkpoint",
        "--out", "judged", "--baselines", "none", "--quiet", cwd=folder,
    )  # fmt: skip
    results = json.loads((folder / "judged" / "results.json").read_text(encoding="utf-8"))
    (pool,) = results["pools"]
    assert all(figure in said for figure in ("NDCG@10", "protocol A mAP@10", "image to report R@10", "mean AUC"))
    lead = pool["retrieval"]["B"]["ndcg@10"]
    assert lead["checkpoint"]["mean"] > lead["random"]["high"]
    assert lead["random"]["reference_minus_this"][1] > 0
    assert pool["mean_auc"]["checkpoint"]["mean"] > 0.5
    assert (folder / "judged" / "report.html").stat().st_size > 50_000


def test_runs_are_averaged_and_exported_with_options(folder):
    """After the training above: the mean of its best and last epoch becomes a checkpoint of its own name."""
    (folder / "export.toml").write_text('negatives = 60\n[card]\nlicence = "none"\n', encoding="utf-8")
    cxrfind("average", "out", "out:last=0.5", "--out", "mean", cwd=folder)
    said = cxrfind(
        "export", "--run", "mean", "--out", str(folder / "named"), "--name", "mine", "--options", "export.toml",
        cwd=folder,
    )  # fmt: skip
    assert "named" in said
    card = json.loads((folder / "named" / "card.json").read_text(encoding="utf-8"))
    assert (card["name"], card["licence"]) == ("mine", "none")
    assert card["command"] == "export --run mean --out named --name mine --options export.toml"
    cxrfind("encode", "--manifest", "studies.csv", "--checkpoint", "named", "--out", "v.npz", "--quiet", cwd=folder)
    vectors = np.load(folder / "v.npz")["image"]
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)


BASELINES = """
seeds = [0, 1]
[every.train]
epochs = 1
keep = "last"
[[rows]]
name = "one epoch"
experiment = "experiment.toml"
"""


def test_checkpoints_are_judged_as_the_seeds_of_one_system_beside_baselines_that_are_trained(folder):
    """After the two above: what this checkpoint and the shipped one reach as one system is the mean of both."""
    (folder / "table.toml").write_text(BASELINES, encoding="utf-8")
    said = cxrfind(
        "evaluate", "--manifest", "studies.csv", "--split", "val", "--checkpoint", "named", "--against",
        str(SHIPPED), "--against", f"both=named,{SHIPPED}", "--trained", "table.toml", "--out", "together",
        "--quiet", cwd=folder,
    )  # fmt: skip
    results = json.loads((folder / "together" / "results.json").read_text(encoding="utf-8"))
    notes = {each["name"]: each["note"] for each in results["systems"]}
    assert "mean of 2 models" in notes["both"]
    assert notes["one epoch"] == f"trained on {TRAINING} images, mean of 2 seeds"
    assert {path.name for path in (folder / "together" / "baselines").glob("*-?")} == {"experiment-0", "experiment-1"}
    (pool,) = results["pools"]
    assert f"one epoch {pool['retrieval']['B']['ndcg@10']['one epoch']['mean']:.3f}" in said
    for cells in (pool["retrieval"]["B"]["ndcg@10"], pool["mean_auc"]):
        both, *each = (cells[name]["mean"] for name in ("both", "named", SHIPPED.name))
        assert both == pytest.approx(sum(each) / 2, abs=2e-5)
        assert both not in each
        half = cells[SHIPPED.name]["reference_minus_this"][0] / 2
        assert cells["both"]["reference_minus_this"][0] == pytest.approx(half, abs=2e-5)
