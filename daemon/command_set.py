"""The command sets of C-STORE and C-FIND (PS3.7 9.3.1, 9.3.2), read and written without building pydicom data sets."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

_ELEMENT = struct.Struct("<HHL")
_US = struct.Struct("<H")
_AFFECTED_SOP_CLASS_UID, _COMMAND_FIELD, _MESSAGE_ID = 0x0002, 0x0100, 0x0110
_PRIORITY, _MESSAGE_ID_RESPONDED_TO, _DATA_SET_TYPE, _STATUS, _ERROR_COMMENT = 0x0700, 0x0120, 0x0800, 0x0900, 0x0902
_OFFENDING_ELEMENT, _AFFECTED_SOP_INSTANCE_UID = 0x0901, 0x1000
_C_STORE_RQ, _C_STORE_RSP, _C_FIND_RQ, _C_FIND_RSP = 0x0001, 0x8001, 0x0020, 0x8020
_WITH_DATA_SET, _NO_DATA_SET = 0x0000, 0x0101


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """A C-STORE-RQ; the UIDs as they came, without padding."""

    message_id: int
    sop_class_uid: str
    sop_instance_uid: str
    has_data_set: bool


@dataclass(frozen=True, slots=True)
class FindRequest:
    """A C-FIND-RQ with an Identifier to come; the UID as it came, without padding."""

    message_id: int
    sop_class_uid: str


def elements_of(command_set: bytes) -> dict[int, bytes]:
    """Return element number -> value of an encoded command set (group 0000, implicit VR little endian, PS3.7 6.3.1).

    Raises
    ------
    ValueError
        If it is cut short.
    """
    elements, position = {}, 0
    while position < len(command_set):
        if len(command_set) - position < _ELEMENT.size:
            raise ValueError("command set ends inside an element")
        _, element, length = _ELEMENT.unpack_from(command_set, position)
        position += _ELEMENT.size
        if length > len(command_set) - position:
            raise ValueError("command element longer than its command set")
        elements[element] = command_set[position : position + length]
        position += length
    return elements


def _number(elements: Mapping[int, bytes], element: int, default: int) -> int:
    value = elements.get(element, b"")
    return int(_US.unpack(value[:2])[0]) if len(value) >= 2 else default


def uid_text(value: bytes) -> str:
    """Return a UID without its padding; bytes that no UID has come out as escapes, so that none is lost or harmful."""
    return value.decode("ascii", "backslashreplace").strip(" \0")


def store_request(command_set: bytes) -> StoreRequest | None:
    """Return the C-STORE-RQ in an encoded command set, or None when it is another message.

    Raises
    ------
    ValueError
        If it is cut short.
    """
    elements = elements_of(command_set)
    if _number(elements, _COMMAND_FIELD, 0) != _C_STORE_RQ:
        return None
    return StoreRequest(
        message_id=_number(elements, _MESSAGE_ID, 0),
        sop_class_uid=uid_text(elements.get(_AFFECTED_SOP_CLASS_UID, b"")),
        sop_instance_uid=uid_text(elements.get(_AFFECTED_SOP_INSTANCE_UID, b"")),
        has_data_set=_number(elements, _DATA_SET_TYPE, _NO_DATA_SET) != _NO_DATA_SET,
    )


def find_request(command_set: bytes) -> FindRequest | None:
    """Return the C-FIND-RQ in an encoded command set, or None when it is another message or one without Identifier.

    Raises
    ------
    ValueError
        If it is cut short.
    """
    elements = elements_of(command_set)
    if _number(elements, _COMMAND_FIELD, 0) != _C_FIND_RQ:
        return None
    if _number(elements, _DATA_SET_TYPE, _NO_DATA_SET) == _NO_DATA_SET:
        return None
    sop_class_uid = uid_text(elements.get(_AFFECTED_SOP_CLASS_UID, b""))
    return FindRequest(_number(elements, _MESSAGE_ID, 0), sop_class_uid)


def _element(number: int, value: bytes, padding: bytes = b"\0") -> bytes:
    value += padding * (len(value) % 2)
    return _ELEMENT.pack(0, number, len(value)) + value


def store_response(request: StoreRequest, status: int, comment: str = "") -> bytes:
    """Return the encoded command set of a C-STORE-RSP; `comment` is cut to the 64 characters of (0000,0902)."""
    body = (
        _element(_AFFECTED_SOP_CLASS_UID, request.sop_class_uid.encode("ascii"))
        + _element(_COMMAND_FIELD, _US.pack(_C_STORE_RSP))
        + _element(_MESSAGE_ID_RESPONDED_TO, _US.pack(request.message_id))
        + _element(_DATA_SET_TYPE, _US.pack(_NO_DATA_SET))
        + _element(_STATUS, _US.pack(status))
    )
    if comment:
        body += _element(_ERROR_COMMENT, comment[:64].encode("ascii", "replace"), b" ")
    return _with_group_length(body + _element(_AFFECTED_SOP_INSTANCE_UID, request.sop_instance_uid.encode("ascii")))


def find_response(
    request: FindRequest, status: int, comment: str = "", offending: Sequence[int] = (), *, with_data_set: bool = False
) -> bytes:
    """Return the encoded command set of a C-FIND-RSP; `comment` is cut to the 64 characters of (0000,0902)."""
    before, after = _around_message_id(request.sop_class_uid, status, comment, tuple(offending), with_data_set)
    return before + _US.pack(request.message_id) + after


@lru_cache(maxsize=256)
def _around_message_id(
    sop_class_uid: str, status: int, comment: str, offending: tuple[int, ...], with_data_set: bool
) -> tuple[bytes, bytes]:
    """Return what stands before and behind the only value that differs from one C-FIND-RSP to the next like it."""
    before = (
        _element(_AFFECTED_SOP_CLASS_UID, sop_class_uid.encode("ascii"))
        + _element(_COMMAND_FIELD, _US.pack(_C_FIND_RSP))
        + _element(_MESSAGE_ID_RESPONDED_TO, _US.pack(0))
    )
    after = (
        _element(_DATA_SET_TYPE, _US.pack(_WITH_DATA_SET if with_data_set else _NO_DATA_SET))
        + _element(_STATUS, _US.pack(status))
    )
    if offending:
        tags = b"".join(struct.pack("<HH", tag >> 16, tag & 0xFFFF) for tag in offending)
        after += _element(_OFFENDING_ELEMENT, tags)
    if comment:
        after += _element(_ERROR_COMMENT, comment[:64].encode("ascii", "replace"), b" ")
    whole = _with_group_length(before + after)
    return whole[: -len(after) - _US.size], after


def encoded_store_request(request: StoreRequest) -> bytes:
    """Return the encoded command set of a C-STORE-RQ of medium priority."""
    return _with_group_length(
        _element(_AFFECTED_SOP_CLASS_UID, request.sop_class_uid.encode("ascii"))
        + _element(_COMMAND_FIELD, _US.pack(_C_STORE_RQ))
        + _element(_MESSAGE_ID, _US.pack(request.message_id))
        + _element(_PRIORITY, _US.pack(0))
        + _element(_DATA_SET_TYPE, _US.pack(_WITH_DATA_SET if request.has_data_set else _NO_DATA_SET))
        + _element(_AFFECTED_SOP_INSTANCE_UID, request.sop_instance_uid.encode("ascii"))
    )


def response_status(command_set: bytes) -> tuple[int, str]:
    """Return status and error comment of a response.

    Raises
    ------
    ValueError
        If it is cut short, or holds no status.
    """
    elements = elements_of(command_set)
    status = _number(elements, _STATUS, -1)
    if status < 0:
        raise ValueError("response without status")
    return status, elements.get(_ERROR_COMMENT, b"").decode("ascii", "replace").strip(" \0")


def _with_group_length(body: bytes) -> bytes:
    return _element(0x0000, struct.pack("<L", len(body))) + body
