"""What a manifest may hold: images with labels only, few reports, no labels, no views; and partial pairing."""

import csv

import pytest
import torch

from encoders.base import Basis, ReportText
from encoders.common_subspace import CommonSubspaceEncoder
from encoders.phantom import draw
from encoders.training.build import build_model, load_run
from encoders.training.export import ExportOptions, export
from encoders.training.manifest import ManifestError
from encoders.training.project import NothingToFitOn, ProjectionOptions
from encoders.training.run_files import LAST_FILE
from encoders.training.trainer import train


@pytest.fixture
def changed(tmp_path, manifest, small_experiment):
    """Return a function (change of a row, settings of [train]) -> Experiment on the manifest so changed."""

    def write(change, **settings):
        with manifest.open(newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            row["image_path"] = str(manifest.parent / row["image_path"])
            change(row)
        path = tmp_path / "changed.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        experiment = small_experiment(tmp_path, **settings)
        return experiment.model_copy(update={"data": experiment.data.model_copy(update={"manifest": path})})

    return write


def without_report(row):
    row.update(findings="", impression="")


def with_two_reports(row):
    row.update(findings="Heart size is normal." if row["study_id"] < "s3" else "No effusion.", impression="")


@pytest.mark.parametrize("change", [without_report, with_two_reports])
@pytest.mark.parametrize("tower", ["tfidf-svd", "doc2vec"])
@pytest.mark.parametrize("prompts", [True, False])
def test_images_with_labels_train_p_with_few_reports_or_none(tmp_path, changed, change, tower, prompts):
    experiment = changed(change, epochs=2)
    text = experiment.text.model_copy(update={"tower": tower, "prompts": prompts})
    experiment = experiment.model_copy(update={"text": text})
    train(experiment, tmp_path / "run")
    trained = load_run(tmp_path / "run")
    coupling = trained.model.subspace.coupling["findings"].weight
    fresh = build_model(experiment, trained.model.text_tower, ()).subspace.coupling["findings"].weight
    assert torch.isfinite(coupling).all()
    assert (coupling - fresh).abs().max() > 1e-4
    said = (tmp_path / "run" / "curves.csv").read_text().splitlines()[0]
    assert ("findings_text" in said) == (change is not without_report)


def alone(row):
    """Leave a third of the studies as images with labels only, a third as reports alone, and a third as pairs."""
    kind = ("image", "report", "pair")[int(row["study_id"][1:]) // 3 % 3]
    if kind == "image":
        without_report(row)
    if kind == "report":
        row["image_path"] = ""
    return kind


def without_pairs(row):
    """Leave each study its image or its report."""
    if alone(row) == "pair":
        row["image_path"] = ""


@pytest.mark.parametrize("kind", ["image", "report", "pair"])
def test_images_alone_reports_alone_and_pairs_all_train_the_same_p(tmp_path, changed, kind):
    def with_other_labels(row):
        if alone(row) == kind:
            row["chexpert"] = "Fracture;Pneumothorax"

    learnt = []
    for name, change in (("one", alone), ("other", with_other_labels)):
        experiment = changed(change)
        loss = experiment.loss.model_copy(update={"direct": 0.0, "descriptor": 0.0, "triplet": 0.0})
        train(experiment.model_copy(update={"loss": loss}), tmp_path / name)
        learnt.append(load_run(tmp_path / name).model.state_dict())
    one, other = learnt
    assert not torch.equal(one["subspace.coupling.findings.weight"], other["subspace.coupling.findings.weight"])
    assert not torch.equal(one["subspace.first.text.weight"], other["subspace.first.text.weight"])


def test_images_and_reports_without_a_single_pair_become_a_checkpoint_that_compares_them(tmp_path, changed):
    train(changed(without_pairs), tmp_path / "run")
    options = ExportOptions(projection=ProjectionOptions(appearance_dim=20), negatives=12)
    encoder = CommonSubspaceEncoder.load(export(tmp_path / "run", tmp_path / "checkpoint", options), "cpu", 1)
    assert encoder.card["paired_by"] == "findings"
    weight = encoder.card["projection"]["findings_weight"]
    assert weight["REPORT"] == weight["TEXT"]
    image = encoder.encode_images([draw(99, 64)[0]]).embeddings
    report = encoder.encode_reports([ReportText("Heart size is normal.", "")]).embeddings
    score = encoder.score(image @ report.T, Basis.IMAGE, Basis.REPORT)
    assert 0 <= score[0, 0] <= 1


def test_an_export_that_can_pair_nothing_to_calibrate_with_is_refused_with_the_cure(tmp_path, changed):
    def with_unlabelled_reports(row):
        without_pairs(row)
        if row["split"] == "val" and not row["image_path"]:
            row["chexpert"] = ""

    train(changed(with_unlabelled_reports), tmp_path / "run")
    with pytest.raises(NothingToFitOn, match=r"iu-xray: no val image has a report.*chexpert.*--no-export"):
        export(tmp_path / "run", tmp_path / "checkpoint", ExportOptions(negatives=12))


def test_reports_alone_train_p_and_the_text_side_that_a_run_on_images_goes_on_from(tmp_path, changed):
    experiment = changed(lambda row: row.update(image_path=""), epochs=2)
    train(experiment, tmp_path / "texts")
    first = load_run(tmp_path / "texts")
    fresh = build_model(experiment, first.model.text_tower, ()).state_dict()
    learnt = first.model.state_dict()
    assert not torch.equal(fresh["subspace.coupling.findings.weight"], learnt["subspace.coupling.findings.weight"])
    assert all(torch.equal(fresh[key], learnt[key]) for key in fresh if key.startswith("image_tower."))
    assert len((tmp_path / "texts" / "curves.csv").read_text().splitlines()) == 3
    train(changed(without_report, initial="texts", learning_rate=1e-12), tmp_path / "run")
    then = load_run(tmp_path / "run").model
    assert then.text_tower.card() == first.model.text_tower.card()
    coupling = "subspace.coupling.findings.weight"
    torch.testing.assert_close(then.state_dict()[coupling], learnt[coupling])


@pytest.mark.parametrize("section", [("text", {"extra_batch": 0}), ("loss", {"reports": 0.0})])
def test_reports_alone_that_the_experiment_does_not_learn_from_are_refused_with_the_cure(tmp_path, changed, section):
    experiment = changed(lambda row: row.update(image_path=""))
    name, settings = section
    experiment = experiment.model_copy(update={name: getattr(experiment, name).model_copy(update=settings)})
    with pytest.raises(ManifestError, match=r"changed\.csv: no train row has an image.*add images"):
        train(experiment, tmp_path / "run")


def test_a_manifest_without_any_label_is_refused_unless_findings_are_not_learnt(tmp_path, changed):
    experiment = changed(lambda row: row.update(chexpert=""))
    with pytest.raises(ManifestError, match=r"chexpert.*findings = 0"):
        train(experiment, tmp_path / "run")
    loss = experiment.loss.model_copy(update={"findings": 0.0, "direct": 0.0})
    train(experiment.model_copy(update={"loss": loss}), tmp_path / "run")
    assert (tmp_path / "run" / LAST_FILE).exists()


def test_a_source_without_views_counts_as_frontal_and_becomes_a_checkpoint_that_tells_none(tmp_path, changed):
    train(changed(lambda row: row.update(view="")), tmp_path / "run")
    small = ProjectionOptions(appearance_dim=20)
    folder = export(tmp_path / "run", tmp_path / "checkpoint", ExportOptions(projection=small, negatives=12))
    encoder = CommonSubspaceEncoder.load(folder, "cpu", 1)
    assert encoder.card["views"] is False
    assert encoder.encode_images([draw(99, 64)[0]]).frontal == 0.5
