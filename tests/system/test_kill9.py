"""kill -9 of every role, again and again, while 200 studies are on their way: what was acknowledged is found once."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import small_encoder
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind
from service import Service, running, wait_until

from daemon.finder import private
from encoders.phantom import write_studies
from storage.base import Kind
from storage.catalogue import open_catalogue

pytestmark = pytest.mark.timeout(900)               # far more than it takes, for a machine that is busy otherwise

STUDIES = 200
KILLS_OF_EACH = 4
MARK = "KILLNINE^MARKED"


def make_studies(folder: Path, count: int) -> list[Dataset]:
    """Return the objects of `count` small synthetic studies: a few drawn ones under new identities, each unlike."""
    drawn: dict[str, list[Dataset]] = {}
    for path in write_studies(folder, 6, 3, size=(288, 288), transfer_syntax="1.2.840.10008.1.2.1"):
        dataset = dcmread(path)
        drawn.setdefault(dataset.StudyInstanceUID, []).append(dataset)
    templates, rng, made = list(drawn.values()), np.random.default_rng(3), []
    for number in range(count):
        names: dict[str, str] = {}

        def rename(_dataset: Dataset, element, names=names) -> None:
            if element.VR == "UI" and str(element.value).startswith(("2.25.", "1.2.826.")):
                element.value = names.setdefault(str(element.value), generate_uid())

        for template in templates[number % len(templates)]:
            dataset = dcmread(template.filename)
            keep = dataset.SOPClassUID
            dataset.walk(rename)
            dataset.SOPClassUID = keep
            dataset.PatientID, dataset.PatientName = f"K{number}", f"{MARK}{number}"
            if "PixelData" in dataset:
                pixels = np.frombuffer(dataset.PixelData, "<u2").astype(np.int32)
                noisy = np.clip(pixels + rng.integers(-9, 10, pixels.size), 0, 2**dataset.BitsStored - 1)
                dataset.PixelData = noisy.astype("<u2").tobytes()
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            made.append(dataset)
    return made


def send_until_acknowledged(service: Service, datasets: list[Dataset], pause_s: float) -> int:
    """Send each object again until it is answered 0x0000; return how many times one had to be sent again."""
    ae = AE(ae_title="KILLNINE")
    for sop_class in {dataset.SOPClassUID for dataset in datasets}:
        ae.add_requested_context(sop_class, "1.2.840.10008.1.2.1")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 5
    waiting, again, association = list(datasets), 0, None
    while waiting:
        if association is None or not association.is_established:
            association = ae.associate("127.0.0.1", service.ingest_port, ae_title="CXRFIND")
            if not association.is_established:
                time.sleep(0.1)
                continue
        try:
            answer = association.send_c_store(waiting[0])
        except RuntimeError:                                        # the association has just broken
            answer = Dataset()
        if answer.get("Status") == 0x0000:
            waiting.pop(0)
            time.sleep(pause_s)
        else:
            again += 1
    assert association is not None
    association.release()
    return again


def process_id(service: Service, role: str) -> int | None:
    """Return the process id of a role that is up and ready; of the worker, once it is in the middle of its work."""
    try:
        beat = json.loads((service.directory / "data" / "run" / f"{role}-0.json").read_text())
    except FileNotFoundError:
        return None
    working = beat.get("ready") and beat.get("batches", 1) > 0
    return int(beat["pid"]) if working and Path(f"/proc/{beat['pid']}").exists() else None


def kill_again_and_again(service: Service, role: str, seed: int) -> None:
    """Kill a role at random moments of its work, each time that it has come up again."""
    rng, killed = random.Random(seed), {0}
    for _ in range(KILLS_OF_EACH):
        victim = wait_until(lambda: (found := process_id(service, role)) not in killed and found, f"{role} is back")
        time.sleep(rng.uniform(0, 1.0))
        os.kill(victim, signal.SIGKILL)
        killed.add(victim)


@contextmanager
def associated(service: Service) -> Iterator[Association]:
    ae = AE(ae_title="KILLNINE")
    ae.add_requested_context(StudyRootQueryRetrieveInformationModelFind, "1.2.840.10008.1.2.1")
    association = ae.associate("127.0.0.1", service.similar_port, ae_title="CXRSIMILAR")
    assert association.is_established
    yield association
    association.release()


def find(association: Association, identifier: Dataset) -> list[Dataset]:
    answers = list(association.send_c_find(identifier, StudyRootQueryRetrieveInformationModelFind))
    assert answers[-1][0].Status == 0x0000
    return [answer for _, answer in answers[:-1]]


@pytest.fixture(scope="module")
def survived(tmp_path_factory):
    """The service after the killings, with everything sent and searchable; and what was sent."""
    folder = tmp_path_factory.mktemp("kill9")
    datasets = make_studies(folder / "dicom", STUDIES)
    settings = {"CXRFIND_SIMILAR__MAXIMUM_RESULTS": "1000", "CXRFIND_WORKER__BATCH_SIZE": "4"}
    with running(folder, **settings, **small_encoder.ENVIRONMENT) as service:
        killers = [
            threading.Thread(target=kill_again_and_again, args=(service, role, seed))
            for seed, role in enumerate(("listener", "worker", "finder"))
        ]
        for killer in killers:
            killer.start()
        send_until_acknowledged(service, datasets, pause_s=0.06)
        for killer in killers:
            killer.join()
        service.wait_until_searchable()
        yield service, datasets


def test_each_role_was_really_killed_several_times(survived):
    service, _ = survived
    lines = [json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{")]
    kills = Counter(line["process"] for line in lines if line["event"] == "role.died" and line["how"] == "SIGKILL")
    assert {role: kills[f"{role}-0"] for role in ("listener", "worker", "finder")} == dict.fromkeys(
        ("listener", "worker", "finder"), KILLS_OF_EACH
    )


def test_nothing_is_quarantined_for_what_was_done_to_the_processes(survived):
    service, _ = survived
    status = service.status()
    assert (status["quarantined"], status["spool_depth"]) == (0, 0)


def test_every_acknowledged_instance_is_found_exactly_once_by_c_find(survived):
    service, datasets = survived
    found: Counter[str] = Counter()
    for first in range(0, len(datasets), 50):
        some = datasets[first : first + 50]
        identifier = Dataset()
        identifier.QueryRetrieveLevel, identifier.SOPInstanceUID = "IMAGE", [dataset.SOPInstanceUID for dataset in some]
        identifier.StudyInstanceUID = sorted({dataset.StudyInstanceUID for dataset in some})
        identifier.SeriesInstanceUID = sorted({dataset.SeriesInstanceUID for dataset in some})
        with associated(service) as association:
            found.update(answer.SOPInstanceUID for answer in find(association, identifier))
    assert found == Counter(dataset.SOPInstanceUID for dataset in datasets)


def test_every_image_has_exactly_one_vector_and_every_study_one_of_its_own(survived):
    service, datasets = survived
    catalogue = open_catalogue(service.directory / "data" / "catalogue.db")
    generation = catalogue.active_generation()
    live, after = {}, 0
    while (changes := catalogue.changes(generation.generation_id, after)).sequence != after:
        live.update({row.label: row for row in changes.added})
        for label in changes.removed:
            live.pop(label, None)
        after = changes.sequence
    assert sorted(live) == sorted(catalogue.labels(generation.generation_id))
    images = Counter(row.sop_instance_uid for row in live.values() if row.kind is Kind.IMAGE)
    assert images == Counter(dataset.SOPInstanceUID for dataset in datasets if "PixelData" in dataset)
    studies = Counter(row.study_instance_uid for row in live.values() if row.kind is Kind.JOINT)
    assert studies == Counter({dataset.StudyInstanceUID for dataset in datasets})


def test_a_similarity_query_finds_every_other_study_exactly_once(survived):
    service, datasets = survived
    studies = {dataset.StudyInstanceUID for dataset in datasets}
    example = datasets[0].StudyInstanceUID
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", ""
    block = identifier.private_block(private.GROUP, private.CREATOR, create=True)
    for keyword, value in {"QueryUID": example, "MaxResults": 1000, "QueryBasis": "IMAGE"}.items():
        element = private.BY_KEYWORD[keyword]
        block.add_new(element.offset, element.vr, value)
    with associated(service) as association:
        found = Counter(answer.StudyInstanceUID for answer in find(association, identifier))
    assert found == Counter(studies - {example})


def test_no_patient_name_stands_in_the_log(survived):
    service, _ = survived
    assert MARK not in service.log.read_text()
    assert "worker.batch_committed" in service.log.read_text()
