"""A new model encodes the archive again beside the active one."""

from dataclasses import replace

import numpy as np
import pytest

from storage.base import InstanceState, Kind, Reencoded, StorageError


def fuse_backwards(images, report):
    total = -images.sum(axis=0) + (0 if report is None else report)
    return (total / np.linalg.norm(total)).astype(np.float32)


@pytest.fixture
def second(archive):
    return archive.catalogue.generation("e" * 64, "next-model", 16, {"scale": 2})


def reencode(archive, generation, limit=2):
    while batch := archive.catalogue.pending(generation.generation_id, limit):
        rows = [Reencoded(item.sop_instance_uid, archive.direction(item.sop_instance_uid + "x"), {}) for item in batch]
        archive.catalogue.commit_reencoded(rows, generation.generation_id, fuse_backwards)


def rows_of(archive, generation):
    return {
        (row.kind, row.study_instance_uid, row.sop_instance_uid): row
        for row in archive.catalogue.changes(generation.generation_id, 0, 10_000).added
    }


def test_the_first_generation_is_active_and_the_same_model_finds_it_again(archive):
    again = archive.catalogue.generation("f" * 64, "test-model", 16)
    assert again == archive.generation == archive.catalogue.active_generation()
    assert again.active


def test_a_model_that_changed_its_dimension_is_refused(archive):
    with pytest.raises(StorageError, match="dim 16"):
        archive.catalogue.generation("f" * 64, "test-model", 32)


def test_a_calibration_that_comes_later_is_kept(archive):
    assert archive.catalogue.generation("f" * 64, "test-model", 16, {"a": [1, 2]}).calibration == {"a": [1, 2]}
    assert archive.catalogue.generation("f" * 64, "test-model", 16).calibration == {"a": [1, 2]}


def test_a_second_generation_waits_until_it_is_activated(archive, second):
    assert not second.active
    assert second.calibration == {"scale": 2}
    archive.catalogue.activate(second.generation_id)
    assert archive.catalogue.active_generation().generation_id == second.generation_id
    with pytest.raises(StorageError, match="no generation 99"):
        archive.catalogue.activate(99)


def test_pending_lists_all_that_can_be_encoded_and_nothing_else(archive, second):
    gated = archive.image("1.3", embedding=None, state=InstanceState.GATED, reason="a foot")
    archive.commit(archive.image("1.1"), archive.report("1.1", 1), archive.report("1.1", 2), gated)
    archive.commit(archive.report("1.4", embedding=False, findings="", text=""), archive.image("1.5", rendition=None))
    pending = archive.catalogue.pending(second.generation_id, 10)
    assert {item.sop_instance_uid: item.rendition for item in pending} == {
        "1.1.1.1": "r1.1.1.1",
        "1.1.9.1": None,
        "1.1.9.2": None,
    }
    assert {item.report.text for item in pending if item.report} == {"text 1", "text 2"}
    assert archive.catalogue.pending(archive.generation.generation_id, 10) == []
    assert len(archive.catalogue.pending(second.generation_id, 2)) == 2


def test_the_archive_is_encoded_again_and_the_old_generation_is_untouched(archive, second):
    archive.commit(archive.image("1.1", 1), archive.image("1.1", 2), archive.report("1.1"), archive.image("1.2"))
    before = [row.label for row in archive.follow()]
    reencode(archive, second)
    old, new = rows_of(archive, archive.generation), rows_of(archive, second)
    assert old.keys() == new.keys()
    assert [row.label for row in archive.follow()] == before
    images = np.stack([archive.direction(f"1.1.1.{n}x") for n in (1, 2)])
    expected = fuse_backwards(images, archive.direction("1.1.9.1x"))
    assert np.allclose(new[Kind.JOINT, "1.1", ""].vector, expected, atol=1e-6)


def test_what_is_rejected_meanwhile_leaves_both_generations_at_once(archive, second):
    archive.commit(archive.image("1.1", 1), archive.image("1.1", 2))
    reencode(archive, second)
    archive.commit(archive.note("1.1", sops=["1.1.1.1"]))
    new = rows_of(archive, second)
    assert (Kind.IMAGE, "1.1", "1.1.1.1") not in new
    assert (Kind.JOINT, "1.1", "") not in new                       # it was made of both
    archive.catalogue.commit_reencoded([], second.generation_id, fuse_backwards)
    joint = rows_of(archive, second)[Kind.JOINT, "1.1", ""]
    assert np.allclose(joint.vector, -archive.direction("1.1.1.2x"), atol=1e-6)


def test_replaced_bytes_are_pending_again_in_the_other_generation(archive, second):
    archive.commit(archive.image("1.1"))
    reencode(archive, second)
    archive.commit(archive.image("1.1", digest="other", embedding=archive.direction(4)))
    assert rows_of(archive, second) == {}
    assert [item.sop_instance_uid for item in archive.catalogue.pending(second.generation_id, 5)] == ["1.1.1.1"]


def test_an_object_sent_again_after_a_switch_gets_its_vector_in_the_new_generation(archive, second):
    record = archive.image("1.1")
    archive.commit(record)
    archive.catalogue.commit([replace(record, embedding=archive.direction(8))], second.generation_id, fuse_backwards)
    assert np.allclose(rows_of(archive, second)[Kind.IMAGE, "1.1", "1.1.1.1"].vector, archive.direction(8))
    assert archive.catalogue.pending(second.generation_id, 5) == []


def test_what_was_erased_while_it_was_encoded_stays_away(archive, second):
    archive.commit(archive.image("1.1"))
    (item,) = archive.catalogue.pending(second.generation_id, 5)
    archive.catalogue.forget("1.1")
    rows = [Reencoded(item.sop_instance_uid, archive.direction(1), {})]
    archive.catalogue.commit_reencoded(rows, second.generation_id, fuse_backwards)
    assert rows_of(archive, second) == {}
