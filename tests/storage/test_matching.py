"""Attribute matching, PS3.4 C.2.2.2."""

import pytest

from storage.catalogue.levels import tag_of, vr_of
from storage.catalogue.matching import is_universal, matches


def does_match(keyword, wanted, stored, vr=None):
    tag = tag_of(keyword)
    vr = vr or vr_of(tag)

    def element(values):
        values = values if isinstance(values, list) else [values]
        if vr == "PN":
            groups = ("Alphabetic", "Ideographic", "Phonetic")
            values = [dict(zip(groups, value.split("="), strict=False)) for value in values]
        return {"vr": vr, "Value": [value for value in values if value != ""]}

    return matches(tag, element(wanted), [element(stored)])


@pytest.mark.parametrize(
    ("keyword", "wanted", "stored", "expected"),
    [
        # single value: exact, case counts, outer spaces don't
        ("PatientID", "P1", "P1", True),
        ("PatientID", "P1", "p1", False),
        ("PatientID", "P1", "P11", False),
        ("PatientID", " P1 ", "P1", True),
        # universal
        ("PatientID", "", "P1", True),
        ("PatientID", "*", "P1", True),
        ("PatientID", "", "", True),
        # absent values match no key that has one
        ("PatientID", "P1", "", False),
        ("PatientAge", "045Y", "", False),
        ("StudyDate", "20240101-20241231", "", False),
        # wild cards
        ("StudyDescription", "CHEST*", "CHEST PA", True),
        ("StudyDescription", "CHEST*", "chest pa", False),
        ("StudyDescription", "*PA", "CHEST PA", True),
        ("StudyDescription", "CH?ST", "CHEST", True),
        ("StudyDescription", "CH?ST", "CHST", False),
        ("StudyDescription", "*", "", True),
        ("StudyDescription", "100%_[a]*", "100%_[a](b)", True),
        ("StudyDescription", "C.EST*", "CHEST", False),
        ("PatientSex", "?", "F", True),
        # no wild cards in UIDs
        ("StudyInstanceUID", "1.2.*", "1.2.3", False),
        # lists
        ("StudyInstanceUID", ["1.2", "1.3"], "1.3", True),
        ("StudyInstanceUID", ["1.2", "1.3"], "1.4", False),
        ("ModalitiesInStudy", ["CR", "DX"], ["SR", "DX"], True),
        ("ModalitiesInStudy", "CT", ["SR", "DX"], False),
        # person names
        ("PatientName", "doe^jane", "Doe^Jane", True),
        ("PatientName", "DOE*", "Doe^Jane", True),
        ("PatientName", "Doe", "Doe^Jane", False),
        ("PatientName", "Doe^Jane^^", "Doe^Jane", True),
        ("PatientName", "Yamada^Tarou=山田^太郎", "Yamada^Tarou=山田^太郎=やまだ^たろう", True),
        ("PatientName", "山田*", "Yamada^Tarou=山田^太郎", True),
        ("PatientName", "=山田*", "Yamada^Tarou=山田^太郎", True),
        ("PatientName", "=Yamada*", "Yamada^Tarou=山田^太郎", False),
        ("PatientName", "ÄRZTIN*", "Ärztin^Eva", True),
        ("PatientName", "O'Neil*", "O'Neil^Pat", True),
        # dates
        ("StudyDate", "20240501", "20240501", True),
        ("StudyDate", "20240501-20240601", "20240601", True),
        ("StudyDate", "20240501-20240601", "20240602", False),
        ("StudyDate", "20240501-", "20991231", True),
        ("StudyDate", "-20240501", "20240502", False),
        ("StudyDate", "2024.05.01", "20240501", True),
        # times
        ("StudyTime", "10-12", "125959.999999", True),
        ("StudyTime", "10-12", "130000", False),
        ("StudyTime", "1030", "103015", True),
        ("StudyTime", "-0930", "0930", True),
        ("StudyTime", "103015", "103016", False),
        # date and time in one
        ("AcquisitionDateTime", "20240501-20240502", "20240502235959", True),
        ("AcquisitionDateTime", "20240501100000-0500", "20240501100000", True),
        ("AcquisitionDateTime", "20240501100000-0500", "20240601100000", False),
        ("AcquisitionDateTime", "20240501100000-", "20240601100000", True),
        # ages and numbers
        ("PatientAge", "045Y", "045Y", True),
        ("PatientAge", "040Y-050Y", "045Y", True),
        ("PatientAge", "040Y-050Y", "051Y", False),
        ("PatientAge", "-024M", "001Y", True),
        ("SeriesNumber", "7", "07", True),
        ("Rows", 2048, 2048, True),
        ("SeriesNumber", "7", "8", False),
    ],
)
def test_a_key_matches_as_the_standard_says(keyword, wanted, stored, expected):
    assert does_match(keyword, wanted, stored) is expected


def test_any_of_several_stored_elements_may_match():
    tag = tag_of("InstitutionName")
    stored = [{"vr": "LO", "Value": ["North"]}, {}, {"vr": "LO", "Value": ["South"]}]
    assert matches(tag, {"vr": "LO", "Value": ["South"]}, stored)
    assert not matches(tag, {"vr": "LO", "Value": ["East"]}, stored)


def test_a_sequence_matches_when_one_item_fulfils_all_of_a_key_s_item():
    tag = tag_of("ProcedureCodeSequence")

    def item(value, scheme):
        return {"00080100": {"vr": "SH", "Value": [value]}, "00080102": {"vr": "SH", "Value": [scheme]}}

    stored = [{"vr": "SQ", "Value": [item("A", "LOCAL"), item("B", "DCM")]}]
    assert matches(tag, {"vr": "SQ", "Value": [item("B", "DCM")]}, stored)
    assert not matches(tag, {"vr": "SQ", "Value": [item("A", "DCM")]}, stored)
    assert matches(tag, {"vr": "SQ", "Value": [{"00080100": {"vr": "SH"}}]}, [{}])
    assert is_universal({"vr": "SQ"})


def test_a_value_of_unknown_vr_is_matched_by_the_dictionary_s():
    assert does_match("PatientName", "doe*", "Doe^Jane", vr="UN") is True
