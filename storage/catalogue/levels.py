"""Which attribute belongs to which level of the query model (PS3.4 C.6.2.1), in one table.

An attribute not named here belongs to the instance. Computed attributes are never stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword

#: An element of the DICOM JSON model: {"vr": ..., "Value": [...]}.
Element = Mapping[str, Any]


class Level(StrEnum):
    """A level, from the whole to its parts."""

    PATIENT = "PATIENT"
    STUDY = "STUDY"
    SERIES = "SERIES"
    IMAGE = "IMAGE"


_KEYWORDS = {
    Level.PATIENT: """PatientName PatientID IssuerOfPatientID IssuerOfPatientIDQualifiersSequence PatientBirthDate
        PatientBirthTime PatientSex OtherPatientIDs OtherPatientIDsSequence OtherPatientNames EthnicGroup
        PatientComments PatientSpeciesDescription PatientBreedDescription ResponsiblePerson ResponsibleOrganization""",
    Level.STUDY: """StudyInstanceUID StudyID StudyDate StudyTime AccessionNumber IssuerOfAccessionNumberSequence
        ReferringPhysicianName StudyDescription ProcedureCodeSequence NameOfPhysiciansReadingStudy
        PhysiciansOfRecord AdmittingDiagnosesDescription PatientAge PatientSize PatientWeight Occupation
        AdditionalPatientHistory TimezoneOffsetFromUTC ReasonForPerformedProcedureCodeSequence""",
    Level.SERIES: """SeriesInstanceUID SeriesNumber Modality SeriesDescription SeriesDate SeriesTime BodyPartExamined
        Laterality ProtocolName PerformingPhysicianName OperatorsName InstitutionName InstitutionAddress
        InstitutionalDepartmentName Manufacturer ManufacturerModelName StationName PerformedProcedureStepStartDate
        PerformedProcedureStepStartTime PerformedProcedureStepID PerformedProcedureStepDescription
        RequestAttributesSequence PresentationIntentType""",
}


@cache                                              # asked for some ten times an object; the dictionary is no larger
def tag_of(keyword: str) -> str:
    """Return the DICOM JSON key of a keyword, e.g. ``00100020``."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return f"{tag:08X}"


def vr_of(tag: str) -> str:
    """Return the VR that the data dictionary gives a DICOM JSON key; UN when it has none."""
    try:
        return str(dictionary_VR(int(tag, 16))).split(" ")[0]
    except (KeyError, ValueError):
        return "UN"


_LEVEL_OF = {tag_of(keyword): level for level, keywords in _KEYWORDS.items() for keyword in keywords.split()}

#: Computed over what is not hidden (PS3.4 C.3.4), at the level where they are answered.
COMPUTED: Mapping[str, Level] = {
    tag_of("NumberOfPatientRelatedStudies"): Level.STUDY,
    tag_of("NumberOfPatientRelatedSeries"): Level.STUDY,
    tag_of("NumberOfPatientRelatedInstances"): Level.STUDY,
    tag_of("ModalitiesInStudy"): Level.STUDY,
    tag_of("SOPClassesInStudy"): Level.STUDY,
    tag_of("NumberOfStudyRelatedSeries"): Level.STUDY,
    tag_of("NumberOfStudyRelatedInstances"): Level.STUDY,
    tag_of("NumberOfSeriesRelatedInstances"): Level.SERIES,
}

#: Never matching keys: how the request is spelled and where it goes, private dictionaries, group lengths.
_NOT_KEYS = frozenset(
    tag_of(keyword)
    for keyword in (
        "SpecificCharacterSet",
        "QueryRetrieveLevel",
        "QueryRetrieveView",
        "RetrieveAETitle",
        "InstanceAvailability",
        "TimezoneOffsetFromUTC",
    )
)


def level_of(tag: str) -> Level:
    """Return the level of a DICOM JSON key, computed ones included."""
    return COMPUTED.get(tag) or _LEVEL_OF.get(tag, Level.IMAGE)


def is_key(tag: str) -> bool:
    """Return whether a request's attribute can be a matching key: standard, and not about the request itself."""
    return tag not in _NOT_KEYS and int(tag[:4], 16) % 2 == 0 and not tag.endswith("0000")


def has_value(element: Element) -> bool:
    """Return whether an element holds anything."""
    return any(value not in (None, "", {}) for value in element.get("Value", ()))


def split(attributes: Mapping[str, Any]) -> dict[Level, dict[str, Any]]:
    """Return an instance's attributes by level; empty and computed ones are left out."""
    parts: dict[Level, dict[str, Any]] = {level: {} for level in Level}
    for name, element in attributes.items():
        tag = name.upper()
        if tag not in COMPUTED and has_value(element):
            parts[level_of(tag)][tag] = element
    return parts


def first_value(attributes: Mapping[str, Any], keyword: str) -> str:
    """Return the first value of an attribute as text without outer spaces, "" when there is none."""
    values = attributes.get(tag_of(keyword), {}).get("Value", ())
    return str(values[0]).strip() if values and values[0] is not None else ""
