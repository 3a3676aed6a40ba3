"""Two finders on one port: both answer, both follow what is stored and erased, one that is killed leaves the other."""

from __future__ import annotations

import json
import os
import signal

import pytest
import small_encoder
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind
from service import Service, running, wait_until

from daemon.finder import private
from encoders.phantom import write_studies

pytestmark = pytest.mark.timeout(600)

FINDERS = {"finder", "finder-1"}                    # as they call themselves in their log lines


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    settings = {"CXRFIND_FINDER__PROCESSES": "2", "CXRFIND_INDEX__SNAPSHOT_INTERVAL_S": "0.5"}
    with running(tmp_path_factory.mktemp("finders"), **settings, **small_encoder.ENVIRONMENT) as service:
        yield service
        assert service.stop() == 0


def store(service: Service, count: int, seed: int) -> list[str]:
    """Send new studies of one image and return their UIDs once the status says that all are searchable."""
    folder = service.directory / "dicom"
    paths = write_studies(folder / str(seed), count, seed, size=(288, 288), report=False)
    assert service.send().returncode == 0
    service.wait_until_searchable()
    return sorted({str(dcmread(path, stop_before_pixels=True).StudyInstanceUID) for path in paths})


def similar_to(service: Service, example: str) -> set[str]:
    """Return the studies that are found over an association of its own."""
    wanted = Dataset()
    wanted.QueryRetrieveLevel, wanted.StudyInstanceUID = "STUDY", ""
    for keyword, value in (("QueryUID", example), ("QueryBasis", "IMAGE"), ("ExcludeSamePatient", "NO")):
        private.add(wanted, keyword, value)
    ae = AE(ae_title="TESTSCU")
    ae.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
    association = ae.associate("127.0.0.1", service.similar_port, ae_title="CXRSIMILAR")
    assert association.is_established
    found = list(association.send_c_find(wanted, StudyRootQueryRetrieveInformationModelFind))
    association.release()
    assert found[-1][0].Status == 0x0000
    return {str(answer.StudyInstanceUID) for _, answer in found[:-1]}


def events(service: Service, name: str) -> list[dict]:
    lines = [json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


def until_both_have_answered(service: Service, example: str, expected: set[str]) -> None:
    """Ask over many associations: the kernel spreads them over the processes."""
    before = len(events(service, "query.answered"))

    def asked() -> bool:
        assert similar_to(service, example) == expected
        return {line["role"] for line in events(service, "query.answered")[before:]} == FINDERS

    wait_until(asked, "both finders have answered")


def process_ids(service: Service) -> dict[str, int]:
    folder = service.directory / "data" / "run"
    return {path.stem: json.loads(path.read_text())["pid"] for path in folder.glob("finder-*.json")}


def test_both_answer_on_one_port_and_find_what_is_stored_and_miss_what_is_erased_while_they_run(service):
    first, *others = store(service, 4, 1)
    until_both_have_answered(service, first, set(others))
    more = store(service, 3, 2)
    until_both_have_answered(service, first, {*others, *more})
    assert service.command("forget", "--yes", "--study", more[0]).returncode == 0
    service.wait_until_searchable()
    until_both_have_answered(service, first, {*others, *more[1:]})


def test_one_that_is_killed_leaves_the_other_answering_and_is_started_anew(service):
    before = process_ids(service)
    first, *others = store(service, 3, 3)
    everything = similar_to(service, first)
    assert everything >= set(others)
    os.kill(before["finder-1"], signal.SIGKILL)
    wait_until(lambda: events(service, "role.died"), "the supervisor has noticed")
    assert all(similar_to(service, first) == everything for _ in range(5))
    after = wait_until(lambda: (ids := process_ids(service)) != before and len(ids) == 2 and ids, "both run")
    assert after["finder-0"] == before["finder-0"]
    wait_until(lambda: service.status()["ready"], "the service is ready again")
    until_both_have_answered(service, first, everything)


def test_readiness_counts_the_processes_and_the_first_alone_writes_snapshots(service):
    facts = service.status()
    assert (facts["ready"], facts["processes"]["finder"]) == (True, 2)
    service.environment["CXRFIND_FINDER__PROCESSES"] = "3"
    assert not service.status()["ready"]
    assert "not running: finder 2 of 3" in service.command("status").stdout
    service.environment["CXRFIND_FINDER__PROCESSES"] = "2"
    wait_until(lambda: events(service, "index.snapshot_written"), "a snapshot is written")
    assert {line["role"] for line in events(service, "index.snapshot_written")} == {"finder"}
