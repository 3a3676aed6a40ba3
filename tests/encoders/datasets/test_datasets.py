"""Each data set on a miniature with the true layout of its files and columns."""

from __future__ import annotations

import csv
import gzip
import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoders.base import FINDING_NAMES
from encoders.datasets import DATASETS, DatasetError, Example, split_by_patient, write_manifest
from encoders.phantom import draw
from encoders.training.arrays import load_bytes
from encoders.training.manifest import read_manifest


def table(path: Path, header: list[str], *rows: list[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO(newline="")
    csv.writer(text).writerows([header, *rows])
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def mimic(root: Path) -> None:
    table(root / "mimic-cxr-2.0.0-split.csv.gz", ["dicom_id", "study_id", "subject_id", "split"],
          ["aa-1", "50000001", "10000032", "train"], ["aa-2", "50000001", "10000032", "train"],
          ["bb-1", "50000002", "10000980", "validate"], ["cc-1", "50000003", "11000011", "test"])
    table(root / "mimic-cxr-2.0.0-metadata.csv.gz",
          ["dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows"],
          ["aa-1", "10000032", "50000001", "CHEST (PA AND LAT)", "PA", 3056],
          ["aa-2", "10000032", "50000001", "CHEST (PA AND LAT)", "LATERAL", 3056],
          ["bb-1", "10000980", "50000002", "CHEST (PORTABLE AP)", "", 2544],
          ["cc-1", "11000011", "50000003", "CHEST (PORTABLE AP)", "AP", 2544])
    table(root / "mimic-cxr-2.0.0-chexpert.csv.gz", ["subject_id", "study_id", *sorted(FINDING_NAMES)],
          ["10000032", "50000001", *["1.0" if n == "Edema" else "-1.0" if n == "Pneumonia" else "0.0"
                                     if n == "Fracture" else "" for n in sorted(FINDING_NAMES)]])
    for study, names in (("p10/p10000032/s50000001", ("aa-1", "aa-2")), ("p10/p10000980/s50000002", ("bb-1",)),
                         ("p11/p11000011/s50000003", ("cc-1",))):
        for name in names:
            touch(root / "files" / study / f"{name}.jpg")
            touch(root / "files" / study / f"{name}.dcm")
    report = touch(root / "files/p10/p10000032/s50000001.txt")
    report.write_text(" FINAL REPORT\n EXAMINATION:  CHEST (PA AND LAT)\n\n INDICATION:  ___ year old with dyspnea\n\n"
                      " FINDINGS: \n \n Mild pulmonary edema. No fracture.\n\n IMPRESSION: \n \n Mild edema.\n")


def test_mimic_cxr_jpg_gives_official_splits_labels_views_and_report_sections(tmp_path, caplog):
    mimic(tmp_path)
    rows = list(DATASETS["mimic-cxr-jpg"](tmp_path))
    assert [row.split for row in rows] == ["train", "train", "val", "test"]
    assert [row.view for row in rows] == ["frontal", "lateral", "unknown", "frontal"]
    first = rows[0]
    assert first.image == tmp_path / "files/p10/p10000032/s50000001/aa-1.jpg"
    assert (first.study_id, first.patient_id) == ("s50000001", "p10000032")
    assert first.labels == {"Edema": 1.0, "Pneumonia": -1.0, "Fracture": 0.0}
    assert first.findings == "Mild pulmonary edema. No fracture."
    assert first.impression == "Mild edema."
    assert "dyspnea" in first.indication
    assert rows[2].labels is None
    assert (rows[2].findings, rows[2].impression) == ("", "")
    assert "2 of 3 studies have no report" in caplog.text
    assert "s50000002.txt" in caplog.text


def test_mimic_cxr_in_dicom_names_dcm_files(tmp_path):
    mimic(tmp_path)
    assert next(DATASETS["mimic-cxr"](tmp_path)).image == tmp_path / "files/p10/p10000032/s50000001/aa-1.dcm"


def test_chexpert_reads_patients_views_and_uncertain_labels(tmp_path):
    header = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FINDING_NAMES]
    values = ["-1.0" if name == "Pneumonia" else "1.0" if name == "Edema" else "" for name in FINDING_NAMES]
    table(tmp_path / "train.csv", header,
          ["CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg", "Female", 68, "Frontal", "AP", *values],
          ["CheXpert-v1.0-small/train/patient00001/study1/view2_lateral.jpg", "Female", 68, "Lateral", "", *values])
    table(tmp_path / "valid.csv", header,
          ["CheXpert-v1.0-small/valid/patient64541/study1/view1_frontal.jpg", "Male", 73, "Frontal", "AP", *values])
    for name in ("train/patient00001/study1/view1_frontal.jpg", "train/patient00001/study1/view2_lateral.jpg",
                 "valid/patient64541/study1/view1_frontal.jpg"):
        touch(tmp_path / name)
    rows = list(DATASETS["chexpert"](tmp_path))
    assert [row.split for row in rows] == ["", "", "test"]
    assert rows[0].image == tmp_path / "train/patient00001/study1/view1_frontal.jpg"
    assert [row.view for row in rows] == ["frontal", "lateral", "frontal"]
    assert (rows[0].sex, rows[0].age, rows[0].patient_id) == ("F", "68", "patient00001")
    assert rows[0].labels == {"Pneumonia": -1.0, "Edema": 1.0}


@pytest.mark.parametrize(("list_name", "listed"), [
    ("test_list.txt", "00000002_000.png"), ("test_list_NIH.txt", "00000002_000.png"),
    ("train_val_list_NIH.txt", "00000001_000.png\n00000003_000.png"),
])
def test_nih_maps_its_labels_keeps_its_lists_and_leaves_out_images_that_are_not_there(
    tmp_path, caplog, list_name, listed
):
    table(tmp_path / "Data_Entry_2017.csv",
          ["Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender",
           "View Position", "OriginalImage[Width", "Height]", "OriginalImagePixelSpacing[x", "y]", ""],
          ["00000001_000.png", "Cardiomegaly|Effusion", 0, 1, "058Y", "M", "PA", 2682, 2749, 0.143, 0.143, ""],
          ["00000002_000.png", "No Finding", 0, 2, "81", "F", "AP", 2500, 2048, 0.171, 0.171, ""],
          ["00000003_000.png", "Hernia", 0, 3, "81", "F", "PA", 2582, 2991, 0.143, 0.143, ""])
    (tmp_path / list_name).write_text(f"{listed}\n")
    touch(tmp_path / "images_001/images/00000001_000.png")
    touch(tmp_path / "images_002/images/00000002_000.png")
    rows = list(DATASETS["nih-chestxray14"](tmp_path))
    assert [row.labels for row in rows] == [{"Cardiomegaly": 1.0, "Pleural Effusion": 1.0}, {"No Finding": 1.0}]
    assert [(row.split, row.age, row.patient_id) for row in rows] == [("", "58", "1"), ("test", "81", "2")]
    assert caplog.messages == [
        f"1 of 3 images are not there and left out; the first: {tmp_path / 'images/00000003_000.png'}"
    ]


def test_padchest_reads_python_lists_of_labels_projection_and_spanish_report(tmp_path):
    table(tmp_path / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv",
          ["", "ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM",
           "ViewPosition_DICOM", "Projection", "MethodProjection", "Pediatric", "ReportID", "Report", "MethodLabel",
           "Labels", "Localizations"],
          [0, "1_a.png", "0", "20140915", "s1", "p1", "1930", "M", "POSTEROANTERIOR", "PA", "Manual review of DICOM "
           "fields", "", "4765777", "sin hallazg patolog edad pacient .", "Physician", "['normal']", "[]"],
          [1, "2_b.png", "0", "20140915", "s2", "p2", "1940", "F", "LATERAL", "L", "", "", "1", "derram pleural .",
           "RNN_model", "['pleural effusion', 'costophrenic angle blunting', '']", "['loc left']"],
          [2, "3_c.png", "0", "20140915", "s3", "p3", "", "O", "", "COSTAL", "", "", "1", "", "RNN_model", "nan", ""])
    image = tmp_path / "0" / "1_a.png"
    image.parent.mkdir()
    Image.fromarray((draw(1, 64)[0] * 4095).astype(np.uint16)).save(image)
    for name in ("2_b.png", "3_c.png"):
        touch(tmp_path / name)
    rows = list(DATASETS["padchest"](tmp_path))
    assert rows[0].image == image
    assert 60 < load_bytes(image, (64,)).mean() < 180
    assert [row.view for row in rows] == ["frontal", "lateral", "unknown"]
    assert [row.labels for row in rows] == [{"No Finding": 1.0}, {"Pleural Effusion": 1.0}, None]
    assert [row.age for row in rows] == ["84", "74", ""]


def test_padchest_labels_that_say_nothing_of_what_is_seen_leave_a_study_unlabelled(tmp_path):
    cells = ["['exclude']", "['suboptimal study']", "['unchanged']", "['unchanged', 'pleural effusion']",
             "['exclude', 'pneumonia']", "['scoliosis']"]
    table(tmp_path / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz",
          ["ImageID", "ImageDir", "StudyID", "PatientID", "PatientSex_DICOM", "Projection", "Report", "Labels"],
          *([f"{n}.png", n, f"s{n}", f"p{n}", "M", "PA", "", cell] for n, cell in enumerate(cells)))
    for n in range(len(cells)):
        touch(tmp_path / f"{n}/{n}.png")
    assert [row.labels for row in DATASETS["padchest"](tmp_path)] == [
        None, None, None, {"Pleural Effusion": 1.0}, None, {}
    ]


def test_vindr_takes_what_two_of_three_readers_saw_and_the_consensus_in_test(tmp_path):
    header = ["image_id", "rad_id", "Cardiomegaly", "Nodule/Mass", "Pleural effusion", "No finding"]
    table(tmp_path / "annotations/image_labels_train.csv", header,
          ["x1", "R1", 1, 0, 1, 0], ["x1", "R2", 1, 0, 0, 0], ["x1", "R3", 0, 1, 0, 0],
          ["x2", "R1", 0, 0, 0, 1], ["x2", "R2", 0, 0, 0, 1], ["x2", "R3", 0, 0, 0, 1])
    table(tmp_path / "annotations/image_labels_test.csv", [header[0], *header[2:]], ["y1", 0, 1, 0, 0])
    for name in ("train/x1", "train/x2", "test/y1"):
        touch(tmp_path / f"{name}.dicom")
    rows = {row.study_id: row for row in DATASETS["vindr-cxr"](tmp_path)}
    assert rows["x1"].labels == {"Cardiomegaly": 1.0}
    assert rows["x2"].labels == {"No Finding": 1.0}
    assert rows["y1"].labels == {"Lung Lesion": 1.0}
    assert rows["y1"].split == "test"
    assert rows["x1"].image == tmp_path / "train/x1.dicom"
    write_manifest(rows.values(), tmp_path / "studies.csv")
    labels = dict(zip(FINDING_NAMES, read_manifest(tmp_path / "studies.csv")[0].labels, strict=True))
    assert labels["Pneumonia"] == 0.0
    assert np.isnan(labels["Support Devices"])


IU_REPORT = """<?xml version="1.0" encoding="utf-8"?>
<eCitation><uId id="CXR7"/><MedlineCitation><Article><Abstract>
<AbstractText Label="COMPARISON">None.</AbstractText><AbstractText Label="INDICATION">Chest pain</AbstractText>
<AbstractText Label="FINDINGS">Heart is enlarged.</AbstractText>
<AbstractText Label="IMPRESSION">Cardiomegaly.</AbstractText></Abstract></Article></MedlineCitation>
<MeSH><major>Cardiomegaly/mild</major><major>Mediastinum/prominent</major><major>Thickening/pleura/left</major></MeSH>
<parentImage id="CXR7_IM-1-1001"/><parentImage id="CXR7_IM-1-2001"/></eCitation>"""


def test_iu_xray_gives_the_images_of_a_report_with_its_mesh_codes(tmp_path):
    (tmp_path / "ecgen-radiology").mkdir()
    (tmp_path / "ecgen-radiology/7.xml").write_text(IU_REPORT)
    touch(tmp_path / "NLMCXR_png/CXR7_IM-1-1001.png")
    touch(tmp_path / "NLMCXR_dcm/7/CXR7_IM-1-2001.dcm")
    rows = list(DATASETS["iu-xray"](tmp_path))
    assert [row.image.name for row in rows if row.image] == ["CXR7_IM-1-1001.png", "CXR7_IM-1-2001.dcm"]
    assert rows[0].labels == {"Cardiomegaly": 1.0, "Enlarged Cardiomediastinum": 1.0, "Pleural Other": 1.0}
    assert (rows[0].findings, rows[0].impression) == ("Heart is enlarged.", "Cardiomegaly.")


@pytest.mark.parametrize("folder", ["NLMCXR_dcm/1", "1", "NLMCXR_dcm", ""])
def test_iu_xray_finds_dicom_files_by_their_own_names(tmp_path, folder):
    (tmp_path / "ecgen-radiology").mkdir()
    named = IU_REPORT.replace("CXR7_IM-1-1001", "CXR1_1_IM-0001-3001").replace("CXR7_IM-1-2001", "CXR1_1_IM-0001-4001")
    (tmp_path / "ecgen-radiology/1.xml").write_text(named)
    images = [touch(tmp_path / folder / f"1_IM-0001-{number}.dcm") for number in (3001, 4001)]
    assert [row.image for row in DATASETS["iu-xray"](tmp_path)] == images


def test_iu_xray_keeps_a_report_without_image_and_says_which_images_are_not_there(tmp_path, caplog):
    (tmp_path / "ecgen-radiology").mkdir()
    (tmp_path / "ecgen-radiology/7.xml").write_text(IU_REPORT)
    (tmp_path / "ecgen-radiology/8.xml").write_text(IU_REPORT.replace("CXR7", "CXR8"))
    image = touch(tmp_path / "NLMCXR_png/CXR7_IM-1-2001.png")
    rows = list(DATASETS["iu-xray"](tmp_path))
    assert [(row.study_id, row.image) for row in rows] == [("CXR7", image), ("CXR8", None)]
    assert "3 of 4 images are not there" in caplog.text
    assert "CXR7_IM-1-1001.png" in caplog.text


def test_iu_xray_reads_the_tables_of_kaggles_copy_with_their_views(tmp_path):
    table(tmp_path / "indiana_reports.csv",
          ["uid", "MeSH", "Problems", "image", "indication", "comparison", "findings", "impression"],
          [1, "normal", "normal", "Xray Chest PA and Lateral", "Positive TB test", "None.", "Clear.", "Normal."],
          [2, "Cardiomegaly/mild;Opacity/lung/left", "Cardiomegaly;Opacity", "PA", "Cough", "", "", "Large heart."])
    table(tmp_path / "indiana_projections.csv", ["uid", "filename", "projection"],
          [1, "1_IM-0001-4001.dcm.png", "Frontal"], [1, "1_IM-0001-3001.dcm.png", "Lateral"],
          [2, "2_IM-0652-1001.dcm.png", "Frontal"])
    for name in ("1_IM-0001-4001", "1_IM-0001-3001", "2_IM-0652-1001"):
        touch(tmp_path / f"images/images_normalized/{name}.dcm.png")
    rows = list(DATASETS["iu-xray"](tmp_path))
    assert [(row.study_id, row.view) for row in rows] == [("CXR1", "frontal"), ("CXR1", "lateral"), ("CXR2", "frontal")]
    assert all(row.image and row.image.exists() for row in rows)
    assert rows[0].labels == {"No Finding": 1.0}
    assert rows[2].labels == {"Cardiomegaly": 1.0, "Lung Opacity": 1.0}
    assert rows[2].source_labels == ("Cardiomegaly/mild", "Opacity/lung/left")
    assert (rows[0].findings, rows[2].impression, rows[2].indication) == ("Clear.", "Large heart.", "Cough")


def test_a_csv_of_ones_own_gets_labels_from_its_reports_where_it_has_none(tmp_path):
    table(tmp_path / "own.csv", ["study_id", "image_path", "findings", "impression", "chexpert", "view", "split"],
          ["s1", "a.png", "No effusion.", "Large right pneumothorax.", "", "PA", ""],
          ["s2", "a.png", "", "", "Edema; Fracture", "lateral", "valid"], ["s3", "a.png", "", "", "Other", "", "test"],
          ["s4", "", "The lungs are clear.", "", "", "", ""], ["s5", "a.png", "", "", "", "LATERAL", ""])
    image = touch(tmp_path / "a.png")
    rows = list(DATASETS["csv"](tmp_path / "own.csv"))
    assert [row.image for row in rows] == [image, image, image, None, image]
    assert [row.view for row in rows] == ["frontal", "lateral", "unknown", "unknown", "lateral"]
    assert [row.split for row in rows] == ["", "val", "test", "", ""]
    assert (rows[0].labels["Pneumothorax"], rows[0].labels["Pleural Effusion"]) == (1.0, 0.0)
    assert [row.labels for row in rows[1:3]] == [{"Edema": 1.0, "Fracture": 1.0}, {}]
    assert rows[3].labels is not None
    assert rows[4].labels is None


@pytest.mark.parametrize(("row", "reason"), [
    (["s1", "a.png", "Pleural effusion", ""], "'Pleural effusion' in chexpert is none of"),
    (["s1", "a.png", "", "holdout"], "split 'holdout'"),
])
def test_a_csv_of_ones_own_with_an_unknown_name_is_refused(tmp_path, row, reason):
    touch(tmp_path / "a.png")
    table(tmp_path / "own.csv", ["study_id", "image_path", "chexpert", "split"], row)
    with pytest.raises(DatasetError, match=reason):
        list(DATASETS["csv"](tmp_path / "own.csv"))


def test_a_data_set_of_whose_images_none_is_there_is_refused_with_where_it_looked(tmp_path):
    mimic(tmp_path)
    for image in tmp_path.rglob("*.jpg"):
        image.unlink()
    with pytest.raises(DatasetError, match=r"none of the 4 images .*files/p10/p10000032/s50000001/aa-1\.jpg"):
        write_manifest(DATASETS["mimic-cxr-jpg"](tmp_path), tmp_path / "studies.csv")
    assert not (tmp_path / "studies.csv").exists()


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_an_empty_folder_is_refused_with_what_is_missing(tmp_path, name):
    with pytest.raises(DatasetError, match=str(tmp_path)):
        list(DATASETS[name](tmp_path))


def example(study: str, patient: str, findings: str = "", split: str = "") -> Example:
    return Example("made", study, patient, None, findings=findings, split=split)


def test_the_split_never_parts_a_patient_nor_an_identical_report():
    rows = [example(f"s{n}", f"p{n // 2}", findings=f"Text {n % 40}." if n % 3 else "") for n in range(400)]
    done = list(split_by_patient(rows, seed=3, validation=0.2, test=0.2))
    for key in (lambda row: row.patient_id, lambda row: row.findings or row.study_id):
        splits: dict[str, set[str]] = {}
        for row in done:
            splits.setdefault(key(row), set()).add(row.split)
        assert max(map(len, splits.values())) == 1
    assert list(split_by_patient(rows, seed=3, validation=0.2, test=0.2)) == done


def test_the_split_has_about_the_shares_asked_for_and_keeps_a_split_that_was_given():
    rows = [example(f"s{n}", f"p{n}") for n in range(4000)] + [example("own", "own", split="test")]
    done = list(split_by_patient(rows, validation=0.1, test=0.2))
    shares = [sum(row.split == name for row in done) / len(done) for name in ("train", "val", "test")]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.03)
    assert done[-1].split == "test"


@pytest.mark.parametrize("alike", [0.05, 0.3, 0.6])
def test_the_split_has_the_shares_asked_for_though_many_patients_share_a_normal_text(alike):
    rows = [example(f"s{n}", f"p{n}", "No acute process." if n < alike * 1000 else f"Text {n}.") for n in range(1000)]
    for seed in range(20):
        splits = Counter(row.split for row in split_by_patient(rows, seed))
        assert splits == {"train": 800, "val": 100, "test": 100}
    common = {row.split for row in split_by_patient(rows) if row.findings == "No acute process."}
    assert len(common) == 1


def test_most_patients_keep_their_split_when_the_data_set_grows():
    rows = [example(f"s{n}", f"p{n}") for n in range(1000)]
    before = [row.split for row in split_by_patient(rows[:900], seed=1)]
    after = [row.split for row in split_by_patient(rows, seed=1)]
    assert sum(one == other for one, other in zip(before, after, strict=False)) > 850


def test_a_manifest_read_back_holds_what_was_written(tmp_path):
    image = touch(tmp_path / "images/a.png")
    rows = [
        Example("nih-chestxray14", "s1", "p1", image, "frontal", "No \"effusion\",\nclear.", "", "", {"Edema": 1.0},
                ("Edema",), "train", "F", "50", "free"),
        Example("made", "s2", "p2", None, labels=None),
        Example("made", "s3", "p3", None, labels={"Pneumonia": -1.0}),
    ]
    path = tmp_path / "manifest.csv"
    assert write_manifest(rows, path) == 3
    first, second, third = read_manifest(path)
    assert first.image_path == image
    assert first.findings == "No \"effusion\",\nclear."
    assert first.labels[FINDING_NAMES.index("Edema")] == 1.0
    assert second.image_path is None
    assert all(value != value for value in second.labels)
    assert third.labels[FINDING_NAMES.index("Pneumonia")] == 0.0
