"""Bytes of an Identifier <-> DICOM JSON model, without a pydicom element object for each value.

A C-FIND of 100 answers encodes some 2,000 elements; pydicom's writer takes several times longer for them.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any, NamedTuple, Union

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from daemon.finder import private
from daemon.finder.errors import BadIdentifier
from encoders.readers.header import decode_text, encodings_of

SPECIFIC_CHARACTER_SET = 0x00080005
UTF_8 = "ISO_IR 192"

#: VRs of text in the repertoire of (0008,0005); PS3.5 6.1.2.3.
_LOCALISED = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
#: VRs of one value, in which a backslash is text; PS3.5 6.2.
_SINGLE = frozenset({"LT", "ST", "UT", "UR"})
_ASCII = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"})
_TEXT = _LOCALISED | _ASCII
_NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "SV": "q", "UV": "Q"}
#: VRs with a 32-bit length in explicit VR; PS3.5 7.1.2.
_LONG = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
_SHORT = _ASCII.union(_NUMBERS, ("AT", "LO", "LT", "PN", "SH", "ST")) - _LONG

_IMPLICIT, _LENGTH = struct.Struct("<HHL"), struct.Struct("<L")
#: Below are command sets and file meta information, above items: none belongs into a flat Identifier.
_FIRST_TAG, _ITEM_TAG = 0x00030000, 0xFFFE0000

#: What ends the effect of a code extension (PS3.5 6.1.2.5.3).
_DELIMITERS = {"PN": frozenset(b"\\^="), "other": frozenset(b"\\\r\n\t\f")}

Element = Mapping[str, Any]                         # {"vr": ..., "Value": [...]}
_Item = Union["_Raw", RawDataElement, DataElement]


class Syntax(NamedTuple):
    """How a data set is encoded (the three uncompressed transfer syntaxes)."""

    implicit_vr: bool = True
    little_endian: bool = True


def tag_of(name: str) -> int:
    """Return the number of a DICOM JSON tag (``"0020000D"``)."""
    return int(name, 16)


def name_of(tag: int) -> str:
    """Return the DICOM JSON name of a tag."""
    return f"{tag:08X}"


@lru_cache(maxsize=4096)
def vr_of(tag: int) -> str:
    """Return the VR of a standard tag, the first one where several are possible; UN if unknown."""
    try:
        return str(dictionary_VR(tag))[:2]
    except KeyError:
        return "UN"


# ---------------------------------------------------------------------------------------------- reading


def read(data: bytes, syntax: Syntax) -> dict[str, Element]:
    """Return an Identifier as DICOM JSON, private elements of our creator with the VR of our table.

    Values sent as UN, with trailing NUL or space, and in any character set that pydicom knows are understood.

    Raises
    ------
    BadIdentifier
        If the bytes are no data set, or a value cannot be read.
    """
    return {name_of(tag): element for tag, element in read_elements(data, syntax).items()}


def read_elements(data: bytes, syntax: Syntax) -> dict[int, Element]:
    """Return what `read` does, by tag."""
    try:
        flat = _flat(data, syntax)
        if flat is not None:
            return dict(_elements(flat, _encodings(flat), syntax))
        dataset = read_dataset(BytesIO(data), syntax.implicit_vr, syntax.little_endian)
        return dict(_elements(_raw_items(dataset), encodings_of(dataset), syntax))
    except (EOFError, OSError, struct.error, ValueError, KeyError, NotImplementedError) as error:
        raise BadIdentifier("the identifier cannot be parsed", ()) from error


class _Raw(NamedTuple):
    """An element as it was sent; the names are pydicom's."""

    VR: str | None
    value: bytes


def _flat(data: bytes, syntax: Syntax) -> dict[int, _Raw] | None:
    """Return the raw elements of an ordinary Identifier; None for what pydicom shall read: sequences, oddities."""
    if not syntax.little_endian:
        return None
    found: dict[int, _Raw] = {}
    position, previous, end = 0, _FIRST_TAG, len(data)
    while position + 8 <= end:
        group, number, length = _IMPLICIT.unpack_from(data, position)
        tag, vr, position = group << 16 | number, None, position + 8
        if not syntax.implicit_vr:
            vr = data[position - 4 : position - 2].decode("latin-1")
            length >>= 16
            if vr in _LONG:
                if length or position + 4 > end:
                    return None
                (length,) = _LENGTH.unpack_from(data, position)
                position += 4
            elif vr not in _SHORT:
                return None
        if not previous < tag < _ITEM_TAG or length > end - position or "SQ" in (vr, "" if group % 2 else vr_of(tag)):
            return None
        found[tag] = _Raw(vr, data[position : position + length])
        position, previous = position + length, tag
    return found if position == end else None


@lru_cache(maxsize=64)
def _encodings_named(value: bytes) -> tuple[str, ...]:
    element = _IMPLICIT.pack(8, 5, len(value)) + value
    return tuple(encodings_of(read_dataset(BytesIO(element), True, True)))


def _encodings(items: Mapping[int, _Raw]) -> tuple[str, ...]:
    named = items.get(SPECIFIC_CHARACTER_SET)
    return () if named is None else _encodings_named(named.value)


def _raw_items(dataset: Dataset) -> dict[int, RawDataElement | DataElement]:
    tags = sorted(int(tag) for tag in dataset.keys())  # noqa: SIM118 - iterating would decode the values
    return {tag: dataset.get_item(tag) for tag in tags}


def _elements(
    items: Mapping[int, _Item], encodings: Sequence[str], syntax: Syntax
) -> Iterator[tuple[int, Element]]:
    blocks: dict[int, str] = {}
    for tag, item in items.items():
        group, number = tag >> 16, tag & 0xFFFF
        if number == 0:
            continue                                # group length, retired
        if group % 2 and 0x10 <= number <= 0xFF:
            blocks[group << 8 | number] = _creator(item)
            yield tag, {"vr": "LO", "Value": [_creator(item)]}
        else:
            yield tag, _element(tag, item, encodings, syntax, blocks)


def _creator(item: _Item) -> str:
    value = item.value
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value or "")
    return text.strip(" \0")


def _element(
    tag: int, item: _Item, encodings: Sequence[str], syntax: Syntax, blocks: Mapping[int, str]
) -> Element:
    vr = _vr(tag, item.VR, blocks)
    if vr == "SQ":
        inner = [_elements(_raw_items(part), encodings_of(part), syntax) for part in _items(item, syntax)]
        return {"vr": "SQ", "Value": [{name_of(tag): part for tag, part in elements} for elements in inner]}
    raw = item.value
    if raw is None or not isinstance(raw, bytes):
        raw = b"" if raw is None else str(raw).encode()
    return _with_values(vr, _values(tag, vr, raw, encodings, syntax))


def _vr(tag: int, sent: str | None, blocks: Mapping[int, str]) -> str:
    if sent not in (None, "UN"):
        return str(sent)
    group, number = tag >> 16, tag & 0xFFFF
    if group % 2:
        element = private.BY_OFFSET.get(number & 0xFF)
        ours = group == private.GROUP and blocks.get(group << 8 | number >> 8) == private.CREATOR
        return element.vr if ours and element else "UN"
    return vr_of(tag)


def _items(item: _Item, syntax: Syntax) -> Sequence[Dataset]:
    if isinstance(item, RawDataElement):
        holder = Dataset()
        holder[item.tag] = item._replace(VR="SQ")
        holder.set_original_encoding(syntax.implicit_vr, syntax.little_endian)
        return list(holder[item.tag].value)
    return list(item.value or ())


def _values(tag: int, vr: str, raw: bytes, encodings: Sequence[str], syntax: Syntax) -> list[Any]:
    if vr in _NUMBERS:
        code = _NUMBERS[vr]
        if len(raw) % struct.calcsize(code):
            raise BadIdentifier(f"a value of VR {vr} has a wrong length", (tag,))
        order = "<" if syntax.little_endian else ">"
        return list(struct.unpack(f"{order}{len(raw) // struct.calcsize(code)}{code}", raw))
    if vr == "AT":
        order = "<" if syntax.little_endian else ">"
        pairs = struct.unpack(f"{order}{len(raw) // 4 * 2}H", raw[: len(raw) // 4 * 4])
        return [f"{pairs[i]:04X}{pairs[i + 1]:04X}" for i in range(0, len(pairs), 2)]
    if vr not in _TEXT:
        return [base64.b64encode(raw).decode()] if raw.strip(b" \0") else []
    if vr in _LOCALISED:
        text = decode_text(raw, encodings, _DELIMITERS["PN" if vr == "PN" else "other"])
    else:
        text = raw.decode("ascii", "replace")
    parts = [text.rstrip(" \0")] if vr in _SINGLE else [part.strip(" \0") for part in text.split("\\")]
    if parts == [""]:
        return []
    if vr == "PN":
        names = ("Alphabetic", "Ideographic", "Phonetic")
        return [dict(zip(names, part.split("="), strict=False)) for part in parts]
    if vr in ("IS", "DS"):
        return [part if part == "*" else _number(tag, vr, part) for part in parts if part]
    return list(parts)


def _number(tag: int, vr: str, text: str) -> int | float:
    try:
        return int(text) if vr == "IS" else float(text)
    except ValueError as error:
        raise BadIdentifier(f"a value of VR {vr} is no number", (tag,)) from error


def _with_values(vr: str, values: list[Any]) -> Element:
    return {"vr": vr, "Value": values} if values else {"vr": vr}


# ---------------------------------------------------------------------------------------------- writing


def write(elements: Mapping[int, Element], syntax: Syntax) -> bytes:
    """Return a data set; with (0008,0005) `ISO_IR 192` if, and only if, a value is not ASCII (PS3.4 C.4.1.1.3.2)."""
    body = {tag: element for tag, element in elements.items() if tag != SPECIFIC_CHARACTER_SET}
    encoded = _dataset(body, syntax)
    if not encoded.isascii() and needs_utf_8(body.values()):
        body[SPECIFIC_CHARACTER_SET] = {"vr": "CS", "Value": [UTF_8]}
        return _dataset(body, syntax)
    return encoded


def needs_utf_8(elements: Iterable[Element]) -> bool:
    """Return whether a value of these elements is not ASCII."""
    for element in elements:
        for value in element.get("Value", ()):
            if element["vr"] == "SQ":
                if needs_utf_8(value.values()):
                    return True
            elif isinstance(value, Mapping):
                if not all(str(part).isascii() for part in value.values()):
                    return True
            elif isinstance(value, str) and not value.isascii():
                return True
    return False


def _dataset(elements: Mapping[int, Element], syntax: Syntax) -> bytes:
    return b"".join(write_element(tag, elements[tag], syntax) for tag in sorted(elements))


def write_element(tag: int, element: Element, syntax: Syntax) -> bytes:
    """Return one element, text as UTF-8; see `write` for what that needs beside it."""
    order = "<" if syntax.little_endian else ">"
    vr: str = element["vr"]
    data = _encoded(vr, element, syntax, order)
    head = struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF)
    if syntax.implicit_vr:
        return head + struct.pack(f"{order}I", len(data)) + data
    if vr in _LONG:
        return head + vr.encode() + b"\0\0" + struct.pack(f"{order}I", len(data)) + data
    data = data[:0xFFFE]                            # a 16-bit length holds no more
    return head + vr.encode() + struct.pack(f"{order}H", len(data)) + data


def _encoded(vr: str, element: Element, syntax: Syntax, order: str) -> bytes:
    values = element.get("Value") or ()
    if vr == "SQ":
        items = [_dataset({tag_of(name): inner for name, inner in value.items()}, syntax) for value in values]
        return b"".join(struct.pack(f"{order}HHI", 0xFFFE, 0xE000, len(item)) + item for item in items)
    if vr in _NUMBERS:
        numbers = [value for value in values if value is not None]
        return struct.pack(f"{order}{len(numbers)}{_NUMBERS[vr]}", *numbers)
    if vr == "AT":
        return b"".join(struct.pack(f"{order}HH", int(value[:4], 16), int(value[4:], 16)) for value in values)
    if vr not in _TEXT:
        try:
            data = base64.b64decode(element.get("InlineBinary") or "")
        except binascii.Error:
            data = b""
        return data + b"\0" * (len(data) % 2)
    text = "\\".join(_text_of(vr, value) for value in values)
    data = text.encode("utf-8")
    return data + (b"\0" if vr == "UI" else b" ") * (len(data) % 2)


def _text_of(vr: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        parts = [str(value.get(name, "")) for name in ("Alphabetic", "Ideographic", "Phonetic")]
        return "=".join(parts).rstrip("=")
    if vr == "DS":                                  # at most 16 characters
        return value[:16] if isinstance(value, str) else f"{value:.10g}"
    if vr == "IS" and isinstance(value, float):
        return str(int(value))
    return str(value)
