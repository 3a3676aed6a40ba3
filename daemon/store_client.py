"""A C-STORE SCU on one socket, in the caller's thread: a data set goes from its file to the network unread."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AddressInformation

from daemon.command_set import StoreRequest, encoded_store_request, response_status
from daemon.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from daemon.reactor import MAXIMUM_LENGTH

#: (SOP class UID, transfer syntax UID)
Pair = tuple[str, str]
#: Presentation context ids are odd and at most 255 (PS3.8 9.3.2.2).
MAXIMUM_CONTEXTS = 128
_APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
_ACCEPT, _REJECT, _DATA, _RELEASE_REPLY = 0x02, 0x03, 0x04, 0x06
_RELEASE_REQUEST_PDU = b"\x05\0\0\0\0\x04\0\0\0\0"
_FRAGMENT = struct.Struct(">BBLLBB")                # header of a PDU that holds one fragment (PS3.8 9.3.5, E.2)
#: Largest PDU that we send, also to peers that accept more.
_LARGEST_PDU = 256 * 1024


class AssociationRejected(Exception):
    """The peer does not want the association; `transient` tells whether another attempt makes sense."""

    def __init__(self, message: str, transient: bool) -> None:
        super().__init__(message)
        self.transient = transient


class AssociationLost(Exception):
    """The connection broke, timed out or was aborted."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is called, and by whom."""

    host: str
    port: int
    called_ae_title: str
    calling_ae_title: str


class StoreClient:
    """An association with a storage SCP.

    Raises
    ------
    AssociationRejected
        If the peer rejects it.
    AssociationLost
        If there is no connection, or no DICOM peer at its other end.
    """

    def __init__(self, peer: Peer, pairs: Sequence[Pair], timeout_s: float) -> None:
        self._message_id = 0
        where = f"{peer.host}:{peer.port}"
        try:
            self._socket = socket.create_connection((peer.host, peer.port), timeout=timeout_s)
        except OSError as error:
            raise AssociationLost(f"no connection to {where} ({error.strerror or error})") from error
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._negotiate(peer, pairs)
        except (OSError, ValueError, struct.error) as error:
            self._socket.close()
            raise AssociationLost(f"{where} did not answer as a DICOM peer ({error})") from error
        except AssociationRejected:
            self._socket.close()
            raise

    def _negotiate(self, peer: Peer, pairs: Sequence[Pair]) -> None:
        request = A_ASSOCIATE()
        request.application_context_name = _APPLICATION_CONTEXT
        request.calling_ae_title, request.called_ae_title = peer.calling_ae_title, peer.called_ae_title
        request.calling_presentation_address = AddressInformation(*self._socket.getsockname()[:2])
        request.called_presentation_address = AddressInformation(*self._socket.getpeername()[:2])
        proposed = []
        for number, (sop_class_uid, transfer_syntax_uid) in enumerate(pairs):
            context = PresentationContext()
            context.context_id = 2 * number + 1
            context.abstract_syntax = sop_class_uid
            context.transfer_syntax = [transfer_syntax_uid]
            proposed.append(context)
        request.presentation_context_definition_list = proposed
        length, implementation, version = (
            MaximumLengthNotification(), ImplementationClassUIDNotification(), ImplementationVersionNameNotification()
        )
        length.maximum_length_received = MAXIMUM_LENGTH
        implementation.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        request.user_information = [length, implementation, version]
        self._socket.sendall(A_ASSOCIATE_RQ(request).encode())
        kind, pdu = self._receive_pdu()
        if kind == _REJECT:
            rejection = A_ASSOCIATE_RJ()
            rejection.decode(pdu)
            reason = f"{peer.called_ae_title} rejects the association ({rejection.reason_str.lower()})"
            raise AssociationRejected(reason, transient=rejection.result == 2)
        if kind != _ACCEPT:
            raise ValueError(f"PDU type {kind}")
        answer = A_ASSOCIATE_AC()
        answer.decode(pdu)
        accepted = answer.to_primitive()
        self._contexts: dict[Pair, int] = {
            pairs[(context.context_id - 1) // 2]: context.context_id
            for context in accepted.presentation_context_definition_results_list
            if context.result == 0
        }
        wanted = accepted.maximum_length_received or _LARGEST_PDU
        self._buffer = bytearray(6 + max(64, min(wanted, _LARGEST_PDU)))

    def accepts(self, pair: Pair) -> bool:
        """Return whether the peer takes objects of a SOP class in a transfer syntax."""
        return pair in self._contexts

    def store(self, path: Path, offset: int, pair: Pair, sop_instance_uid: str) -> tuple[int, str]:
        """Send the data set that begins at `offset` of a file; return the peer's status and error comment.

        Raises
        ------
        AssociationLost
            If the association broke on the way.
        OSError
            If the file cannot be read; the association is then of no more use.
        """
        self._message_id = self._message_id % 0xFFFF + 1
        command = encoded_store_request(StoreRequest(self._message_id, pair[0], sop_instance_uid, has_data_set=True))
        context_id = self._contexts[pair]
        with path.open("rb", buffering=0) as file:
            try:
                self._send_fragments(context_id, command)
                file.seek(offset)
                self._send_file(context_id, file, os.fstat(file.fileno()).st_size - offset)
                return response_status(self._receive_command())
            except (ConnectionError, TimeoutError, ValueError, struct.error) as error:
                raise AssociationLost(f"the association broke ({error})") from error

    def _send_fragments(self, context_id: int, command: bytes) -> None:
        room = len(self._buffer) - _FRAGMENT.size
        for position in range(0, len(command), room):
            part = command[position : position + room]
            control = 1 | (2 if position + room >= len(command) else 0)
            self._socket.sendall(_FRAGMENT.pack(_DATA, 0, len(part) + 6, len(part) + 2, context_id, control) + part)

    def _send_file(self, context_id: int, file: BinaryIO, remaining: int) -> None:
        view = memoryview(self._buffer)
        while True:
            size = file.readinto(view[_FRAGMENT.size : _FRAGMENT.size + remaining])  # type: ignore[attr-defined]
            remaining -= size
            if size == 0 and remaining:
                raise ValueError("the file became shorter")
            _FRAGMENT.pack_into(
                self._buffer, 0, _DATA, 0, size + 6, size + 2, context_id, 0 if remaining else 2
            )
            self._socket.sendall(view[: _FRAGMENT.size + size])
            if not remaining:
                return

    def _receive_exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = self._socket.recv(size - len(data))
            if not part:
                raise ConnectionError("closed by the peer")
            data += part
        return bytes(data)

    def _receive_pdu(self) -> tuple[int, bytes]:
        header = self._receive_exactly(6)
        length = int.from_bytes(header[2:6], "big")
        if length > _LARGEST_PDU:
            raise ValueError("PDU longer than agreed")
        return header[0], header + self._receive_exactly(length)

    def _receive_command(self) -> bytes:
        command = bytearray()
        while True:
            kind, pdu = self._receive_pdu()
            if kind != _DATA:
                raise ConnectionError("aborted by the peer")
            position = 6
            while position < len(pdu):
                length = int.from_bytes(pdu[position : position + 4], "big")
                command += pdu[position + 6 : position + 4 + length]
                if pdu[position + 5] & 2:
                    return bytes(command)
                position += 4 + length

    def release(self) -> None:
        """End the association in order (A-RELEASE); a peer that has gone already is no fault."""
        try:
            self._socket.sendall(_RELEASE_REQUEST_PDU)
            self._receive_pdu()
        except (OSError, ValueError):
            pass
        finally:
            self._socket.close()

    def close(self) -> None:
        """Drop the connection."""
        self._socket.close()
