"""Who an instance is, and what a C-FIND can ask for, with every text decoded to Unicode.

Values are read from the raw bytes with the VR of the data dictionary, one by one: a bad value costs that attribute,
never the object (PS3.4 C.2.2.2 works on what is left).
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pydicom.charset import convert_encodings, decode_bytes, default_encoding, python_encoding
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from encoders.base import InstanceHeader, UnreadableInstance

Level = Literal["PATIENT", "STUDY", "SERIES", "IMAGE"]

_KEYWORDS: dict[Level, str] = {
    "PATIENT": """PatientName PatientID IssuerOfPatientID PatientBirthDate PatientBirthTime PatientSex
        OtherPatientIDs OtherPatientNames EthnicGroup PatientComments PatientSpeciesDescription""",
    "STUDY": """StudyInstanceUID StudyID StudyDate StudyTime AccessionNumber IssuerOfAccessionNumberSequence
        ReferringPhysicianName StudyDescription ProcedureCodeSequence NameOfPhysiciansReadingStudy
        AdmittingDiagnosesDescription PatientAge PatientSize PatientWeight Occupation AdditionalPatientHistory
        TimezoneOffsetFromUTC""",
    "SERIES": """SeriesInstanceUID SeriesNumber Modality SeriesDescription SeriesDate SeriesTime BodyPartExamined
        Laterality ProtocolName PerformingPhysicianName OperatorsName InstitutionName InstitutionalDepartmentName
        Manufacturer ManufacturerModelName StationName PerformedProcedureStepStartDate
        PerformedProcedureStepStartTime RequestAttributesSequence""",
    "IMAGE": """SOPClassUID SOPInstanceUID InstanceNumber ContentDate ContentTime AcquisitionDate AcquisitionTime
        AcquisitionDateTime ImageType ImageComments ViewPosition ImageLaterality PatientOrientation
        AnatomicRegionSequence ViewCodeSequence PresentationIntentType BurnedInAnnotation Rows Columns BitsAllocated
        NumberOfFrames DocumentTitle CompletionFlag VerificationFlag PreliminaryFlag ConceptNameCodeSequence
        ContentLabel ContentDescription""",
}

#: Keyword -> query level of every attribute that a header carries.
QUERYABLE: Mapping[str, Level] = {
    keyword: level for level, keywords in _KEYWORDS.items() for keyword in keywords.split()
}

_TAGS: Mapping[str, int] = {keyword: int(tag_for_keyword(keyword) or 0) for keyword in QUERYABLE}
_TEXT_VRS = frozenset({"LO", "SH", "ST", "LT", "UT", "UC", "PN"})
_SINGLE_VRS = frozenset({"ST", "LT", "UT"})                             # a backslash is text there (PS3.5 6.2)
_MAX_TEXT = 4096                                                        # characters kept of one value
_MAX_ITEMS = 16                                                         # sequence items kept
_UID = re.compile(r"[0-9.]{1,64}")
_ESCAPE = 0x1B


def encodings_of(dataset: Dataset, inherited: Sequence[str] = ()) -> list[str]:
    """Return the Python codecs of (0008,0005), unknown terms skipped; [] when the attribute is absent or empty.

    An item of a sequence without its own takes its parent's, `inherited` (PS3.5 7.5.3, PS3.3 C.12.1.1.2).
    """
    if 0x00080005 not in dataset:
        return list(inherited)
    value = dataset.get("SpecificCharacterSet")
    terms = [value] if isinstance(value, str) else [str(term) for term in value or ()]
    if not any(terms):
        return []
    known = []
    for term in terms:
        try:
            codecs = convert_encodings(term)                            # forgives "ISO-IR 192" and the like
        except (LookupError, ValueError):
            continue
        if codecs != [default_encoding] or term in python_encoding:
            known += codecs
    return known


def decode_text(value: bytes, encodings: Sequence[str], delimiters: frozenset[int] = frozenset()) -> str:
    """Return `value` as Unicode, whatever it takes: the named sets, else UTF-8, else Latin-1.

    UTF-8 is tried whenever the named character sets leave something undecoded, or none is named and the bytes are not
    ASCII: the commonest mistake of real senders. No byte sequence is refused.
    """
    value = value.replace(b"\0", b"").rstrip()
    if _ESCAPE not in value:
        if value.isascii() and not any("16" in name for name in encodings):
            return value.decode("ascii")
        first = encodings[0] if encodings else default_encoding
        try:
            return value.decode("utf-8" if first == default_encoding else first)
        except (UnicodeError, LookupError):
            pass
    elif encodings:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")                             # pydicom warns with the value in the message
            try:
                text = str(decode_bytes(value, list(encodings), set(delimiters)))
            except (UnicodeError, LookupError, ValueError, AttributeError):
                text = "\ufffd"
        if "\ufffd" not in text:
            return text
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _clean(text: str) -> str:
    """Return text without control characters (line ends stay), cut to what a header needs."""
    return "".join(c for c in text if c.isprintable() or c in "\r\n\t")[:_MAX_TEXT].strip()


def _person_name(text: str) -> dict[str, str]:
    groups = zip(("Alphabetic", "Ideographic", "Phonetic"), text.split("="), strict=False)
    return {name: group.strip().rstrip("^") for name, group in groups if group.strip().rstrip("^")}


def _numbers(value: Any, convert: Callable[[Any], float]) -> list[Any]:
    numbers = []
    for part in value if isinstance(value, list) else [value]:
        try:
            number = convert(part)
        except (ValueError, TypeError, OverflowError):
            continue
        if math.isfinite(number):
            numbers.append(number)
    return numbers


def _strings(element: Any, vr: str, encodings: Sequence[str]) -> list[str]:
    """Return the values of a raw or converted element of a text-like VR."""
    value = element.value
    if value is None:
        return []
    if isinstance(value, bytes):
        if vr in _TEXT_VRS:
            delimiters = {0x0D, 0x0A, 0x09, 0x0C} | (set() if vr in _SINGLE_VRS else {0x5C})
            text = decode_text(value, encodings, frozenset(delimiters | ({0x5E, 0x3D} if vr == "PN" else set())))
        else:
            text = value.decode("latin-1")                              # default repertoire only (PS3.5 6.2)
        parts = [text] if vr in _SINGLE_VRS else text.split("\\")
    elif isinstance(value, str) or not isinstance(value, Sequence):
        parts = [str(value)]
    else:
        parts = [str(part) for part in value]
    return [_clean(part) for part in parts]


def value_of(dataset: Dataset, keyword: str) -> Any:
    """Return the converted value of an attribute, None if it is absent, empty or beyond reading."""
    try:
        return dataset.get(keyword)
    except (KeyError, ValueError, TypeError, AttributeError, NotImplementedError, OverflowError):
        return None


def items_of(dataset: Dataset, keyword: str) -> list[Dataset]:
    """Return the items of a sequence, [] if it is absent, empty or no sequence."""
    value = value_of(dataset, keyword)
    if value is None or isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
        return []
    return [item for item in value if isinstance(item, Dataset)]


def text_of(dataset: Dataset, keyword: str, encodings: Sequence[str] = ()) -> str:
    """Return the whole text of an attribute, lines kept, "" if it is absent or beyond reading."""
    tag = int(tag_for_keyword(keyword) or 0)
    if tag not in dataset:
        return ""
    value = dataset.get_item(tag).value
    if isinstance(value, bytes):
        delimiters = frozenset({0x0D, 0x0A, 0x09, 0x0C})
        return decode_text(value, encodings, delimiters).strip()
    return "" if value is None else str(value).strip()


def _json(dataset: Dataset, tag: int, vr: str, encodings: Sequence[str], depth: int) -> dict[str, Any] | None:
    element: Any = dataset.get_item(tag)
    values: list[Any]
    if vr == "SQ":
        items = dataset[tag].value
        if depth > 2 or not isinstance(items, Sequence) or isinstance(items, str | bytes):
            return None
        values = [_item(item, encodings_of(item, encodings), depth + 1) for item in items[:_MAX_ITEMS]]
    elif vr in ("US", "UL", "SS", "SL"):
        converted = dataset[tag].value if isinstance(element, RawDataElement) else element.value
        values = _numbers(converted if isinstance(converted, int) else list(converted or ()), int)
    elif vr == "IS":
        values = _numbers(_strings(element, vr, encodings), lambda text: int(float(text)))
    elif vr in ("DS", "FD", "FL"):
        values = _numbers(_strings(element, vr, encodings), float)
    elif vr == "PN":
        values = [_person_name(text) for text in _strings(element, vr, encodings)]
    else:
        values = _strings(element, vr, encodings)
    while values and values[-1] in ("", {}):
        values.pop()
    return {"vr": vr, "Value": [value if value != "" else None for value in values]} if values else {"vr": vr}


def _item(item: Dataset, encodings: Sequence[str], depth: int) -> dict[str, Any]:
    """Return a sequence item (code, issuer, request attributes) in the DICOM JSON model."""
    found = {}
    for tag in item.keys():  # noqa: SIM118 (a Dataset iterates over elements)
        try:
            vr = dictionary_VR(tag)
            entry = _json(item, tag, vr, encodings, depth) if vr not in ("OB", "OW", "UN", "OB or OW") else None
        except (KeyError, ValueError, TypeError, AttributeError, NotImplementedError, OverflowError):
            continue
        if entry is not None:
            found[f"{int(tag):08X}"] = entry
    return found


def _uid(dataset: Dataset, keyword: str, fallback: str = "") -> str:
    """Return a required UID, or raise with what is wrong with it."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=P)(?=[CI])", " ", keyword)
    text = ""
    if keyword in dataset:
        element = dataset.get_item(_TAGS[keyword])
        text = next(iter(_strings(element, "UI", ())), "").strip(" \0")
    text = text or fallback.strip(" \0")
    if not text:
        raise UnreadableInstance(f"{name} is missing or empty")
    if len(text) > 64:
        raise UnreadableInstance(f"{name} has {len(text)} characters; PS3.5 9.1 allows 64")
    if not _UID.fullmatch(text):
        raise UnreadableInstance(f"{name} holds other characters than digits and dots (PS3.5 9.1)")
    return text


def header_of(dataset: Dataset) -> InstanceHeader:
    """Return identity and queryable attributes of a parsed data set.

    Raises
    ------
    UnreadableInstance
        If SOP Class, SOP Instance, Series or Study Instance UID is missing or no UID. UIDs with odd but harmless
        components (leading zeros) are taken as they are: other systems refer to them so.
    """
    meta = getattr(dataset, "file_meta", None) or Dataset()
    sop_class_uid = _uid(dataset, "SOPClassUID", str(meta.get("MediaStorageSOPClassUID", "")))
    sop_instance_uid = _uid(dataset, "SOPInstanceUID", str(meta.get("MediaStorageSOPInstanceUID", "")))
    study_instance_uid = _uid(dataset, "StudyInstanceUID")
    series_instance_uid = _uid(dataset, "SeriesInstanceUID")
    encodings = encodings_of(dataset)
    attributes = {}
    for tag in _TAGS.values():
        if tag not in dataset:
            continue
        try:
            entry = _json(dataset, tag, dictionary_VR(tag), encodings, 0)
        except (KeyError, ValueError, TypeError, AttributeError, NotImplementedError, OverflowError):
            continue                                                    # a value beyond reading is as good as absent
        if entry is not None:
            attributes[f"{tag:08X}"] = entry
    for keyword, uid in (("SOPClassUID", sop_class_uid), ("SOPInstanceUID", sop_instance_uid),
                         ("StudyInstanceUID", study_instance_uid), ("SeriesInstanceUID", series_instance_uid)):
        attributes[f"{_TAGS[keyword]:08X}"] = {"vr": "UI", "Value": [uid]}
    return InstanceHeader(
        sop_class_uid=sop_class_uid,
        sop_instance_uid=sop_instance_uid,
        series_instance_uid=series_instance_uid,
        study_instance_uid=study_instance_uid,
        attributes=attributes,
    )
