"""C-FIND Identifier -> request: modes S and C, and the plain Study Root query."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from pydicom.datadict import tag_for_keyword

from daemon.finder import private
from daemon.finder.errors import BadIdentifier, ExampleUnknown
from daemon.finder.examples import SimilarityQuery
from daemon.finder.wire import SPECIFIC_CHARACTER_SET, Element, Syntax, name_of, read_elements, tag_of
from encoders.base import FINDING_NAMES, Basis
from encoders.readers.header import QUERYABLE

QUERY_RETRIEVE_LEVEL = 0x00080052
RETRIEVE_AE_TITLE = 0x00080054
INSTANCE_AVAILABILITY = 0x00080056
STUDY_DESCRIPTION = 0x00081030
STUDY_INSTANCE_UID = 0x0020000D
SERIES_INSTANCE_UID = 0x0020000E
SOP_INSTANCE_UID = 0x00080018
ACCESSION_NUMBER = 0x00080050
ISSUER_OF_ACCESSION_NUMBER = 0x00080051

LEVELS = ("STUDY", "SERIES", "IMAGE")
#: Unique keys that must have a value above the level asked for (PS3.4 C.4.1.2.1, hierarchical search).
_ABOVE = {"STUDY": (), "SERIES": (STUDY_INSTANCE_UID,), "IMAGE": (STUDY_INSTANCE_UID, SERIES_INSTANCE_UID)}
#: Part of the protocol, never matched: character set, level, retrieve AE, availability, time zone.
_CONTROL = frozenset(
    {SPECIFIC_CHARACTER_SET, QUERY_RETRIEVE_LEVEL, RETRIEVE_AE_TITLE, INSTANCE_AVAILABILITY, 0x00080201}
)
#: Counted or collected by the Catalogue: of patient, in study, in series.
_COMPUTED = frozenset({0x00080061, 0x00080062, 0x00201200, 0x00201202, 0x00201204, 0x00201206, 0x00201208, 0x00201209})
#: In mode C these keys belong to the example (the workstation fills them from what is on its screen): no filters.
_EXAMPLE_ONLY = frozenset(
    {
        STUDY_INSTANCE_UID, SERIES_INSTANCE_UID, SOP_INSTANCE_UID, ACCESSION_NUMBER, ISSUER_OF_ACCESSION_NUMBER,
        0x00100010, 0x00100020, 0x00100021, 0x00100030, 0x00100032, 0x00200010,
        STUDY_DESCRIPTION, 0x00080020, 0x00080030,
    }
)
#: Where in a private block the example is.
EXAMPLE = private.BY_KEYWORD["QueryUID"].offset
#: How (0099,1001) QueryUID begins where the block is the usual one, little endian.
_EXAMPLE_TAG = b"\x99\x00\x01\x10"
#: Longer requests hold lists of UIDs, which nobody asks for twice.
_REPEATED_BYTES = 4096
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_LONGEST_UID = 64
_DAY = r"\d{4}(?:\.?(?:0[1-9]|1[0-2])(?:\.?(?:0[1-9]|[12]\d|3[01]))?)?"
_MOMENT = r"(?:[01]\d|2[0-3])(?::?[0-5]\d(?::?(?:[0-5]\d|60)(?:\.\d{1,6})?)?)?"
#: One, or a range of two of which one may be missing (PS3.4 C.2.2.2.5); a year alone, dots and colons as archives do.
_RANGES = {
    vr: re.compile(rf"(?=.*\d)(?:{part})?(?:\s*-\s*(?:{part})?)?") for vr, part in (("DA", _DAY), ("TM", _MOMENT))
}
#: Each example costs questions to the Catalogue; a mean of more says nothing any longer.
_MAXIMUM_EXAMPLES = 64

StudiesByAccession = Callable[[Mapping[str, Element]], Sequence[str]]


@dataclass(slots=True)
class FindRequest:
    """What a C-FIND asks for; stays as it is.

    Attributes
    ----------
    keys : mapping of tag to element
        Standard keys asked for; an answer holds these and no others (PS3.4 C.4.1.1.3.2).
    identifier : mapping
        DICOM JSON of the standard keys to match, universal ones too.
    block : int or None
        Block (0x10..0xFF) of group 0099 that holds our private creator.
    private_keys : mapping of offset to element
        Private keys asked for.
    similarity : SimilarityQuery or None
        None: a plain Study Root query.
    prefix_description : bool
        Mode C: rank and score go in front of StudyDescription.
    unsupported : bool
        An optional key is not supported: answers are FF01.
    repeated : Repeated or None
        What this request differs from by its only example.
    """

    level: str
    keys: Mapping[int, Element]
    identifier: Mapping[str, Element]
    block: int | None = None
    private_keys: Mapping[int, Element] = field(default_factory=dict)
    similarity: SimilarityQuery | None = None
    prefix_description: bool = False
    unsupported: bool = False
    repeated: Repeated | None = field(default=None, compare=False)


class Repeated:
    """A request that comes again with other examples; equal only to itself, so that what follows from it can be kept.

    Attributes
    ----------
    request : FindRequest
        By some example.
    """

    def __init__(self, request: FindRequest, query: SimilarityQuery) -> None:
        self.request = replace(request, repeated=self)
        _, *self._rest = query

    def by(self, uid: str) -> FindRequest:
        """Return the request by this example; `dataclasses.replace` would take four times as long."""
        other = self.request
        keys = {**other.private_keys, EXAMPLE: {"vr": "UI", "Value": [uid]}}
        return FindRequest(
            other.level, other.keys, other.identifier, other.block, keys, SimilarityQuery._make(((uid,), *self._rest)),
            unsupported=other.unsupported, repeated=self,
        )  # fmt: skip


def values_of(element: Element | None) -> list[Any]:
    return [value for value in (element or {}).get("Value", ()) if value not in ("", None)]


def _is_exact(value: Any) -> bool:
    return isinstance(value, str) and not any(mark in value for mark in "*?")


def parse(
    data: bytes, syntax: Syntax, *, mode_c: bool = False, studies_by_accession: StudiesByAccession | None = None
) -> FindRequest:
    """Return what the bytes of an Identifier ask for.

    Parameters
    ----------
    mode_c : bool
        The calling AE is configured for mode C.
    studies_by_accession : callable
        Returns the StudyInstanceUIDs of an accession number (and issuer), for mode C.

    Raises
    ------
    BadIdentifier
        With the offending elements (A900).
    ExampleUnknown
        Mode C names an accession that is not here (C101).
    """
    around = _around_example(data, syntax)
    if around is not None:
        head, uid, tail = around
        repeated = _repeated(head, tail, syntax)
        if repeated is not None:
            return repeated.by(uid)
    request = _parsed(data, syntax)
    if mode_c and request.level == "STUDY" and request.block is None:
        return _mode_c(request, studies_by_accession)
    return request


def _around_example(data: bytes, syntax: Syntax) -> tuple[bytes, str, bytes] | None:
    """Return what precedes the value of the only example, that, and what follows; None: it is not so easy."""
    place = data.find(_EXAMPLE_TAG)
    if place < 0 or len(data) > _REPEATED_BYTES or not (syntax.implicit_vr or data[place + 4 : place + 6] == b"UI"):
        return None
    begin = place + 8
    end = begin + int.from_bytes(data[place + 4 if syntax.implicit_vr else place + 6 : begin], "little")
    uid = data[begin:end].rstrip(b"\0 ").decode("latin-1")
    if end > len(data) or len(uid) > _LONGEST_UID or not _UID.fullmatch(uid):
        return None
    return data[: place + 4], uid, data[end:]


@lru_cache(maxsize=64)
def _repeated(head: bytes, tail: bytes, syntax: Syntax) -> Repeated | None:
    """Return what is asked by any example between these bytes; None where they are not all that is around one.

    Elements are read one after the other: what precedes the example and what follows it means the same with another.
    """
    example = b"2.25.99"
    size = struct.pack("<L", len(example) + 1) if syntax.implicit_vr else b"UI" + struct.pack("<H", len(example) + 1)
    try:
        request = _parsed(head + size + example + b"\0" + tail, syntax)
    except BadIdentifier:                           # let the caller see which request it was
        return None
    query = request.similarity
    return Repeated(request, query) if query is not None and query.uids == (example.decode(),) else None


def _parsed(data: bytes, syntax: Syntax) -> FindRequest:
    elements = read_elements(data, syntax)
    own = {tag: element for tag, element in elements.items() if tag >> 16 == private.GROUP}
    level, keys, identifier, unsupported = _standard({tag: e for tag, e in elements.items() if tag not in own})
    block = next(
        (tag & 0xFF for tag, element in own.items()
         if 0x10 <= tag & 0xFFFF <= 0xFF and values_of(element) == [private.CREATOR]),
        None,
    )
    private_keys = {
        tag & 0xFF: element for tag, element in own.items()
        if block is not None and tag >> 8 == private.GROUP << 8 | block and tag & 0xFF in private.BY_OFFSET
    }
    similarity = None
    if level != "STUDY":
        unsupported = unsupported or bool(private_keys)
    elif block is not None:
        similarity = _mode_s(private_keys, block, identifier)
    return FindRequest(level, keys, identifier, block, private_keys, similarity, unsupported=unsupported)


def _standard(elements: Mapping[int, Element]) -> tuple[str, dict[int, Element], dict[str, Element], bool]:
    """Return level, keys that are answered, those that are matched, and whether one of them is not supported."""
    level = next(iter(values_of(elements.get(QUERY_RETRIEVE_LEVEL))), "")
    if level not in LEVELS:
        raise BadIdentifier("QueryRetrieveLevel must be STUDY, SERIES or IMAGE", (QUERY_RETRIEVE_LEVEL,))
    keys = {tag: element for tag, element in elements.items() if not tag >> 16 & 1 and tag >> 16 > 2}
    _check_hierarchy(level, keys)
    _check_ranges(keys)
    return (
        level,
        {tag: element for tag, element in keys.items() if tag not in (SPECIFIC_CHARACTER_SET, 0x00080201)},
        {name_of(tag): element for tag, element in keys.items() if tag not in _CONTROL},
        any(tag not in _supported(level) and tag not in _CONTROL for tag in keys),
    )


@lru_cache(maxsize=len(LEVELS))
def _supported(level: str) -> frozenset[int]:
    """Return the keys that are answered at a level: those of it and above; at STUDY level those of its series too."""
    answered = {"STUDY": ("PATIENT", "STUDY", "SERIES"), "SERIES": ("PATIENT", "STUDY", "SERIES")}.get(level)
    keywords = [keyword for keyword, home in QUERYABLE.items() if answered is None or home in answered]
    return _COMPUTED.union(int(tag) for keyword in keywords if (tag := tag_for_keyword(keyword)) is not None)


def _check_hierarchy(level: str, keys: Mapping[int, Element]) -> None:
    missing = [
        tag for tag in _ABOVE[level]
        if not values_of(keys.get(tag)) or not all(_is_exact(value) for value in values_of(keys.get(tag)))
    ]
    if missing:
        raise BadIdentifier(f"{level} level needs the unique keys of the levels above", missing)
    for tag in (STUDY_INSTANCE_UID, SERIES_INSTANCE_UID, SOP_INSTANCE_UID):
        if not all(value == "*" or _UID.fullmatch(str(value)) for value in values_of(keys.get(tag))):
            raise BadIdentifier("a UID key is no UID", (tag,))


def _check_ranges(keys: Mapping[int, Element]) -> None:
    """Refuse a date or time that is none: nothing matches it, which reads as if there were no such studies."""
    for tag, element in keys.items():
        wanted = _RANGES.get(element["vr"])
        if wanted is None:
            continue
        for value in values_of(element):
            if value != "*" and not wanted.fullmatch(str(value).strip(" \0")):
                form = "YYYYMMDD or YYYYMMDD-YYYYMMDD" if element["vr"] == "DA" else "HHMMSS or HHMMSS-HHMMSS"
                raise BadIdentifier(f"a key is not {form}", (tag,))


# ---------------------------------------------------------------------------------------------- mode S


def _mode_s(keys: Mapping[int, Element], block: int, identifier: Mapping[str, Element]) -> SimilarityQuery:
    def values(keyword: str) -> list[Any]:
        return values_of(keys.get(private.BY_KEYWORD[keyword].offset))

    def bad(keyword: str, message: str) -> BadIdentifier:
        return BadIdentifier(message, (private.tag(keyword, block),))

    uids = [str(value) for value in values("QueryUID")]
    text = str(next(iter(values("QueryText")), "")).strip()
    if not uids and not text:
        raise bad("QueryUID", "QueryUID or QueryText is needed")
    if not all(_UID.fullmatch(uid) and len(uid) <= _LONGEST_UID for uid in uids):
        raise bad("QueryUID", "QueryUID is no UID")
    if len(uids) > _MAXIMUM_EXAMPLES:
        raise bad("QueryUID", f"QueryUID holds more than {_MAXIMUM_EXAMPLES} examples")
    basis = str(next(iter(values("QueryBasis")), "")).upper()
    if basis not in ("", "IMAGE", "REPORT", "JOINT"):
        raise bad("QueryBasis", "QueryBasis must be IMAGE, REPORT or JOINT")
    exclude = str(next(iter(values("ExcludeSamePatient")), "YES")).upper()
    if exclude not in ("YES", "NO"):
        raise bad("ExcludeSamePatient", "ExcludeSamePatient must be YES or NO")
    maximum = next(iter(values("MaxResults")), None)
    if maximum is not None and (not isinstance(maximum, int | float) or maximum < 1):
        raise bad("MaxResults", "MaxResults must be at least 1")
    minimum = next(iter(values("MinimumScore")), None)
    if minimum is not None and (not isinstance(minimum, int | float) or not 0 <= minimum <= 1):
        raise bad("MinimumScore", "MinimumScore must be between 0 and 1")
    findings = []
    for value in values("Findings"):
        name = finding_name(str(value))
        if name is None:
            raise bad("Findings", "Findings must be CheXpert names")
        findings.append(name)
    return SimilarityQuery(
        uids=tuple(dict.fromkeys(uids)),
        text=text,
        basis=Basis(basis) if basis else None,
        max_results=int(maximum) if maximum is not None else None,
        minimum_score=float(minimum) if minimum is not None else None,
        exclude_same_patient=exclude == "YES",
        findings=tuple(findings),
        identifier={name: element for name, element in identifier.items() if element.get("Value")},
        with_report=private.BY_KEYWORD["ReportState"].offset in keys,
        with_findings=private.BY_KEYWORD["FindingsPresent"].offset in keys,
        with_objects=private.BY_KEYWORD["BestMatchSOPInstanceUID"].offset in keys,
    )


def finding_name(text: str) -> str | None:
    """Return the CheXpert name that a CS value means: any case, `_` for a space, or its first 16 characters."""
    wanted = text.strip().replace("_", " ").casefold()
    for name in FINDING_NAMES:
        if name.casefold() == wanted or (len(wanted) == 16 and name.casefold().startswith(wanted)):
            return name
    return None


# ---------------------------------------------------------------------------------------------- mode C


def _mode_c(request: FindRequest, studies_by_accession: StudiesByAccession | None) -> FindRequest:
    def single(tag: int) -> str:
        values = values_of(request.keys.get(tag))
        return str(values[0]) if len(values) == 1 and _is_exact(values[0]) else ""

    if len(values_of(request.keys.get(STUDY_INSTANCE_UID))) > 1:
        return request                              # a list of UIDs is exact matching
    uid = single(STUDY_INSTANCE_UID)
    if not uid and single(ACCESSION_NUMBER) and studies_by_accession is not None:
        example = {
            name_of(tag): request.keys[tag] for tag in (ACCESSION_NUMBER, ISSUER_OF_ACCESSION_NUMBER)
            if tag in request.keys
        }
        studies = studies_by_accession(example)
        if not studies:
            raise ExampleUnknown("no study of this accession number is known")
        if len(studies) > 1:
            raise BadIdentifier("accession number of several studies: add its issuer", (ACCESSION_NUMBER,))
        uid = studies[0]
    uid = uid or single(SOP_INSTANCE_UID)
    if not uid:
        return request
    filters = {name: element for name, element in request.identifier.items() if tag_of(name) not in _EXAMPLE_ONLY}
    query = SimilarityQuery(uids=(uid,), identifier=filters, with_report=False, with_findings=False, with_objects=False)
    return replace(request, similarity=query, identifier=filters, prefix_description=True)
