"""What a commit leaves in the Catalogue."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from storage.base import InstanceState, Kind, StorageError


def test_an_image_makes_its_study_searchable_by_image_and_as_a_whole(archive):
    record = archive.image("1.1")
    assert archive.commit(record) == ["1.1"]
    assert archive.searchable() == {("IMAGE", "1.1", "1.1.1.1"), ("JOINT", "1.1", "")}
    assert np.allclose(archive.joint_of("1.1"), archive.fuse(record.embedding[None], None))


def test_the_same_object_again_changes_nothing(archive):
    record = archive.image("1.1")
    archive.commit(record)
    before, sequence = archive.follow(), archive.catalogue.sequence()
    assert archive.commit(replace(record, received_at=record.received_at + timedelta(days=1))) == []
    assert archive.commit(record, record) == []
    assert archive.catalogue.sequence() == sequence
    assert [row.label for row in archive.follow()] == [row.label for row in before]


def test_the_same_object_twice_in_one_batch_is_one_object(archive):
    record = archive.image("1.1")
    archive.commit(record, record)
    assert archive.images() == {"1.1.1.1"}
    assert archive.catalogue.counts()["instances"] == 1


def test_other_bytes_under_a_uid_replace_the_vector_under_a_new_label(archive):
    archive.commit(archive.image("1.1"))
    old = {row.kind: row.label for row in archive.follow()}
    vector = archive.direction(99)
    archive.commit(archive.image("1.1", digest="other", embedding=vector))
    new = {row.kind: row for row in archive.follow()}
    assert set(new) == set(old)
    assert all(new[kind].label > max(old.values()) for kind in old)
    assert np.allclose(new[Kind.IMAGE].vector, vector)


def test_other_bytes_with_the_same_vector_keep_the_labels(archive):
    record = archive.image("1.1")
    archive.commit(record)
    before = [row.label for row in archive.follow()]
    archive.commit(archive.image("1.1", digest="other", embedding=record.embedding))
    assert [row.label for row in archive.follow()] == before


def test_replaced_bytes_without_a_vector_take_the_old_one_out(archive):
    archive.commit(archive.image("1.1"))
    archive.commit(archive.image("1.1", digest="other", embedding=None, state=InstanceState.GATED, reason="a foot"))
    assert archive.searchable() == set()
    assert archive.catalogue.example_state("1.1.1.1") == (InstanceState.GATED, "a foot")


def test_an_older_version_that_is_committed_later_does_not_win(archive):
    older, newer = archive.image("1.1"), archive.image("1.1", digest="newer", embedding=archive.direction(5))
    archive.commit(newer)
    archive.commit(older)
    (image,) = (row for row in archive.follow() if row.kind is Kind.IMAGE)
    assert np.allclose(image.vector, newer.embedding)


def test_an_instance_that_moves_to_another_study_leaves_the_first(archive):
    archive.commit(archive.image("1.1"))
    archive.commit(archive.image("1.2", sop_instance_uid="1.1.1.1", digest="corrected"))
    assert archive.searchable() == {("IMAGE", "1.2", "1.1.1.1"), ("JOINT", "1.2", "")}
    assert archive.catalogue.studies(["1.1", "1.2"]).keys() == {"1.2"}


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_a_vector_that_would_spoil_searches_stops_the_whole_batch(archive, bad):
    with pytest.raises(StorageError, match="unit length"):
        archive.commit(archive.image("1.1"), archive.image("1.2", embedding=np.full(16, bad, dtype=np.float32)))
    assert archive.searchable() == set()
    assert archive.catalogue.counts()["studies"] == 0


def test_a_vector_of_another_dimension_is_refused(archive):
    with pytest.raises(StorageError, match="dim 16"):
        archive.commit(archive.image("1.1", embedding=np.ones(1, dtype=np.float32)))


def test_an_unknown_generation_is_refused(archive):
    with pytest.raises(StorageError, match="no generation 7"):
        archive.catalogue.commit([archive.image("1.1")], 7, archive.fuse)


# ------------------------------------------------------------------------------------ presentation and processing


@pytest.mark.parametrize("presentation_first", [True, False])
@pytest.mark.parametrize("together", [True, False])
def test_for_presentation_wins_over_for_processing_of_the_same_exposure(archive, presentation_first, together):
    shown = archive.image("1.1", 1, exposure_key="e1")
    raw = archive.image("1.1", 2, exposure_key="e1", for_presentation=False)
    records = (shown, raw) if presentation_first else (raw, shown)
    if together:
        archive.commit(*records)
    else:
        for record in records:
            archive.commit(record)
    assert archive.images() == {"1.1.1.1"}
    state, reason = archive.catalogue.example_state("1.1.1.2")
    assert state is InstanceState.GATED
    assert "FOR PRESENTATION" in reason


def test_for_processing_stays_when_the_exposure_is_another_or_unknown(archive):
    archive.commit(
        archive.image("1.1", 1, exposure_key="e1"),
        archive.image("1.1", 2, exposure_key="e2", for_presentation=False),
        archive.image("1.1", 3, exposure_key=None, for_presentation=False),
    )
    assert archive.images() == {"1.1.1.1", "1.1.1.2", "1.1.1.3"}


def test_for_processing_comes_back_when_its_presentation_is_rejected(archive):
    archive.commit(
        archive.image("1.1", 1, exposure_key="e1"), archive.image("1.1", 2, exposure_key="e1", for_presentation=False)
    )
    archive.commit(archive.note("1.1", sops=["1.1.1.1"]))
    assert archive.images() == {"1.1.1.2"}


# ------------------------------------------------------------------------------------ rejection notes


@pytest.mark.parametrize("code", ["113001", "113037", "113038", "113039"])
def test_rejected_objects_leave_the_results_at_once(archive, code):
    archive.commit(archive.image("1.1", 1), archive.image("1.1", 2))
    archive.commit(archive.note("1.1", code, sops=["1.1.1.1"]))
    assert archive.images() == {"1.1.1.2"}
    state, reason = archive.catalogue.example_state("1.1.1.1")
    assert state is InstanceState.HIDDEN
    assert code in reason


@pytest.mark.parametrize("code", ["113001", "113037", "113038", "113039"])
def test_an_object_that_comes_after_its_rejection_stays_hidden(archive, code):
    archive.commit(archive.note("1.1", code, sops=["1.1.1.1"]))
    archive.commit(archive.image("1.1", 1), archive.image("1.1", 2))
    assert archive.images() == {"1.1.1.2"}
    archive.commit(archive.image("1.1", 1, digest="sent again, changed"))
    assert archive.images() == {"1.1.1.2"}


def test_a_rejected_study_hides_whatever_of_it_comes(archive):
    archive.commit(archive.image("1.1", 1))
    archive.commit(archive.note("1.5", studies=["1.1"]))
    archive.commit(archive.image("1.1", 2), archive.report("1.1"))
    assert archive.searchable() == set()
    assert archive.catalogue.studies(["1.1", "1.5"]) == {}
    assert archive.catalogue.find("STUDY", {}, 10) == ([], False)
    assert archive.catalogue.instances_of({"STUDY": ["1.1"]}) == []
    assert archive.catalogue.rendition_of("1.1") is None


def test_a_rejected_report_gives_the_former_version_back(archive):
    archive.commit(archive.image("1.1"), archive.report("1.1", 1), archive.report("1.1", 2))
    assert archive.report_of("1.1") == "1.1.9.2"
    archive.commit(archive.note("1.1", sops=["1.1.9.2"]))
    assert archive.report_of("1.1") == "1.1.9.1"


# ------------------------------------------------------------------------------------ attributes


@pytest.mark.parametrize("in_order", [True, False])
def test_what_was_received_last_names_patient_and_study(archive, in_order):
    first = archive.image("1.1", 1, {"PatientName": "Old^Name", "StudyDescription": "CHEST", "PatientSex": "F"})
    second = archive.image("1.1", 2, {"PatientName": "New^Name", "StudyDescription": None})
    for record in (first, second) if in_order else (second, first):
        archive.commit(record)
    attributes = archive.catalogue.studies(["1.1"])["1.1"].attributes
    assert attributes["00100010"]["Value"] == [{"Alphabetic": "New^Name"}]
    assert attributes["00081030"]["Value"] == ["CHEST"]


def test_another_patient_id_brings_its_own_issuer_and_demographics(archive):
    archive.commit(archive.image("1.1", 1, {"PatientID": "A", "IssuerOfPatientID": "WEST", "PatientSex": "F"}))
    assert archive.catalogue.studies(["1.1"])["1.1"].patient_key == "A\\WEST"
    archive.commit(archive.image("1.1", 1, {"PatientID": "B"}, digest="corrected"))
    study = archive.catalogue.studies(["1.1"])["1.1"]
    assert study.patient_key == "B\\"
    assert "00100040" not in study.attributes


def test_a_study_without_patient_id_has_no_patient_key(archive):
    archive.commit(archive.image("1.1", 1, {"PatientID": None}))
    assert archive.catalogue.studies(["1.1"])["1.1"].patient_key == ""


def test_counts_say_what_is_there_and_what_can_be_found(archive):
    archive.commit(
        archive.image("1.1", 1),
        archive.image("1.1", 2, embedding=None, state=InstanceState.GATED, reason="a foot"),
        archive.report("1.1"),
        archive.image("1.2", 1, {"PatientID": "P2"}),
        archive.image("1.3", 1, {"PatientID": "P2"}),
        archive.note("1.3", sops=["1.3.1.1"]),
    )
    assert archive.catalogue.counts() == {
        "studies": 2,
        "instances": 4,
        "images_searchable": 2,
        "reports_searchable": 1,
        "gated": 1,
        "hidden": 2,
        "patients": 2,
    }
