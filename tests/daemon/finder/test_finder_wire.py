"""Bytes of an Identifier, against pydicom as the other side."""

import contextlib
from io import BytesIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from daemon.finder import private, wire
from daemon.finder.errors import BadIdentifier
from daemon.finder.wire import Syntax, read, write

SYNTAXES = [Syntax(True, True), Syntax(False, True), Syntax(False, False)]


def encoded(dataset, syntax):
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = syntax.implicit_vr, syntax.little_endian
    write_dataset(buffer, dataset)
    return buffer.parent.getvalue()


def decoded(data, syntax):
    return read_dataset(BytesIO(data), syntax.implicit_vr, syntax.little_endian)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_what_is_written_is_read_by_pydicom(syntax):
    data = write(
        {
            0x00080052: {"vr": "CS", "Value": ["STUDY"]},
            0x00080061: {"vr": "CS", "Value": ["CR", "DX"]},
            0x00081030: {"vr": "LO", "Value": ["CHEST PA"]},
            0x00100010: {"vr": "PN", "Value": [{"Alphabetic": "Banner^Synthetic"}]},
            0x00100030: {"vr": "DA"},
            0x00201208: {"vr": "IS", "Value": [2]},
            0x00280010: {"vr": "US", "Value": [512]},
            0x00081032: {"vr": "SQ", "Value": [{"00080100": {"vr": "SH", "Value": ["CXR"]}}]},
        },
        syntax,
    )
    answer = decoded(data, syntax)
    assert answer.ModalitiesInStudy == ["CR", "DX"]
    assert answer.StudyDescription == "CHEST PA"
    assert answer.PatientName == "Banner^Synthetic"
    assert answer.PatientBirthDate == ""
    assert answer.NumberOfStudyRelatedInstances == 2
    assert answer.Rows == 512
    assert answer.ProcedureCodeSequence[0].CodeValue == "CXR"
    assert "SpecificCharacterSet" not in answer


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_an_answer_that_is_not_ascii_says_so_and_is_utf_8(syntax):
    answer = decoded(write({0x00100010: {"vr": "PN", "Value": [{"Alphabetic": "Müller^Jörg"}]}}, syntax), syntax)
    assert answer.SpecificCharacterSet == "ISO_IR 192"
    assert answer.PatientName == "Müller^Jörg"


def test_values_that_the_catalogue_holds_loosely_become_valid_ones():
    data = write(
        {
            0x00101020: {"vr": "DS", "Value": [1.7234567890123456]}, 0x00200013: {"vr": "IS", "Value": [3.0]},
            0x00280010: {"vr": "US", "Value": [None, 5]}, 0x00100020: {"vr": "LO", "Value": [None]},
        },
        Syntax(),
    )  # fmt: skip
    answer = decoded(data, Syntax())
    assert float(answer.PatientSize) == 1.723456789
    assert (answer.InstanceNumber, answer.Rows, answer.PatientID) == (3, 5, "")


def test_binary_values_above_127_do_not_call_for_a_character_set():
    answer = decoded(write({0x00280010: {"vr": "US", "Value": [0xFFF0]}}, Syntax()), Syntax())
    assert "SpecificCharacterSet" not in answer


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("charset", ["ISO_IR 100", "ISO_IR 192", "ISO_IR 144", "\\ISO 2022 IR 87"])
def test_requests_in_other_character_sets_are_understood(syntax, charset):
    name = {"ISO_IR 144": "Иванов", "\\ISO 2022 IR 87": "Yamada^Tarou=山田^太郎"}.get(charset, "Müller")
    dataset = Dataset()
    dataset.SpecificCharacterSet = charset.split("\\") if "\\" in charset else charset
    dataset.PatientName = name
    value = read(encoded(dataset, syntax), syntax)["00100010"]["Value"][0]
    assert "=".join(value.values()) == name


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_private_values_are_read_with_the_vr_of_our_table(syntax):
    dataset = Dataset()
    values = {"QueryUID": ["1.2", "1.3"], "MaxResults": 7, "MinimumScore": 0.25, "QueryText": "a\\b"}
    for keyword, value in values.items():
        private.add(dataset, keyword, value)
    found = read(encoded(dataset, syntax), syntax)
    assert found["00991001"]["Value"] == ["1.2", "1.3"]
    assert found["00991004"]["Value"] == [7]
    assert found["00991005"]["Value"] == [0.25]
    assert found["00991003"]["Value"] == ["a\\b"]


def test_unknown_vr_and_trailing_nul_or_space_are_understood():
    dataset = Dataset()
    block = dataset.private_block(private.GROUP, private.CREATOR, create=True)
    block.add_new(0x01, "UN", b"1.2.3\0")
    block.add_new(0x02, "UN", b"IMAGE ")
    block.add_new(0x04, "UN", b"\x05\x00")
    found = read(encoded(dataset, Syntax(False, True)), Syntax(False, True))
    assert found["00991001"] == {"vr": "UI", "Value": ["1.2.3"]}
    assert found["00991002"] == {"vr": "CS", "Value": ["IMAGE"]}
    assert found["00991004"] == {"vr": "US", "Value": [5]}


def test_a_number_of_the_wrong_length_names_its_element():
    dataset = Dataset()
    private.add(dataset, "QueryUID", "1.2")
    dataset.add_new(private.tag("MaxResults"), "UN", b"\x05\x00\x00")
    with pytest.raises(BadIdentifier) as caught:
        read(encoded(dataset, Syntax(False, True)), Syntax(False, True))
    assert caught.value.offending == (0x00991004,)


@given(st.binary(max_size=200), st.sampled_from(SYNTAXES))
def test_any_bytes_are_read_or_refused(data, syntax):
    with contextlib.suppress(BadIdentifier):
        read(data, syntax)


ELEMENTS = st.sampled_from(
    [
        ("SpecificCharacterSet", "ISO_IR 100"), ("QueryRetrieveLevel", "STUDY"), ("StudyDate", "20200101-"),
        ("PatientName", "Müller"), ("ModalitiesInStudy", ["CR", "DX"]), ("PatientID", ""), ("Rows", 5),
        ("AccessionNumber", "A 1"), ("PatientSize", "1.75"), ("InstanceNumber", "3"), ("StudyInstanceUID", "1.2.3"),
        ("ReferencedStudySequence", []), ("TextValue", "a\\b"), ("SelectorATValue", 0x00100010),
    ]
)  # fmt: skip


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ELEMENTS), st.booleans(), st.sampled_from(SYNTAXES), st.data())
def test_the_short_way_of_reading_finds_what_pydicom_finds(pairs, with_private, syntax, data):
    dataset = Dataset()
    for keyword, value in pairs:
        setattr(dataset, keyword, value)
    if with_private:
        private.add(dataset, "QueryUID", "1.2")
        private.add(dataset, "MaxResults", 3)
    whole = encoded(dataset, syntax)
    cut = data.draw(st.sampled_from([whole, whole[: len(whole) // 2]]))
    items = wire._flat(cut, syntax)
    if items is None:
        return
    short = dict(wire._elements(items, wire._encodings(items), syntax))
    known = decoded(cut, syntax)
    assert short == dict(wire._elements(wire._raw_items(known), wire.encodings_of(known), syntax))


def test_ordinary_requests_are_read_the_short_way():
    dataset = Dataset()
    dataset.SpecificCharacterSet, dataset.QueryRetrieveLevel, dataset.PatientName = "ISO_IR 100", "STUDY", "Müller"
    private.add(dataset, "QueryUID", "1.2")
    assert all(wire._flat(encoded(dataset, syntax), syntax) is not None for syntax in SYNTAXES[:2])
    dataset.ReferencedStudySequence = []
    assert all(wire._flat(encoded(dataset, syntax), syntax) is None for syntax in SYNTAXES)


@given(st.text(alphabet=st.characters(exclude_characters="\\", exclude_categories=("Cc", "Cs")), max_size=40))
def test_text_of_any_script_survives_the_wire(text):
    text = text.strip()
    found = read(write({0x00081030: {"vr": "LO", "Value": [text]}}, Syntax()), Syntax())
    assert found["00081030"].get("Value", [""]) == [text]
