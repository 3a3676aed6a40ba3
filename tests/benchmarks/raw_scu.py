"""A requestor whose own time hardly counts: requests are encoded beforehand, answers counted, not decoded.

As a program it asks as fast as it can: ``raw_scu.py PORT SECONDS FILE`` with pickled requests and numbers of answers;
begins at a line on standard input, prints how many were answered.
"""

from __future__ import annotations

import pickle
import socket
import struct
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

VERIFICATION = "1.2.840.10008.1.1"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
IMPLICIT = "1.2.840.10008.1.2"
_MAXIMUM_LENGTH = 128 * 1024
#: (0000,0800) US 0101H: a response without data set, hence the last one; and a pending (0000,0900), FF00 or FF01.
_LAST = b"\x00\x00\x00\x08\x02\x00\x00\x00\x01\x01"
_STATUS = b"\x00\x00\x00\x09\x02\x00\x00\x00"
_PENDING = (_STATUS + b"\x00\xff", _STATUS + b"\x01\xff")
_RELEASE = b"\x05\0\0\0\0\x04\0\0\0\0"


def element(group: int, number: int, value: bytes) -> bytes:
    """Return an element in implicit VR little endian, padded."""
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHL", group, number, len(value)) + value


def identifier(keys: Mapping[int, bytes]) -> bytes:
    """Return a data set of tag -> value."""
    return b"".join(
        struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value) + len(value) % 2) + value + b" " * (len(value) % 2)
        for tag, value in sorted(keys.items())
    )


def _pdu(context_id: int, control: int, data: bytes) -> bytes:
    return struct.pack(">BBLLBB", 4, 0, len(data) + 6, len(data) + 2, context_id, control) + data


def _command(fields: list[tuple[int, bytes]]) -> bytes:
    body = b"".join(element(0, number, value) for number, value in fields)
    return element(0, 0, struct.pack("<L", len(body))) + body


def find_request(keys: bytes) -> bytes:
    """Return the PDUs of a C-FIND-RQ with an Identifier, to be sent as they are."""
    command = _command([
        (0x0002, STUDY_ROOT_FIND.encode()), (0x0100, b"\x20\0"), (0x0110, b"\x01\0"), (0x0700, b"\0\0"),
        (0x0800, b"\x01\0"),
    ])  # fmt: skip
    return _pdu(3, 3, command) + _pdu(3, 2, keys)


_ECHO = _pdu(1, 3, _command([(0x0002, VERIFICATION.encode()), (0x0100, b"\x30\0"), (0x0110, b"\x01\0"),
                             (0x0800, b"\x01\x01")]))  # fmt: skip


def _association_request(called: str, calling: str, contexts: list[tuple[int, str]]) -> bytes:
    def item(kind: int, data: bytes) -> bytes:
        return struct.pack(">BBH", kind, 0, len(data)) + data

    body = struct.pack(">HH16s16s32x", 1, 0, called.ljust(16).encode(), calling.ljust(16).encode())
    body += item(0x10, b"1.2.840.10008.3.1.1.1")
    for number, abstract in contexts:
        syntaxes = item(0x30, abstract.encode()) + item(0x40, IMPLICIT.encode())
        body += item(0x20, bytes((number, 0, 0, 0)) + syntaxes)
    body += item(0x50, item(0x51, struct.pack(">L", _MAXIMUM_LENGTH)) + item(0x52, b"1.2.826.0.1.3680043.10.1.98"))
    return struct.pack(">BBL", 1, 0, len(body)) + body


@dataclass(frozen=True, slots=True)
class Found:
    """How a C-FIND ended: pending answers, final status, and their bytes."""

    pending: int
    status: int
    data: bytes


class RawScu:
    """An association for Verification (context 1) and, unless `echo_only`, Study Root FIND (context 3)."""

    def __init__(self, port: int, called: str, calling: str = "BENCH", *, echo_only: bool = False) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(1 << 20)
        contexts = [(1, VERIFICATION)] + ([] if echo_only else [(3, STUDY_ROOT_FIND)])
        self._socket.sendall(_association_request(called, calling, contexts))
        kind, _ = self._receive_pdu()
        assert kind == 2, f"the association was not accepted: PDU {kind}"

    def _receive_pdu(self) -> tuple[int, bytes]:
        data = bytearray()
        while len(data) < 6 or len(data) < 6 + int.from_bytes(data[2:6], "big"):
            part = self._socket.recv(65536)
            assert part, "closed by the peer"
            data += part
        return data[0], bytes(data)

    def echo(self) -> None:
        """Send a C-ECHO and take its answer."""
        self._socket.sendall(_ECHO)
        kind, _ = self._receive_pdu()
        assert kind == 4

    def find(self, request: bytes) -> Found:
        """Send a C-FIND and take all its answers."""
        view, end = memoryview(self._buffer), 0
        self._socket.sendall(request)
        while True:
            got = self._socket.recv_into(view[end:])
            assert got, "closed by the peer"
            end += got
            place = self._buffer.rfind(_LAST, max(0, end - 400), end)
            if place >= 0 and self._buffer.find(_STATUS, place, end) >= 0 and end >= place + 20:
                break
            if end == len(self._buffer):
                self._buffer.extend(bytes(len(self._buffer)))
                view = memoryview(self._buffer)
        data = bytes(view[:end])
        at = data.rfind(_STATUS) + len(_STATUS)
        return Found(sum(map(data.count, _PENDING)), int.from_bytes(data[at : at + 2], "little"), data)

    def timed(self, request: bytes, answers: int) -> float:
        """Return the seconds that a C-FIND takes; it must end well with so many answers."""
        began = time.perf_counter()
        found = self.find(request)
        took = time.perf_counter() - began
        assert (found.pending, found.status) == (answers, 0), f"{found.pending} answers, status {found.status:04X}"
        return took

    def release(self) -> None:
        """End the association."""
        self._socket.sendall(_RELEASE)
        self._receive_pdu()
        self._socket.close()


def data_sets(found: Found) -> list[bytes]:
    """Return the Identifiers of the answers."""
    sets: list[bytes] = []
    current, position = b"", 0
    while position < len(found.data):
        kind, _, length = struct.unpack_from(">BBL", found.data, position)
        assert kind == 4
        end, position = position + 6 + length, position + 6
        while position < end:
            size, _, control = struct.unpack_from(">LBB", found.data, position)
            if not control & 1:
                current += found.data[position + 6 : position + 4 + size]
                if control & 2:
                    sets.append(current)
                    current = b""
            position += 4 + size
    return sets


def opened_echoed_released(port: int, called: str) -> float:
    """Return the seconds from connecting over a C-ECHO to the answer to the release."""
    began = time.perf_counter()
    scu = RawScu(port, called, echo_only=True)
    scu.echo()
    scu.release()
    return time.perf_counter() - began


def _ask_for(port: int, seconds: float, requests: list[tuple[bytes, int]]) -> int:
    scu = RawScu(port, "CXRSIMILAR")
    scu.timed(*requests[0])
    print("ready", flush=True)
    sys.stdin.readline()
    count, until = 0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        scu.timed(*requests[count % len(requests)])
        count += 1
    scu.release()
    return count


if __name__ == "__main__":
    print(_ask_for(int(sys.argv[1]), float(sys.argv[2]), pickle.loads(Path(sys.argv[3]).read_bytes())))
