"""Requests in, responses out, without a network."""

import struct
from io import BytesIO

import pytest
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from daemon.finder import identifiers, private
from daemon.finder.errors import BadIdentifier, ExampleUnknown
from daemon.finder.identifiers import finding_name, parse
from daemon.finder.responses import Provenance, keys_of_series, plain_response, with_series
from daemon.finder.responses import similarity_response as response_of
from daemon.finder.similarity import Answer, Match
from daemon.finder.wire import Syntax
from encoders.base import FINDING_NAMES, Basis
from storage.base import StudyRecord

EXPLICIT, IMPLICIT, BIG_ENDIAN = Syntax(False, True), Syntax(True, True), Syntax(False, False)
HERE = Provenance("CXRSIMILAR", "ONLINE")


def asked(level="STUDY", private_keys=None, block=None, syntax=EXPLICIT, **keys):
    dataset = Dataset()
    if level is not None:
        dataset.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(dataset, keyword, value)
    for keyword, value in (private_keys or {}).items():
        if block is None:
            private.add(dataset, keyword, value)
        else:
            element = private.BY_KEYWORD[keyword]
            dataset.add_new(private.GROUP << 16 | block, "LO", private.CREATOR)
            dataset.add_new(private.tag(keyword, block), element.vr, value)
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = syntax
    write_dataset(buffer, dataset)
    return buffer.parent.getvalue()


def asked_as_bytes(tag, vr, value):
    """Return a request with a key that pydicom would not write."""
    elements = sorted([(0x00080052, "CS", "STUDY"), (tag, vr, value)])
    return b"".join(
        struct.pack("<HH2sH", each >> 16, each & 0xFFFF, kind.encode(), len(text) + len(text) % 2)
        + text.encode().ljust(len(text) + len(text) % 2)
        for each, kind, text in elements
    )


def similarity_response(request, match, flags, model_id, provenance):
    return response_of(request, match.study.attributes, Answer((match,), flags, model_id), match, provenance)


def offending(data, **options):
    with pytest.raises(BadIdentifier) as caught:
        parse(data, EXPLICIT, **options)
    return caught.value.offending


def match(rank=1, score=0.93, description="CHEST PA", report=None):
    attributes = {
        "0020000D": {"vr": "UI", "Value": ["1.2.3"]},
        "00081030": {"vr": "LO", "Value": [description]},
        "00100020": {"vr": "LO", "Value": ["P1"]},
    }
    study = StudyRecord("1.2.3", "P1", attributes, {}, ("Cardiomegaly", "Edema"), report, "PACS")
    return Match(rank, "1.2.3", score, 0.8, Basis.IMAGE, "1.2.3.4", study)


# ---------------------------------------------------------------------------------------------- levels


@pytest.mark.parametrize("level", [None, "", "PATIENT", "study", "FRAME"])
def test_a_bad_or_missing_level_offends(level):
    assert offending(asked(level)) == (0x00080052,)


def test_lower_levels_need_the_unique_keys_above():
    assert offending(asked("SERIES")) == (0x0020000D,)
    assert offending(asked("IMAGE", StudyInstanceUID="1.2")) == (0x0020000E,)
    assert offending(asked("SERIES", StudyInstanceUID="*")) == (0x0020000D,)
    assert parse(asked("IMAGE", StudyInstanceUID="1.2", SeriesInstanceUID="1.3"), EXPLICIT).level == "IMAGE"


def test_a_key_that_the_catalogue_does_not_know_makes_the_answers_ff01():
    assert parse(asked(PatientName="", StudyDate=""), EXPLICIT).unsupported is False
    assert parse(asked(PatientReligiousPreference=""), EXPLICIT).unsupported is True


# ---------------------------------------------------------------------------------------------- mode S


def test_every_private_key_reaches_the_query():
    query = parse(
        asked(
            StudyInstanceUID="", PatientSex="F",
            private_keys={
                "QueryUID": ["1.2.3", "1.2.4"], "QueryBasis": "REPORT", "QueryText": "effusion", "MaxResults": 5,
                "MinimumScore": 0.5, "ExcludeSamePatient": "NO", "Findings": ["Pleural Effusion", "EDEMA"],
            },
        ),
        EXPLICIT,
    ).similarity  # fmt: skip
    assert query.uids == ("1.2.3", "1.2.4")
    assert (query.basis, query.text, query.max_results, query.minimum_score) == (Basis.REPORT, "effusion", 5, 0.5)
    assert query.exclude_same_patient is False
    assert query.findings == ("Pleural Effusion", "Edema")
    assert query.identifier["00100040"]["Value"] == ["F"]


@pytest.mark.parametrize("block", [0x10, 0x2B, 0xFF])
def test_the_private_block_is_taken_where_it_is_and_answered_there(block):
    request = parse(asked(StudyInstanceUID="", private_keys={"QueryUID": "1.2", "Rank": None}, block=block), EXPLICIT)
    answer = similarity_response(request, match(rank=4), (), "model", HERE)
    assert request.similarity.uids == ("1.2",)
    assert answer[private.tag("Rank", block)]["Value"] == [4]
    assert answer[private.GROUP << 16 | block]["Value"] == [private.CREATOR]


def test_another_creator_in_our_group_is_none_of_our_business():
    dataset = Dataset()
    dataset.QueryRetrieveLevel = "STUDY"
    dataset.private_block(private.GROUP, "SOMEBODY ELSE", create=True).add_new(0x01, "UI", "1.2")
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = False, True
    write_dataset(buffer, dataset)
    assert parse(buffer.parent.getvalue(), EXPLICIT).similarity is None


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("QueryUID", ["1.2", "x"]), ("QueryUID", [f"1.{n}" for n in range(65)]),
     ("QueryBasis", "PIXELS"), ("ExcludeSamePatient", "MAYBE"), ("MaxResults", 0),
     ("MinimumScore", 1.5), ("Findings", "Gout")],
)  # fmt: skip
def test_an_illegal_private_value_offends(keyword, value):
    keys = {"QueryUID": "1.2", keyword: value}
    assert offending(asked(StudyInstanceUID="", private_keys=keys)) == (private.tag(keyword),)


def test_a_similarity_query_without_an_example_offends():
    assert offending(asked(StudyInstanceUID="", private_keys={"Score": None})) == (private.tag("QueryUID"),)


def test_private_keys_below_study_level_are_an_unsupported_option():
    request = parse(asked("SERIES", StudyInstanceUID="1.2", private_keys={"QueryUID": "1.2", "Rank": None}), EXPLICIT)
    assert request.similarity is None
    assert request.unsupported is True
    answer = plain_response(request, {}, HERE)
    assert "Value" not in answer[private.tag("Rank")]


@pytest.mark.parametrize("name", FINDING_NAMES)
def test_findings_are_known_in_any_case_with_underscores_and_cut_to_16(name):
    assert finding_name(name.upper()) == finding_name(name.replace(" ", "_")) == finding_name(name[:16]) == name


# ---------------------------------------------------------------------------------------------- responses


def test_an_answer_holds_what_was_asked_for_and_no_more():
    keys = {"QueryUID": "1.2", "Cosine": None}
    request = parse(asked(StudyInstanceUID="", PatientID="", private_keys=keys), EXPLICIT)
    answer = similarity_response(request, match(), ("TRUNCATED",), "model", HERE)
    assert set(answer) == {
        0x00080052, 0x00080054, 0x0020000D, 0x00100020, 0x00990010, private.tag("QueryUID"), private.tag("Cosine")
    }
    assert answer[private.tag("Cosine")]["Value"] == [0.8]


def test_every_private_answer_can_be_asked_for():
    keys = {element.keyword: None for element in private.ELEMENTS if not element.key}
    request = parse(asked(StudyInstanceUID="", private_keys={"QueryUID": "1.2", **keys}), EXPLICIT)
    answer = similarity_response(request, match(), ("TRUNCATED", "INDEX PARTIAL"), "model 0123", HERE)
    values = {keyword: answer[private.tag(keyword)]["Value"] for keyword in keys}
    assert values == {
        "Rank": [1], "Score": [0.93], "BestMatchSOPInstanceUID": ["1.2.3.4"], "ModelID": ["model 0123"],
        "BasisUsed": ["IMAGE"], "ReportState": ["NONE"], "Flags": ["TRUNCATED", "INDEX PARTIAL"],
        "FindingsPresent": ["Cardiomegaly", "Edema"], "Cosine": [0.8],
    }  # fmt: skip


def test_availability_is_told_only_if_asked_for_and_known():
    plain = parse(asked(StudyInstanceUID=""), EXPLICIT)
    wanting = parse(asked(StudyInstanceUID="", InstanceAvailability=""), EXPLICIT)
    assert 0x00080056 not in plain_response(plain, {}, HERE)
    assert plain_response(wanting, {}, HERE)[0x00080056]["Value"] == ["ONLINE"]
    assert "Value" not in plain_response(wanting, {}, Provenance("PACS"))[0x00080056]


def test_of_a_sequence_only_the_attributes_asked_for_are_answered():
    item = Dataset()
    item.CodeValue = ""
    request = parse(asked(StudyInstanceUID="", ProcedureCodeSequence=[item]), EXPLICIT)
    known = {"00081032": {"vr": "SQ", "Value": [
        {"00080100": {"vr": "SH", "Value": ["CXR"]}, "00080104": {"vr": "LO", "Value": ["Chest"]}}
    ]}}  # fmt: skip
    answer = plain_response(request, known, HERE)
    assert answer[0x00081032]["Value"] == [{"00080100": {"vr": "SH", "Value": ["CXR"]}}]


def test_a_series_attribute_is_answered_at_study_level_where_all_series_agree():
    request = parse(asked(StudyInstanceUID="", InstitutionName="", StationName=""), EXPLICIT)
    series = [
        {"00080080": {"vr": "LO", "Value": ["City"]}, "00081010": {"vr": "SH", "Value": [station]}} for station in "AB"
    ]
    assert request.unsupported is False
    assert with_series({}, series, keys_of_series(request)) == {"00080080": {"vr": "LO", "Value": ["City"]}}


# ---------------------------------------------------------------------------------------------- mode C


def test_without_mode_c_a_study_uid_is_an_exact_key():
    assert parse(asked(StudyInstanceUID="1.2"), EXPLICIT).similarity is None


def test_in_mode_c_a_single_study_uid_is_the_example_and_the_patient_no_filter():
    data = asked(StudyInstanceUID="1.2", PatientID="P1", ModalitiesInStudy="DX", StudyDescription="")
    request = parse(data, EXPLICIT, mode_c=True)
    assert request.similarity.uids == ("1.2",)
    assert list(request.similarity.identifier) == ["00080061"]


def test_in_mode_c_a_list_of_uids_and_a_lower_level_stay_exact():
    assert parse(asked(StudyInstanceUID=["1.2", "1.3"]), EXPLICIT, mode_c=True).similarity is None
    assert parse(asked("SERIES", StudyInstanceUID="1.2"), EXPLICIT, mode_c=True).similarity is None
    assert parse(asked(PatientID="P1"), EXPLICIT, mode_c=True).similarity is None


def test_in_mode_c_an_accession_number_names_the_example():
    studies = {"A1": ["1.2.3"], "A2": ["1.2.3", "1.2.4"]}

    def lookup(keys):
        return studies.get(keys["00080050"]["Value"][0], [])

    request = parse(asked(AccessionNumber="A1"), EXPLICIT, mode_c=True, studies_by_accession=lookup)
    assert request.similarity.uids == ("1.2.3",)
    assert offending(asked(AccessionNumber="A2"), mode_c=True, studies_by_accession=lookup) == (0x00080050,)
    with pytest.raises(ExampleUnknown):
        parse(asked(AccessionNumber="A9"), EXPLICIT, mode_c=True, studies_by_accession=lookup)


def test_in_mode_c_a_sop_instance_uid_names_the_example_last():
    assert parse(asked(SOPInstanceUID="1.9"), EXPLICIT, mode_c=True).similarity.uids == ("1.9",)


def test_mode_c_shows_rank_and_score_before_the_description_within_64_characters():
    request = parse(asked(StudyInstanceUID="1.2", StudyDescription="", PatientID=""), EXPLICIT, mode_c=True)
    assert similarity_response(request, match(), (), "m", HERE)[0x00081030]["Value"] == ["#01 0.93 CHEST PA"]
    long = similarity_response(request, match(description="X" * 64), (), "m", HERE)
    assert len(long[0x00081030]["Value"][0]) == 64
    assert long[0x00100020]["Value"] == ["P1"]


def test_mode_c_leaves_the_description_out_where_it_was_not_asked_for():
    request = parse(asked(StudyInstanceUID="1.2"), EXPLICIT, mode_c=True)
    assert 0x00081030 not in similarity_response(request, match(), (), "m", HERE)


def test_private_keys_win_over_mode_c():
    request = parse(asked(StudyInstanceUID="", private_keys={"QueryUID": "1.9"}), EXPLICIT, mode_c=True)
    assert request.similarity.uids == ("1.9",)
    assert request.prefix_description is False


def test_pydicom_shows_private_answers_by_name_once_registered():
    private.register_with_pydicom()
    dataset = Dataset()
    private.add(dataset, "Score", 0.5)
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = True, True
    write_dataset(buffer, dataset)
    from pydicom.filereader import read_dataset

    found = read_dataset(BytesIO(buffer.parent.getvalue()), True, True)
    assert private.get(found, "Score") == 0.5
    assert private.get(found, "Rank") is None
    assert found[private.tag("Score")].name == "[Score]"


# ------------------------------------------------------------------------------------------ requests that come again


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("block", [0x10, 0x33])
def test_a_request_that_comes_again_asks_by_its_own_example(syntax, block):
    keys = {"Rank": None, "MinimumScore": 0.25, "Findings": "EDEMA"}
    for uid in ("1.2", "1.2.3", "2.25.99", "1.2.345678", "1.2"):
        asked_again = asked(
            StudyInstanceUID="", PatientSex="F", private_keys={"QueryUID": uid, **keys}, block=block, syntax=syntax
        )
        request = parse(asked_again, syntax)
        assert request == identifiers._parsed(asked_again, syntax)
        assert request.similarity.uids == (uid,)
        assert request.private_keys[0x01] == {"vr": "UI", "Value": [uid]}
        assert (request.repeated is not None) == (block == 0x10 and syntax.little_endian)


def test_requests_that_differ_in_more_than_their_example_share_nothing():
    def similarity(**keys):
        own = {"QueryUID": "1.2", **keys}
        return parse(asked(StudyInstanceUID="", private_keys=own, syntax=IMPLICIT), IMPLICIT).similarity

    assert [similarity(MaxResults=n).max_results for n in (5, 6, 5)] == [5, 6, 5]
    assert [similarity(MinimumScore=least).minimum_score for least in (0.5, 0.25)] == [0.5, 0.25]
    assert similarity(QueryUID=["1.2", "1.3"]).uids == ("1.2", "1.3")
    assert similarity(QueryText="edema").text == "edema"
    assert similarity().text == ""


@pytest.mark.parametrize("uid", ["1..2", "1.2*", "1." + "2" * 70])
def test_a_bad_example_of_a_request_that_came_before_is_refused(uid):
    for example in ("1.2", uid, "1.2", uid):
        data = asked(StudyInstanceUID="", private_keys={"QueryUID": example, "Rank": None}, syntax=IMPLICIT)
        if example == uid:
            with pytest.raises(BadIdentifier):
                parse(data, IMPLICIT)
        else:
            assert parse(data, IMPLICIT).similarity.uids == ("1.2",)


def test_bytes_of_the_examples_tag_inside_a_value_are_no_example():
    odd = b"\x10\0\x10\0\x0c\0\0\0" + b"\x99\0\x01\x10\x04\0\0\x001.9\0"      # PatientName, of 12 bytes
    head = b"\x08\0\x52\0\x06\0\0\0STUDY " + odd
    creator = b"\x99\0\x10\0\x16\0\0\0CXRFIND SIMILARITY 1.0"
    for uid in (b"1.2\0", b"1.4\0"):
        data = head + creator + b"\x99\0\x01\x10\x04\0\0\0" + uid
        request = parse(data, IMPLICIT)
        assert request == identifiers._parsed(data, IMPLICIT)
        assert request.similarity.uids == (uid.decode().strip("\0"),)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("StudyDate", "2026-01-01"), ("StudyDate", "20269999-"), ("StudyDate", "2026*"), ("StudyDate", "-"),
        ("PatientBirthDate", "01.02.1950"), ("StudyTime", "25"), ("StudyTime", "10h30"),
    ],
)  # fmt: skip
def test_what_is_no_date_or_time_is_refused_with_its_element(keyword, value):
    tag = tag_for_keyword(keyword)
    assert offending(asked_as_bytes(tag, dictionary_VR(tag), value)) == (tag,)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("StudyDate", "20260131"), ("StudyDate", "2026.01.31-"), ("StudyDate", "-20260131 "), ("StudyDate", "2026"),
        ("StudyDate", "202601-202602"), ("StudyDate", "*"), ("StudyDate", ""),
        ("StudyTime", "10-1130"), ("StudyTime", "10:30:60.5"),
    ],
)  # fmt: skip
def test_dates_times_and_ranges_of_them_are_taken(keyword, value):
    tag = tag_for_keyword(keyword)
    request = parse(asked_as_bytes(tag, dictionary_VR(tag), value), EXPLICIT)
    assert identifiers.values_of(request.keys[tag]) == ([value.strip()] if value else [])
