"""The similar AE over real associations: pynetdicom and DCMTK ask."""

import contextlib
import json
import re
import shutil
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import toy_encoder
from finder_archive import IMPLICIT, RunningFinder, near
from ports import free_port
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import Verification
from toy_encoder import DIM, ToyEncoder

from daemon.config import Config
from daemon.finder import private
from daemon.finder import run as run_finder
from daemon.finder.similarity import Similarity
from storage.base import InstanceState
from storage.spool import Spool

AXES = np.eye(DIM, dtype=np.float32)
DICTIONARY = Path(__file__).resolve().parents[3] / "deploy" / "cxrfind.dic"
ORTHANC_DICTIONARY = DICTIONARY.with_name("orthanc-dictionary.json")
EXPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"

findscu = pytest.mark.skipif(shutil.which("findscu") is None, reason="needs DCMTK's findscu (apt install dcmtk)")


def fill(archive):
    archive.commit(
        archive.image("1.1", vector=AXES[0], description="CHEST PA"),
        archive.image("1.2", vector=near(AXES[0], 0.02, 2), sex="M", date="20260301", name="Müller^Jörg"),
        archive.image("1.3", vector=near(AXES[0], 0.05, 3), sex="F", date="20260401"),
        archive.image("1.4", vector=near(AXES[0], 0.10, 4), sex="M", date="20260501"),
        archive.image("1.5", state=InstanceState.GATED),
    )


def request(level="STUDY", private_keys=None, **keys):
    dataset = Dataset()
    dataset.QueryRetrieveLevel = level
    dataset.StudyInstanceUID = ""
    for keyword, value in keys.items():
        setattr(dataset, keyword, value)
    for keyword, value in (private_keys or {}).items():
        private.add(dataset, keyword, value)
    return dataset


def pending(found):
    return [answer for status, answer in found if status.Status in (0xFF00, 0xFF01)]


def final(found):
    return found[-1][0]


# ---------------------------------------------------------------------------------------------- similarity


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
def test_the_most_similar_studies_come_first_in_every_syntax(running, syntax):
    finder = running(fill)
    found = finder.ask(request(private_keys={"QueryUID": "1.1", "Rank": None, "Score": None}), syntax=syntax)
    answers = pending(found)
    assert final(found).Status == 0x0000
    assert [answer.StudyInstanceUID for answer in answers] == ["1.2", "1.3", "1.4"]
    assert [private.get(answer, "Rank") for answer in answers] == [1, 2, 3]
    scores = [private.get(answer, "Score") for answer in answers]
    assert scores == sorted(scores, reverse=True)
    assert {status.Status for status, _ in found[:-1]} == {0xFF00}


def test_an_answer_holds_the_attributes_asked_for_level_and_retrieve_ae_and_nothing_else(running):
    finder = running(fill)
    answer = pending(finder.ask(request(PatientID="", private_keys={"QueryUID": "1.1"})))[1]
    assert {element.tag for element in answer} == {
        0x00080052, 0x00080054, 0x00100020, 0x0020000D, 0x00990010, 0x00991001
    }  # fmt: skip
    assert answer.RetrieveAETitle == "CXRSIMILAR"


def test_a_name_that_is_not_ascii_is_answered_in_utf_8_and_only_there(running):
    answers = pending(running(fill).ask(request(PatientName="", private_keys={"QueryUID": "1.1"})))
    assert answers[0].PatientName == "Müller^Jörg"
    assert answers[0].SpecificCharacterSet == "ISO_IR 192"
    assert "SpecificCharacterSet" not in answers[1]


def test_standard_keys_are_exact_filters_also_in_another_character_set(running):
    finder = running(fill)
    keys = {"QueryUID": "1.1"}
    dated = request(StudyDate="20260215-20260415", PatientSex="", private_keys=keys)
    assert [answer.StudyInstanceUID for answer in pending(finder.ask(dated))] == ["1.2", "1.3"]
    assert [answer.StudyInstanceUID for answer in pending(finder.ask(request(PatientSex="M", private_keys=keys)))] == [
        "1.2", "1.4"
    ]  # fmt: skip
    named = request(SpecificCharacterSet="ISO_IR 100", PatientName="MÜLLER*", private_keys=keys)
    assert [answer.StudyInstanceUID for answer in pending(finder.ask(named))] == ["1.2"]


def test_institution_name_is_filtered_by_and_answered(running):
    def two_houses(archive):
        archive.commit(
            archive.image("1.1", vector=AXES[0]), archive.image("1.2", vector=AXES[1], institution="North"),
            archive.image("1.3", vector=AXES[2], institution="South"),
        )  # fmt: skip

    answers = pending(running(two_houses).ask(request(InstitutionName="N*", private_keys={"QueryUID": "1.1"})))
    assert [(answer.StudyInstanceUID, answer.InstitutionName) for answer in answers] == [("1.2", "North")]


def test_what_the_worker_commits_is_found_and_what_is_rejected_is_not(running):
    finder = running(fill)
    finder.archive.commit(finder.archive.image("1.9", vector=AXES[0]))
    finder.level()
    found = finder.ask(request(private_keys={"QueryUID": "1.1", "MaxResults": 1}))
    assert [answer.StudyInstanceUID for answer in pending(found)] == ["1.9"]
    assert finder.facts["images_searchable"] == 5


@pytest.mark.parametrize(
    ("keys", "status", "comment"),
    [
        ({"QueryUID": "1.99"}, 0xC101, "unknown"),
        ({"QueryUID": "1.5"}, 0xC103, "not a chest"),
        ({"QueryUID": "1.1", "QueryBasis": "REPORT"}, 0xC102, "no REPORT vector"),
        ({"QueryUID": "1.1", "QueryBasis": "PIXELS"}, 0xA900, "QueryBasis"),
        ({"QueryUID": "", "Rank": None}, 0xA900, "QueryUID or QueryText"),
    ],
)
def test_a_query_that_cannot_be_answered_ends_with_its_status_and_says_why(running, keys, status, comment):
    found = running(fill).ask(request(private_keys=keys))
    assert len(found) == 1
    assert final(found).Status == status
    assert comment in final(found).ErrorComment
    assert len(final(found).ErrorComment) <= 64


def test_an_object_that_waits_in_the_spool_is_known_and_not_yet_encoded(running, tmp_path):
    finder = running(fill)
    spool = Spool(tmp_path / "data" / "spool")
    path = spool.new_file()
    path.write_bytes(b"object")
    spool.accept(
        path, sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1", sop_instance_uid="1.77.1", transfer_syntax_uid=IMPLICIT,
        calling_ae_title="PACS", digest="0" * 64, size_bytes=6,
    )
    assert final(finder.ask(request(private_keys={"QueryUID": "1.77.1"}))).Status == 0xC102
    spool.quarantine(spool.claim(1, "w")[0].spool_id, "unreadable")
    assert final(finder.ask(request(private_keys={"QueryUID": "1.77.1"}))).Status == 0xC101
    spool.close()


def test_a_bad_level_names_its_element(running):
    status = final(running(fill).ask(request("PATIENT")))
    assert status.Status == 0xA900
    assert status.OffendingElement == 0x00080052


def test_an_empty_archive_has_no_usable_index_and_a_plain_query_no_answer(running):
    finder = running()
    assert final(finder.ask(request(private_keys={"QueryText": "effusion"}))).Status == 0xC104
    assert [status.Status for status, _ in finder.ask(request())] == [0x0000]


def test_free_text_needs_its_right_and_a_query_too(running):
    peers = (
        {"ae_title": "PLAIN", "rights": ("query",)}, {"ae_title": "WORDS", "rights": ("query", "text")},
    )  # fmt: skip
    finder = running(fill, peers=peers)
    text = request(private_keys={"QueryText": "pleural effusion"})
    assert final(finder.ask(text, "PLAIN")).Status == 0x0124
    assert final(finder.ask(text, "WORDS")).Status == 0x0000
    stranger = AE(ae_title="STRANGER")
    stranger.add_requested_context(Verification)
    calls = (stranger.associate("127.0.0.1", finder.facts["port"], ae_title="CXRSIMILAR") for _ in range(10))
    assert next(each for each in calls if not each.is_aborted).is_rejected      # see test_network.rejection_of


def test_text_flags_and_every_other_private_answer_arrive(running):
    finder = running(fill, settings={"similar": {"maximum_results": 2}})
    keys = {element.keyword: None for element in private.ELEMENTS if not element.key}
    found = finder.ask(request(private_keys={"QueryUID": "1.1", "MaxResults": 50, **keys}))
    first = pending(found)[0]
    assert final(found).Status == 0x0000
    assert len(pending(found)) == 2
    assert private.get(first, "Flags") == "TRUNCATED"
    assert private.get(first, "ModelID") == ToyEncoder().model_id
    assert private.get(first, "BasisUsed") == "IMAGE"
    assert private.get(first, "ReportState") == "NONE"
    assert private.get(first, "BestMatchSOPInstanceUID") == "1.2.1"
    assert private.get(first, "FindingsPresent") is None
    assert private.get(first, "Cosine") == pytest.approx(2 * private.get(first, "Score") - 1, abs=1e-5)


def test_mode_c_is_for_those_who_are_configured_for_it(running):
    peers = ({"ae_title": "OLD", "rights": ("query", "mode_c")}, {"ae_title": "*", "rights": ("query",)})
    finder = running(fill, peers=peers)
    query = request(StudyInstanceUID="1.1", StudyDescription="")
    assert [answer.StudyDescription for answer in pending(finder.ask(query))] == ["CHEST PA"]
    prefixed = pending(finder.ask(query, "OLD"))
    assert [answer.StudyInstanceUID for answer in prefixed] == ["1.2", "1.3", "1.4"]
    assert re.fullmatch(r"#01 0\.\d\d CHEST PA|#01 1\.00 CHEST PA", prefixed[0].StudyDescription)
    by_accession = request(AccessionNumber="A1.1")
    assert [answer.StudyInstanceUID for answer in pending(finder.ask(by_accession, "OLD"))] == ["1.2", "1.3", "1.4"]


def test_a_query_that_is_cancelled_ends_with_fe00(running):
    def many(archive):
        long = "x" * 400_000                        # more than the sockets' buffers: the server cannot run ahead
        archive.commit(*(archive.image(f"1.{n}", vector=AXES[0], description=long) for n in range(1, 50)))

    finder = running(many)
    found = finder.ask(request(StudyDescription=""), cancel_after=3)
    assert final(found).Status == 0xFE00
    assert len(found) < 50


@contextlib.contextmanager
def finder_with_a_slow_model(folder, monkeypatch):
    """Yield a finder whose model is not loaded before `may_load` is set."""

    class SlowEncoder(ToyEncoder):
        may_load = threading.Event()

        def __init__(self, *args):
            assert self.may_load.wait(60)
            super().__init__(*args)

    monkeypatch.setattr(toy_encoder, "SlowEncoder", SlowEncoder, raising=False)
    finder = RunningFinder(folder, None)
    finder.config = Config(
        similar={"port": 0}, storage={"directory": folder}, encoder={"type": "toy_encoder:SlowEncoder"}
    )
    finder.facts, stop, finder.ready = {}, threading.Event(), threading.Event()
    thread = threading.Thread(target=run_finder, args=(finder.config, stop, finder.ready.set, finder.facts))
    thread.start()
    try:
        while "port" not in finder.facts:
            time.sleep(0.01)
        finder.may_load = SlowEncoder.may_load
        yield finder
    finally:
        SlowEncoder.may_load.set()
        stop.set()
        thread.join(60)


def test_while_model_and_index_load_queries_are_answered_a700(tmp_path, monkeypatch):
    with finder_with_a_slow_model(tmp_path, monkeypatch) as finder:
        status = final(finder.ask(request(private_keys={"QueryText": "effusion"})))
        assert status.Status == 0xA700
        assert "loading" in status.ErrorComment
        assert not finder.ready.is_set()
        finder.may_load.set()
        assert finder.ready.wait(60)
        assert final(finder.ask(request(private_keys={"QueryText": "effusion"}))).Status == 0xC104


def test_while_the_model_loads_again_examples_are_answered_already(running, monkeypatch):
    first = running(fill)
    expected = [answer.StudyInstanceUID for answer in pending(first.ask(request(private_keys={"QueryUID": "1.1"})))]
    first.stop.set()
    first.thread.join(30)
    with finder_with_a_slow_model(first.directory, monkeypatch) as finder:
        until = time.monotonic() + 30
        while final(found := finder.ask(request(private_keys={"QueryUID": "1.1"}))).Status == 0xA700:
            assert time.monotonic() < until
        assert [answer.StudyInstanceUID for answer in pending(found)] == expected
        assert final(finder.ask(request(private_keys={"QueryText": "effusion"}))).Status == 0xA700
        assert not finder.ready.is_set()


def test_a_new_generation_takes_over_without_a_query_lost(running):
    finder = running(fill)
    archive, newer = finder.archive, ToyEncoder(name="newer")
    generation = archive.catalogue.generation(newer.fingerprint, newer.model_id, newer.dim)
    archive.generation = generation
    archive.commit(archive.image("2.1", vector=AXES[1]), archive.image("2.2", vector=AXES[1]))
    archive.catalogue.activate(generation.generation_id)
    until = time.monotonic() + 120                                 # a machine that does much else takes its time
    while finder.facts["generation"] != generation.generation_id:
        assert final(finder.ask(request(private_keys={"QueryUID": "2.1"}))).Status in (0x0000, 0xC102)
        assert time.monotonic() < until
    answer = pending(finder.ask(request(private_keys={"QueryUID": "2.1", "ModelID": None})))[0]
    assert private.get(answer, "ModelID") == newer.model_id
    assert final(finder.ask(request(private_keys={"QueryText": "effusion"}))).Status == 0xA700


def test_the_finder_leaves_a_snapshot_and_a_command_searches_beside_it(running):
    from daemon.finder import open_similarity

    finder = running(fill)
    finder.stop.set()
    finder.thread.join(30)
    assert list((finder.directory / "index").rglob("manifest.json"))
    similarity = open_similarity(finder.config)
    assert isinstance(similarity, Similarity)
    assert similarity.indexes.counts()["IMAGE"] == 4


# ---------------------------------------------------------------------------------------------- plain Study Root FIND


def test_without_private_keys_it_is_an_ordinary_find_at_every_level(running):
    finder = running(fill)
    studies = pending(finder.ask(request(PatientID="", ModalitiesInStudy="", NumberOfStudyRelatedInstances="")))
    assert sorted(answer.StudyInstanceUID for answer in studies) == ["1.1", "1.2", "1.3", "1.4", "1.5"]
    assert {answer.ModalitiesInStudy for answer in studies} == {"DX"}
    series = pending(finder.ask(request("SERIES", StudyInstanceUID="1.2", SeriesInstanceUID="", Modality="")))
    assert [(answer.SeriesInstanceUID, answer.Modality) for answer in series] == [("1.2.0", "DX")]
    images = pending(
        finder.ask(request("IMAGE", StudyInstanceUID="1.2", SeriesInstanceUID="1.2.0", SOPInstanceUID=""))
    )
    assert [answer.SOPInstanceUID for answer in images] == ["1.2.1"]
    listed = pending(finder.ask(request(StudyInstanceUID=["1.1", "1.3"])))
    assert sorted(answer.StudyInstanceUID for answer in listed) == ["1.1", "1.3"]


def test_a_broad_query_is_refused_as_out_of_resources_instead_of_being_cut_silently(running):
    finder = running(fill, settings={"similar": {"maximum_exact_results": 3}})
    found = finder.ask(request())
    assert [status.Status for status, _ in found] == [0xA700]
    assert "narrow" in final(found).ErrorComment
    assert len(pending(finder.ask(request(PatientSex="M")))) == 2


def test_keys_that_are_not_supported_are_answered_empty_with_ff01(running):
    found = running(fill).ask(request(StudyInstanceUID="1.1", PatientReligiousPreference=""))
    assert [status.Status for status, _ in found] == [0xFF01, 0x0000]
    assert pending(found)[0].PatientReligiousPreference is None or pending(found)[0].PatientReligiousPreference == ""


def test_garbage_as_identifier_is_refused_and_the_association_lives_on(running):
    finder = running(fill)
    query = Dataset()
    query.add_new(private.tag("MaxResults"), "UN", b"\x01")
    query.add_new(0x00990010, "LO", private.CREATOR)
    query.QueryRetrieveLevel = "STUDY"
    assert final(finder.ask(query, syntax=EXPLICIT)).Status == 0xA900
    assert final(finder.ask(request())).Status == 0x0000


# ---------------------------------------------------------------------------------------------- DCMTK


def run_findscu(finder, *keys, extra=()):
    environment = {"DCMDICTPATH": f"/usr/share/libdcmtk17/dicom.dic:{DICTIONARY}", "TCP_NODELAY": "1"}
    command = ["findscu", "-v", "-S", "-aec", "CXRSIMILAR", *extra]
    for key in keys:
        command += ["-k", key]
    command += ["127.0.0.1", str(finder.facts["port"])]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def dcmtk_dictionary_installed():
    return Path("/usr/share/libdcmtk17/dicom.dic").exists()


@findscu
@pytest.mark.skipif(not dcmtk_dictionary_installed(), reason="needs libdcmtk17's dicom.dic")
@pytest.mark.parametrize("syntax", ["-xi", "-xe", "-xb"])
def test_findscu_with_our_dictionary_gets_ranked_answers_and_ends_well(running, syntax):
    done = run_findscu(
        running(fill), "0008,0052=STUDY", "0020,000d", "0010,0010", "0099,0010=CXRFIND SIMILARITY 1.0",
        "0099,1001=1.1", "0099,1010", "0099,1011", extra=(syntax,),
    )  # fmt: skip
    log = done.stdout + done.stderr
    assert done.returncode == 0, log
    assert re.findall(r"\(0020,000d\) UI \[([\d.]+)", log) == ["1.2", "1.3", "1.4"]
    assert re.findall(r"\(0099,1010\) US (\d+)", log) == ["1", "2", "3"]
    assert "[STUDY ]" in log
    assert "Success" in log


@findscu
def test_findscu_sees_the_reason_of_a_refusal(running):
    done = run_findscu(running(fill), "0008,0052=PATIENT", "0020,000d")
    assert "DoesNotMatchSOPClass" in done.stdout + done.stderr


# ---------------------------------------------------------------------------------------------- Orthanc


@pytest.mark.skipif(shutil.which("Orthanc") is None, reason="needs Orthanc (apt install orthanc)")
def test_orthanc_with_our_dictionary_asks_for_similar_studies(running, tmp_path):
    finder = running(fill)
    port = free_port()
    configuration = json.loads(ORTHANC_DICTIONARY.read_text()) | {
        "StorageDirectory": str(tmp_path / "orthanc"), "HttpPort": port, "DicomServerEnabled": False,
        "RemoteAccessAllowed": False, "AuthenticationEnabled": False, "Plugins": [],
        "DicomModalities": {"similar": ["CXRSIMILAR", "127.0.0.1", finder.facts["port"]]},
    }  # fmt: skip
    (tmp_path / "orthanc.json").write_text(json.dumps(configuration))

    def call(path, body=None):
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data=data, timeout=30) as answer:
            return json.loads(answer.read())

    def is_up():
        try:
            return call("/system")
        except OSError:
            return None

    with (tmp_path / "orthanc.log").open("wb") as log:
        orthanc = subprocess.Popen(["Orthanc", str(tmp_path / "orthanc.json")], stdout=log, stderr=log)
    try:
        until = time.monotonic() + 60
        while is_up() is None:
            assert time.monotonic() < until
            time.sleep(0.1)
        asked = {
            "QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "", "PatientID": "",
            "0099,0010": private.CREATOR, "QueryUID": "1.1", "Rank": "",
        }  # fmt: skip
        query = call("/modalities/similar/query", {"Level": "Study", "Query": asked, "Normalize": False})
        answers = call(f"/queries/{query['ID']}/answers?expand&simplify")
    finally:
        orthanc.terminate()
        orthanc.wait(30)
    # Orthanc 1.10 shows every private value of an answer as null: rank is the order of the answers
    assert [answer["StudyInstanceUID"] for answer in answers] == ["1.2", "1.3", "1.4"]
