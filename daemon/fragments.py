"""Encoded P-DATA-TF PDUs (PS3.8 9.3.5, E.2)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

_P_DATA_TF, _COMMAND, _LAST = 0x04, 1, 2
_HEADER = struct.Struct(">BBLLBB")
_PDU_HEADER, _PDV_HEADER = struct.Struct(">BBL"), struct.Struct(">LB")
#: Of a PDU, when the peer has named no maximum length.
_LARGEST = 128 * 1024


def room_of(maximum_length: int) -> int:
    """Return how many bytes of a command or data set fit into a PDU; `maximum_length` as in `fragments`."""
    return max(2, (maximum_length or _LARGEST) - 6)


def whole(data: bytes, context_id: int, is_command: bool) -> bytes:
    """Return the PDU of a command or data set of 1 to `room_of` bytes: what `fragments` gives, in half of the time."""
    size = len(data)
    control = _COMMAND | _LAST if is_command else _LAST
    return _HEADER.pack(_P_DATA_TF, 0, size + 6, size + 2, context_id, control) + data


def fragments(data: bytes, context_id: int, is_command: bool, maximum_length: int) -> Iterator[bytes]:
    """Return the PDUs of a command or data set, each with one fragment.

    `maximum_length` is what the peer announced; 0: no limit.
    """
    room = room_of(maximum_length)
    if 0 < len(data) <= room:
        return iter((whole(data, context_id, is_command),))
    return _cut(data, context_id, is_command, room)


def _cut(data: bytes, context_id: int, is_command: bool, room: int) -> Iterator[bytes]:
    for start in range(0, len(data), room):
        part = data[start : start + room]
        control = (_COMMAND if is_command else 0) | (_LAST if start + room >= len(data) else 0)
        yield _HEADER.pack(_P_DATA_TF, 0, len(part) + 6, len(part) + 2, context_id, control) + part


def pdus_of(primitives: Iterator[Any]) -> bytes:
    """Return the encoded P-DATA-TF PDUs (PS3.8 9.3.5) of P-DATA primitives."""
    encoded = bytearray()
    for primitive in primitives:
        items = primitive.presentation_data_value_list
        encoded += _PDU_HEADER.pack(_P_DATA_TF, 0, sum(len(data) + 5 for _, data in items))
        for context_id, data in items:
            encoded += _PDV_HEADER.pack(len(data) + 1, context_id) + data
    return bytes(encoded)
