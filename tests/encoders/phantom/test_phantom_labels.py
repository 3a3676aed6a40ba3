"""What the report of a synthetic study says is what was drawn."""

import math

import pytest

from encoders.base import FINDING_NAMES
from encoders.findings import label
from encoders.phantom import Kind, simulate
from encoders.phantom.anatomy import person
from encoders.phantom.disease import draw_abnormality
from encoders.phantom.report import dictate


def test_the_labeler_reads_from_every_report_exactly_the_findings_that_were_drawn():
    for study in simulate(250, 3):
        text = study.dictation.text
        read = label(text.findings, text.impression)
        for name in FINDING_NAMES:
            value = read[name]
            said = 0.0 if value is None or math.isnan(value) else value
            assert said == study.findings[name], (name, text)


@pytest.mark.parametrize("kind", list(Kind))
def test_a_report_names_the_side_of_every_one_sided_finding(kind, rng):
    for _ in range(20):
        found = draw_abnormality(rng, kind, person(rng))
        words = dictate(rng, found, ("frontal",)).findings.lower()
        for each in found:
            if each.side:
                assert each.side in words or (each.zone == "mid" and "lingula" in words)


def test_a_normal_study_names_no_disease_but_to_deny_it(rng):
    for _ in range(40):
        dictation = dictate(rng, (), ("frontal",))
        read = label(dictation.findings, dictation.impression)
        assert read["No Finding"] == 1.0
        assert [name for name, value in read.items() if value == 1.0] == ["No Finding"]
