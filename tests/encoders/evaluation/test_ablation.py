"""A small ablation table from experiments to page, and the arithmetic of its intervals."""

import csv
import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from encoders.checkpoint import SHIPPED
from encoders.datasets import Example, write_manifest
from encoders.evaluation import ablation
from encoders.evaluation.ablation_page import markdown
from encoders.evaluation.resampling import auc_draws, interval, mean_draws, resamples
from encoders.phantom import draw
from encoders.training import metrics
from encoders.training.experiment import ExperimentError

BASE = """
name = "plain"
[data]
manifest = "studies.csv"
cache_size = 32
[image]
tower = "torchvision:resnet18"
pretrained = false
size = 32
freeze = 99
augment = 0.0
[text]
width = 16
extra_batch = 0
[subspace]
hidden = 16
dim = 8
direct = true
[loss]
direct = 1.0
[train]
epochs = 1
batch = 16
threads = 1
"""
TABLE = """
seeds = [0, 1]
[[columns]]
title = "NDCG"
source = "phantom"
figure = "ndcg@10"
[[columns]]
title = "R@10"
source = "phantom"
figure = "r@10"
[[columns]]
title = "AUC"
source = "phantom"
figure = "auc"
[[rows]]
name = "features"
passes = 2
experiment = "plain.toml"
vectors = "features"
seeds = [0]
[[rows]]
name = "image alone"
experiment = "image.toml"
against = "features"
"""


@pytest.fixture
def folder(tmp_path):
    examples = []
    for seed in range(64):
        pixels, findings, text, impression = draw(seed, 32)
        Image.fromarray((pixels * 255).astype(np.uint8)).save(tmp_path / f"{seed}.png")
        examples.append(
            Example(
                "phantom", f"s{seed}", f"p{seed}", tmp_path / f"{seed}.png", "frontal", text, impression,
                labels=findings, split="train" if seed % 2 else "val",
            )
        )  # fmt: skip
    write_manifest(examples, tmp_path / "studies.csv")
    (tmp_path / "plain.toml").write_text(BASE, encoding="utf-8")
    (tmp_path / "image.toml").write_text('base = "plain.toml"\n[loss]\nreports = 0.0\n', encoding="utf-8")
    (tmp_path / "table.toml").write_text(TABLE, encoding="utf-8")
    return tmp_path


def _run(folder, *more):
    files = ["--manifest", folder / "studies.csv", "--output", folder / "out", "--table", folder / "table.toml"]
    arguments = [*files, *more]
    done = CliRunner().invoke(ablation.main, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads((folder / "out" / "ablations.json").read_text(encoding="utf-8"))


def _seconds(curves):
    with curves.open(newline="", encoding="utf-8") as file:
        return sum(float(row["seconds"]) for row in csv.DictReader(file))


def test_a_table_is_trained_once_and_judged_with_chance_controls_seeds_and_differences(folder):
    values = _run(folder)
    rows = {row["name"]: row["figures"]["phantom"] for row in values["rows"]}
    assert list(rows)[:4] == ["random", "images exchanged in validation", "features", "image alone"]
    assert len(rows["image alone"]["ndcg@10"]["seeds"]) == 2
    assert len(rows["features"]["ndcg@10"]["seeds"]) == 1
    gain = rows["image alone"]["ndcg@10"]["difference"]
    assert gain["low"] <= gain["mean"] <= gain["high"]
    assert gain["mean"] == pytest.approx(
        rows["image alone"]["ndcg@10"]["mean"] - rows["features"]["ndcg@10"]["mean"], abs=2e-5
    )
    assert "r@10" in rows["random"]
    assert "r@10" not in rows["image alone"]  # its reports were never trained
    assert rows["random"]["auc"]["mean"] == pytest.approx(0.5, abs=0.05)
    costs = {row["name"]: row["cost"] for row in values["rows"] if row["cost"]}
    assert {name: cost["passes"] for name, cost in costs.items()} == {"features": 2, "image alone": 1}
    for name, runs in (("features", ["plain"]), ("image alone", ["image-0", "image-1"])):
        took = [_seconds(folder / "out" / run / "curves.csv") for run in runs]
        assert costs[name]["seconds"] == pytest.approx(sum(took) / len(took), abs=0.051)
    page = (folder / "out" / "ABLATIONS.md").read_text(encoding="utf-8")
    assert page == markdown(values)
    assert f"| features | {costs['features']['seconds']:.0f} | 2 |" in page
    assert "| image alone | features |" in page

    states = {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("best.pt")}
    assert len(states) == 3
    assert _run(folder) == values
    assert {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("best.pt")} == states


def test_a_new_checkpoint_is_judged_beside_earlier_figures_without_training_anything(folder):
    without = _run(folder)
    whole = _run(folder, "--checkpoint", SHIPPED)
    assert whole["rows"][-1]["name"] == "shipped model"
    earlier = folder / "earlier.json"
    stale = {"name": "shipped model", "against": "", "figures": {}}
    earlier.write_text(json.dumps({**without, "rows": [*without["rows"], stale]}), encoding="utf-8")
    shutil.rmtree(folder / "out")
    assert _run(folder, "--earlier", earlier, "--checkpoint", SHIPPED) == whole
    assert not list((folder / "out").rglob("best.pt"))
    earlier.write_text(json.dumps({**without, "columns": []}), encoding="utf-8")
    with pytest.raises(ExperimentError, match="of another table"):
        _run(folder, "--earlier", earlier, "--checkpoint", SHIPPED)


def test_a_row_against_none_that_is_shown_is_refused(folder):
    path = folder / "table.toml"
    path.write_text(path.read_text().replace('against = "features"', 'against = "nobody"'), encoding="utf-8")
    with pytest.raises(ExperimentError, match="'image alone' is against 'nobody'"):
        ablation.load_table(path)


def test_draws_are_what_the_figure_is_in_the_resampled_pool():
    generator = np.random.default_rng(3)
    scores, truth = generator.normal(size=60).round(1), (generator.random(60) < 0.3).astype(float)
    truth[5] = np.nan
    times = resamples(60)[:20]
    for draw_, counts in zip(auc_draws(scores, truth, times), times, strict=True):
        rows = np.repeat(np.arange(60), counts.astype(int))
        assert draw_ == pytest.approx(metrics.auc(scores[rows], truth[rows]))
    for draw_, counts in zip(mean_draws(truth, times), times, strict=True):
        assert draw_ == pytest.approx(np.nanmean(np.repeat(truth, counts.astype(int))))


def test_the_interval_of_a_mean_is_as_wide_as_its_standard_error_says():
    values = np.random.default_rng(4).normal(size=400)
    low, high = interval(mean_draws(values, resamples(400)))
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
