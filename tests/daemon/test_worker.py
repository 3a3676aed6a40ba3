"""The worker: nothing is lost, nothing is kept twice, and a bad object harms only itself."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from daemon.reading import ReaderPool
from daemon.worker import pipeline as pipeline_module
from daemon.worker.pipeline import Pipeline
from encoders.base import ImageEncoding, ReportEncoding
from storage.base import Kind
from storage.catalogue import SqlCatalogue, open_catalogue
from storage.renditions import Renditions
from storage.spool import Spool

IMAGES = 12


def unit(rows):
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class QuarterEncoder:
    """Refuses pictures that are 77 pixels wide, as a model may choke on one picture of a batch."""

    image_size, chest_threshold, dim = 64, 0.0, 4

    def __init__(self, version=1):
        self.fingerprint, self.model_id, self.version = f"{version:064x}", f"quarters-{version:012x}", version

    def _vector(self, image):
        if image.shape[1] == 77:
            raise ValueError("77 columns")
        rows, columns = np.array(image.shape) // 2
        quarters = [image[:rows, :columns], image[:rows, columns:], image[rows:, :columns], image[rows:, columns:]]
        return [quarter.mean() ** self.version + 0.01 for quarter in quarters]

    def encode_images(self, images):
        n, vectors = len(images), unit([self._vector(image) for image in images])
        certain = np.ones(n, np.float32)
        return ImageEncoding(vectors, np.full((n, 14), 0.25, np.float32), certain, certain)

    def encode_reports(self, reports):
        lengths = [[len(report.findings) + 1, len(report.impression) + 1, 0, 0] for report in reports]
        return ReportEncoding(unit(lengths), np.full((len(reports), 14), np.nan, np.float32))

    def encode_text(self, text):
        return unit([[len(text) + 1, 1, 0, 0]])[0]

    def fuse(self, images, report):
        return unit([images.sum(0)])[0] if len(images) else report

    def score(self, cosines, query, entry):
        return (cosines + 1) / 2


def open_all(folder):
    return Spool(folder / "spool"), open_catalogue(folder / "catalogue.db"), Renditions(folder / "renditions")


def work(folder, encoder=None, *, until=None, read_timeout_s=30.0, batch_size=4):
    """Let a worker work in this process until the spool is empty (and `until` holds); return its heartbeat facts."""
    spool, catalogue, renditions = open_all(folder)
    stop, facts = threading.Event(), {}
    with ReaderPool(1, 128, read_timeout_s, 0) as pool:
        worker = Pipeline(
            owner="worker-0", spool=spool, catalogue=catalogue, renditions=renditions,
            encoder=encoder or QuarterEncoder(), pool=pool, in_flight=batch_size * 2 + 2, batch_size=batch_size,
            keep_originals=True, poll_interval_s=0.02, reencodes=True, facts=facts,
        )  # fmt: skip
        watch = threading.Thread(target=_stop_when, args=(stop, lambda: not spool.depth() and (not until or until())))
        watch.start()
        try:
            worker.serve(stop)
        finally:
            stop.set()
            watch.join()
    return facts


def _stop_when(stop, condition):
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline and not stop.is_set():
        time.sleep(0.02)
    stop.set()


def live(catalogue, generation_id=None):
    """Return (kind, SOP Instance UID) -> vector of every live vector, and that no key came twice."""
    generation_id = generation_id or catalogue.active_generation().generation_id
    rows, after = {}, 0
    while (changes := catalogue.changes(generation_id, after)).sequence != after:
        rows.update({row.label: row for row in changes.added})
        for label in changes.removed:
            rows.pop(label, None)
        after = changes.sequence
    found = {(row.kind, row.sop_instance_uid or row.study_instance_uid): row.vector for row in rows.values()}
    assert len(found) == len(rows)
    return found


def images_of(catalogue, generation_id=None):
    return sorted(uid for kind, uid in live(catalogue, generation_id) if kind is Kind.IMAGE)


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "spool")


def test_received_images_become_searchable_with_rendition_and_original_kept(tmp_path, spool, receive):
    uids = sorted(receive(spool) for _ in range(5))
    facts = work(tmp_path)
    _, catalogue, renditions = open_all(tmp_path)
    assert images_of(catalogue) == uids
    assert (facts["encoded"], facts["quarantined"], facts["model_id"]) == (5, 0, "quarters-000000000001")
    for uid in uids:
        assert spool.original(uid).exists()
        key = catalogue.rendition_of(catalogue.study_of(uid), uid)
        assert min(renditions.load(key).shape) == 128
    assert spool.counts() == {"waiting": 0, "claimed": 0, "quarantined": 0, "done": 5}


def test_what_cannot_be_read_is_put_aside_with_its_reason_and_the_others_go_on(tmp_path, spool, receive):
    bad = receive(spool, b"this is not DICOM" * 50)
    good = receive(spool)
    work(tmp_path)
    ((instance, reason),) = spool.quarantined()
    assert instance.sop_instance_uid == bad
    assert reason
    assert images_of(open_all(tmp_path)[1]) == [good]


def test_an_object_that_kills_its_decoder_twice_is_put_aside_and_the_others_go_on(tmp_path, spool, receive):
    hangs = receive(spool)
    (claimed,) = spool.claim(1, "test")
    claimed.path.unlink()
    os.mkfifo(claimed.path)                         # whoever opens it hangs, as some decoders do
    spool.release("test")
    good = sorted(receive(spool) for _ in range(3))
    work(tmp_path, read_timeout_s=1.0)
    ((instance, reason),) = spool.quarantined()
    assert (instance.sop_instance_uid, reason) == (hangs, "not read within 1 s, 2 times")
    assert images_of(open_all(tmp_path)[1]) == good


def test_an_image_that_the_model_chokes_on_is_put_aside_without_its_batch(tmp_path, spool, receive):
    good = [receive(spool), receive(spool)]
    chokes = receive(spool, columns=77, rows=100)
    good.append(receive(spool))
    work(tmp_path)
    ((instance, reason),) = spool.quarantined()
    assert (instance.sop_instance_uid, reason) == (chokes, "cannot be encoded or catalogued (ValueError)")
    assert images_of(open_all(tmp_path)[1]) == sorted(good)


def test_of_two_versions_of_an_object_the_newer_is_kept(tmp_path, spool, receive):
    uid = receive(spool, rows=200, columns=200)
    receive(spool, SOPInstanceUID=uid, rows=400, columns=200, StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.4")
    work(tmp_path)
    catalogue = open_all(tmp_path)[1]
    assert images_of(catalogue) == [uid]
    assert catalogue.study_of(uid) == "1.2.3"


def test_a_worker_that_is_told_to_stop_gives_back_what_it_has_not_finished(tmp_path, spool, receive):
    for _ in range(IMAGES):
        receive(spool)
    work(tmp_path, until=lambda: True, batch_size=2)
    again = Spool(tmp_path / "spool")
    assert again.counts()["claimed"] == 0
    assert again.counts()["waiting"] + again.counts()["done"] == IMAGES


STEPS = [
    "after claim", "before encode", "before put_many", "after put_many", "before commit", "after commit", "after finish"
]  # fmt: skip


@pytest.mark.parametrize("step", STEPS)
def test_a_worker_killed_between_two_steps_loses_nothing_and_keeps_nothing_twice(tmp_path, spool, receive, step):
    uids = sorted(receive(spool) for _ in range(IMAGES))
    command = [sys.executable, __file__, str(tmp_path), step]
    died = subprocess.run(command, capture_output=True, text=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert spool.depth() > 0
    work(tmp_path)
    catalogue = open_all(tmp_path)[1]
    assert images_of(catalogue) == uids
    assert sum(kind is Kind.JOINT for kind, _ in live(catalogue)) == IMAGES
    assert spool.quarantined() == []
    assert spool.counts()["done"] == IMAGES


def test_a_new_model_encodes_the_archive_again_and_takes_over_when_it_is_complete(tmp_path, spool, receive):
    uids = sorted(receive(spool) for _ in range(IMAGES))
    work(tmp_path, QuarterEncoder(1))
    catalogue = open_all(tmp_path)[1]
    first = catalogue.active_generation()
    before = live(catalogue)
    newcomer = receive(spool)
    second = QuarterEncoder(2)
    facts = work(tmp_path, second, until=lambda: catalogue.active_generation().model_id == second.model_id)
    active = catalogue.active_generation()
    assert active.generation_id != first.generation_id
    assert images_of(catalogue) == sorted([*uids, newcomer])
    assert facts["reencoded"] == IMAGES
    now = live(catalogue)
    assert all(not np.allclose(now[key], before[key]) for key in before)


def test_until_a_new_model_is_complete_the_old_generation_stays_active(tmp_path, spool, receive):
    for _ in range(IMAGES):
        receive(spool)
    work(tmp_path, QuarterEncoder(1))
    catalogue = open_all(tmp_path)[1]
    first = catalogue.active_generation()
    second = QuarterEncoder(2)
    work(tmp_path, second, until=lambda: True, batch_size=2)
    assert catalogue.active_generation() == first
    work(tmp_path, second, until=lambda: catalogue.active_generation().model_id == second.model_id)
    assert len(images_of(catalogue)) == IMAGES


def _die_at(step):
    """Have this process killed around one step of the worker, in its second batch: the first has been through all."""
    when, what = step.split()
    owner, name = {
        "claim": (Spool, "claim"), "encode": (pipeline_module, "encode"), "put_many": (Renditions, "put_many"),
        "commit": (SqlCatalogue, "commit"), "finish": (Spool, "finish"),
    }[what]  # fmt: skip
    function, calls = getattr(owner, name), []

    def dying(*arguments, **keywords):
        calls.append(name)
        second = len(calls) > 1 or what == "claim"
        if second and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **keywords)
        if second and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, dying)


if __name__ == "__main__":
    _die_at(sys.argv[2])
    work(Path(sys.argv[1]))
