"""Which study a report speaks of, and which version prevails (PS3.3 C.17.2)."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from itertools import permutations

import numpy as np
import pytest

from storage.base import InstanceState

DAY = [datetime(2024, 5, day, 8) for day in range(1, 9)]
ISSUER = {"IssuerOfAccessionNumberSequence": [{"00400031": {"vr": "UT", "Value": ["RIS"]}}]}
ACCESSION = {"AccessionNumber": "A1", **ISSUER}


@pytest.mark.parametrize("report_first", [True, False])
@pytest.mark.parametrize("together", [True, False])
def test_a_report_and_its_images_meet_in_either_order(archive, report_first, together):
    image, report = archive.image("1.1"), archive.report("1.1")
    records = (report, image) if report_first else (image, report)
    if together:
        archive.commit(*records)
    else:
        for record in records:
            archive.commit(record)
    assert archive.searchable() == {("IMAGE", "1.1", "1.1.1.1"), ("REPORT", "1.1", "1.1.9.1"), ("JOINT", "1.1", "")}
    assert np.allclose(archive.joint_of("1.1"), archive.fuse(image.embedding[None], report.report_embedding))


def test_a_report_without_images_is_searchable_by_itself(archive):
    report = archive.report("1.1")
    archive.commit(report)
    assert archive.searchable() == {("REPORT", "1.1", "1.1.9.1"), ("JOINT", "1.1", "")}
    assert np.allclose(archive.joint_of("1.1"), report.report_embedding)


@pytest.mark.parametrize("report_first", [True, False])
@pytest.mark.parametrize("by", ["referenced_study_uids", "referenced_sop_uids"])
def test_a_report_in_a_study_of_its_own_belongs_to_what_it_references(archive, report_first, by):
    names = {"referenced_study_uids": ("1.1",), "referenced_sop_uids": ("1.1.1.1",)}[by]
    image, report = archive.image("1.1"), archive.report("1.2", **{by: names})
    for record in (report, image) if report_first else (image, report):
        archive.commit(record)
    assert archive.report_of("1.1") == "1.2.9.1"
    assert archive.report_of("1.2") is None
    assert archive.catalogue.studies(["1.1"])["1.1"].report.findings == "text 1"
    assert archive.catalogue.studies(["1.2"])["1.2"].report is None


def test_a_report_on_two_studies_belongs_to_both(archive):
    archive.commit(archive.image("1.1"), archive.image("1.2"))
    archive.commit(archive.report("1.3", referenced_study_uids=("1.1", "1.2")))
    assert archive.report_of("1.1") == archive.report_of("1.2") == "1.3.9.1"


@pytest.mark.parametrize("report_first", [True, False])
def test_accession_issuer_and_patient_together_link_a_report_to_the_images(archive, report_first):
    image, report = archive.image("1.1", attributes=ACCESSION), archive.report("1.2", attributes=ACCESSION)
    for record in (report, image) if report_first else (image, report):
        archive.commit(record)
    assert archive.report_of("1.1") == "1.2.9.1"


@pytest.mark.parametrize(
    "other",
    [
        {"AccessionNumber": "A1"},
        {"AccessionNumber": "A1", "IssuerOfAccessionNumberSequence": [{"00400031": {"vr": "UT", "Value": ["LAB"]}}]},
        {**ACCESSION, "PatientID": "P2"},
        {**ACCESSION, "PatientID": None},
        {**ACCESSION, "IssuerOfPatientID": "ELSEWHERE"},
        {**ACCESSION, "AccessionNumber": "A2"},
    ],
)
def test_an_accession_number_of_another_issuer_or_patient_links_nothing(archive, other):
    archive.commit(archive.image("1.1", attributes=ACCESSION), archive.report("1.2", attributes=other))
    assert archive.report_of("1.1") is None


def test_a_report_whose_own_study_has_images_is_not_spread_by_its_accession_number(archive):
    archive.commit(archive.image("1.1", attributes=ACCESSION), archive.image("1.2", attributes=ACCESSION))
    archive.commit(archive.report("1.2", attributes=ACCESSION))
    assert archive.report_of("1.1") is None
    assert archive.report_of("1.2") == "1.2.9.1"


def test_a_report_leaves_a_study_that_its_corrected_version_no_longer_references(archive):
    archive.commit(archive.image("1.1"), archive.image("1.2"))
    archive.commit(archive.report("1.3", referenced_study_uids=("1.1",)))
    archive.commit(archive.report("1.3", referenced_study_uids=("1.2",), digest="corrected"))
    assert archive.report_of("1.1") is None
    assert archive.report_of("1.2") == "1.3.9.1"


# ------------------------------------------------------------------------------------ versions

VERSIONS = {
    "preliminary": {"state": "PRELIMINARY", "content_time": DAY[0]},
    "final": {"state": "FINAL", "content_time": DAY[1]},
    "verified": {"verified": True, "content_time": DAY[1], "verification_time": DAY[2]},
    "verified again": {"verified": True, "content_time": DAY[1], "verification_time": DAY[3]},
    "late addendum": {"state": "PRELIMINARY", "content_time": DAY[5]},
    "verified, not final": {"state": "PRELIMINARY", "verified": True, "verification_time": DAY[6]},
}


@pytest.mark.parametrize(
    ("names", "best"),
    [
        (("preliminary", "final"), "final"),
        (("final", "verified", "verified again"), "verified again"),
        (("verified", "late addendum"), "verified"),
        (("final", "late addendum"), "late addendum"),
        (("verified", "verified, not final"), "verified"),
    ],
)
def test_the_prevailing_version_does_not_depend_on_the_order_of_arrival(tmp_path, archive, names, best):
    for run, order in enumerate(permutations(names)):
        fresh = type(archive)(tmp_path / f"{run}.db")
        fresh.commit(fresh.image("1.1"))
        for name in order:
            fresh.commit(fresh.report("1.1", names.index(name) + 1, text=name, **VERSIONS[name]))
        assert fresh.report_of("1.1") == f"1.1.9.{names.index(best) + 1}"
        assert fresh.catalogue.studies(["1.1"])["1.1"].report.text == best
        assert len(fresh.catalogue.report_versions("1.1")) == len(names)


def test_times_are_compared_across_zones(archive):
    east = timezone(timedelta(hours=9))
    early = datetime(2024, 5, 1, 15, tzinfo=east)                   # 06:00 UTC
    archive.commit(
        archive.report("1.1", 1, verified=True, verification_time=early),
        archive.report("1.1", 2, verified=True, verification_time=DAY[0]),          # 08:00, taken as UTC
    )
    assert archive.report_of("1.1") == "1.1.9.2"


def test_an_amendment_renews_report_and_joint_and_leaves_the_image_alone(archive):
    archive.commit(archive.image("1.1"), archive.report("1.1", 1, content_time=DAY[0]))
    before = {row.kind: row.label for row in archive.follow()}
    archive.commit(archive.report("1.1", 2, content_time=DAY[1]))
    after = {row.kind: row.label for row in archive.follow()}
    assert {kind for kind in after if after[kind] != before[kind]} == {"REPORT", "JOINT"}


def test_an_older_version_that_comes_late_renews_nothing(archive):
    archive.commit(archive.image("1.1"), archive.report("1.1", 1, content_time=DAY[3]))
    before = [row.label for row in archive.follow()]
    archive.commit(archive.report("1.1", 2, content_time=DAY[1]))
    assert [row.label for row in archive.follow()] == before
    assert len(archive.catalogue.report_versions("1.1")) == 2


def test_a_report_replaced_under_its_uid_keeps_both_versions_and_shows_the_newer(archive):
    archive.commit(archive.image("1.1"), archive.report("1.1", text="first"))
    archive.commit(archive.report("1.1", text="second", digest="other"))
    assert archive.catalogue.studies(["1.1"])["1.1"].report.text == "second"
    assert [version.text for version in archive.catalogue.report_versions("1.1")] == ["first", "second"]


def test_a_gated_report_never_prevails(archive):
    foot = archive.report("1.1", 2, content_time=DAY[5])
    foot = replace(foot, state=InstanceState.GATED, reason="not a chest report")
    archive.commit(archive.image("1.1"), archive.report("1.1", 1, content_time=DAY[0]), foot)
    assert archive.report_of("1.1") == "1.1.9.1"


def test_a_report_comes_back_with_every_field(archive):
    known = {
        "findings": "f", "impression": "i", "indication": "n", "text": "t", "language": "en", "state": "PRELIMINARY",
        "verified": True, "content_time": DAY[0], "verification_time": DAY[1], "referenced_study_uids": ("1.1", "1.7"),
        "referenced_sop_uids": ("1.1.1.1",),
    }  # fmt: skip
    record = archive.report("1.1", **known)
    archive.commit(archive.image("1.1"), record)
    stored = archive.catalogue.studies(["1.1"])["1.1"].report
    assert stored.content_time.replace(tzinfo=None) == DAY[0]
    assert replace(stored, content_time=DAY[0], verification_time=DAY[1]) == record.report


# ------------------------------------------------------------------------------------ findings


def test_findings_are_the_report_s_where_it_speaks_and_else_the_images_highest(archive):
    archive.commit(
        archive.image("1.1", 1, findings={"Edema": 0.9, "Fracture": 0.2, "Pneumonia": 0.1}),
        archive.image("1.1", 2, findings={"Edema": 0.1, "Fracture": 0.7, "Pneumonia": 0.3}),
    )
    study = archive.catalogue.studies(["1.1"])["1.1"]
    assert study.findings == {"Edema": 0.9, "Fracture": 0.7, "Pneumonia": 0.3}
    assert study.findings_present == ("Edema", "Fracture")
    archive.commit(archive.report("1.1", found={"Edema": 0, "Pneumonia": 1, "Atelectasis": -1, "Fracture": np.nan}))
    study = archive.catalogue.studies(["1.1"])["1.1"]
    assert study.findings == {"Edema": 0, "Fracture": 0.7, "Pneumonia": 1, "Atelectasis": -1}
    assert study.findings_present == ("Pneumonia",)
    assert archive.catalogue.select_studies({}, findings=["Pneumonia"]) == {"1.1"}
    assert archive.catalogue.select_studies({}, findings=["Edema"]) == set()


def test_findings_of_a_report_without_vector_count_too(archive):
    archive.commit(archive.image("1.1"), archive.report("1.1", embedding=False, found={"Edema": 1}))
    assert archive.catalogue.studies(["1.1"])["1.1"].findings_present == ("Edema",)
    assert archive.report_of("1.1") is None
