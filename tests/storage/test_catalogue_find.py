"""Exact queries against the Catalogue."""

import pytest

from storage.catalogue.levels import tag_of


@pytest.fixture
def filled(archive):
    when = {"StudyDate": "20230101"}
    common = {"InstitutionName": "North", "StudyDescription": "CHEST", **when}
    other = {"PatientID": "P2", "PatientName": "O'Neil^Pat_%", "PatientSex": "M"}
    archive.commit(
        archive.image("1.1", 1, {**common, "PatientSex": "F", "PatientAge": "045Y"}),
        archive.image("1.1", 2, {**common, "ViewPosition": "LL"}),
        archive.report("1.1", attributes={"InstitutionName": "Reading Room", **when}),
        archive.image("1.2", 1, {"StudyDate": "20240630", **other}),
        archive.image("1.3", 1, {"StudyDate": None, "PatientID": None, "PatientName": "山田^太郎"}),
        archive.image("1.4", 1, {"StudyDate": "20220101", "PatientID": "P1", "AccessionNumber": "A*1"}),
    )
    return archive


def uids(archive, level, uid_keyword, **wanted):
    found, cut = archive.catalogue.find(level, archive.elements(**wanted), 100)
    assert not cut
    return [match[tag_of(uid_keyword)]["Value"][0] for match in found]


STUDY_QUERIES = [
    ({}, {"1.1", "1.2", "1.3", "1.4"}),
    ({"StudyDate": "20230101-20231231"}, {"1.1"}),
    ({"StudyDate": "-20230101"}, {"1.1", "1.4"}),
    ({"StudyDate": "20230102-"}, {"1.2"}),
    ({"StudyDate": "not a date"}, set()),
    ({"PatientSex": "F"}, {"1.1"}),
    ({"PatientAge": "045Y"}, {"1.1"}),
    ({"PatientAge": "046Y"}, set()),
    ({"PatientID": "P1"}, {"1.1", "1.4"}),
    ({"PatientID": "p1"}, set()),
    ({"PatientID": "p*"}, set()),
    ({"PatientID": "P?"}, {"1.1", "1.2", "1.4"}),
    ({"PatientName": "o'neil*"}, {"1.2"}),
    ({"PatientName": "*_%"}, {"1.2"}),
    ({"PatientName": "DOE^jane"}, {"1.1", "1.4"}),
    ({"PatientName": "山*"}, {"1.3"}),
    ({"PatientName": "'; DROP TABLE studies; --"}, set()),
    ({"AccessionNumber": "A%1"}, set()),
    ({"StudyInstanceUID": ["1.1", "1.3", "1.9"]}, {"1.1", "1.3"}),
    ({"ModalitiesInStudy": "SR"}, {"1.1"}),
    ({"ModalitiesInStudy": "D_"}, set()),
    ({"ModalitiesInStudy": ["SR", "DX"]}, {"1.1", "1.2", "1.3", "1.4"}),
    ({"InstitutionName": "Reading*"}, {"1.1"}),
    ({"InstitutionName": "South"}, set()),
    ({"ViewPosition": "LL"}, {"1.1"}),
    ({"StudyDescription": "CHEST", "PatientSex": "F", "StudyDate": "2023-2024"}, {"1.1"}),
    ({"NumberOfStudyRelatedInstances": 3}, {"1.1"}),
]


@pytest.mark.parametrize(("wanted", "expected"), STUDY_QUERIES)
def test_find_and_select_agree_on_the_studies_that_match(filled, wanted, expected):
    assert set(uids(filled, "STUDY", "StudyInstanceUID", **wanted)) == expected
    selected = filled.catalogue.select_studies(filled.elements(**wanted))
    assert selected == (expected if wanted else None)


@pytest.mark.parametrize(
    "wanted", [{"PatientID": ""}, {"PatientName": "*"}, {"StudyDate": ""}, {"QueryRetrieveLevel": "STUDY"}]
)
def test_keys_that_filter_nothing_select_nothing_in_particular(filled, wanted):
    assert filled.catalogue.select_studies(filled.elements(**wanted)) is None


def test_a_private_or_unknown_key_does_not_filter(filled):
    creator = {"vr": "LO", "Value": ["CXRFIND SIMILARITY 1.0"]}
    request = {"00990010": creator, "00991001": {"vr": "UI", "Value": ["1.1"]}}
    assert filled.catalogue.select_studies(request) is None


def test_studies_of_named_patients_are_left_out_and_those_of_nobody_never(filled):
    keys = [study.patient_key for study in filled.catalogue.studies(["1.1", "1.3"]).values()]
    assert sorted(keys) == ["", "P1\\"]
    assert filled.catalogue.select_studies({}, exclude_patient_keys=keys) == {"1.2", "1.3"}
    assert filled.catalogue.select_studies({}, exclude_patient_keys=[""]) is None
    assert filled.catalogue.studies_of_patients(keys) == {"1.1", "1.4"}


def test_all_of_several_findings_must_be_present(archive):
    archive.commit(
        archive.image("1.1", findings={"Edema": 0.9, "Fracture": 0.8}),
        archive.image("1.2", findings={"Edema": 0.9, "Fracture": 0.1}),
    )
    select = archive.catalogue.select_studies
    assert select({}, findings=["Edema"]) == {"1.1", "1.2"}
    assert select({}, findings=["Edema", "Fracture"]) == {"1.1"}
    assert select(archive.elements(StudyInstanceUID="1.2"), findings=["Fracture"]) == set()


def test_series_and_images_are_found_below_their_study(filled):
    assert uids(filled, "SERIES", "SeriesInstanceUID", StudyInstanceUID="1.1") == ["1.1.68", "1.1.83"]
    assert uids(filled, "SERIES", "SeriesInstanceUID", StudyInstanceUID="1.1", Modality="SR") == ["1.1.83"]
    assert uids(filled, "SERIES", "SeriesInstanceUID", SeriesInstanceUID="1.2.68") == ["1.2.68"]
    images = uids(filled, "IMAGE", "SOPInstanceUID", StudyInstanceUID="1.1", Modality="DX")
    assert sorted(images) == ["1.1.1.1", "1.1.1.2"]
    assert uids(filled, "IMAGE", "SOPInstanceUID", SOPInstanceUID=["1.2.1.1", "9"]) == ["1.2.1.1"]
    assert uids(filled, "IMAGE", "SOPInstanceUID", SOPInstanceUID="9") == []
    assert uids(filled, "IMAGE", "SOPInstanceUID", ViewPosition="LL") == ["1.1.1.2"]


def test_a_match_holds_everything_known_at_its_level_and_what_is_computed(filled):
    request = filled.elements(StudyInstanceUID="1.1", NumberOfPatientRelatedStudies="")
    (study,), _ = filled.catalogue.find("STUDY", request, 10)
    values = {tag: element.get("Value") for tag, element in study.items()}
    assert values[tag_of("ModalitiesInStudy")] == ["DX", "SR"]
    assert len(values[tag_of("SOPClassesInStudy")]) == 2
    assert values[tag_of("NumberOfStudyRelatedSeries")] == [2]
    assert values[tag_of("NumberOfStudyRelatedInstances")] == [3]
    assert values[tag_of("NumberOfPatientRelatedStudies")] == [2]
    assert values[tag_of("PatientName")] == [{"Alphabetic": "Doe^Jane"}]
    images, _ = filled.catalogue.find("IMAGE", filled.elements(StudyInstanceUID="1.1", Modality="DX"), 10)
    for image in images:
        assert image[tag_of("NumberOfSeriesRelatedInstances")]["Value"] == [2]
        assert image[tag_of("PatientSex")]["Value"] == ["F"]
        assert image[tag_of("SOPClassUID")]["Value"] == ["1.2.840.10008.5.1.4.1.1.1"]


@pytest.mark.parametrize(("limit", "cut"), [(0, True), (3, True), (4, False), (5, False)])
def test_an_answer_that_was_cut_says_so(filled, limit, cut):
    found, was_cut = filled.catalogue.find("STUDY", {}, limit)
    assert (len(found), was_cut) == (min(limit, 4), cut)


def test_a_level_that_does_not_exist_is_refused(filled):
    with pytest.raises(ValueError, match="STUDY, SERIES or IMAGE"):
        filled.catalogue.find("PATIENT", {}, 10)


def test_instances_of_a_level_are_listed_for_retrieval(filled):
    listed = filled.catalogue.instances_of({"STUDY": ["1.1", "1.2"]})
    assert [sop for _, sop, _ in listed] == ["1.1.1.1", "1.1.1.2", "1.1.9.1", "1.2.1.1"]
    assert filled.catalogue.instances_of({"SERIES": ["1.1.83"]}) == [
        ("1.2.840.10008.5.1.4.1.1.88.11", "1.1.9.1", "1.2.840.10008.1.2.1")
    ]
    assert filled.catalogue.instances_of({}) == []


def test_thousands_of_uids_may_be_asked_for_at_once(filled):
    many = [f"8.{n}" for n in range(3000)] + ["1.2"]
    assert set(filled.catalogue.studies(many)) == {"1.2"}
    assert uids(filled, "STUDY", "StudyInstanceUID", StudyInstanceUID=many) == ["1.2"]
