"""Labels of whole reports, arrays and CSV files."""

import csv

import numpy as np
import pytest

from encoders.base import FINDING_NAMES, ReportText
from encoders.findings import LabelInputError, label, label_array, label_csv


def test_every_label_has_its_name_in_the_official_order():
    assert tuple(label("Normal chest.", "")) == FINDING_NAMES


@pytest.mark.parametrize(
    ("findings", "impression", "value"),
    [
        ("No effusion.", "Small effusion.", 1.0),
        ("Small effusion.", "No acute disease.", 1.0),
        ("No effusion.", "Effusion cannot be excluded.", -1.0),
        ("Possible effusion.", "Small effusion.", 1.0),
        ("No effusion.", "", 0.0),
        ("Lungs are clear.", "", None),
    ],
)
def test_the_strongest_claim_of_both_sections_counts(findings, impression, value):
    assert label(findings, impression)["Pleural Effusion"] == value


@pytest.mark.parametrize(
    ("report", "value"),
    [
        ("No acute cardiopulmonary process.", 1.0),
        ("PICC in place. No effusion.", 1.0),
        ("Calcified granuloma.", 1.0),
        ("Small effusion.", None),
        ("Possible effusion.", None),
        ("", None),
        ("XXXX XXXX.", None),
    ],
)
def test_no_finding_needs_words_and_nothing_abnormal_but_devices(report, value):
    assert label(report, "")["No Finding"] == value


@pytest.mark.parametrize("garbage", ["", "\x00\x01", "((((", "1. 2. 3.", "\n" * 1000, "é" * 99, "." * 1000, "ÄÖß 日本"])
def test_garbage_names_no_finding(garbage):
    labels = label(garbage, garbage)
    assert all(labels[name] is None for name in FINDING_NAMES[1:])


def test_letters_that_grow_in_lower_case_do_not_shift_what_follows():
    assert label("İİİ No effusion, but opacity.", "")["Pleural Effusion"] == 0.0


def test_an_array_holds_nan_where_nothing_is_mentioned():
    array = label_array([ReportText("No effusion. Possible edema.", "Cardiomegaly."), ReportText()])
    assert array.shape == (2, 14)
    assert array.dtype == np.float32
    row = dict(zip(FINDING_NAMES, array[0], strict=True))
    assert (row["Pleural Effusion"], row["Edema"], row["Cardiomegaly"]) == (0, -1, 1)
    assert np.isnan(row["Fracture"])
    assert np.isnan(array[1]).all()


def test_an_empty_batch_gives_an_empty_array():
    assert label_array([]).shape == (0, 14)


def test_a_csv_is_labelled_row_by_row(tmp_path):
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    text = 'impression,study_id,findings,other\n"Edema, possible pneumonia.",s1,No effusion.,x\n,s2,,\n'
    source.write_text(text, encoding="utf-8-sig")
    assert label_csv(source, target) == 2
    with target.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["study_id", *FINDING_NAMES]
    values = [rows[0][column] for column in ("study_id", "Edema", "Pleural Effusion", "Pneumonia", "Fracture")]
    assert values == ["s1", "1", "0", "-1", ""]
    assert set(rows[1].values()) == {"s2", ""}


def test_a_csv_without_the_columns_is_refused_with_their_names(tmp_path):
    source = tmp_path / "in.csv"
    source.write_text("study_id,text\n1,normal\n")
    with pytest.raises(LabelInputError, match="no column findings, impression"):
        label_csv(source, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_a_csv_can_be_labelled_in_its_own_place(tmp_path):
    table = tmp_path / "reports.csv"
    table.write_text("study_id,findings,impression\n1,Cardiomegaly.,\n")
    assert label_csv(table, table) == 1
    assert "Support Devices" in table.read_text().splitlines()[0]
    assert list(tmp_path.iterdir()) == [table]


def test_a_csv_in_another_encoding_is_refused_and_nothing_is_written(tmp_path):
    source = tmp_path / "in.csv"
    source.write_bytes("study_id,findings,impression\n1,Lungs clear – normal,\n".encode("utf-16"))
    with pytest.raises(LabelInputError, match="UTF-8"):
        label_csv(source, tmp_path / "out.csv")
    assert list(tmp_path.iterdir()) == [source]
