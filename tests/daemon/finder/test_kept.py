"""Studies kept in memory: the bytes of the long way, and never what is no more."""

import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from toy_encoder import DIM

from daemon.finder import private
from daemon.finder.answers import AnswerWriter, layout_of
from daemon.finder.examples import SimilarityQuery, legs_of
from daemon.finder.identifiers import FindRequest
from daemon.finder.kept import KEPT_TAGS, PLACES, KeptStudies, Layout, _Heads, kept_of
from daemon.finder.ranking import Ranking
from daemon.finder.responses import Provenance, similarity_response
from daemon.finder.similarity import NO_MATCHES, Answer, Matches, Similarity
from daemon.finder.wire import Syntax, read_elements, vr_of, write
from encoders.base import Basis
from storage.base import RejectionRecord, StudyRecord
from storage.index.following import IndexSet, IndexSettings
from storage.numbers import Numbers

AXES = np.eye(DIM, dtype=np.float32)
HERE = Provenance("CXRSIMILAR", "ONLINE")
IMPLICIT = Syntax(True, True)
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
    kept, layout = kept_of(record), layout_of(request, HERE, syntax)
    assert layout is not None
    if kept:
        matches = Matches([0.25], [0.5], [Basis.JOINT], [layout.head(kept)], lambda _: "1.2", lambda _: "1.2.3")
        answered = Answer(matches, ("TRUNCATED",), "model 0123")
        long = similarity_response(request, attributes, answered, matches[0]._replace(known=record), HERE)
        assert AnswerWriter(request, HERE, syntax, answered).all_similar(matches) == [write(long, syntax)]
    else:
        assert not str(attributes).isascii() or "LT" in str(attributes) or "x" * 1500 in str(attributes)


@pytest.mark.parametrize("syntax", [Syntax(True, True), Syntax(False, True)])
@pytest.mark.parametrize("tags", [[0x00080052], [0x00080052, 0x00100020, 0x0020000D]])
def test_many_answers_are_those_of_each_match_where_some_or_all_or_none_are_kept(syntax, tags):
    records = [
        StudyRecord(f"1.{n}", "P", {"00100020": {"vr": "LO", "Value": ["P" * n]}}, {}, (), None, "PACS")
        for n in range(4)
    ]
    for told in ({}, PRIVATE, {offset: PRIVATE[offset] for offset in (0x10, 0x11)}):
        request = FindRequest("STUDY", {tag: ASKED[tag] for tag in tags}, {}, 0x11, told)
        layout = layout_of(request, HERE, syntax)
        for kept in ({0, 1, 2, 3}, {1, 3}, set()):
            known = [layout.head(kept_of(record)) if n in kept else record for n, record in enumerate(records)]
            matches = Matches(
                [0.9, 0.8, 0.7, 0.6], [0.5] * 4, [Basis.IMAGE] * 4, known,
                lambda place: f"1.{place}", lambda place: f"1.{place}.1",
            )  # fmt: skip
            answered = Answer(matches, (), "model 0123")
            writer = AnswerWriter(request, HERE, syntax, answered)
            long = [
                similarity_response(request, record.attributes, answered, match._replace(known=record), HERE)
                for record, match in zip(records, matches, strict=True)
            ]
            assert writer.all_similar(matches) == [write(answer, syntax) for answer in long]
            assert writer.all_similar(NO_MATCHES) == []


def test_what_kept_studies_cannot_answer_is_asked_from_the_catalogue():
    plain = FindRequest("STUDY", ASKED, {}, 0x10, PRIVATE)
    assert layout_of(plain, HERE, Syntax()) is not None
    assert layout_of(plain, HERE, Syntax(False, False)) is None
    for other in (
        replace(plain, keys={**ASKED, 0x00080080: {"vr": "LO"}}),
        replace(plain, private_keys={private.BY_KEYWORD["ReportState"].offset: {"vr": "CS"}}),
        replace(plain, private_keys={private.BY_KEYWORD["QueryText"].offset: {"vr": "UT", "Value": ["Erguß"]}}),
        replace(plain, prefix_description=True),
    ):
        assert layout_of(other, HERE, Syntax()) is None


def test_requests_of_the_same_keys_have_one_layout():
    def layout(keys=ASKED, here=HERE, syntax=IMPLICIT, **more):
        return layout_of(FindRequest("STUDY", keys, {}, 0x10, PRIVATE, **more), here, syntax)

    again = {tag: ASKED[tag] for tag in reversed(ASKED)}
    assert layout() is layout(again) is layout(similarity=SimilarityQuery(("1.2",), max_results=7))
    fewer = {tag: ASKED[tag] for tag in list(ASKED)[:-1]}
    assert len({layout(), layout(fewer), layout(here=Provenance("PACS")), layout(syntax=Syntax(False, True))}) == 4


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


SHOWN = (0x00081030, 0x00100020)                    # description and patient, as in `updates`
LAYOUT = Layout(tuple(PLACES[tag] for tag in SHOWN), implicit_vr=True)


def shown_by(head):
    elements = read_elements(head, IMPLICIT)
    return tuple(elements[tag]["Value"][0] for tag in SHOWN)


def searching(archive, tmp_path, limit):
    """Return a search and the studies that it keeps, as many as may be."""
    numbers = Numbers()
    settings = IndexSettings(type="exact")
    indexes = IndexSet.open(archive.catalogue, archive.generation, tmp_path / "index", settings, numbers)
    kept = KeptStudies(archive.catalogue, numbers, limit)
    while not kept.load_some():
        pass
    return Similarity(archive.catalogue, indexes, archive.encoder, archive.encoder.score, kept=kept), kept


def ask_often(kept, layout=LAYOUT, times=8):
    for _ in range(times):
        kept.heads(layout, np.arange(1))
    kept.load_some()


@pytest.mark.parametrize("made_beforehand", [False, True])
def test_kept_studies_are_level_at_each_query_though_nobody_follows(archive, tmp_path, made_beforehand):
    fill(archive)
    similarity, kept = searching(archive, tmp_path, 100)
    assert len(kept) == 5
    if made_beforehand:
        ask_often(kept)
    assert kept.layouts == made_beforehand
    for shown in updates(archive):
        found = {}
        for match in similarity.answer(SimilarityQuery(uids=("1.1",)), layout=LAYOUT).matches:
            known = match.known
            if isinstance(known, StudyRecord):      # after an erasure, until all are loaded again
                known = LAYOUT.head(kept_of(known))
            found[match.study_instance_uid] = shown_by(known)
        assert found == shown


def test_heads_made_beforehand_are_those_made_when_asked_for(archive, tmp_path):
    names = {n: f"CHEST {'x' * n}" for n in (1, 40, 300, 900)}                 # the last is longer than a row may be
    archive.commit(*(archive.image(f"1.{n}", vector=AXES[0], description=text) for n, text in names.items()))
    archive.commit(archive.image("1.5", vector=AXES[0], description="THÓRAX"))  # needs a character set
    similarity, kept = searching(archive, tmp_path, 100)
    double = Layout((PLACES[0x00081030], b"\0\0", PLACES[0x00081030]), implicit_vr=False)
    studies = np.arange(5)
    expected, patients = kept.heads(double, studies)
    uids = similarity.indexes.numbers.texts
    assert [len(head) for head in expected] == [
        2 * (8 + len(name) + len(name) % 2) + 2 if (name := names.get(int(uid[2:]))) else 0 for uid in uids
    ]
    assert len(set(patients.tolist())) == 5
    ask_often(kept, double)
    assert kept.layouts == 1
    assert kept.heads(double, studies)[0] == expected
    assert kept.heads(double, studies)[1].tolist() == patients.tolist()
    archive.commit(archive.image("1.6", vector=AXES[0], description="LATE"))
    similarity.indexes.follow()
    assert kept.heads(double, np.arange(6))[0] == [*expected, b""]              # not levelled yet
    kept.level()
    late, _ = kept.heads(double, np.arange(6))
    assert late[:5] == expected
    assert late[5].count(b"LATE") == 2
    kept.load_some()
    assert kept.layouts == 1
    assert kept.heads(double, np.arange(6))[0] == late


def test_heads_are_made_of_those_layouts_that_are_asked_for_most(archive, tmp_path):
    fill(archive)
    _, kept = searching(archive, tmp_path, 100)
    layouts = [Layout((place,), implicit_vr=True) for place in range(6)]
    for times, layout in zip((7, 8, 9, 10, 11, 12), layouts, strict=True):
        ask_often(kept, layout, times)
    for _ in range(6):
        kept.load_some()
    assert set(kept._studies.heads) == set(layouts[1:5])    # the first was asked for too seldom, the last too late
    ask_often(kept, layouts[0], 500)
    ask_often(kept, layouts[5], 500)
    for _ in range(6):
        kept.load_some()
    assert {layouts[0], layouts[5]} <= set(kept._studies.heads)
    assert len(kept._studies.heads) <= 4


def test_no_more_studies_are_kept_than_allowed_and_the_others_are_answered_all_the_same(archive, tmp_path):
    fill(archive)
    similarity, kept = searching(archive, tmp_path, 2)
    archive.commit(archive.image("1.6", vector=AXES[6]))
    for _ in range(2):
        answer = similarity.answer(SimilarityQuery(uids=("1.1",)), layout=LAYOUT)
        assert [match.study_instance_uid for match in answer.matches] == ["1.2", "1.3", "1.4", "1.5"]
        assert sum(isinstance(match.known, bytes) for match in answer.matches) == 1
        assert len(kept) == 2
        ask_often(kept)


@pytest.mark.parametrize("limit", [0, 1, 2, 100])
def test_the_same_patient_is_left_out_with_and_without_kept_studies(archive, tmp_path, limit):
    archive.commit(*(archive.image(f"1.{n}", vector=AXES[0], patient=f"P{n % 2}") for n in range(1, 5)))
    similarity, _ = searching(archive, tmp_path, limit)
    for example, others in (("1.1", ["1.2", "1.4"]), ("1.4", ["1.1", "1.3"])):
        for layout in (None, LAYOUT):
            answer = similarity.answer(SimilarityQuery(uids=(example,)), layout=layout)
            assert [match.study_instance_uid for match in answer.matches] == others
    archive.catalogue.merge_patient("P1", "", "Q", "")
    archive.catalogue.merge_patient("P0", "", "Q", "")
    for layout in (None, LAYOUT):                   # also where kept studies are not looked at, hence not levelled
        assert not similarity.answer(SimilarityQuery(uids=("1.1",)), layout=layout).matches


def test_studies_kept_by_other_numbers_than_the_indexes_are_refused(archive, tmp_path):
    similarity, _ = searching(archive, tmp_path, 1)
    with pytest.raises(ValueError, match="numbers"):
        Similarity(
            archive.catalogue, similarity.indexes, None, archive.encoder.score,
            kept=KeptStudies(archive.catalogue, Numbers(), 1),
        )  # fmt: skip


def test_rows_of_heads_grow_wider_and_keep_what_is_in_them():
    heads = _Heads()
    heads.add([b"", b"a" * 10, b"", b"c" * 62])
    every = np.arange(4, dtype=np.int32)
    assert heads.of(every) == [b"", b"a" * 10, b"", b"c" * 62]
    heads.add([b"d" * 300, b"e" * 511, b"f" * 510])             # the second is longer than a row may be
    assert heads.of(np.arange(7, dtype=np.int32)) == [
        b"", b"a" * 10, b"", b"c" * 62, b"d" * 300, b"", b"f" * 510
    ]  # fmt: skip
    heads.put(4, b"g")
    heads.put(1, b"h" * 400)
    heads.put(6, b"")
    assert heads.of(np.array([6, 4, 1], dtype=np.int32)) == [b"", b"g", b"h" * 400]
    assert heads.of(np.array([1, 9999], dtype=np.int32)) == [b"", b""]
    assert heads.count == 7


@pytest.mark.parametrize("added", [False, True])
def test_a_head_is_read_whole_while_it_is_changed(added):
    heads, old, new = _Heads(), b"a" * 500, b"b" * 400
    heads.add([old] * 1000)
    slots, done = np.arange(1000, dtype=np.int32), threading.Event()

    def change():
        for turn in range(300):
            if added:
                heads.count = 500                   # so that rows that are read are written again
                heads.add([old if turn % 2 else new] * 500)
            else:
                for slot in range(0, len(slots), 7):
                    heads.put(slot, old if turn % 2 else new)
        done.set()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    writer = threading.Thread(target=change)
    try:
        writer.start()
        while not done.is_set():
            assert set(heads.of(slots)) <= {old, new}
    finally:
        writer.join()
        sys.setswitchinterval(interval)


def test_no_more_rows_are_made_than_studies_are_kept(archive, tmp_path):
    archive.commit(*(archive.image(f"1.{n}", vector=AXES[0]) for n in range(1, 60)))
    _, kept = searching(archive, tmp_path, 10)
    ask_often(kept)
    assert (len(kept), kept.layouts) == (10, 1)
    assert [heads.count for heads in kept._studies.heads.values()] == [11]


def test_the_example_is_left_out_though_the_index_learns_of_it_while_it_is_asked(archive, tmp_path):
    archive.commit(archive.image("1.1", vector=AXES[1]))
    similarity, _ = searching(archive, tmp_path, 100)
    archive.commit(archive.image("1.2", vector=AXES[0]))
    legs = legs_of(Basis.IMAGE, {Basis.IMAGE: AXES[0]}, None, reported=False)
    query, counts = SimilarityQuery(("1.2",), exclude_same_patient=False), similarity.indexes.counts()
    ranking = Ranking(similarity, query, ["1.2"], None, counts)
    similarity.indexes.follow()
    assert ranking.best(legs, 5).candidates.studies.tolist() == similarity.indexes.numbers.of(["1.1"])
