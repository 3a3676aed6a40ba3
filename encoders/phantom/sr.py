"""The report of a synthetic study as an SR content tree (PS3.3 C.17.3, PS3.16 TID 2000)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta

from pydicom.dataset import Dataset
from pydicom.uid import BasicTextSRStorage, ComprehensiveSRStorage, EnhancedSRStorage

from encoders.phantom.study import SyntheticStudy

SOP_CLASSES = (BasicTextSRStorage, EnhancedSRStorage, ComprehensiveSRStorage)
Concept = tuple[str, str, str]

#: Section headings and the concept of the text in them: DICOM's own codes and LOINC's, both seen in the field.
DCM_SECTIONS: dict[str, tuple[Concept, Concept]] = {
    "indication": (("121109", "DCM", "Indications for Procedure"), ("121109", "DCM", "Indications for Procedure")),
    "technique": (("121064", "DCM", "Current Procedure Descriptions"), ("121065", "DCM", "Procedure Description")),
    "comparison": (("18834-2", "LN", "Comparison study"), ("121069", "DCM", "Previous Finding")),
    "findings": (("121070", "DCM", "Findings"), ("121071", "DCM", "Finding")),
    "impression": (("121072", "DCM", "Impressions"), ("121073", "DCM", "Impression")),
}
LOINC_SECTIONS: dict[str, tuple[Concept, Concept]] = {
    "indication": (("18785-6", "LN", "Radiology Reason for study (narrative)"),
                   ("121109", "DCM", "Indications for Procedure")),
    "technique": (("55111-9", "LN", "Current imaging procedure descriptions"),
                  ("121065", "DCM", "Procedure Description")),
    "comparison": (("18834-2", "LN", "Radiology Comparison study (narrative)"), ("121069", "DCM", "Previous Finding")),
    "findings": (("18782-3", "LN", "Radiology Study observation (narrative)"), ("121071", "DCM", "Finding")),
    "impression": (("19005-8", "LN", "Radiology Imaging study [Impression] (narrative)"),
                   ("121073", "DCM", "Impression")),
}


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """Return one item of a code sequence (PS3.3 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def report_dataset(study: SyntheticStudy, images: Sequence[Dataset], ds: Dataset) -> Dataset:
    """Return `ds` (patient, study and equipment) completed to the SR document on `images`."""
    written = study.taken + timedelta(minutes=25 + study.number % 90)
    ds.SOPClassUID = SOP_CLASSES[study.number % 3]
    ds.SOPInstanceUID = study.uid("report", *(image.SOPInstanceUID for image in images))
    ds.Modality = "SR"
    ds.SeriesInstanceUID = study.uid("series", "report")
    ds.SeriesNumber, ds.InstanceNumber = 9, 1
    ds.SeriesDescription = "Radiology report"
    ds.SeriesDate = ds.ContentDate = f"{written:%Y%m%d}"
    ds.SeriesTime = ds.ContentTime = f"{written:%H%M%S}"
    ds.ReferencedPerformedProcedureStepSequence = []
    ds.PerformedProcedureCodeSequence = []
    ds.CompletionFlag = "PARTIAL" if study.preliminary else "COMPLETE"
    ds.PreliminaryFlag = "PRELIMINARY" if study.preliminary else "FINAL"
    ds.VerificationFlag = "UNVERIFIED" if study.preliminary else "VERIFIED"
    if not study.preliminary:
        ds.VerifyingObserverSequence = [_verifier(f"{written + timedelta(minutes=12):%Y%m%d%H%M%S}")]
    ds.ReferencedRequestSequence = [_request(study)]
    ds.CurrentRequestedProcedureEvidenceSequence = [_evidence(study, images)]
    _content(ds, study, images)
    return ds


def _verifier(when: str) -> Dataset:
    item = Dataset()
    item.VerifyingObserverName = "Simulator^Radiologist"
    item.VerifyingObserverIdentificationCodeSequence = []
    item.VerifyingOrganization = "cxrfind simulator"
    item.VerificationDateTime = when
    return item


def _request(study: SyntheticStudy) -> Dataset:
    item = Dataset()
    item.StudyInstanceUID = study.uid("study")
    item.ReferencedStudySequence = []
    item.AccessionNumber = study.accession_number
    item.PlacerOrderNumberImagingServiceRequest = ""
    item.FillerOrderNumberImagingServiceRequest = ""
    item.RequestedProcedureID = f"P{study.number:05d}"
    item.RequestedProcedureDescription = study.description
    item.RequestedProcedureCodeSequence = []
    return item


def _evidence(study: SyntheticStudy, images: Sequence[Dataset]) -> Dataset:
    """Return the images read, by series (PS3.3 C.17.2.1 Hierarchical SOP Instance Reference)."""
    item = Dataset()
    item.StudyInstanceUID = study.uid("study")
    series = []
    for image in images:
        one = Dataset()
        one.SeriesInstanceUID = image.SeriesInstanceUID
        one.ReferencedSOPSequence = [_reference(image)]
        series.append(one)
    item.ReferencedSeriesSequence = series
    return item


def _reference(image: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    return item


def _content(ds: Dataset, study: SyntheticStudy, images: Sequence[Dataset]) -> None:
    """Add the tree: language, observer, a section each for what was dictated, the key images."""
    ds.ValueType, ds.ContinuityOfContent = "CONTAINER", "SEPARATE"
    ds.ConceptNameCodeSequence = [code("18748-4", "LN", "Diagnostic imaging study")]
    template = Dataset()
    template.MappingResource, template.TemplateIdentifier = "DCMR", "2000"
    ds.ContentTemplateSequence = [template]
    language = _item("CODE", "HAS CONCEPT MOD", ("121049", "DCM", "Language of Content Item and Descendants"))
    language.ConceptCodeSequence = [code("en", "RFC5646", "English")]
    observer_type = _item("CODE", "HAS OBS CONTEXT", ("121005", "DCM", "Observer Type"))
    observer_type.ConceptCodeSequence = [code("121006", "DCM", "Person")]
    observer = _item("PNAME", "HAS OBS CONTEXT", ("121008", "DCM", "Person Observer Name"))
    observer.PersonName = "Simulator^Radiologist"
    tree = [language, observer_type, observer]
    sections = LOINC_SECTIONS if study.number % 4 == 1 else DCM_SECTIONS
    for name, (heading, concept) in sections.items():
        words: str = getattr(study.dictation, name)
        parts = re.split(r"(?<=[a-z]\.) (?=[A-Z0-9])", words) if study.number % 3 == 2 else [words]
        tree.append(_section(heading, [_text(concept, part) for part in parts]))
    pictures = []
    for image in images:
        picture = Dataset()
        picture.RelationshipType, picture.ValueType = "CONTAINS", "IMAGE"
        picture.ReferencedSOPSequence = [_reference(image)]
        pictures.append(picture)
    tree.append(_section(("121180", "DCM", "Key Images"), pictures))
    ds.ContentSequence = tree


def _item(value_type: str, relationship: str, concept: Concept) -> Dataset:
    item = Dataset()
    item.RelationshipType, item.ValueType = relationship, value_type
    item.ConceptNameCodeSequence = [code(*concept)]
    return item


def _section(heading: Concept, children: list[Dataset]) -> Dataset:
    section = _item("CONTAINER", "CONTAINS", heading)
    section.ContinuityOfContent = "SEPARATE"
    section.ContentSequence = children
    return section


def _text(concept: Concept, words: str) -> Dataset:
    item = _item("TEXT", "CONTAINS", concept)
    item.TextValue = words
    return item
