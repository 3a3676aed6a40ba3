"""Studies kept in memory: the bytes of the long way, and never what is no more."""

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from toy_encoder import DIM

from daemon.finder import private
from daemon.finder.answers import AnswerWriter, may_be_kept
from daemon.finder.examples import SimilarityQuery
from daemon.finder.identifiers import FindRequest
from daemon.finder.kept import IS_PLAIN, KEPT_TAGS, PLACES, KeptStudies, kept_of
from daemon.finder.responses import Provenance, similarity_response
from daemon.finder.similarity import Answer, Match, Similarity
from daemon.finder.wire import Syntax, vr_of, write
from encoders.base import Basis
from storage.base import RejectionRecord, StudyRecord
from storage.index.following import IndexSet, IndexSettings

AXES = np.eye(DIM, dtype=np.float32)
HERE = Provenance("CXRSIMILAR", "ONLINE")
TEXTS = st.text(alphabet="aB1 .^ü山", max_size=9)
ASKED = {0x00080052: {"vr": "CS"}, 0x00080056: {"vr": "CS"}} | {tag: {"vr": vr_of(tag)} for tag in KEPT_TAGS}
PRIVATE = {
    element.offset: {"vr": element.vr}
    for element in private.ELEMENTS if element.keyword not in ("ReportState", "FindingsPresent")
}  # fmt: skip


def element_of(vr):
    value = st.integers(0, 500) if vr == "IS" else TEXTS
    value = st.dictionaries(st.sampled_from(["Alphabetic", "Phonetic"]), TEXTS) if vr == "PN" else value
    long = st.just("x" * 1500) if vr == "LO" else value
    sent = st.sampled_from([vr, vr, vr, "LT"]) if vr == "LO" else st.just(vr)
    return st.fixed_dictionaries({"vr": sent}, optional={"Value": st.lists(value | long, max_size=2)})


ATTRIBUTES = st.fixed_dictionaries({}, optional={f"{tag:08X}": element_of(vr_of(tag)) for tag in KEPT_TAGS})


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    ATTRIBUTES, st.sampled_from([Syntax(True, True), Syntax(False, True)]), st.sets(st.sampled_from(list(ASKED))),
    st.just(set(PRIVATE)) | st.sets(st.sampled_from(list(PRIVATE))),
)  # fmt: skip
def test_what_is_kept_gives_the_bytes_of_the_long_way(attributes, syntax, asked, told):
    private_keys = {offset: PRIVATE[offset] for offset in sorted(told)}
    request = FindRequest("STUDY", {tag: ASKED[tag] for tag in asked}, {}, 0x11, private_keys)
    record = StudyRecord("1.2", "P", attributes, {}, (), None, "PACS")
    kept = kept_of(record, {})
    assert may_be_kept(request, syntax)
    if kept[IS_PLAIN]:
        match = Match(3, "1.2", 0.25, 0.5, Basis.JOINT, "1.2.3", kept)
        answered = Answer((match,), ("TRUNCATED",), "model 0123")
        long = similarity_response(request, attributes, answered, match._replace(known=record), HERE)
        assert AnswerWriter(request, HERE, syntax, answered).similar(match) == write(long, syntax)
    else:
        assert not str(attributes).isascii() or "LT" in str(attributes) or "x" * 1500 in str(attributes)


@pytest.mark.parametrize("syntax", [Syntax(True, True), Syntax(False, True)])
@pytest.mark.parametrize("tags", [[0x00080052], [0x00080052, 0x00100020, 0x0020000D]])
def test_many_answers_are_those_of_each_match_where_some_or_all_or_none_are_kept(syntax, tags):
    records = [
        StudyRecord(f"1.{n}", "P", {"00100020": {"vr": "LO", "Value": ["P" * n]}}, {}, (), None, "PACS")
        for n in range(4)
    ]
    request = FindRequest("STUDY", {tag: ASKED[tag] for tag in tags}, {}, 0x11, PRIVATE if len(tags) > 1 else {})
    for kept in ({0, 1, 2, 3}, {1, 3}, set()):
        matches = tuple(
            Match(
                n + 1, f"1.{n}", 0.9 - n / 10, 0.5, Basis.IMAGE, f"1.{n}.1",
                kept_of(records[n], {}) if n in kept else records[n],
            )
            for n in range(4)
        )  # fmt: skip
        answered = Answer(matches, (), "model 0123")
        writer = AnswerWriter(request, HERE, syntax, answered)
        assert writer.all_similar(matches) == [
            write(similarity_response(request, record.attributes, answered, match, HERE), syntax)
            for record, match in zip(records, matches, strict=True)
        ]
        assert writer.all_similar(()) == []


def test_what_kept_studies_cannot_answer_is_asked_from_the_catalogue():
    plain = FindRequest("STUDY", ASKED, {}, 0x10, PRIVATE)
    assert may_be_kept(plain, Syntax())
    assert not may_be_kept(plain, Syntax(False, False))
    for other in (
        replace(plain, keys={**ASKED, 0x00080080: {"vr": "LO"}}),
        replace(plain, private_keys={private.BY_KEYWORD["ReportState"].offset: {"vr": "CS"}}),
        replace(plain, private_keys={private.BY_KEYWORD["QueryText"].offset: {"vr": "UT", "Value": ["Erguß"]}}),
        replace(plain, prefix_description=True),
    ):
        assert not may_be_kept(other, Syntax())


# ---------------------------------------------------------------------------------------------- staleness


def fill(archive):
    archive.commit(*(archive.image(f"1.{n}", vector=AXES[0] + 0.01 * n * AXES[n]) for n in range(1, 6)))


def updates(archive):
    """Yield after each kind of change of a study, with what answers must then show: UID -> (description, patient)."""
    shown = {f"1.{n}": ("CHEST PA", f"P1.{n}") for n in range(2, 6)}
    yield shown
    image = archive.image("1.2", 2, vector=AXES[5], description="CHEST LAT")
    archive.commit(replace(image, received_at=image.received_at.replace(year=2027)))
    yield (shown := {**shown, "1.2": ("CHEST LAT", "P1.2")})
    archive.catalogue.merge_patient("P1.3", "", "Q", "")
    yield (shown := {**shown, "1.3": ("CHEST PA", "Q")})
    note = archive.record("1.4", 7, "1.2.840.10008.5.1.4.1.1.88.59", archive.attributes("1.4", "P1.4"))
    archive.commit(replace(note, rejection=RejectionRecord("113001", ("1.4.1",))))
    yield (shown := {uid: of for uid, of in shown.items() if uid != "1.4"})
    archive.catalogue.forget("1.5")
    yield (shown := {uid: of for uid, of in shown.items() if uid != "1.5"})
    archive.commit(archive.image("1.5", vector=AXES[0], description="AGAIN"))
    yield {**shown, "1.5": ("AGAIN", "P1.5")}


def test_no_association_is_answered_from_what_an_update_or_a_deletion_has_made_stale(running):
    finder = running(fill)
    until = time.monotonic() + 20
    while finder.facts["studies_kept"] < 5:
        assert time.monotonic() < until
        time.sleep(0.01)
    request = Dataset()
    request.QueryRetrieveLevel = "STUDY"
    request.StudyInstanceUID = request.StudyDescription = request.PatientID = ""
    private.add(request, "QueryUID", "1.1")
    for shown in updates(finder.archive):
        finder.level()                              # so that a study that came is found; what went is gone at once
        answers = [answer for _, answer in finder.ask(request) if answer is not None]
        assert {a.StudyInstanceUID: (a.StudyDescription, a.PatientID) for a in answers} == shown


def test_kept_studies_are_level_at_each_query_though_nobody_follows(archive, tmp_path):
    fill(archive)
    indexes = IndexSet.open(archive.catalogue, archive.generation, tmp_path / "index", IndexSettings(type="exact"))
    kept = KeptStudies(archive.catalogue, 100)
    assert kept.load_some()
    assert len(kept) == 5
    similarity = Similarity(archive.catalogue, indexes, archive.encoder, archive.encoder.score, kept=kept)
    shown_tags = (0x00081030, 0x00100020)
    for shown in updates(archive):
        found = {}
        for match in similarity.answer(SimilarityQuery(uids=("1.1",)), kept_will_do=True).matches:
            known = match.known
            if isinstance(known, StudyRecord):      # after an erasure, until all are loaded again
                known = kept_of(known, {})
            found[match.study_instance_uid] = tuple(known[PLACES[tag]][8:].decode().strip() for tag in shown_tags)
        assert found == shown


def test_no_more_studies_are_kept_than_allowed_and_the_others_are_answered_all_the_same(archive, tmp_path):
    fill(archive)
    indexes = IndexSet.open(archive.catalogue, archive.generation, tmp_path / "index", IndexSettings(type="exact"))
    kept = KeptStudies(archive.catalogue, 2)
    while not kept.load_some():
        pass
    archive.commit(archive.image("1.6", vector=AXES[6]))
    similarity = Similarity(archive.catalogue, indexes, archive.encoder, archive.encoder.score, kept=kept)
    answer = similarity.answer(SimilarityQuery(uids=("1.1",)), kept_will_do=True)
    assert [match.study_instance_uid for match in answer.matches] == ["1.2", "1.3", "1.4", "1.5"]
    assert len(kept) == 2


@pytest.mark.parametrize("limit", [0, 100])
def test_the_same_patient_is_left_out_with_and_without_kept_studies(archive, tmp_path, limit):
    archive.commit(*(archive.image(f"1.{n}", vector=AXES[0], patient=f"P{n % 2}") for n in range(1, 5)))
    indexes = IndexSet.open(archive.catalogue, archive.generation, tmp_path / "index", IndexSettings(type="exact"))
    kept = KeptStudies(archive.catalogue, limit)
    kept.load_some()
    similarity = Similarity(archive.catalogue, indexes, archive.encoder, archive.encoder.score, kept=kept)
    answer = similarity.answer(SimilarityQuery(uids=("1.1",)), kept_will_do=True)
    assert [match.study_instance_uid for match in answer.matches] == ["1.2", "1.4"]
