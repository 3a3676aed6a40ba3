"""Reports that come as documents: HL7 CDA (PS3.3 A.45.2, PS3.20) and PDF (PS3.3 A.45.1)."""

from __future__ import annotations

import base64
import binascii
import io
import logging
import re
from xml.etree import ElementTree
from xml.parsers import expat

from pydicom.dataset import Dataset
from pypdf import PdfReader

from encoders.base import Report, UnreadableInstance
from encoders.readers.header import value_of
from encoders.readers.report_common import make_report, parse_datetime
from encoders.readers.sections import SECTION_CODES, Kind, gather, kind_of_heading, split_sections

MAX_DOCUMENT_BYTES = 64 << 20
MAX_PAGES = 50
_LOINC = "2.16.840.1.113883.6.1"
_DCM = "1.2.840.10008.2.16.4"
_SCHEMES = {_LOINC: "LN", _DCM: "DCM"}
# Elements of a narrative block that begin a new line (HL7 CDA R2, NarrativeBlock.xsd).
_BLOCKS = frozenset({"br", "paragraph", "item", "tr", "caption", "list", "table", "title"})


def _document(dataset: Dataset) -> bytes:
    data = value_of(dataset, "EncapsulatedDocument")
    if not isinstance(data, bytes) or not data:
        raise UnreadableInstance("there is no Encapsulated Document")
    if len(data) > MAX_DOCUMENT_BYTES:
        raise UnreadableInstance(f"the document is larger than {MAX_DOCUMENT_BYTES} bytes")
    length = value_of(dataset, "EncapsulatedDocumentLength")
    return data[: int(length)] if isinstance(length, int) and 0 < length <= len(data) else data


def _pdf_text(data: bytes) -> str:
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)               # it logs what it stumbles over
    try:
        reader = PdfReader(io.BytesIO(data), strict=False)
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnreadableInstance("the PDF document is encrypted")
        return "\n".join(page.extract_text() for page in reader.pages[:MAX_PAGES])
    except UnreadableInstance:
        raise
    except Exception as error:
        # pypdf answers damaged files with errors of every kind.
        raise UnreadableInstance(f"the PDF document is damaged ({type(error).__name__})") from error


def read_pdf(dataset: Dataset, short_side: int) -> Report:
    """Return the Report of an Encapsulated PDF (a `Reader`); scanned pages hold no text: gated."""
    return make_report(dataset, _pdf_text(_document(dataset)))


def _refuse(*_: object) -> None:
    raise UnreadableInstance("the CDA document holds a document type declaration; CDA has none")


def _parse_xml(data: bytes) -> ElementTree.Element:
    """Return the root of an XML document without DTD: no entity is ever expanded, nothing is fetched."""
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = _refuse
    data = data.rstrip(b"\0")                                           # padded to even length
    try:
        parser.Parse(data, True)
        root = ElementTree.fromstring(data)
    except (expat.ExpatError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise UnreadableInstance(f"the CDA document is no well-formed XML ({type(error).__name__})") from error
    for element in root.iter():
        if isinstance(element.tag, str):
            element.tag = element.tag.rpartition("}")[2]
    if root.tag != "ClinicalDocument":
        raise UnreadableInstance("the encapsulated XML is no CDA document")
    return root


def _narrative(block: ElementTree.Element | None) -> str:
    """Return the text of a narrative block, line by line."""
    if block is None:
        return ""
    parts: list[str] = []
    stack: list[ElementTree.Element | str] = [block]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            parts.append(node)
            continue
        if node.tag in _BLOCKS:
            parts.append("\n")
        parts.append((node.text or "").replace("\n", " "))
        for child in reversed(node):
            stack.append((" " if child.tag in ("td", "th") else "") + (child.tail or "").replace("\n", " "))
            stack.append(child)
    return re.sub(r"\n\s*", "\n", "".join(parts))


def _kind_of(section: ElementTree.Element) -> Kind | None:
    code = section.find("code")
    if code is not None:
        scheme = _SCHEMES.get(code.get("codeSystem", ""), "")
        known = SECTION_CODES.get((scheme, code.get("code", "")))
        if known is not None:
            return known
    title = section.find("title")
    return kind_of_heading(_narrative(title)) if title is not None else None


def _body_text(root: ElementTree.Element) -> str:
    """Return the text of a CDA document without structure (nonXMLBody: plain text or PDF)."""
    body = root.find("component/nonXMLBody/text")
    if body is None:
        return ""
    text = "".join(body.itertext())
    if body.get("representation") != "B64":
        return text
    try:
        data = base64.b64decode(text)
    except (binascii.Error, ValueError) as error:
        raise UnreadableInstance("the CDA document's body is no base64") from error
    if body.get("mediaType") == "application/pdf":
        return _pdf_text(data)
    return data.decode("utf-8", "replace")


def read_cda(dataset: Dataset, short_side: int) -> Report:
    """Return the Report of an Encapsulated CDA (a `Reader`).

    Sections by LOINC or DCM code, else by title; a section without either belongs to the one around it. The legal
    authenticator makes a report verified (HL7 CDA R2 4.2.2.8).
    """
    root = _parse_xml(_document(dataset))
    kinds: dict[ElementTree.Element, Kind | None] = {}
    parts: list[tuple[Kind | None, str]] = []
    lines: list[str] = []
    for section in root.iter("section"):                                # document order: parents come first
        kind = _kind_of(section) or kinds.get(section)
        for inner in section.findall("component/section"):
            kinds[inner] = kind
        title, text = _narrative(section.find("title")).strip(), _narrative(section.find("text"))
        lines += [f"\n{title}:"] if title else []
        lines.append(text)
        parts.append((kind, text))
    whole = "\n".join(lines) if parts else _body_text(root)
    if any(kind in ("findings", "impression") for kind, _ in parts):
        sections = gather((kind or "other", text) for kind, text in parts)
    else:
        sections = split_sections("\n".join(text for _, text in parts) if parts else whole)
    language, effective, signer = root.find("languageCode"), root.find("effectiveTime"), root.find("legalAuthenticator")
    signed = signer.find("time") if signer is not None else None
    return make_report(
        dataset, whole, sections,
        language=language.get("code", "") if language is not None else "",
        content_time=parse_datetime(effective.get("value")) if effective is not None else None,
        verification_time=parse_datetime(signed.get("value")) if signed is not None else None,
        verified=True if signer is not None else None,
    )
