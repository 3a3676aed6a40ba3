"""Merged patients, and studies that are erased."""

import pytest

from storage.base import StorageError


def test_a_merged_patient_s_studies_move_and_take_the_survivor_s_name(archive):
    archive.commit(
        archive.image("1.1", attributes={"PatientID": "OLD", "PatientName": "Mis^Typed"}),
        archive.image("1.2", attributes={"PatientID": "NEW", "IssuerOfPatientID": "H", "PatientName": "True^Name"}),
        archive.image("1.3", attributes={"PatientID": "OLD", "IssuerOfPatientID": "ELSEWHERE"}),
    )
    assert archive.catalogue.merge_patient("OLD", "", "NEW", "H") == ["1.1"]
    studies = archive.catalogue.studies(["1.1", "1.2", "1.3"])
    assert studies["1.1"].patient_key == studies["1.2"].patient_key == "NEW\\H"
    assert studies["1.1"].attributes["00100010"]["Value"] == [{"Alphabetic": "True^Name"}]
    assert studies["1.3"].patient_key == "OLD\\ELSEWHERE"
    assert archive.catalogue.select_studies(archive.elements(PatientID="NEW")) == {"1.1", "1.2"}


def test_what_comes_later_under_the_prior_id_follows_also_through_a_second_merge(archive):
    archive.catalogue.merge_patient("A", "", "B", "")
    archive.catalogue.merge_patient("B", "", "C", "H")
    archive.commit(archive.image("1.1", attributes={"PatientID": "A"}))
    assert archive.catalogue.studies(["1.1"])["1.1"].patient_key == "C\\H"


def test_a_merge_may_be_taken_back(archive):
    archive.catalogue.merge_patient("A", "", "B", "")
    archive.catalogue.merge_patient("B", "", "A", "")
    for study, patient in (("1.1", "A"), ("1.2", "B")):
        archive.commit(archive.image(study, attributes={"PatientID": patient}))
    assert {study.patient_key for study in archive.catalogue.studies(["1.1", "1.2"]).values()} == {"A\\"}


@pytest.mark.parametrize("ids", [("A", "A"), ("", "B"), ("A", " ")])
def test_a_merge_of_nobody_or_with_oneself_is_refused(archive, ids):
    with pytest.raises(StorageError, match="two different"):
        archive.catalogue.merge_patient(ids[0], "", ids[1], "")


def test_a_merge_lets_a_report_find_its_images_by_accession(archive):
    issuer = [{"00400031": {"vr": "UT", "Value": ["RIS"]}}]
    accession = {"AccessionNumber": "7", "IssuerOfAccessionNumberSequence": issuer}
    archive.commit(
        archive.image("1.1", attributes={"PatientID": "TEMP", **accession}),
        archive.report("1.2", attributes={"PatientID": "P1", **accession}),
    )
    assert archive.report_of("1.1") is None
    archive.catalogue.merge_patient("TEMP", "", "P1", "")
    archive.commit(archive.image("9.9"))                            # the next commit renews what the merge touched
    assert archive.report_of("1.1") == "1.2.9.1"


def test_a_forgotten_study_leaves_nothing_but_numbers(archive):
    archive.commit(archive.image("1.1"), archive.report("1.1"), archive.image("1.2"))
    labels = [row.label for row in archive.follow() if row.study_instance_uid == "1.1"]
    assert archive.catalogue.forget("1.1") == ["r1.1.1.1"]
    assert {study for _, study, _ in archive.searchable()} == {"1.2"}
    assert archive.catalogue.study_of("1.1.1.1") is None
    with archive.catalogue._database.reading() as connection:
        tables = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars().all()
        for table in tables:
            for row in connection.exec_driver_sql(f"SELECT * FROM {table}"):
                assert "1.1" not in row
                assert not any(isinstance(value, str) and value.startswith("1.1.") for value in row)
    archive.commit(archive.image("1.1"))
    assert min(row.label for row in archive.follow() if row.study_instance_uid == "1.1") > max(labels)


def test_a_rendition_that_another_study_names_is_kept(archive):
    archive.commit(archive.image("1.1", rendition="same"), archive.image("1.2", rendition="same"))
    assert archive.catalogue.forget("1.1") == []
    assert archive.catalogue.forget("1.2") == ["same"]


def test_a_forgotten_report_study_leaves_the_images_without_report(archive):
    archive.commit(archive.image("1.1"), archive.report("1.2", referenced_study_uids=("1.1",)))
    archive.catalogue.forget("1.2")
    assert archive.report_of("1.1") is None
    assert archive.images() == {"1.1.1.1"}
    assert archive.catalogue.studies(["1.1"])["1.1"].report is None
    archive.commit(archive.image("9.9"))
    assert archive.joint_of("1.1") is not None


def test_forgetting_what_is_not_there_is_no_fault(archive):
    assert archive.catalogue.forget("1.1") == []
