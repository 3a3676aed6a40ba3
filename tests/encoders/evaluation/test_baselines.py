"""Baselines that an evaluation trains itself: where it may, with their seeds, and what it says where it may not."""

import csv
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from encoders.datasets import Example, write_manifest
from encoders.evaluation import EvaluationOptions, evaluate, plan, write_page
from encoders.evaluation.baselines import LEAST_IMAGES, TABLE, trained_systems
from encoders.evaluation.pools import load_samples
from encoders.phantom import draw
from encoders.training.build import load_run
from encoders.training.experiment import ExperimentError

SIDE, HELD_OUT = 64, 40

CLASSIFIER = """
name = "classifier"
[data]
manifest = "studies.csv"
datasets = ["somebody's"]
cache_size = 32
[image]
tower = "torchvision:shufflenet_v2_x0_5"
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
findings = 0.0
direct = 1.0
[train]
epochs = 1
batch = 16
keep = "last"
threads = 1
"""
MMDL = """
base = "classifier.toml"
[image]
weights = "classifier"
freeze = 99
[loss]
findings = 1.0
"""
ROWS = """
seeds = [0, 1, 2]
[every.data]
datasets = []
[[rows]]
name = "classifier"
experiment = "classifier.toml"
vectors = "features"
seeds = [0]
[[rows]]
name = "MMDL"
note = "as published"
experiment = "mmdl.toml"
[[rows]]
name = "image alone"
experiment = "image.toml"
"""


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """Return a manifest of drawn studies, as many train rows as are needed, and some val rows."""
    folder = tmp_path_factory.mktemp("phantoms")
    examples = []
    for seed in range(LEAST_IMAGES + HELD_OUT):
        pixels, findings, text, impression = draw(seed, SIDE)
        path = folder / f"{seed}.png"
        Image.fromarray((pixels * 255).astype(np.uint8)).save(path)
        examples.append(
            Example(
                "phantom", f"s{seed}", f"p{seed}", path, "frontal", text, impression, labels=findings,
                split="val" if seed < HELD_OUT else "train",
            )
        )  # fmt: skip
    write_manifest(examples, folder / "studies.csv")
    return folder / "studies.csv"


@pytest.fixture
def table(tmp_path):
    (tmp_path / "classifier.toml").write_text(CLASSIFIER, encoding="utf-8")
    (tmp_path / "mmdl.toml").write_text(MMDL, encoding="utf-8")
    (tmp_path / "image.toml").write_text('base = "mmdl.toml"\n[loss]\nreports = 0.0\n', encoding="utf-8")
    (tmp_path / "table.toml").write_text(ROWS, encoding="utf-8")
    return tmp_path / "table.toml"


@pytest.fixture
def changed(phantoms, tmp_path):
    """Return a function that writes the manifest again with each row changed (None: left out)."""

    def write(change):
        with phantoms.open(newline="", encoding="utf-8") as file:
            found = [{**row, "image_path": str(phantoms.parent / row["image_path"])} for row in csv.DictReader(file)]
        rows = [row for row in map(change, found) if row]
        with (tmp_path / "studies.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return tmp_path / "studies.csv"

    return write


@pytest.fixture
def judge(table, reader):
    """Return a function (manifest, split) -> Evaluation with the table's baselines."""

    def run(manifest, split="val"):
        planned = plan(table, manifest, table.parent / "out")
        return evaluate(manifest, {"model": [reader()]}, EvaluationOptions(split, baselines=False, trained=planned))

    return run


def _names(evaluation):
    return [system["name"] for system in evaluation.results["systems"]]


def _states(folder):
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.rglob("best.pt")}


def test_trained_baselines_stand_in_every_table_with_their_seeds(phantoms, judge, table):
    evaluation = judge(phantoms)
    notes = {system["name"]: system["note"] for system in evaluation.results["systems"]}
    assert notes["MMDL"] == f"as published; trained on {LEAST_IMAGES} images, mean of 3 seeds"
    assert notes["classifier"] == f"trained on {LEAST_IMAGES} images, one seed"
    assert evaluation.results["left_out"] == []
    (pool,) = evaluation.results["pools"]
    for name in ("classifier", "MMDL", "image alone"):
        for protocol, figure in (("B", "ndcg@10"), ("A", "map@10")):
            assert len(pool["retrieval"][protocol][figure][name]["reference_minus_this"]) == 3
        assert pool["mean_auc"][name]["low"] < pool["mean_auc"][name]["mean"] < pool["mean_auc"][name]["high"]
        assert pool["findings"][name]
    assert set(pool["cross_modal"]) == {"model", "MMDL"}            # the others have learnt no report
    assert set(pool["calibration"]) == {"model"}
    assert set(_states(table.parent / "out")) == {
        "classifier", *(f"{name}-{seed}" for name in ("mmdl", "image") for seed in range(3))
    }  # fmt: skip
    assert (table.parent / "out").stat().st_mode & 0o077 == 0


def test_each_seed_gives_a_run_of_its_own_and_rows_that_could_not_be_read_are_empty(phantoms, table):
    samples = load_samples(phantoms, "val", 0, 0)
    rows = np.arange(3, len(samples))
    planned = plan(table, phantoms, table.parent / "out")
    systems, _ = trained_systems(planned, samples, rows, lambda *_: None)
    mmdl = systems[1]
    assert len(mmdl.runs) == len(mmdl.reports) == len(mmdl.findings) == 3
    for arrays in (mmdl.runs, mmdl.reports, mmdl.findings):
        assert all(np.isnan(array[:3]).all() and np.isfinite(array[3:]).all() for array in arrays)
        assert not np.allclose(arrays[0][3:], arrays[1][3:])
    assert all(np.nanmin(findings) >= 0 and np.nanmax(findings) <= 1 for findings in mmdl.findings)


def test_what_is_trained_is_only_judged_again_and_a_run_that_stopped_goes_on(phantoms, judge, table):
    out = table.parent / "out"
    first, states = judge(phantoms).results, _states(out)
    assert judge(phantoms).results == first
    assert _states(out) == states
    (out / "image-1" / "best.pt").unlink()
    assert judge(phantoms).results == first
    assert {name for name, at in _states(out).items() if at != states[name]} == {"image-1", "image-2"}


def test_other_train_rows_or_another_experiment_are_trained_anew(phantoms, changed, judge, table):
    out = table.parent / "out"
    judge(changed(dict))
    states = _states(out)
    judge(changed(lambda row: {**row, "chexpert": "Edema"} if row["study_id"] == "s50" else row))
    assert all(at != states[name] for name, at in _states(out).items())
    states = _states(out)
    (table.parent / "image.toml").write_text('base = "mmdl.toml"\n[loss]\nreports = 0.0\nfindings = 0.5\n')
    judge(table.parent / "studies.csv")
    assert {name for name, at in _states(out).items() if at != states[name]} == {"image-0", "image-1", "image-2"}


@pytest.mark.parametrize(
    ("change", "split", "why"),
    [
        (lambda row: {**row, "split": "val"}, "val", "the manifest has no train rows"),
        (lambda row: {**row, "split": ""}, None, "the manifest has no train rows"),
        (dict, None, "of patients who are judged; choose others with --split"),
        (dict, "train", "of patients who are judged"),
        (lambda row: {**row, "patient_id": "p1"} if row["study_id"] == "s99" else row, "val", "1 of the 100 train"),
        (lambda row: None if row["study_id"] == "s99" else row, "val", "99 images of train rows name findings"),
        (lambda row: {**row, "chexpert": row["chexpert"] if row["split"] == "val" else ""}, "val", "^0 images"),
    ],
)
def test_where_none_can_be_trained_honestly_the_page_says_why(change, split, why, changed, judge, table):
    evaluation = judge(changed(change), split)
    left_out = {each["name"]: each["reason"] for each in evaluation.results["left_out"]}
    assert set(left_out) == {"classifier", "MMDL", "image alone"}
    assert all(re.search(why, reason) for reason in left_out.values()), left_out
    assert not set(left_out) & set(_names(evaluation))
    assert not (table.parent / "out").exists()
    page = write_page(evaluation, table.parent / "page", sheets=False)
    assert page.read_text(encoding="utf-8").count("left out: ") == 3
    assert json.loads((page.parent / "results.json").read_text(encoding="utf-8"))["left_out"]


def test_without_a_report_among_the_train_rows_only_what_needs_none_is_trained(changed, judge):
    def silent(row):
        return row if row["split"] == "val" else {**row, "findings": "", "impression": ""}

    evaluation = judge(changed(silent))
    assert evaluation.results["left_out"] == [{"name": "MMDL", "reason": "no train row has a report"}]
    assert {"classifier", "image alone"} <= set(_names(evaluation))


def test_a_training_that_chooses_its_epoch_on_the_judged_images_is_left_out(phantoms, changed, judge, table):
    text = CLASSIFIER.replace('keep = "last"', 'keep = "best"')
    (table.parent / "classifier.toml").write_text(text, encoding="utf-8")
    left_out = judge(phantoms).results["left_out"]
    assert [each["name"] for each in left_out] == ["classifier", "MMDL", "image alone"]
    assert all("choose its epoch on the judged images" in each["reason"] for each in left_out)
    third = changed(lambda row: {**row, "split": "test"} if int(row["study_id"][1:]) < 30 else row)
    assert judge(third, "test").results["left_out"] == []


def test_an_image_that_cannot_be_decoded_is_a_reason_and_no_end(changed, judge):
    broken = changed(lambda row: {**row, "image_path": "gone.png"} if row["study_id"] == "s60" else row)
    left_out = {each["name"]: each["reason"] for each in judge(broken).results["left_out"]}
    assert "gone.png" in left_out["classifier"]
    assert "no run 'classifier'" in left_out["MMDL"]


def test_a_table_with_a_fault_is_refused_with_file_and_key(phantoms, table):
    table.write_text(ROWS.replace("note =", "remark ="), encoding="utf-8")
    with pytest.raises(ExperimentError, match=r"table.toml, key rows.1.remark"):
        plan(table, phantoms, table.parent / "out")
    table.write_text(ROWS.replace("datasets = []", "dataset = []"), encoding="utf-8")
    with pytest.raises(ExperimentError, match=r"classifier.toml, key data.dataset"):
        plan(table, phantoms, table.parent / "out")


def test_the_packaged_table_trains_what_the_paper_is_compared_with_on_any_data_set(tmp_path):
    planned = plan(TABLE, tmp_path / "studies.csv", tmp_path)
    shown = {row.name: len(runs) for row, runs in planned.rows if row.shown}
    extensions = {"MMDL + deep descriptors": 3, "MMDL + ranking loss": 3}
    assert shown == {"unimodal classifier": 3, "Image-MMDL": 3, "MMDL": 3, **extensions}
    for _, runs in planned.rows:
        for experiment, _ in runs:
            assert experiment.data.datasets == ()
            assert set(experiment.data.views) == {"frontal", "lateral", "unknown"}
            assert (experiment.train.keep, experiment.train.patience) == ("last", 0)
    runs_of = {row.experiment: [experiment for experiment, _ in runs] for row, runs in planned.rows}
    assert all([run.seed for run in runs] == [0, 1, 2] for runs in runs_of.values())
    for name, tower in (("mmdl", "classifier-bce"), ("scda", "classifier-bce"), ("ranking", "classifier-triplet")):
        assert [str(run.image.weights) for run in runs_of[f"{name}.toml"]] == [f"{tower}-{seed}" for seed in range(3)]
    for name in ("classifier-bce.toml", "classifier-triplet.toml"):
        assert [run.train.initial for run in runs_of[name]] == [f"classifier-{seed}" for seed in range(3)]


def test_a_row_builds_on_the_run_of_its_own_seed_and_one_without_it_is_refused(phantoms, table):
    several = ROWS.replace("seeds = [0]\n", "").replace("[0, 1, 2]", "[0, 1]")
    table.write_text(several, encoding="utf-8")
    (table.parent / "classifier.toml").write_text(CLASSIFIER.replace("freeze = 99", "freeze = 0"), encoding="utf-8")
    samples = load_samples(phantoms, "val", 0, 0)
    systems, left_out = trained_systems(
        plan(table, phantoms, table.parent / "out"), samples, np.arange(len(samples)), lambda *_: None
    )
    assert left_out == []
    assert [len(system.runs) for system in systems] == [2, 2, 2]
    towers = []
    for run in ("classifier", "mmdl"):
        for seed in range(2):
            model = load_run(table.parent / "out" / f"{run}-{seed}").model
            towers.append(torch.cat([value.flatten().float() for value in model.image_tower.state_dict().values()]))
    assert not torch.equal(towers[0], towers[1])
    for seed in range(2):
        assert torch.equal(towers[2 + seed], towers[seed])
    table.write_text(several.replace('"mmdl.toml"\n', '"mmdl.toml"\nseeds = [1, 7]\n'), encoding="utf-8")
    with pytest.raises(ExperimentError, match=r"seed 7 builds on classifier, which has \(0, 1\) only"):
        plan(table, phantoms, table.parent / "out")
