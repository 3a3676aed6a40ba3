"""What the three kinds of report objects share: their state, times, references, and the gate."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

from pydicom.dataset import Dataset

from encoders.base import Report, ReportState
from encoders.readers.anatomy import is_animal, names_other_modality, region_of, tells_of_a_chest, texts_of
from encoders.readers.header import items_of, value_of
from encoders.readers.sections import Sections, split_sections, tidy

_DT = re.compile(r"(\d{4})(\d\d)(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:\.(\d{1,6}))?)?)?)?([+-]\d{4})?")
_STUDY_WORDS = """StudyDescription RequestedProcedureDescription PerformedProcedureStepDescription
    ProcedureCodeSequence PerformedProcedureCodeSequence RequestedProcedureCodeSequence"""
_MIN_WORDS = 3
_TELLING_WORDS = 12                                                     # "No active disease." need not name a lung
_MAX_TEXT = 200_000


def parse_datetime(value: object, offset: str = "") -> datetime | None:
    """Return a DICOM DT (PS3.5 6.2) as an aware datetime, None if it is none.

    Parameters
    ----------
    value : str
        ``YYYYMMDD[HH[MM[SS[.FFFFFF]]]][&ZZXX]``.
    offset : str
        (0008,0201) Timezone Offset From UTC, for values that carry none. Without either the machine's own time zone is
        taken: the hospital's.
    """
    match = _DT.fullmatch(str(value or "").strip().replace(":", ""))
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    zone = zone or (offset if re.fullmatch(r"[+-]\d{4}", offset) else None)
    try:
        moment = datetime(
            int(year), int(month), int(day), int(hour or 0), int(minute or 0), min(int(second or 0), 59),
            int((fraction or "0").ljust(6, "0")),
        )
        if zone is None:
            return moment.astimezone()
        minutes = int(zone[1:3]) * 60 + int(zone[3:5])
        return moment.replace(tzinfo=timezone(timedelta(minutes=-minutes if zone[0] == "-" else minutes)))
    except (ValueError, OverflowError, OSError):
        return None


def _first(dataset: Dataset, keyword: str) -> str:
    value = value_of(dataset, keyword)
    return "" if value is None else str(value).strip()


def evidence_of(dataset: Dataset) -> list[tuple[str, list[str]]]:
    """Return (Study Instance UID, SOP Instance UIDs) of the Current Requested Procedure Evidence Sequence.

    References
    ----------
    PS3.3 C.17.2, Hierarchical SOP Instance Reference Macro C.17.2.1.
    """
    found = []
    for study in items_of(dataset, "CurrentRequestedProcedureEvidenceSequence"):
        uids = [
            _first(instance, "ReferencedSOPInstanceUID")
            for series in items_of(study, "ReferencedSeriesSequence")
            for instance in items_of(series, "ReferencedSOPSequence")
        ]
        found.append((_first(study, "StudyInstanceUID"), [uid for uid in uids if uid]))
    return found


def report_gate_of(dataset: Dataset, text: str) -> str | None:
    """Return why a report must not be indexed, None if neither header nor words say anything against it."""
    words = len(text.split())
    if words < _MIN_WORDS:
        return "no narrative text"
    study = texts_of(dataset, _STUDY_WORDS)
    title = texts_of(dataset, "SeriesDescription DocumentTitle")
    if is_animal(f"{study} {title}") or _first(dataset, "PatientSpeciesDescription").casefold() not in ("", "human"):
        return "veterinary"
    if names_other_modality(f"{study} {title}"):
        return "report of another modality"
    regions = [region_of(text) for text in (texts_of(dataset, "BodyPartExamined AnatomicRegionSequence"), study, title)]
    if "other" in regions and "chest" not in regions:
        return "not a chest report"
    if "chest" not in regions and words >= _TELLING_WORDS and not tells_of_a_chest(text):
        return "nothing in it says that it is a chest report"
    return None


def make_report(
    dataset: Dataset, text: str, sections: Sections | None = None, *, language: str = "", narrative: bool = True,
    content_time: datetime | None = None, verification_time: datetime | None = None, verified: bool | None = None,
) -> Report:
    """Return the Report of a data set and its text; what is not given is taken from the header (PS3.3 C.17.2).

    A report is FINAL unless its Completion Flag is PARTIAL or its Preliminary Flag PRELIMINARY.
    """
    text = tidy(text[:_MAX_TEXT])
    sections = split_sections(text) if sections is None else sections
    offset = _first(dataset, "TimezoneOffsetFromUTC")
    observers = items_of(dataset, "VerifyingObserverSequence")
    times = [parse_datetime(_first(item, "VerificationDateTime"), offset) for item in observers]
    partial = _first(dataset, "CompletionFlag").upper() == "PARTIAL"
    preliminary = partial or _first(dataset, "PreliminaryFlag").upper() == "PRELIMINARY"
    evidence = evidence_of(dataset)
    referenced = [uid for _, uids in evidence for uid in uids]
    referenced += [_first(item, "ReferencedSOPInstanceUID") for item in items_of(dataset, "SourceInstanceSequence")]
    return Report(
        findings=sections.findings,
        impression=sections.impression,
        indication=sections.indication,
        text=text,
        language=language,
        state=ReportState.PRELIMINARY if preliminary else ReportState.FINAL,
        verified=_first(dataset, "VerificationFlag").upper() == "VERIFIED" if verified is None else verified,
        content_time=content_time
        or parse_datetime(_first(dataset, "ContentDate") + _first(dataset, "ContentTime"), offset)
        or parse_datetime(_first(dataset, "ContentDate"), offset),
        verification_time=verification_time or max((time for time in times if time is not None), default=None),
        referenced_study_uids=tuple(dict.fromkeys(study for study, _ in evidence if study)),
        referenced_sop_uids=tuple(dict.fromkeys(uid for uid in referenced if uid)),
        gate_reason=report_gate_of(dataset, text if narrative else ""),
    )
