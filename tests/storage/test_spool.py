"""The spool keeps what it has accepted, gives each object to one worker, and forgets nothing in a crash."""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from storage.journal import SpoolUnavailable
from storage.spool import Accepted, Spool


@pytest.fixture
def spool(tmp_path: Path):
    spool = Spool(tmp_path / "spool")
    yield spool
    spool.close()


def put(spool: Spool, uid: str, content: bytes = b"x") -> Accepted:
    path = spool.new_file()
    path.write_bytes(content)
    return spool.accept(
        path,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.1",
        sop_instance_uid=uid,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        calling_ae_title="MODALITY",
        digest=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
    )


def files_of(spool: Spool) -> list[Path]:
    return [path for path in spool.directory.rglob("*.dcm") if path.is_file()]


def test_no_object_has_to_wait_for_a_folder_to_be_made(spool):
    folders = {path.name for path in (spool.directory / "objects").iterdir()}
    assert folders == {f"{number:02x}" for number in range(256)}


def test_empty_folders_that_somebody_removed_are_made_again(spool):
    for folder in (spool.directory / "objects").iterdir():
        folder.rmdir()
    assert not put(spool, "1.2.3", b"data").duplicate
    (claimed,) = spool.claim(5, "w1")
    assert claimed.path.read_bytes() == b"data"


def test_an_accepted_object_is_claimed_with_all_that_is_known_of_it(spool):
    accepted = put(spool, "1.2.3", b"data")
    (claimed,) = spool.claim(5, "w1")
    assert claimed.spool_id == accepted.spool_id
    assert (claimed.sop_instance_uid, claimed.calling_ae_title) == ("1.2.3", "MODALITY")
    assert claimed.path.read_bytes() == b"data"
    assert claimed.size_bytes == 4
    assert claimed.received_at.tzinfo is not None
    assert spool.claim(5, "w2") == []


def test_objects_are_claimed_oldest_first_and_by_one_worker_only(spool):
    ids = [put(spool, f"1.2.{number}").spool_id for number in range(60)]
    taken: list[int] = []

    def work(owner: str) -> None:
        mine = Spool(spool.directory)
        while claimed := mine.claim(7, owner):
            assert [c.spool_id for c in claimed] == sorted(c.spool_id for c in claimed)
            taken.extend(c.spool_id for c in claimed)
        mine.close()

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == ids


@pytest.mark.parametrize("stage", ["waiting", "claimed", "done"])
def test_the_same_bytes_again_are_a_success_without_a_second_copy(spool, stage):
    first = put(spool, "1.2.3", b"same")
    if stage != "waiting":
        spool.claim(1, "w")
    if stage == "done":
        spool.finish([first.spool_id], keep=True)
    assert put(spool, "1.2.3", b"same") == Accepted(first.spool_id, duplicate=True, superseded=False)
    assert len(files_of(spool)) == 1
    assert sum(spool.counts().values()) == 1


def test_the_same_bytes_after_quarantine_wait_again(spool):
    first = put(spool, "1.2.3", b"same")
    spool.claim(1, "w")
    spool.died(first.spool_id)
    spool.quarantine(first.spool_id, "cannot be decoded")
    again = put(spool, "1.2.3", b"same")
    assert again.duplicate
    (claimed,) = spool.claim(1, "w")
    assert (claimed.spool_id, claimed.deaths) == (first.spool_id, 0)
    assert claimed.path.read_bytes() == b"same"


def test_other_bytes_of_the_same_instance_supersede_and_both_hashes_are_kept(spool):
    old, new = put(spool, "1.2.3", b"old"), put(spool, "1.2.3", b"new")
    assert new == Accepted(new.spool_id, duplicate=False, superseded=True)
    assert new.spool_id > old.spool_id
    journal = sqlite3.connect(spool.directory / "journal.db")
    hashes = {row[0] for row in journal.execute("SELECT digest FROM objects WHERE sop_instance_uid = '1.2.3'")}
    assert hashes == {hashlib.sha256(content).hexdigest() for content in (b"old", b"new")}


def test_a_newer_version_is_given_out_only_after_the_older_is_done_and_is_the_one_kept(spool):
    old, new = put(spool, "1.2.3", b"old"), put(spool, "1.2.3", b"new")
    assert [c.spool_id for c in spool.claim(9, "w1")] == [old.spool_id]
    assert spool.claim(9, "w2") == []
    spool.finish([old.spool_id], keep=True)
    assert spool.original("1.2.3").read_bytes() == b"old"
    assert [c.spool_id for c in spool.claim(9, "w2")] == [new.spool_id]
    spool.finish([new.spool_id], keep=True)
    assert spool.original("1.2.3").read_bytes() == b"new"
    assert len(files_of(spool)) == 1


def test_a_finished_object_is_kept_as_the_original_or_dropped(spool):
    kept, dropped = put(spool, "1.1", b"k"), put(spool, "1.2", b"d")
    spool.claim(2, "w")
    spool.finish([kept.spool_id], keep=True)
    spool.finish([dropped.spool_id], keep=False)
    assert spool.original("1.1").read_bytes() == b"k"
    assert spool.original("1.2") is None
    assert len(files_of(spool)) == 1
    assert spool.counts() == {"waiting": 0, "claimed": 0, "quarantined": 0, "done": 2}
    assert spool.holds(["1.1", "1.2", "1.3"]) == {"1.1": "1.2.840.10008.5.1.4.1.1.1"}


def test_deaths_are_counted_across_restarts(spool, tmp_path):
    spool_id = put(spool, "1.2.3").spool_id
    spool.claim(1, "w")
    assert spool.died(spool_id) == 1
    other = Spool(spool.directory)
    (claimed,) = other.claim(1, "w2")
    assert claimed.deaths == 1
    assert other.died(spool_id) == 2
    other.close()


def test_quarantine_tells_its_reason_and_retry_ends_it(spool):
    spool_id = put(spool, "1.2.3").spool_id
    spool.claim(1, "w")
    spool.quarantine(spool_id, "two decoders died")
    ((instance, reason),) = spool.quarantined()
    assert (instance.spool_id, reason) == (spool_id, "two decoders died")
    assert spool.depth() == 0
    spool.retry([spool_id])
    assert spool.quarantined() == []
    assert spool.depth() == 1


def test_retry_leaves_a_version_alone_that_a_newer_one_has_replaced(spool):
    old = put(spool, "1.2.3", b"old")
    spool.claim(1, "w")
    spool.quarantine(old.spool_id, "broken")
    new = put(spool, "1.2.3", b"new")
    spool.retry([old.spool_id])
    assert [c.spool_id for c in spool.claim(9, "w")] == [new.spool_id]


def test_what_a_dead_worker_had_claimed_is_given_back(spool):
    for number in range(3):
        put(spool, f"1.{number}")
    spool.claim(2, "dead")
    spool.claim(1, "alive")
    assert spool.release("dead") == 2
    assert len(spool.claim(9, "w")) == 2
    assert spool.release_all() == 3
    assert spool.depth() == 3


def test_many_threads_and_two_spools_on_one_journal_lose_nothing(spool):
    other = Spool(spool.directory)
    threads = [
        threading.Thread(target=lambda s=s, n=n: [put(s, f"1.{n}.{k}", b"%d" % k) for k in range(5)])
        for n, s in enumerate([spool, other] * 6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.close()
    claimed = spool.claim(1000, "w")
    assert len({c.sop_instance_uid for c in claimed}) == 60
    assert all(hashlib.sha256(c.path.read_bytes()).hexdigest() == c.digest for c in claimed)


def test_threads_that_send_the_same_object_at_once_leave_one_copy(spool):
    answers: list[Accepted] = []
    threads = [threading.Thread(target=lambda: answers.append(put(spool, "1.2.3", b"same"))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({answer.spool_id for answer in answers}) == 1
    assert sum(not answer.duplicate for answer in answers) == 1
    assert len(files_of(spool)) == 1


def test_paths_hold_nothing_that_came_from_the_caller(spool):
    put(spool, "../../etc/passwd")
    (claimed,) = spool.claim(1, "w")
    assert claimed.path.parent.parent == spool.directory / "objects"
    assert "passwd" not in str(claimed.path)


_CHILD = """
import hashlib, os, signal, sys
from pathlib import Path
from storage import spool as module
from storage.spool import Spool
stage, directory = sys.argv[1], Path(sys.argv[2])
spool = Spool(directory)
path = spool.new_file()
path.write_bytes(b"content")
die = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
if stage == "writing": die()
if stage == "linked": module.sync = die
if stage == "flushed": spool._commit = die
if stage == "journalled":
    unlink = Path.unlink
    Path.unlink = lambda self, *a, **k: die() if self.parent == spool.incoming else unlink(self, *a, **k)
spool.accept(path, sop_class_uid="1.2", sop_instance_uid="1.2.3", transfer_syntax_uid="1.2.840.10008.1.2",
             calling_ae_title="A", digest=hashlib.sha256(b"content").hexdigest(), size_bytes=7)
"""


@pytest.mark.parametrize(
    ("stage", "kept"), [("writing", False), ("linked", False), ("flushed", False), ("journalled", True)]
)
def test_a_crash_leaves_either_a_journalled_object_or_nothing(spool, stage, kept):
    child = subprocess.run([sys.executable, "-c", _CHILD, stage, str(spool.directory)], check=False)
    assert child.returncode == -signal.SIGKILL
    assert files_of(spool)                          # the crash did leave something
    spool.sweep()
    claimed = spool.claim(9, "w")
    assert [c.sop_instance_uid for c in claimed] == (["1.2.3"] if kept else [])
    assert len(files_of(spool)) == len(claimed)
    assert all(c.path.read_bytes() == b"content" for c in claimed)
    assert list((spool.directory / "incoming").iterdir()) == []


def test_a_sweep_leaves_the_files_of_living_processes_alone(spool):
    receiving = spool.new_file()
    receiving.write_bytes(b"half")
    other = Spool(spool.directory)
    assert other.sweep() == 0
    other.close()
    assert receiving.read_bytes() == b"half"


def test_a_file_that_a_crash_left_after_finish_is_swept(spool):
    spool_id = put(spool, "1.2.3").spool_id
    (claimed,) = spool.claim(1, "w")
    content = claimed.path.read_bytes()
    spool.finish([spool_id], keep=False)
    claimed.path.write_bytes(content)               # as if the process had died before the unlink
    assert spool.sweep() == 1
    assert files_of(spool) == []


def test_an_object_that_cannot_be_journalled_is_not_accepted_and_leaves_no_file(spool):
    locked = sqlite3.connect(spool.directory / "journal.db")
    locked.execute("DROP TABLE objects")
    locked.commit()
    path = spool.new_file()
    path.write_bytes(b"x")
    with pytest.raises((SpoolUnavailable, sqlite3.Error)):
        spool.accept(path, sop_class_uid="1", sop_instance_uid="1", transfer_syntax_uid="1", calling_ae_title="A",
                     digest="0", size_bytes=1)
    assert list((spool.directory / "objects").rglob("*.dcm")) == []


def test_a_journal_of_another_layout_is_refused_with_the_cure(spool):
    journal = sqlite3.connect(spool.directory / "journal.db")
    journal.execute("PRAGMA user_version = 99")
    journal.close()
    with pytest.raises(SpoolUnavailable, match="layout 99"):
        Spool(spool.directory)


def test_a_journal_of_the_first_layout_keeps_what_waits(spool):
    put(spool, "1.2.3", b"data")
    journal = sqlite3.connect(spool.directory / "journal.db")
    journal.execute("ALTER TABLE objects RENAME COLUMN digest TO sha256")
    journal.execute("PRAGMA user_version = 1")
    journal.close()
    (claimed,) = Spool(spool.directory).claim(1, "w")
    assert claimed.digest == hashlib.sha256(b"data").hexdigest()


def test_only_the_service_can_look_into_the_spool(spool):
    assert os.stat(spool.directory).st_mode & 0o077 == 0


def test_what_is_forgotten_leaves_no_file_and_is_taken_again(spool):
    first, other = put(spool, "1.2.3", b"data"), put(spool, "1.2.4", b"other")
    spool.claim(2, "w")
    spool.finish([first.spool_id, other.spool_id], keep=True)
    assert spool.forget(["1.2.3"]) == 1
    assert spool.original("1.2.3") is None
    assert spool.original("1.2.4") is not None
    assert len(files_of(spool)) == 1
    assert not put(spool, "1.2.3", b"data").duplicate
    assert spool.depth() == 1


def test_what_a_worker_has_in_hand_is_not_forgotten(spool):
    put(spool, "1.2.3", b"data")
    (claimed,) = spool.claim(1, "w")
    assert spool.forget(["1.2.3"]) == 0
    spool.finish([claimed.spool_id], keep=True)
