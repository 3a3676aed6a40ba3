"""The short way to an answer's bytes leads to the same bytes."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.finder import private
from daemon.finder.answers import AnswerWriter, layout_of
from daemon.finder.examples import SimilarityQuery
from daemon.finder.identifiers import FindRequest, Repeated
from daemon.finder.kept import kept_of
from daemon.finder.responses import Provenance, plain_response, similarity_response
from daemon.finder.similarity import Answer, Match, Matches
from daemon.finder.wire import Syntax, write
from encoders.base import Basis
from storage.base import ReportRecord, StudyRecord

SYNTAXES = [Syntax(True, True), Syntax(False, True), Syntax(False, False)]
HERE = Provenance("CXRSIMILAR", "ONLINE")
VRS = {
    "00080020": "DA", "00080050": "SH", "00080061": "CS", "00081030": "LO", "00081032": "SQ", "00100010": "PN",
    "00100020": "LO", "00101020": "DS", "0020000D": "UI", "00201208": "IS", "00280010": "US", "00204000": "LT",
}  # fmt: skip
TEXTS = st.text(alphabet="aB1 .^ü山", max_size=9)


def value_of(vr):
    if vr == "PN":
        return st.fixed_dictionaries({"Alphabetic": TEXTS})
    if vr == "SQ":
        code = st.fixed_dictionaries({"vr": st.just("SH"), "Value": st.lists(TEXTS)})
        return st.fixed_dictionaries({"00080100": code})
    if vr in ("IS", "US"):
        return st.integers(0, 500)
    return st.floats(0, 500) if vr == "DS" else TEXTS


def element_of(vr):
    return st.fixed_dictionaries({"vr": st.just(vr)}, optional={"Value": st.lists(value_of(vr), max_size=2)})


ATTRIBUTES = st.fixed_dictionaries({}, optional={name: element_of(vr) for name, vr in VRS.items()})
KEYS = {int(name, 16): {"vr": vr} for name, vr in VRS.items()} | {0x00080052: {"vr": "CS"}, 0x00080056: {"vr": "CS"}}
PRIVATE = {element.offset: {"vr": element.vr} for element in private.ELEMENTS} | {
    0x03: {"vr": "UT", "Value": ["effusion"]}
}
REPORT = ReportRecord("", "", state="PRELIMINARY")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ATTRIBUTES, st.sampled_from(SYNTAXES), st.booleans(), st.sampled_from(["effusion", "Erguß"]))
def test_the_short_way_to_a_match_gives_the_bytes_of_the_long_one(attributes, syntax, prefix, text):
    asked = PRIVATE | {0x03: {"vr": "UT", "Value": [text]}}
    request = FindRequest("STUDY", KEYS, {}, None if prefix else 0x11, asked, prefix_description=prefix)
    record = StudyRecord("1.2", "P", attributes, {}, ("Edema", "Fracture"), REPORT if prefix else None, "PACS")
    match = Match(3, "1.2", 0.25, 0.5, Basis.JOINT, "", record)
    answered = Answer((match,), ("TRUNCATED", "INDEX PARTIAL"), "model 0123")
    expected = write(similarity_response(request, attributes, answered, match, HERE), syntax)
    assert AnswerWriter(request, HERE, syntax, answered).similar(match, attributes) == expected


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ATTRIBUTES, st.sampled_from(SYNTAXES), st.booleans())
def test_the_short_way_to_a_plain_answer_gives_the_bytes_of_the_long_one(attributes, syntax, private_too):
    request = FindRequest("STUDY", KEYS, {}, 0x10 if private_too else None, PRIVATE if private_too else {})
    expected = write(plain_response(request, attributes, HERE), syntax)
    assert AnswerWriter(request, HERE, syntax).plain(attributes) == expected


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_value_too_long_for_a_16_bit_length_is_cut_as_before(syntax):
    attributes = {"00081030": {"vr": "LO", "Value": ["x" * 70_001]}}
    request = FindRequest("STUDY", {0x00081030: {"vr": "LO"}}, {})
    expected = write(plain_response(request, attributes, HERE), syntax)
    assert AnswerWriter(request, HERE, syntax).plain(attributes) == expected


def test_answers_to_a_request_that_comes_again_tell_its_own_example_and_todays_flags():
    keys = {0x00080052: {"vr": "CS"}, 0x00100020: {"vr": "LO"}, 0x0020000D: {"vr": "UI"}}
    own = {offset: element for offset, element in PRIVATE.items() if offset not in (0x15, 0x17)}
    repeated = Repeated(FindRequest("STUDY", keys, {}, 0x10, own), SimilarityQuery(("1.2",)))
    record = StudyRecord("1.9", "P", {"00100020": {"vr": "LO", "Value": ["100%b"]}}, {}, (), None, "PACS")
    match = Match(3, "1.9", 0.25, 0.5, Basis.JOINT, "", record)
    for uid, flags in (("1.2", ()), ("1.23", ()), ("1.23", ("INDEX PARTIAL",)), ("1.2", ())):
        for syntax in SYNTAXES:
            request, answered = repeated.by(uid), Answer((match,), flags, "model 100%b")
            expected = write(similarity_response(request, record.attributes, answered, match, HERE), syntax)
            assert AnswerWriter(request, HERE, syntax, answered).similar(match) == expected
            if syntax.little_endian:
                layout = layout_of(request, HERE, syntax)
                head = layout.head(kept_of(record))
                kept = Matches([0.25], [0.5], [Basis.JOINT], [head], lambda _: "1.9")
                told = Answer(kept, flags, "model 100%b")
                first = match._replace(rank=1)
                long = similarity_response(request, record.attributes, told, first, HERE)
                assert AnswerWriter(request, HERE, syntax, told).all_similar(kept) == [write(long, syntax)]
