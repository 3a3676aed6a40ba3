"""C-STORE in the thread that reads the socket: fragments go from there to the file, the answer back at once.

Everything else (C-ECHO, N-ACTION, release ...) goes the way of pynetdicom.
"""

from __future__ import annotations

import contextlib
from typing import Any

import structlog
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.pdu_primitives import P_DATA

from daemon.command_set import StoreRequest, store_request, store_response
from daemon.fragments import pdus_of
from daemon.listener.commitment import Commitment, Report
from daemon.listener.intake import IncomingObject, Intake
from daemon.listener.runs import HEADER, Run
from daemon.listener.status import SUCCESS, store_status
from daemon.network import ServedAssociation
from daemon.reactor import DATA_STATES, QuickUpperLayer

_COMMAND, _LAST = 1, 2
#: A command set is some hundred bytes; the largest, of N-ACTION and friends, stay far below this.
_MAXIMUM_COMMAND_BYTES = 64 * 1024

log = structlog.get_logger(__name__)


class _Store:
    """A C-STORE in progress: its file, or the reason why the rest of it is thrown away."""

    def __init__(self, request: StoreRequest, context_id: int) -> None:
        self.request, self.context_id = request, context_id
        self.file: IncomingObject | None = None
        self.error: Exception | None = None

    def fail(self, error: Exception) -> None:
        self.error = error
        if self.file is not None:
            with contextlib.suppress(OSError):
                self.file.discard()
            self.file = None


class ReceivingUpperLayer(QuickUpperLayer):
    """An upper layer that keeps the data sets of C-STORE to itself."""

    def __init__(self, assoc: ReceivingAssociation) -> None:
        super().__init__(assoc)
        self._command = bytearray()
        self._store: _Store | None = None
        self._run: Run | None = None                # of the data set of `_store`

    def _take_beginning(self, length: int) -> bool:
        """Begin a run where a fragment of a C-STORE's data set has come in part."""
        store, came = self._store, self._view[self._begin : self._end]
        header = bytes(came[: HEADER.size])
        _, _, _, fragment_length, context_id, control = HEADER.unpack(header)
        if (
            store is None
            or context_id != store.context_id
            or control & _COMMAND
            or fragment_length + 4 != length        # several fragments in one PDU
        ):
            return False
        self._begin = self._end = 0
        self._run = Run(header, len(came) - HEADER.size)
        self._write(store, came[HEADER.size :])
        return True

    def _receive(self) -> bool:
        run, store = self._run, self._store
        if run is None or store is None:
            return super()._receive()
        if self.state_machine.current_state not in DATA_STATES:
            return self._note(self.socket.receive(self._view))          # being aborted: PS3.8 9.2.3, AA-6
        room = self._view if store.file is None else store.file.room()
        received = self.socket.receive(*run.parts(room))
        if received > 0:
            filled, other = run.sort(received, room)
            self._advance(store, filled)
            if other:
                self._run = None
                while len(other) > len(self._buffer):
                    self._grow()
                self._view[: len(other)] = other
                self._end = len(other)
                self._take_pdus()
            elif run.last and not run.rest:
                self._run = self._store = None
                self._answer(store)
        return self._note(received)

    def take_fragment(self, context_id: int, control: int, fragment: memoryview) -> None:
        """Write a fragment of a C-STORE's data set to its file; pass any other on."""
        store = self._store
        if control & _COMMAND:
            if store is not None or len(self._command) + len(fragment) > _MAXIMUM_COMMAND_BYTES:
                raise ValueError("command inside a data set, or endless")
            self._command += fragment
            if control & _LAST:
                command_set, self._command = bytes(self._command), bytearray()
                self._take_command(context_id, command_set)
        elif store is None:
            super().take_fragment(context_id, control, fragment)
        elif context_id != store.context_id:
            raise ValueError("data set in another presentation context than its command")
        else:
            self._write(store, fragment)
            if control & _LAST:
                self._store = None
                self._answer(store)

    def ended(self) -> None:
        """Remove what was received of an object whose association broke."""
        if self._store is not None:
            log.warning("instance.incomplete", sop_instance_uid=self._store.request.sop_instance_uid)
            self._store.fail(ConnectionError())
            self._store = None

    def _take_command(self, context_id: int, command_set: bytes) -> None:
        request = store_request(command_set)
        if request is None:
            primitive = P_DATA()
            primitive.presentation_data_value_list.append((context_id, bytes((_COMMAND | _LAST,)) + command_set))
            self.assoc.dimse.receive_primitive(primitive)
            return
        context = self.assoc._accepted_cx[context_id]       # KeyError: not negotiated, the association is aborted
        store = _Store(request, context_id)
        try:
            store.file = self.assoc.intake.begin(
                request, str(context.abstract_syntax), str(context.transfer_syntax[0]), self.assoc.calling_ae_title
            )
        except Exception as error:                          # the status table has an answer for each
            store.fail(error)
        if request.has_data_set:
            self._store = store
        else:
            self._answer(store)

    @staticmethod
    def _write(store: _Store, fragment: memoryview) -> None:
        if store.file is not None:
            try:
                store.file.write(fragment)
            except OSError as error:                        # disk full in mid-object: the rest is thrown away
                store.fail(error)

    @staticmethod
    def _advance(store: _Store, count: int) -> None:
        if store.file is not None:
            try:
                store.file.advance(count)
            except OSError as error:
                store.fail(error)

    def _answer(self, store: _Store) -> None:
        status, comment = SUCCESS, ""
        if store.file is not None:
            size_bytes = store.file.size_bytes
            try:
                accepted = store.file.accept()
            except Exception as error:                      # the status table has an answer for each
                store.fail(error)
            else:
                log.info(
                    "instance.received",
                    sop_instance_uid=store.request.sop_instance_uid,
                    calling_ae_title=self.assoc.calling_ae_title,
                    size_bytes=size_bytes,
                    duplicate=accepted.duplicate,
                )
        if store.error is not None:
            status, comment = store_status(store.error)
            log.warning(
                "instance.refused",
                sop_instance_uid=store.request.sop_instance_uid,
                calling_ae_title=self.assoc.calling_ae_title,
                status=f"{status:04X}",
                comment=comment,
                error=type(store.error).__name__,
            )
        primitive = P_DATA()
        answer = bytes((_COMMAND | _LAST,)) + store_response(store.request, status, comment)
        primitive.presentation_data_value_list.append((store.context_id, answer))
        self.socket.send(pdus_of(iter((primitive,))))
        self._idle_timer.restart()


class ReceivingAssociation(ServedAssociation):
    """An association of the listener."""

    upper_layer = ReceivingUpperLayer

    def __init__(self, ae: Any, mode: str, intake: Intake, commitment: Commitment) -> None:
        self.intake, self._commitment = intake, commitment
        self.reports: list[Report] = []
        super().__init__(ae, mode)

    def _serve_request(self, msg: Any, context_id: int) -> None:
        """Answer a request; what it promised to report follows its response."""
        if isinstance(msg, N_EVENT_REPORT) and not msg.is_valid_request:
            return                                          # the peer's answer to a report of ours
        super()._serve_request(msg, context_id)
        while self.reports:
            self._commitment.deliver(self, context_id, self.reports.pop(0))

    @property
    def calling_ae_title(self) -> str:
        """Who sends."""
        return str(self.requestor.ae_title).strip()
