"""Labels of whole reports, arrays and CSV files."""

import csv

import numpy as np
import pytest

from encoders.base import FINDING_NAMES, ReportText
from encoders.findings import LabelInputError, Labelled, label, label_array, label_csv


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


@pytest.mark.parametrize(
    "report",
    [
        "Cardiomégalie modérée. Pas de pneumothorax.",
        "Herz vergrößert.",
        "Kein Pneumothorax. Herz normal groß.",
        "No hay derrame pleural.",
        "Sem derrame pleural.",
        "Сердце увеличено.",
    ],
)
def test_a_report_in_another_language_is_left_empty(report):
    assert set(label(report, "").values()) == {None}


@pytest.mark.parametrize("report", ["Scoliosis.", "No PTX.", "Aortic valve replacement.", "Unremarkable."])
def test_the_shortest_english_reports_are_labelled(report):
    assert label(report, "")["No Finding"] == 1.0


def test_reports_in_another_language_are_counted(tmp_path):
    source = tmp_path / "in.csv"
    source.write_text(HEADER + "1,Herz vergrößert.,\n2,Clear lungs.,\n3,XXXX.,\n", encoding="utf-8")
    assert label_csv(source, tmp_path / "out.csv") == Labelled(reports=3, not_english=1)


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
    assert label_csv(source, target) == Labelled(reports=2, not_english=0)
    with target.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["study_id", *FINDING_NAMES]
    values = [rows[0][column] for column in ("study_id", "Edema", "Pleural Effusion", "Pneumonia", "Fracture")]
    assert values == ["s1", "1", "0", "-1", ""]
    assert set(rows[1].values()) == {"s2", ""}


HEADER = "study_id,findings,impression\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column study_id, findings, impression"),
        ("study_id,text\n1,normal\n", "no column findings, impression"),
        ("study_id,findings,impression,Findings\n1,a,b,c\n", "more than one column findings"),
        (HEADER + "1,Clear.,\n\n2,Mild, stable edema.,\n", "line 4: 4 fields, but the first line names 3"),
        (HEADER + "1,Clear.\n", "line 2: 2 fields, but"),
        (HEADER + '1,"Clear.,\n2,Edema.,\n', "begins in line 2 .* close them"),
        (HEADER + '1,"Clear.\n2,"Edema.",\n', "begins in line 2 .* close them"),
        (HEADER + '1,"Clear.,\n2,Edema.,",\n', "line 2: a field holds what looks like the next row"),
        (HEADER + f'1,"{"Clear. " * 150_000}",\n', "begins in line 2 .*field limit"),
    ],
)
def test_a_csv_that_would_lose_reports_is_refused_with_the_cure_and_nothing_is_written(tmp_path, text, message):
    source = tmp_path / "in.csv"
    source.write_text(text)
    with pytest.raises(LabelInputError, match=message):
        label_csv(source, tmp_path / "out.csv")
    assert list(tmp_path.iterdir()) == [source]


def test_headers_may_have_capitals_and_blanks_and_fields_line_breaks(tmp_path):
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text('Study_ID, findings,IMPRESSION \n1,"Edema,\nmild, stable,\n2, maybe 3, nodules.",""\n')
    assert label_csv(source, target).reports == 1
    assert target.read_text().splitlines()[1].startswith("1,,")


def test_the_reports_are_never_overwritten_by_their_labels(tmp_path):
    table = tmp_path / "reports.csv"
    table.write_text(HEADER + "1,Cardiomegaly.,\n")
    before = table.read_bytes()
    with pytest.raises(LabelInputError, match="name another file"):
        label_csv(table, tmp_path / "." / "reports.csv")
    assert table.read_bytes() == before


def test_a_csv_in_another_encoding_is_refused_and_nothing_is_written(tmp_path):
    source = tmp_path / "in.csv"
    source.write_bytes("study_id,findings,impression\n1,Lungs clear – normal,\n".encode("utf-16"))
    with pytest.raises(LabelInputError, match="UTF-8"):
        label_csv(source, tmp_path / "out.csv")
    assert list(tmp_path.iterdir()) == [source]
