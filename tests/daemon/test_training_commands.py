"""The site's own Catalogue as a training set, and what the ML team's commands refuse."""

import csv
import os
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from daemon.catalogue_manifest import NothingToTrainOn, _age, catalogue_manifest
from daemon.cli import cli
from daemon.config import Config
from storage.base import InstanceRecord, InstanceState, RejectionRecord, ReportRecord
from storage.catalogue import open_catalogue
from storage.renditions import Renditions

DX, SR, NOTE = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.88.11", "1.2.840.10008.5.1.4.1.1.88.59"


def test_label_tells_how_many_reports_are_not_in_english(tmp_path):
    reports = tmp_path / "reports.csv"
    reports.write_text("study_id,findings,impression\n1,Clear lungs.,\n2,Kein Pneumothorax.,\n", encoding="utf-8")
    command = ["label", "--csv", str(reports), "--out"]
    answer = CliRunner().invoke(cli, [*command, str(tmp_path / "labels.csv")])
    assert "2 reports labelled" in answer.output
    assert "1 of them left empty: not in English" in answer.output
    refused = CliRunner().invoke(cli, [*command, str(reports)])
    assert "name another file" in str(refused.exception)
    assert "Kein Pneumothorax" in reports.read_text(encoding="utf-8")


def _element(vr, value):
    return {"vr": vr, "Value": [value]}


@pytest.fixture
def site(tmp_path):
    """Return the configuration of a site, and a function that commits an object of a study to its Catalogue."""
    config = Config(storage={"directory": tmp_path / "data"})
    catalogue = open_catalogue(tmp_path / "data" / "catalogue.db")
    renditions = Renditions(tmp_path / "data" / "renditions")
    generation = catalogue.generation("0" * 64, "toy", 4)

    def commit(study, number, sop_class=DX, *, patient="P1", position="PA", value=100, **more):
        image = sop_class == DX
        vector = np.eye(4, dtype=np.float32)[number % 4]
        record = {
            "attributes": {
                "0020000D": _element("UI", study), "00080018": _element("UI", f"{study}.{number}"),
                "00100020": _element("LO", patient), "00100040": _element("CS", "F"),
                "00101010": _element("AS", "063Y"), "00185101": _element("CS", position),
            },
            "state": InstanceState.INDEXED if image else InstanceState.PLAIN,
            "view": "unknown",
            "rendition": renditions.put(np.full((30, 40), value, np.uint8)) if image else None,
            "embedding": vector if image else None,
            **more,
        }  # fmt: skip
        whole = InstanceRecord(
            sop_class_uid=sop_class, sop_instance_uid=f"{study}.{number}", series_instance_uid=f"{study}.0",
            study_instance_uid=study, transfer_syntax_uid="1.2.840.10008.1.2", digest=f"{study}.{number}",
            size_bytes=1, calling_ae_title="PACS", received_at=datetime(2026, 1, 1, tzinfo=UTC), **record,
        )  # fmt: skip
        catalogue.commit([whole], generation.generation_id, lambda images, report: vector)

    yield config, commit
    catalogue.close()


def _report(text):
    return {
        "state": InstanceState.INDEXED, "report": ReportRecord(findings=text, impression=""),
        "report_embedding": np.eye(4, dtype=np.float32)[3],
    }  # fmt: skip


def _rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_catalogue_becomes_a_manifest_with_pictures_views_reports_and_labels(site, tmp_path):
    config, commit = site
    commit("1.2.1", 1, value=50)
    commit("1.2.1", 2, position="LL", value=60)
    commit("1.2.1", 9, SR, **_report("Large left pleural effusion. No pneumothorax."))
    commit("1.2.2", 1, patient="P2", value=70)
    path = catalogue_manifest(config, tmp_path / "set" / "studies.csv", seed=0)
    rows = {(row["study_id"], row["view"]): row for row in _rows(path)}
    assert set(rows) == {("1.2.1", "frontal"), ("1.2.1", "lateral"), ("1.2.2", "frontal")}
    first = rows["1.2.1", "frontal"]
    assert first["chexpert"] == "Pleural Effusion"
    assert first["findings"].startswith("Large left pleural effusion")
    assert (first["sex"], first["age"]) == ("F", "63")
    assert rows["1.2.2", "frontal"]["chexpert"] == ""
    assert np.asarray(Image.open(path.parent / first["image_path"])).max() == 50


def test_studies_of_one_patient_and_equal_reports_are_in_one_split(site, tmp_path):
    config, commit = site
    for number in range(24):
        commit(f"1.3.{number}", 1, patient=f"P{number // 2}", value=number)
        text = f"Cardiomegaly {number % 3}." if number < 6 else f"Clear lungs {number}."
        commit(f"1.3.{number}", 9, SR, patient=f"P{number // 2}", **_report(text))
    rows = _rows(catalogue_manifest(config, tmp_path / "studies.csv", seed=1))
    assert len(rows) == 24
    for column in ("patient_id", "findings"):
        for value in {row[column] for row in rows}:
            assert len({row["split"] for row in rows if row[column] == value}) == 1


def test_what_is_gated_or_rejected_is_not_trained_on(site, tmp_path):
    config, commit = site
    commit("1.4.1", 1)
    commit("1.4.2", 1, patient="P2", state=InstanceState.GATED, reason="not a chest", embedding=None)
    commit("1.4.3", 1, patient="P3")
    commit("1.4.3", 9, NOTE, patient="P3", rejection=RejectionRecord("113001", ("1.4.3.1",)))
    rows = _rows(catalogue_manifest(config, tmp_path / "studies.csv", seed=0))
    assert [row["study_id"] for row in rows] == ["1.4.1"]


def test_a_manifest_of_patients_is_readable_by_its_owner_alone(site, tmp_path):
    config, commit = site
    commit("1.5.1", 1)
    assert catalogue_manifest(config, tmp_path / "studies.csv", seed=0).stat().st_mode & 0o077 == 0


EXPERIMENT = """
name = "site"
[data]
manifest = "not asked for"
cache_size = 40
[image]
tower = "torchvision:resnet18"
pretrained = false
size = 32
[text]
width = 8
[subspace]
hidden = 16
dim = 8
[train]
epochs = 1
batch = 8
threads = 1
"""


def test_a_site_trains_on_its_catalogue_and_others_see_no_image(site, tmp_path):
    config, commit = site
    for number in range(24):
        commit(f"1.6.{number}", 1, patient=f"P{number}", value=number)
        text = f"Large left effusion {number}." if number % 2 else f"The lungs are clear {number}."
        commit(f"1.6.{number}", 9, SR, patient=f"P{number}", **_report(text))
    (tmp_path / "experiment.toml").write_text(EXPERIMENT, encoding="utf-8")
    out = tmp_path / "out"
    command = ["train", "--from-catalogue", "--config", "experiment.toml", "--out", str(out), "--no-export", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-m", "daemon", *command], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"CXRFIND_STORAGE__DIRECTORY": str(config.storage.directory)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(_rows(out / "catalogue" / "studies.csv")) == 24
    (epoch,) = _rows(out / "run" / "curves.csv")
    assert float(epoch["loss.findings_image"]) > 0
    for private in (out / "cache", out / "catalogue" / "images", out / "catalogue" / "studies.csv"):
        assert private.stat().st_mode & 0o077 == 0
    assert list((out / "cache").iterdir())


@pytest.mark.parametrize(
    ("kinds", "said"),
    [("image report", "find one another by their findings alone"), ("report", "train.initial"), ("image", "no report")],
)
def test_images_and_reports_that_belong_to_nothing_train_and_are_told_what_they_make(kinds, said, tmp_path):
    rows = ["dataset,study_id,image_path,view,impression,chexpert,split"]
    for number in range(32):
        Image.fromarray(np.full((40, 40), 7 * number, np.uint8)).save(tmp_path / f"{number}.png")
        sick, split = number % 2, "val" if number % 3 else "train"
        finding, text = ("Edema", "Edema.") if sick else ("No Finding", "Clear lungs.")
        if "image" in kinds:
            rows.append(f"pictures,i{number},{number}.png,frontal,,{finding},{split}")
        if "report" in kinds:
            rows.append(f"letters,r{number},,,{text} Number {number}.,{finding},{split}")
    (tmp_path / "m.csv").write_text("\n".join(rows), encoding="utf-8")
    (tmp_path / "x.toml").write_text(EXPERIMENT.replace("not asked for", str(tmp_path / "m.csv")), encoding="utf-8")
    out = tmp_path / "out"
    result = CliRunner().invoke(cli, ["train", "--config", str(tmp_path / "x.toml"), "--out", str(out), "--quiet"])
    assert said in f"{result.output}{result.exception}"
    assert (out / "run" / "best.pt").exists()
    assert (out / "checkpoint" / "card.json").exists() is (kinds == "image report")


def test_an_empty_catalogue_is_refused_with_the_cure(site, tmp_path):
    with pytest.raises(NothingToTrainOn, match="send studies"):
        catalogue_manifest(site[0], tmp_path / "studies.csv", seed=0)


def test_torchrun_does_not_write_the_manifest_in_every_process(site, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = CliRunner().invoke(
        cli, ["train", "--from-catalogue", "--out", str(tmp_path / "out")],
        env={"CXRFIND_STORAGE__DIRECTORY": str(site[0].storage.directory)},
    )  # fmt: skip
    assert result.exit_code == 2
    assert "cxrfind manifest --dataset catalogue" in result.output


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        (["train", "--out", "x"], "--config experiment.toml"),
        (["manifest", "--dataset", "nope", "--out", "x.csv"], "iu-xray"),
        (["manifest", "--dataset", "iu-xray", "--out", "x.csv"], "--root"),
        (["average", "run=much", "--out", "x"], "run=much"),
        (["evaluate", "--against", "both=gone,away", "--out", "x"], "'gone' is no folder"),
        (["evaluate", "--manifest", "x.csv", "--trained", "x.csv", "--baselines", "quick", "--out", "x"], "--trained"),
    ],
)
def test_a_command_without_what_it_needs_says_what_is_missing(arguments, cure, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.csv").touch()
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert cure in result.output


def test_the_help_of_evaluate_names_each_baseline_that_it_trains():
    told = " ".join(CliRunner().invoke(cli, ["evaluate", "--help"]).output.split()).replace("- ", "-")
    for name in ("unimodal classifier", "Image-MMDL", ", MMDL", "+ deep descriptors", "+ ranking loss"):
        assert name in told
    for name in ("[all|quick|none]", "OUT/baselines", "[NAME=]FOLDER[,FOLDER...]"):
        assert name in told


def test_a_csv_without_splits_is_refused_with_the_command_that_makes_one_with_splits(tmp_path):
    Image.fromarray(np.full((64, 64), 90, np.uint8)).save(tmp_path / "a.png")
    lines = ["study_id,image_path,findings,impression"]
    lines += [f"s{n},a.png,,No pleural effusion. Number {n}." for n in range(20)]
    (tmp_path / "own.csv").write_text("\n".join(lines))
    (tmp_path / "x.toml").write_text('name = "x"\n[data]\nmanifest = "own.csv"\n')
    refused = CliRunner().invoke(
        cli, ["train", "--config", str(tmp_path / "x.toml"), "--out", str(tmp_path / "run"), "--quiet"]
    )
    assert refused.exit_code != 0
    assert f"cxrfind manifest --dataset csv --root {tmp_path / 'own.csv'}" in f"{refused.output}{refused.exception}"
    out = tmp_path / "studies.csv"
    made = CliRunner().invoke(
        cli, ["manifest", "--dataset", "csv", "--root", str(tmp_path / "own.csv"), "--out", str(out)]
    )
    assert made.exit_code == 0, made.output
    rows = _rows(out)
    assert Counter(row["split"] for row in rows) == {"train": 16, "val": 2, "test": 2}
    assert {(row["image_path"], row["chexpert"]) for row in rows} == {("a.png", "No Finding")}


def test_stack_names_the_run_that_is_not_there(tmp_path):
    result = CliRunner().invoke(cli, ["stack", "gone-a", "gone-b", "--out", str(tmp_path / "both")])
    assert "gone-a" in str(result.exception)


@pytest.mark.parametrize(("text", "age"), [("063Y", "63"), ("006M", "0"), ("", ""), ("ABCY", "")])
def test_an_age_string_becomes_years(text, age):
    assert _age(text) == age
