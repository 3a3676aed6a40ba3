"""What a header says against indexing an image: a hint, backed by the model's look at the pixels.

Headers are often incomplete and sometimes wrong (MIMIC-CXR: ViewPosition missing on 4 %, wrong on 0.1 %), so silence
never gates, and a body part that the series' own words contradict doesn't either.
"""

from __future__ import annotations

import hashlib

from pydicom.dataset import Dataset

from encoders.readers.anatomy import is_animal, is_quality_control, normalised, region_of, texts_of, view_in
from encoders.readers.header import items_of, value_of

#: Modalities of projection radiographs; DR and RG are no longer, or never were, standard, but are seen.
PROJECTION_MODALITIES = frozenset({"CR", "DX", "DR", "RG"})
#: What Secondary Captures say when they say nothing.
_VAGUE_MODALITIES = frozenset({"", "OT", "SC"})
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_HUMAN_CODES = frozenset({"L-85B00", "337915000"})                      # SRT, SCT: homo sapiens (PS3.16 CID 7454)
_NOT_IMAGES = frozenset({"LOCALIZER", "SCOUT", "DOSE", "DOSE_INFO", "DOSE INFO", "QC", "CALIBRATION", "SCREEN SAVE",
                         "SCREENSHOT", "REPORT"})
#: Below this many pixels on the short side nobody recognises a chest.
MIN_SIDE = 64

_VIEW_POSITIONS = {
    "PA": "frontal", "AP": "frontal", "RLD": "frontal", "LLD": "frontal", "AP SUPINE": "frontal", "AP AXIAL": "unknown",
    "LL": "lateral", "RL": "lateral", "LAT": "lateral", "LATERAL": "lateral", "LEFT LATERAL": "lateral",
    "RIGHT LATERAL": "lateral", "RLO": "unknown", "LLO": "unknown",
}
_IMAGE_WORDS = "SeriesDescription ProtocolName AcquisitionDeviceProcessingDescription AcquisitionContextDescription"
_STUDY_WORDS = """StudyDescription RequestedProcedureDescription PerformedProcedureStepDescription
    ProcedureCodeSequence RequestedProcedureCodeSequence"""


def _text(dataset: Dataset, keyword: str) -> str:
    value = value_of(dataset, keyword)
    return "" if value is None else str(value).strip()


def _is_animal(dataset: Dataset) -> bool:
    """Return whether the patient is no human (PS3.3 C.7.1.1, non-human organism attributes)."""
    species = normalised(_text(dataset, "PatientSpeciesDescription"))
    codes = {_text(item, "CodeValue") for item in items_of(dataset, "PatientSpeciesCodeSequence")}
    if species in ("human", "homo sapiens") or codes & _HUMAN_CODES:
        return False
    if is_animal(texts_of(dataset, _IMAGE_WORDS + " StudyDescription InstitutionName")):
        return True
    breed = _text(dataset, "PatientBreedDescription") or value_of(dataset, "PatientBreedCodeSequence")
    return bool(species or codes or breed or _text(dataset, "ResponsiblePersonRole").upper() == "OWNER")


def _anatomy_reason(dataset: Dataset) -> str | None:
    part = region_of(texts_of(dataset, "BodyPartExamined AnatomicRegionSequence"))
    image = region_of(texts_of(dataset, _IMAGE_WORDS))
    study = region_of(texts_of(dataset, _STUDY_WORDS))
    if part == "chest" or (part is None and image == "chest"):
        return None
    if part == "other":
        return None if image == "chest" else "not a chest: body part"
    if image == "other":
        return "not a chest: series description"
    if study == "other":
        return "not a chest: study description"
    secondary = _text(dataset, "SOPClassUID").startswith(_SECONDARY_CAPTURE)
    if study is None and secondary and _text(dataset, "Modality").upper() in _VAGUE_MODALITIES:
        return "secondary capture that nothing names a chest radiograph"
    return None


def gate_reason_of(dataset: Dataset) -> str | None:
    """Return why the header says that this image must not be indexed, None if it says no such thing."""
    modality = _text(dataset, "Modality").upper()
    secondary = _text(dataset, "SOPClassUID").startswith(_SECONDARY_CAPTURE)
    if modality not in PROJECTION_MODALITIES and not (secondary and modality in _VAGUE_MODALITIES):
        named = modality if modality.isalnum() and len(modality) <= 16 else "missing or malformed"
        return f"modality {named} is no projection radiograph"
    if _is_animal(dataset):
        return "veterinary"
    if _text(dataset, "BurnedInAnnotation").upper() == "YES":
        return "burned-in annotation"
    for keyword in ("QualityControlImage", "QualityControlSubject"):
        if _text(dataset, keyword).upper() == "YES":
            return "quality control image"
    kinds = value_of(dataset, "ImageType") or ()
    kinds = {kinds.upper()} if isinstance(kinds, str) else {str(kind).strip().upper() for kind in kinds}
    if kinds & _NOT_IMAGES:
        return "Image Type names no diagnostic image"
    if is_quality_control(texts_of(dataset, _IMAGE_WORDS + " StudyDescription")):
        return "quality control, localizer or dose report by its description"
    reason = _anatomy_reason(dataset)
    if reason is not None:
        return reason
    rows, columns = value_of(dataset, "Rows") or 0, value_of(dataset, "Columns") or 0
    if min(rows, columns) < MIN_SIDE:
        return f"{rows} x {columns} pixels show no chest"
    return None


def view_of(dataset: Dataset) -> str:
    """Return ``frontal``, ``lateral`` or ``unknown``.

    From View Position (PS3.3 C.8.11.5), View Code Sequence, the series' words, Patient Orientation (C.7.6.1.1.1: rows
    running left or right are a frontal view, anterior or posterior a lateral one), then the study's words.
    """
    position = _text(dataset, "ViewPosition").upper()
    if position in _VIEW_POSITIONS:
        return _VIEW_POSITIONS[position]
    for keywords in ("ViewPosition ViewCodeSequence", _IMAGE_WORDS):
        view = view_in(texts_of(dataset, keywords))
        if view != "unknown":
            return view
    orientation = value_of(dataset, "PatientOrientation")
    if orientation and not isinstance(orientation, str):
        row = str(orientation[0])[:1].upper()
        if row in ("L", "R"):
            return "frontal"
        if row in ("A", "P"):
            return "lateral"
    return view_in(texts_of(dataset, "PatientPosition " + _STUDY_WORDS))  # PA in Patient Position: wrong, but seen


def exposure_key_of(dataset: Dataset) -> str | None:
    """Return what the FOR PROCESSING and FOR PRESENTATION images of one exposure share, None if nothing tells.

    Irradiation Event UID (PS3.3 C.8.7.10.1.1); else the UID of the FOR PROCESSING object, which the other one names in
    its Source Image Sequence (C.7.6.1.1.4); else study, view and a time of acquisition to the second.
    """
    event = _text(dataset, "IrradiationEventUID")
    if event:
        return f"event:{event[:64]}"
    if _text(dataset, "PresentationIntentType").upper() == "FOR PROCESSING":
        own = _text(dataset, "SOPInstanceUID")
        if own:
            return f"sop:{own[:64]}"
    sources = {_text(item, "ReferencedSOPInstanceUID") for item in items_of(dataset, "SourceImageSequence")} - {""}
    if len(sources) == 1:
        return f"sop:{sources.pop()[:64]}"
    moment = _text(dataset, "AcquisitionDateTime")
    moment = moment or _text(dataset, "AcquisitionDate") + _text(dataset, "AcquisitionTime")
    if len(moment) < 14:
        return None
    parts = "|".join((_text(dataset, "StudyInstanceUID"), moment, _text(dataset, "ViewPosition")))
    return "time:" + hashlib.sha256(parts.encode()).hexdigest()[:32]
