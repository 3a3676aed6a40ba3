"""A run of P-DATA-TF PDUs (PS3.8 9.3.5), received so that their fragments come to lie one behind the other.

A sender cuts a data set into PDUs that are alike up to the last one. So a single read of the socket can put the rest of
one fragment where it belongs, the header that must follow aside, the next fragment behind the first, and so on. Only
then are the headers looked at; what comes after one that is not as expected is handed back.
"""

from __future__ import annotations

import struct

#: Of a PDU and of its only fragment: type, reserved, length; length, presentation context, control (PS3.8 E.2).
HEADER = struct.Struct(">BBLLBB")
_LAST = 2
#: Headers that one read looks ahead.
_MOST_HEADERS = 64


class Run:
    """The PDUs that follow one of which the beginning has come.

    Attributes
    ----------
    rest : int
        Bytes of the fragment at hand that are still to come.
    last : bool
        The fragment at hand is the last of its data set: no more follow.
    """

    def __init__(self, header: bytes, came: int) -> None:
        self._header = header
        _, _, _, length, _, control = HEADER.unpack(header)
        self._fragment: int = length - 2
        self.rest, self.last = self._fragment - came, bool(control & _LAST)
        self._headers = memoryview(bytearray(HEADER.size * (0 if self.last else _MOST_HEADERS)))

    def parts(self, room: memoryview) -> list[memoryview]:
        """Return what a read of the socket is to fill, in this order, with fragments going to `room`."""
        parts = [room[: self.rest]] if self.rest else []
        position = self.rest
        for place in range(0, len(self._headers), HEADER.size):
            if position >= len(room):
                break
            parts += self._headers[place : place + HEADER.size], room[position : position + self._fragment]
            position += self._fragment
        return parts

    def sort(self, received: int, room: memoryview) -> tuple[int, bytes]:
        """Return how much of `room` was filled with data, and what came after that, if it was not as expected.

        `received` bytes are in the `parts` of `room`.
        """
        filled = min(received, self.rest)
        self.rest -= filled
        received -= filled
        place = 0
        while received:
            if received < HEADER.size or self._headers[place : place + HEADER.size] != self._header:
                return filled, self._gathered(received, place, room[filled:])
            place += HEADER.size
            received -= HEADER.size
            part = min(received, self._fragment)
            self.rest = self._fragment - part
            filled += part
            received -= part
        return filled, b""

    def _gathered(self, received: int, place: int, room: memoryview) -> bytes:
        """Return `received` bytes in the order in which they came, the first of them in the header at `place`."""
        found, position = bytearray(), 0
        while len(found) < received:
            found += self._headers[place : place + HEADER.size]
            found += room[position : position + self._fragment]
            place += HEADER.size
            position += self._fragment
        return bytes(found[:received])
