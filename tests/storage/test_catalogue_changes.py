"""Sequence numbers, pages of changes, concurrent writers, and death in the middle of a commit."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from storage.base import Kind
from storage.catalogue import CatalogueUnavailable, open_catalogue

ROOT = Path(__file__).resolve().parents[2]


def busy_archive(archive, steps=60, seed=1):
    """Commit, replace, amend and reject at random; yield after each step."""
    draw = random.Random(seed)
    for step in range(steps):
        study = f"1.{draw.randint(1, 8)}"
        what = draw.choice(["image", "image", "image", "report", "note"])
        if what == "image":
            number, vector = draw.randint(1, 3), archive.direction(step)
            archive.commit(archive.image(study, number, digest=f"{step}", embedding=vector))
        elif what == "report":
            archive.commit(archive.report(study, draw.randint(1, 2), digest=f"{step}", text=f"text {step}"))
        else:
            archive.commit(archive.note(study, sops=[f"{study}.1.{draw.randint(1, 3)}"]))
        yield step


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 4096])
def test_a_follower_ends_level_whatever_the_page_size(archive, limit):
    for step in busy_archive(archive):
        if step % 9 == 0:
            archive.follow(limit)
    followed = [(row.label, row.sequence) for row in archive.follow(limit)]
    fresh = type(archive)(archive.path)
    assert followed == [(row.label, row.sequence) for row in fresh.follow()]


def test_labels_are_never_used_again(archive):
    seen = {}
    for _ in busy_archive(archive):
        for row in archive.follow():
            assert seen.setdefault(row.label, row.vector.tobytes()) == row.vector.tobytes()
    assert len(seen) > len(archive.follow())


def test_a_page_never_goes_beyond_what_it_holds(archive):
    for _ in busy_archive(archive, 20):
        pass
    catalogue, generation_id = archive.catalogue, archive.generation.generation_id
    after, pages = 0, 0
    while (page := catalogue.changes(generation_id, after, limit=2)).sequence != after:
        assert all(after < row.sequence <= page.sequence for row in page.added)
        assert len(page.added) <= 2
        after, pages = page.sequence, pages + 1
    assert after == catalogue.sequence()
    assert pages > 5


def test_every_commit_that_changes_something_moves_the_sequence(archive):
    numbers = [archive.catalogue.sequence() for _ in busy_archive(archive, 30)]
    assert numbers == sorted(numbers)
    before = archive.catalogue.sequence()
    archive.commit(archive.image("7.7", embedding=None, state="GATED", reason="a foot"))
    assert archive.catalogue.sequence() > before


def test_what_another_connection_commits_moves_the_sequence_at_once(archive):
    watching = open_catalogue(archive.path)
    for number in range(20):
        assert watching.sequence() == watching.sequence() == archive.catalogue.sequence()
        archive.commit(archive.image(f"6.{number}"))
        if number % 5 == 0:                         # a checkpoint writes the pages to the database itself
            with sqlite3.connect(archive.path) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert watching.sequence() == archive.catalogue.sequence() > 20
    watching.close()


def test_examples_are_found_by_study_series_and_instance(archive):
    archive.commit(archive.image("1.1", 1), archive.image("1.1", 2), archive.report("1.1"))
    generation_id = archive.generation.generation_id

    def kinds(uid):
        return sorted(row.kind.value for row in archive.catalogue.example_rows(generation_id, uid))

    assert kinds("1.1") == ["IMAGE", "IMAGE", "JOINT", "REPORT"]
    assert kinds("1.1.68") == ["IMAGE", "IMAGE"]
    assert kinds("1.1.1.2") == ["IMAGE"]
    assert kinds("1.1.9.1") == ["REPORT"]
    assert kinds("1.9") == []
    for uid in ("1.1", "1.1.68", "1.1.1.2", "1.1.9.1"):
        assert archive.catalogue.study_of(uid) == "1.1"
    assert archive.catalogue.study_of("1.9") is None
    assert archive.catalogue.example_state("1.9") == (None, "")


def test_the_rendition_of_a_study_is_of_its_frontal_image(archive):
    archive.commit(archive.image("1.1", 1, view="lateral"), archive.image("1.1", 2, view="frontal"))
    assert archive.catalogue.rendition_of("1.1") == "r1.1.1.2"
    assert archive.catalogue.rendition_of("1.1", "1.1.1.1") == "r1.1.1.1"
    assert archive.catalogue.rendition_of("1.9") is None


def test_the_database_is_as_durable_as_it_says(archive):
    with archive.catalogue._database.reading() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2      # FULL


def test_a_folder_instead_of_a_database_is_explained(tmp_path):
    with pytest.raises(CatalogueUnavailable, match="database failed"):
        open_catalogue(tmp_path)


def test_a_damaged_database_is_explained(tmp_path):
    (tmp_path / "c.db").write_bytes(b"no database at all" * 1000)
    with pytest.raises(CatalogueUnavailable, match="not a database"):
        open_catalogue(tmp_path / "c.db")


# ------------------------------------------------------------------------------------ several processes

WRITER = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("conftest", sys.argv[1])
conftest = importlib.util.module_from_spec(spec)
spec.loader.exec_module(conftest)
archive = conftest.Archive(sys.argv[2])
name, batches = sys.argv[3], int(sys.argv[4])
for batch in range(batches):
    study = f"{name}.{batch}"
    shared = archive.image("5.5", f"{name}{batch}")
    archive.commit(archive.image(study, 1), archive.image(study, 2), archive.report(study), shared)
    print(study, flush=True)
"""


def start_writer(path, name, batches):
    builders = Path(__file__).with_name("conftest.py")
    command = [sys.executable, "-c", WRITER, str(builders), str(path), name, str(batches)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True)


def test_two_processes_commit_at_once_and_nothing_is_lost(archive):
    writers = [start_writer(archive.path, name, 25) for name in ("3", "4")]
    while any(writer.poll() is None for writer in writers):
        archive.follow(limit=5, quiet=False)                        # a reader that pages while they write
    assert [writer.wait() for writer in writers] == [0, 0]
    for writer in writers:
        writer.stdout.close()
    assert len(archive.images()) == 2 * 25 * 3
    assert len({row.label for row in archive.follow()}) == len(archive.follow())
    assert archive.catalogue.counts()["studies"] == 51


@pytest.mark.parametrize("run", range(3))
def test_killed_in_the_middle_nothing_is_half_visible_and_all_that_was_answered_is_there(archive, run):
    writer = start_writer(archive.path, "3", 10_000)
    try:
        answered = [writer.stdout.readline().strip() for _ in range(3 + run)]
        time.sleep(0.003 * run)                                     # die at another point of the next commit
    finally:
        os.kill(writer.pid, signal.SIGKILL)
        answered += [line.strip() for line in writer.stdout.readlines() if line.endswith("\n")]
        writer.wait()
        writer.stdout.close()
    fresh = type(archive)(archive.path)
    rows = [row for row in fresh.follow() if row.study_instance_uid != "5.5"]
    by_study = {}
    for row in rows:
        by_study.setdefault(row.study_instance_uid, []).append(row.kind.value)
    assert set(answered) <= set(by_study)
    assert len(by_study) <= len(answered) + 1
    assert all(sorted(kinds) == ["IMAGE", "IMAGE", "JOINT", "REPORT"] for kinds in by_study.values())
    images = [row.vector for row in fresh.follow() if row.kind is Kind.IMAGE and row.study_instance_uid == "5.5"]
    assert len(images) == len(by_study)
    assert np.allclose(fresh.joint_of("5.5"), fresh.fuse(np.stack(images), None), atol=1e-6)
    with sqlite3.connect(archive.path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    fresh.commit(fresh.image("9.9"))
    assert "9.9.1.1" in fresh.images()


def test_a_follower_of_studies_shows_what_the_catalogue_shows(archive):
    """By changes alone, but after an erasure, of which only that it happened is told."""
    catalogue, followed, reached, erasures = archive.catalogue, {}, 0, 0
    for step in busy_archive(archive):
        if step == 20:
            catalogue.merge_patient("P1", "", "P2", "")
        if step == 40:
            catalogue.forget("1.3")
        changes = catalogue.studies_changed(reached)
        if changes.erased:
            erasures += 1
            followed = {record.study_instance_uid: record for record in catalogue.studies_from("", 100)}
        followed.update((record.study_instance_uid, record) for record in changes.shown)
        for uid in changes.hidden:
            followed.pop(uid, None)
        reached = changes.sequence
        assert reached == catalogue.sequence()
        every = catalogue.studies([f"1.{n}" for n in range(1, 9)], with_report=False, with_findings=False)
        assert followed == every
    assert erasures == 1


def test_studies_come_in_pages_in_order_of_their_uids(archive):
    archive.commit(*(archive.image(f"1.{n}") for n in range(1, 8)))
    archive.commit(archive.note("1.4", sops=["1.4.1.1"]))
    found, page = [], archive.catalogue.studies_from("", 3)
    while page:
        found += [record.study_instance_uid for record in page]
        page = archive.catalogue.studies_from(found[-1], 3)
    assert found == ["1.1", "1.2", "1.3", "1.5", "1.6", "1.7"]
