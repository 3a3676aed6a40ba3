"""The plain CSV manifest."""

import math

import pytest

from encoders.base import FINDING_NAMES
from encoders.training.manifest import ManifestError, coded_findings, headings, read_manifest

HEADER = "study_id,image_path,findings,impression,dataset,patient_id,view,source_labels,chexpert,split,sex,age\n"


def test_a_row_becomes_a_sample_with_its_image_beside_the_csv(tmp_path):
    path = tmp_path / "studies.csv"
    path.write_text(
        HEADER + "s1,images/a.jpg,Clear.,Normal.,iu-xray,p1,frontal,Opacity/lung/base;Scoliosis,Lung Opacity,val,F,61\n"
    )
    (sample,) = read_manifest(path, "val")
    assert sample.image_path == tmp_path / "images/a.jpg"
    assert sample.source_labels == ("opacity", "scoliosis")
    assert sample.labels[FINDING_NAMES.index("Lung Opacity")] == 1
    assert sample.labels[FINDING_NAMES.index("Edema")] == 0
    assert sample.age == 61
    assert read_manifest(path, "train") == []


def test_two_columns_are_enough_and_a_report_needs_one_more(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("study_id,image_path,impression\ns1,,Clear lungs.\n")
    (sample,) = read_manifest(path)
    assert sample.image_path is None
    assert sample.has_report
    path.write_text("study_id,image_path\ns1,a.jpg\n")
    (sample,) = read_manifest(path)
    assert not sample.has_report
    assert sample.patient_id == "s1"
    assert all(math.isnan(value) for value in sample.labels)


def test_a_missing_column_is_named(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("study_id,findings\ns1,x\n")
    with pytest.raises(ManifestError, match="'image_path'"):
        read_manifest(path)


def test_what_a_source_cannot_code_is_unknown_and_not_absent():
    nih = coded_findings(["Pleural Effusion"], "nih-chestxray14-128px")
    assert math.isnan(nih[FINDING_NAMES.index("Support Devices")])
    assert nih[FINDING_NAMES.index("Pleural Effusion")] == 1
    assert coded_findings(["Other"], "iu-xray")[FINDING_NAMES.index("Support Devices")] == 0
    assert all(math.isnan(value) for value in coded_findings([], "iu-xray"))


def test_findings_are_named_in_any_case_and_an_unknown_one_is_refused_with_its_row(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("study_id,image_path,chexpert\ns1,a.jpg,\ns2,b.jpg,cardiomegaly; EDEMA;other\n")
    labels = read_manifest(path)[1].labels
    assert [name for name, value in zip(FINDING_NAMES, labels, strict=True) if value] == ["Cardiomegaly", "Edema"]
    path.write_text("study_id,image_path,chexpert\ns1,a.jpg,Edema\ns2,b.jpg,Edema;Tuberculosis\n")
    with pytest.raises(ManifestError, match="row 3, column chexpert: 'Tuberculosis' is no finding"):
        read_manifest(path)


def test_headings_lose_their_qualifiers_and_come_once():
    assert headings("Opacity/lung/left;Opacity/lung/right;;Aorta/tortuous ") == ("aorta", "opacity")
