"""The main path as its users see it: studies in by C-STORE, status, queries by every door, erasure, a clean end."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from service import ROOT, Service, running, wait_until

from encoders.phantom import write_studies

pytestmark = pytest.mark.timeout(600)

STUDIES = 12


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("main-path")
    write_studies(folder / "dicom", STUDIES, 5, size=(400, 400))
    with running(folder) as started:
        sent = started.send()
        assert sent.returncode == 0, sent.stderr
        started.wait_until_searchable()
        yield started
        assert started.stop() == 0


def test_everything_that_was_sent_is_searchable(service: Service):
    facts = service.status()
    objects = len(list((service.directory / "dicom").rglob("*.dcm")))
    assert facts["ready"] is True
    assert (facts["studies"], facts["instances"]) == (STUDIES, objects)
    assert facts["images_searchable"] + facts["reports_searchable"] + facts["gated"] == objects
    assert facts["images_searchable"] >= STUDIES * 0.8
    assert (facts["spool_depth"], facts["quarantined"]) == (0, 0)
    assert facts["model_id"]
    assert facts["runtime"] == "torch f32"


def test_a_study_that_is_sent_twice_is_there_once(service: Service):
    before = service.status()
    assert service.send().returncode == 0
    facts = service.wait_until_searchable()
    assert facts["instances"] == before["instances"]
    assert facts["images_searchable"] == before["images_searchable"]


def matches(service: Service, *arguments: str) -> list[dict[str, object]]:
    answer = service.command("query", "--json", *arguments)
    assert answer.returncode == 0, answer.stderr
    found: list[dict[str, object]] = json.loads(answer.stdout)
    return found


def test_a_text_finds_reports_that_say_so_and_an_example_finds_others_than_itself(service: Service):
    by_text = matches(service, "--text", "cardiomegaly", "--k", "3")
    assert [row["rank"] for row in by_text] == [1, 2, 3]
    example = str(by_text[0]["study_instance_uid"])
    by_example = matches(service, "--study", example, "--k", "5")
    assert len(by_example) == 5
    assert example not in [row["study_instance_uid"] for row in by_example]
    scores = [float(str(row["score"])) for row in by_example]
    assert scores == sorted(scores, reverse=True)


def test_a_file_that_is_not_kept_can_be_the_example(service: Service, tmp_path: Path):
    path = sorted((service.directory / "dicom").rglob("[CD]*.dcm"))[0]
    picture = tmp_path / "matches.png"
    found = matches(service, "--file", str(path), "--k", "3", "--picture", str(picture))
    assert found[0]["cosine"] == pytest.approx(1.0, abs=1e-3)
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(shutil.which("findscu") is None, reason="DCMTK is not installed (apt-get install dcmtk)")
def test_dcmtk_finds_similar_studies_with_the_dictionary_in_deploy(service: Service):
    dictionary = next(Path("/usr/share").glob("libdcmtk*/dicom.dic"))
    done = subprocess.run(
        ["findscu", "-v", "-S", "-aec", "CXRSIMILAR", "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID",
         "-k", "(0099,0010)=CXRFIND SIMILARITY 1.0", "-k", "(0099,1003)=pleural effusion", "-k", "(0099,1004)=4",
         "-k", "(0099,1010)", "-k", "(0099,1011)", "127.0.0.1", str(service.similar_port)],
        env={"DCMDICTPATH": f"{dictionary}:{ROOT / 'deploy' / 'cxrfind.dic'}"}, capture_output=True, text=True,
        timeout=60, check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert output.count("(Pending)") == 4, output
    assert "Received Final Find Response (Success)" in output
    assert " Score" in output


def test_an_erased_study_is_found_no_more_and_can_be_sent_again(service: Service):
    gone = str(matches(service, "--text", "effusion", "--k", "1")[0]["study_instance_uid"])
    erased = service.command("forget", "--yes", "--study", gone)
    assert erased.returncode == 0, erased.stderr
    wait_until(lambda: service.status()["studies"] == STUDIES - 1, "the study has left")
    assert gone not in [row["study_instance_uid"] for row in matches(service, "--text", "effusion", "--k", "50")]
    service.send()
    wait_until(lambda: service.status()["studies"] == STUDIES, "the study is back")


def test_a_file_that_is_no_dicom_is_refused_in_one_sentence(service: Service, tmp_path: Path):
    (tmp_path / "note.txt").write_text("not DICOM")
    answer = service.command("query", "--file", str(tmp_path / "note.txt"))
    assert answer.returncode == 1
    assert "cannot be read as JPEG, PNG or DICOM" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_no_patient_name_identifier_or_report_text_is_in_the_log(service: Service):
    log = service.log.read_text(encoding="utf-8")
    assert "service.ready" in log or "role" in log
    assert [word for word in ("Phantom", "SYNTHETIC-", "cardiomegaly", "effusion") if word in log] == []
