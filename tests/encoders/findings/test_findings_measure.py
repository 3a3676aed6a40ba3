"""The labeler against human codes, and its tables against themselves."""

import os
from pathlib import Path

import pytest

from encoders.findings.lexicon import lexicon
from encoders.findings.measure import Score, coded_studies, macro_f1, main, scores

#: F1 of a quick port of CheXpert's labeler on the same codes, from its precision and recall.
QUICK_PORT = {
    "Cardiomegaly": (0.95, 0.90),
    "Pleural Effusion": (0.93, 0.86),
    "Atelectasis": (0.97, 0.85),
    "Consolidation": (0.87, 0.90),
    "Fracture": (0.82, 0.94),
    "Lung Opacity": (0.98, 0.73),
    "Pneumothorax": (0.86, 0.69),
    "Lung Lesion": (0.60, 0.71),
    "Support Devices": (0.79, 0.46),
    "Edema": (0.46, 0.74),
    "Pneumonia": (0.46, 0.72),
}
HEADER = "dataset,study_id,split,findings,impression,chexpert\n"


def test_scores_count_hits_false_alarms_and_misses_by_finding(tmp_path):
    table = tmp_path / "studies.csv"
    table.write_text(
        HEADER
        + "iu-xray-openi,a,val,Small effusion.,,Pleural Effusion\n"
        + "iu-xray-openi,a,val,Small effusion.,,Pleural Effusion\n"  # second image of the study
        + "iu-xray-openi,b,val,Possible effusion.,,Pleural Effusion;Edema\n"
        + "iu-xray-openi,c,val,Large effusion.,,No Finding\n"
        + "iu-xray-openi,d,val,Effusion.,,\n"  # never coded
        + "iu-xray-openi,e,train,Effusion.,,Other\n"
        + "other-set,f,val,Effusion.,,Other\n"
    )
    rows = {row.finding: row for row in scores(coded_studies(table, "val"))}
    assert rows["Pleural Effusion"] == Score("Pleural Effusion", hits=1, false_alarms=1, misses=1)
    assert rows["Pleural Effusion"].f1 == pytest.approx(0.5)
    assert rows["Edema"] == Score("Edema", 0, 0, 1)
    generous = {row.finding: row for row in scores(coded_studies(table, "val"), uncertain_is_positive=True)}
    assert generous["Pleural Effusion"].hits == 2


def test_the_command_prints_a_row_for_each_finding(tmp_path, capsys):
    table = tmp_path / "studies.csv"
    table.write_text(HEADER + "iu-xray-openi,a,val,Small effusion.,,Pleural Effusion\n")
    assert main(["--csv", str(table), "--split", "val"]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n{table.finding} " in printed for table in lexicon().findings)
    assert "macro over 13" in printed


@pytest.fixture(scope="module")
def studies():
    folder = os.environ.get("CXRFIND_TEST_DATA")
    if not folder:
        pytest.skip("CXRFIND_TEST_DATA does not name the folder of real data")
    return Path(folder) / "cxr" / "studies.csv"


@pytest.mark.parametrize("split", ["train", "val"])
def test_real_reports_are_labelled_as_their_human_coders_did(studies, split):
    assert macro_f1(scores(coded_studies(studies, split))) >= 0.92


def test_every_finding_is_labelled_better_than_by_the_quick_port(studies):
    for row in scores(coded_studies(studies)):
        if row.finding in QUICK_PORT:
            precision, recall = QUICK_PORT[row.finding]
            assert row.f1 > 2 * precision * recall / (precision + recall), row.finding


def test_stems_never_hide_a_phrase_of_real_reports(studies):
    texts = {f"{row['findings']} {row['impression']}".lower() for row in coded_studies(studies)}
    sentences = {sentence for text in texts for sentence in text.split(".")}
    for table in lexicon().findings:
        unsearched = [text for text in sentences if not any(stem in text for stem in table.stems)]
        for phrase in table.phrases:
            assert not any(phrase.pattern.search(text) for text in unsearched), phrase.pattern.pattern
