"""A pynetdicom association that waits for events instead of polling, and copies a PDU no more often than needed.

pynetdicom 3.0.4 sleeps 1 ms between two looks at its socket and its queues, reads 4 KiB at a time and makes several
objects of every P-DATA PDU. Here its state machine, ACSE and service classes stay as they are; only the two loops
(upper layer and association), the socket and the encoding of P-DATA are replaced. The seams are its own subclass
points, therefore the version is pinned and the tests of this module go with the pin.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import struct
import threading
from collections.abc import Sequence
from typing import Any

import structlog
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse import _RQ_TO_MESSAGE, _RSP_TO_MESSAGE, DIMSEServiceProvider
from pynetdicom.dul import _PDU_TYPES, DULServiceProvider
from pynetdicom.pdu_primitives import A_ABORT, A_P_ABORT, A_RELEASE, P_DATA

from daemon.fragments import pdus_of
from daemon.quick_socket import QuickSocket

#: (0002 of PS3.8 D.1) Maximum length that we announce: larger gives no more speed, smaller costs it.
MAXIMUM_LENGTH = 128 * 1024
_BUFFER_BYTES = 512 * 1024
#: A PDU above this is an attack or nonsense, since we announced MAXIMUM_LENGTH; some senders overshoot a little.
_MAXIMUM_PDU_BYTES = 16 * 1024 * 1024
_P_DATA_TF = 0x04
#: The states in which P-DATA may come (PS3.8 9.2.3).
DATA_STATES = ("Sta6", "Sta7")
_PDV_HEADER = struct.Struct(">LB")
_PDU_HEADER = struct.Struct(">BBL")

log = structlog.get_logger(__name__)


class _Signalling(queue.Queue[Any]):
    """A queue that sets an event when something is put into it."""

    def __init__(self, signal: threading.Event) -> None:
        super().__init__()
        self._signal = signal

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item, block, timeout)
        self._signal.set()


class QuickUpperLayer(DULServiceProvider):  # type: ignore[misc]
    """The upper layer provider of an acceptor: one thread that sleeps until its socket or its user has something."""

    socket: QuickSocket
    _kill_thread: bool

    def __init__(self, assoc: QuickAssociation) -> None:
        super().__init__(assoc)
        self.daemon = True
        self.to_user_queue = _Signalling(assoc.signal)
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._begin = self._end = 0
        self._waking = threading.Lock()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    # ---- called by other threads

    def wake(self) -> None:
        """Make the thread look at its queues."""
        with self._waking:
            if self._wake_fd >= 0:
                os.eventfd_write(self._wake_fd, 1)

    def send_pdu(self, primitive: Any) -> None:
        """Send a primitive; P-DATA without TLS goes out in the caller's thread, all else by the state machine."""
        super().send_pdu(primitive)
        self.wake()

    def kill_dul(self) -> None:
        """End the thread."""
        super().kill_dul()
        self.wake()

    def stop_dul(self) -> bool:
        """End the thread if the state machine is idle; True when it was."""
        if self.state_machine.current_state != "Sta1":
            return False
        self.kill_dul()
        if threading.current_thread() is not self:
            self.join(1.0)
        return True

    # ---- the thread

    def run_reactor(self) -> None:
        """Handle events until the association is over."""
        self._idle_timer.start()
        self.assoc._dul_ready.set()
        try:
            while not self._kill_thread:
                self._run_events()
                if self.artim_timer.expired:
                    self.event_queue.put("Evt18")
                elif not self._process_recv_primitive() and not self._receive():
                    self._wait()
        except Exception:                           # the broad catch of this thread: one association ends
            log.exception("association.failed")
            self.assoc.is_aborted = True
            self.assoc.is_established = False
            self.assoc._kill = True
            self.socket._shutdown_socket()
        finally:
            self._kill_thread = True
            self.ended()
            with self._waking:
                os.close(self._wake_fd)
                self._wake_fd = -1
            self.to_user_queue.put(None)            # whoever waits for a primitive stops waiting

    def ended(self) -> None:
        """Do what is left to do when the association is over, however it ended."""

    def _run_events(self) -> None:
        while not self._kill_thread:
            try:
                event = self.event_queue.get(block=False)
            except queue.Empty:
                return
            self.state_machine.do_action(event)

    def _wait(self) -> None:
        if self._kill_thread:
            return
        if self.state_machine.current_state == "Sta13":  # nothing more to say: close; Evt17 follows
            self.socket.close()
            if self.event_queue.empty():            # it was closed before
                self.event_queue.put("Evt17")
            return
        poller = select.poll()
        poller.register(self._wake_fd, select.POLLIN)
        if self.socket.socket is not None:
            poller.register(self.socket.socket, select.POLLIN)
        pause = 1.0
        if self.artim_timer._start_time is not None and self.artim_timer._end_time is None:
            pause = min(pause, max(self.artim_timer.remaining, 0.0) + 0.01)
        poller.poll(pause * 1000)
        with self._waking, contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_fd)

    def _receive(self) -> bool:
        """Handle what the socket has; False when it has nothing."""
        if self._take_pdus():
            return True
        if self._begin and len(self._buffer) - self._end < MAXIMUM_LENGTH:
            self._view[: self._end - self._begin] = self._view[self._begin : self._end]
            self._begin, self._end = 0, self._end - self._begin
        if self._end == len(self._buffer):
            self._grow()
        received = self.socket.receive(self._view[self._end :])
        if received > 0:
            self._end += received
            self._take_pdus()
        return self._note(received)

    def _note(self, received: int) -> bool:
        """Note that the peer lives, or has closed; False when neither is known (see `QuickSocket.receive`)."""
        if received > 0:
            self._idle_timer.restart()
        elif received == 0:
            self.event_queue.put("Evt17")
        return received >= 0

    def _grow(self) -> None:
        larger = bytearray(min(len(self._buffer) * 4, _MAXIMUM_PDU_BYTES + _BUFFER_BYTES))
        larger[: self._end] = self._view[: self._end]
        self._buffer, self._view = larger, memoryview(larger)

    def _take_pdus(self) -> bool:
        """Handle the PDUs that the buffer holds, up to one that makes an event; False when it holds none."""
        taken = False
        while self._take_pdu():
            taken = True
            if not self.event_queue.empty():        # the state machine comes first
                break
        return taken

    def _take_pdu(self) -> bool:
        """Handle one PDU if the buffer holds all of it."""
        available = self._end - self._begin
        if available < 6:
            return False
        pdu_type, _, length = _PDU_HEADER.unpack_from(self._buffer, self._begin)
        if not 1 <= pdu_type <= 7 or length > _MAXIMUM_PDU_BYTES:
            self._begin = self._end = 0
            self.event_queue.put("Evt19")
            return True
        if available < 6 + length:
            return (
                pdu_type == _P_DATA_TF
                and available > 6 + _PDV_HEADER.size
                and self.state_machine.current_state in DATA_STATES
                and self._take_beginning(length)
            )
        pdu = self._view[self._begin : self._begin + 6 + length]
        self._begin += 6 + length
        if self._begin == self._end:
            self._begin = self._end = 0
        if pdu_type == _P_DATA_TF and self.state_machine.current_state in DATA_STATES:
            try:
                self._take_data(pdu)
            except (ValueError, struct.error, KeyError):
                self.event_queue.put("Evt19")
        else:
            self._take_other(bytes(pdu))
        return True

    def _take_beginning(self, length: int) -> bool:
        """Handle the beginning of a P-DATA-TF PDU of `length`, all that the buffer holds; False: wait for all of it."""
        return False

    def _take_other(self, pdu_bytes: bytes) -> None:
        kind, event = _PDU_TYPES[pdu_bytes[0:1]]
        pdu = kind()
        try:
            pdu.decode(pdu_bytes)
        except Exception:                           # whatever a hostile peer makes pynetdicom's decoder raise
            log.info("pdu.undecodable")
            self.event_queue.put("Evt19")
            return
        evt.trigger(self.assoc, evt.EVT_PDU_RECV, {"pdu": pdu})
        self._recv_pdu.put(pdu)
        self.event_queue.put(event)

    def _take_data(self, pdu: memoryview) -> None:
        position = 6
        while position < len(pdu):
            length, context_id = _PDV_HEADER.unpack_from(pdu, position)
            end = position + 4 + length
            if length < 2 or end > len(pdu):
                raise ValueError("PDV longer than its PDU")
            self.take_fragment(context_id, pdu[position + 5], pdu[position + 6 : end])
            position = end

    def take_fragment(self, context_id: int, control: int, fragment: memoryview) -> None:
        """Handle one fragment of a message (PS3.8 E.2: `control` bit 0: command, bit 1: last)."""
        primitive = P_DATA()
        primitive.presentation_data_value_list.append((context_id, bytes((control,)) + bytes(fragment)))
        self.assoc.dimse.receive_primitive(primitive)


class QuickMessages(DIMSEServiceProvider):  # type: ignore[misc]
    """DIMSE whose answers leave in the thread that made them, command and data set in one write."""

    def __init__(self, assoc: QuickAssociation) -> None:
        super().__init__(assoc)
        self.msg_queue = _Signalling(assoc.signal)

    def send_pdus(self, pdus: Sequence[bytes]) -> None:
        """Send PDUs of one fragment each (`daemon.fragments`), in one write where that can be."""
        sock = self.dul.socket
        if not sock.is_tls and self.dul.state_machine.current_state == "Sta6":
            sock.send(b"".join(pdus))
            return
        for pdu in pdus:                            # OpenSSL allows one thread at a time: the upper layer's
            primitive = P_DATA()
            primitive.presentation_data_value_list.append((pdu[10], pdu[11:]))
            self.dul.send_pdu(primitive)

    def send_msg(self, primitive: Any, context_id: int) -> None:
        """Encode and send a message."""
        sock = self.dul.socket
        if sock.is_tls or self.dul.state_machine.current_state != "Sta6":
            super().send_msg(primitive, context_id)  # OpenSSL allows one thread at a time: the upper layer's
            return
        table = _RQ_TO_MESSAGE if primitive.MessageIDBeingRespondedTo is None else _RSP_TO_MESSAGE
        message = table[primitive.__class__]()
        message.primitive_to_message(primitive)
        message.context_id = context_id
        evt.trigger(self.assoc, evt.EVT_DIMSE_SENT, {"message": message})
        if message._data_set_path is not None:      # an object from disk goes out fragment by fragment
            for data in message.encode_msg(context_id, self.maximum_pdu_size):
                sock.send(pdus_of(iter((data,))))
        else:
            sock.send(pdus_of(message.encode_msg(context_id, self.maximum_pdu_size)))


class QuickAssociation(Association):  # type: ignore[misc]
    """An acceptor's association whose two threads sleep until something happens."""

    upper_layer: type[QuickUpperLayer] = QuickUpperLayer
    is_established: bool
    is_aborted: bool
    is_released: bool

    def __init__(self, ae: Any, mode: str) -> None:
        self.signal = threading.Event()
        super().__init__(ae, mode)
        self.dul = self.upper_layer(self)
        self.dimse = QuickMessages(self)
        self.acse_timeout = ae.acse_timeout         # again: these set the timers of the new upper layer
        self.network_timeout = ae.network_timeout

    def _run_reactor(self) -> None:
        """Serve requests until release, abort, loss of the connection, or idle time-out."""
        while not self._kill:
            self._is_paused = True                  # whoever calls release() or a send_...() now need not wait for us
            self.signal.wait(min(1.0, max(0.01, self.dul._idle_timer.remaining)))
            self.signal.clear()
            self._reactor_checkpoint.wait()
            self._is_paused = False
            context_id, message = self.dimse.get_msg(block=False)
            if message:
                self._serve_request(message, context_id)
                self.signal.set()                   # there may be another one
            if self._ended():
                return

    def _ended(self) -> bool:
        next_primitive = self.dul.peek_next_pdu()
        if self.is_established and isinstance(next_primitive, A_RELEASE) and self.acse.is_release_requested():
            self.acse.send_release(is_response=True)
            self.is_released, self.is_established = True, False
            evt.trigger(self, evt.EVT_RELEASED, {})
        elif isinstance(next_primitive, A_ABORT | A_P_ABORT):
            self.dul.receive_pdu(wait=False)
            self.is_aborted, self.is_established = True, False
            evt.trigger(self, evt.EVT_ABORTED, {})
        elif self.dul.idle_timer_expired():
            log.info("association.idle")
            self.abort()
        elif self.dul.is_alive():
            return False
        self.kill()
        return True
