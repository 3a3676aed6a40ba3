"""SR documents: the content tree as text, and its sections by concept name (PS3.3 C.17.3, PS3.16 TID 2000 ff.)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from encoders.base import Report
from encoders.readers.header import encodings_of, items_of, text_of
from encoders.readers.report_common import make_report
from encoders.readers.sections import SECTION_CODES, Kind, Sections, gather, kind_of_heading, split_sections

#: Nothing that people write is deeper or longer; what is comes from a fuzzer.
MAX_DEPTH = 64
MAX_ITEMS = 20_000

# Children that say about the document, the observer, the method: not the report's words (PS3.3 C.17.3.2.4).
_CONTEXT = frozenset({"HAS OBS CONTEXT", "HAS ACQ CONTEXT", "HAS CONCEPT MOD"})
_LANGUAGE = frozenset({("DCM", "121049"), ("DCM", "121045")})
# Text values that name things instead of telling them: Tracking Identifier, Lesion Identifier, Series ... (PS3.16)
_MEASUREMENTS = frozenset({("DCM", "126000"), ("DCM", "126010")})        # roots of measurement reports (TID 1500)
_LABELS = frozenset({("DCM", "112039"), ("DCM", "112050"), ("DCM", "125007"), ("DCM", "125010")})


@dataclass(frozen=True, slots=True)
class _Entry:
    """One piece of the tree in reading order. `kind` of the section it stands in, None outside of any."""

    kind: Kind | None
    text: str
    is_heading: bool = False
    is_narrative: bool = False
    is_coded: bool = False


def _code(item: Dataset, keyword: str, encodings: Sequence[str]) -> tuple[str, str, str]:
    """Return (scheme, code value, meaning) of a code sequence, empty strings where it is absent."""
    sequence = items_of(item, keyword)
    if not sequence:
        return "", "", ""
    code = sequence[0]
    value = next((text for k in ("CodeValue", "LongCodeValue", "URNCodeValue") if (text := text_of(code, k))), "")
    encodings = encodings_of(code, encodings)
    return text_of(code, "CodingSchemeDesignator"), value, text_of(code, "CodeMeaning", encodings)


def _measurement(item: Dataset, encodings: Sequence[str]) -> str:
    sequence = items_of(item, "MeasuredValueSequence")
    if not sequence:
        return ""
    _, unit, meaning = _code(sequence[0], "MeasurementUnitsCodeSequence", encodings)
    unit = "" if unit in ("1", "{ratio}") else unit or meaning
    return f"{text_of(sequence[0], 'NumericValue')} {unit}".strip()


def _walk(
    item: Dataset, kind: Kind | None, depth: int, encodings: Sequence[str], budget: list[int]
) -> Iterator[_Entry]:
    """Yield the entries of a content item and its descendants, depth first.

    References by identifier to other items (PS3.3 C.17.3.2.5) are not followed: what they point at is read where it
    stands, and they may form loops.
    """
    budget[0] -= 1
    if depth > MAX_DEPTH or budget[0] < 0:
        return
    encodings = encodings_of(item, encodings)
    value_type = text_of(item, "ValueType").upper()
    scheme, code, meaning = _code(item, "ConceptNameCodeSequence", encodings)
    own = SECTION_CODES.get((scheme, code)) or (kind_of_heading(meaning) if depth else None)
    kind = own or kind
    if value_type == "CONTAINER" and meaning:
        yield _Entry(kind, meaning, is_heading=True)
    elif value_type == "TEXT" and (scheme, code) not in _LABELS:
        text = text_of(item, "TextValue", encodings)
        if own is not None and depth == 1:
            yield _Entry(kind, meaning, is_heading=True)
        yield _Entry(kind, text, is_narrative=True)
    elif value_type == "CODE":
        _, _, said = _code(item, "ConceptCodeSequence", encodings)
        in_section = kind in ("findings", "impression")
        said = said if own or not meaning else f"{meaning}: {said}"
        yield _Entry(kind, said, is_narrative=in_section and bool(own), is_coded=True)
    elif value_type == "NUM":
        measured = _measurement(item, encodings)
        if measured:
            yield _Entry(kind, f"{meaning}: {measured}" if meaning else measured)
    for child in items_of(item, "ContentSequence"):
        if text_of(child, "RelationshipType").upper() not in _CONTEXT:
            yield from _walk(child, kind, depth + 1, encodings, budget)


def _language(dataset: Dataset) -> str:
    """Return the document's language (PS3.16 TID 1204), "" where it says none that looks like RFC 5646."""
    for child in items_of(dataset, "ContentSequence"):
        if _code(child, "ConceptNameCodeSequence", ())[:2] in _LANGUAGE:
            _, value, _ = _code(child, "ConceptCodeSequence", ())
            if re.fullmatch(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*", value):
                return value
    return ""


def _sections(entries: list[_Entry]) -> Sections:
    """Return sections by code; text outside of any coded section is searched for headings of its own."""
    loose = "\n".join(e.text for e in entries if e.kind is None and e.is_narrative)
    coded = [(e.kind, e.text) for e in entries if e.kind is not None and not e.is_heading]
    if not any(kind in ("findings", "impression") for kind, _ in coded):
        found = split_sections(loose)
        inner = split_sections("\n".join(text for kind, text in coded if kind == "other"))
        stated = gather(coded)
        return Sections(
            findings=found.findings or inner.findings,
            impression=found.impression or inner.impression,
            indication=stated.indication or found.indication,
        )
    sections = gather(coded)
    inner = split_sections(sections.findings)                           # one text item that holds the whole report
    if inner.impression and not sections.impression:
        return Sections(inner.findings, inner.impression, sections.indication or inner.indication)
    return sections


def read_structured_report(dataset: Dataset, short_side: int) -> Report:
    """Return the Report of a Basic Text, Enhanced, Comprehensive, Comprehensive 3D or Extensible SR (a `Reader`).

    Measurements and annotations without narrative text come back with a `gate_reason`.
    """
    entries = [entry for entry in _walk(dataset, None, 0, encodings_of(dataset), [MAX_ITEMS]) if entry.text]
    measured = _code(dataset, "ConceptNameCodeSequence", ())[:2] in _MEASUREMENTS
    told = [entry.text for entry in entries if entry.is_narrative and not (measured and entry.is_coded)]
    narrative = sum(len(text.split()) for text in told)
    text = "\n".join(f"\n{entry.text}:" if entry.is_heading else entry.text for entry in entries)
    return make_report(dataset, text, _sections(entries), language=_language(dataset), narrative=narrative >= 3)
