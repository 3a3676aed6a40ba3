"""A socket that never blocks a reader, for both application entities."""

from __future__ import annotations

import select
import socket
import ssl
import threading

from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket

_NOT_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class QuickSocket(AssociationSocket):  # type: ignore[misc]
    """A non-blocking socket: reads go into the caller's buffer, a send ends within the network timeout."""

    def __init__(self, assoc: Association, client_socket: socket.socket) -> None:
        client_socket.setblocking(False)
        super().__init__(assoc, client_socket=client_socket)
        self._sending = threading.Lock()
        self.is_tls = isinstance(client_socket, ssl.SSLSocket)

    def receive(self, view: memoryview, *more: memoryview) -> int:
        """Return how many bytes were read into `view`, then, if it is full, into `more`.

        0 when the peer has closed; -1 when there are none yet.
        """
        if self.socket is None:
            return 0
        try:
            if more and not self.is_tls:
                return int(self.socket.recvmsg_into((view, *more))[0])
            return int(self.socket.recv_into(view))
        except _NOT_YET:
            return -1
        except (OSError, ValueError):
            return 0

    def send(self, bytestream: bytes) -> None:
        """Send all of `bytestream`, or note that the connection is gone (Evt17)."""
        view = memoryview(bytestream)
        try:
            with self._sending:
                while view:
                    if self.socket is None:
                        raise ConnectionError
                    try:
                        view = view[self.socket.send(view) :]
                    except _NOT_YET as wanted:
                        self._await(select.POLLIN if isinstance(wanted, ssl.SSLWantReadError) else select.POLLOUT)
        except (OSError, ValueError):
            self.event_queue.put("Evt17")
            self.assoc.dul.wake()

    def _await(self, events: int) -> None:
        if self.socket is None:
            raise ConnectionError
        poller = select.poll()
        poller.register(self.socket, events)
        timeout = self.assoc.network_timeout
        if not poller.poll(None if timeout is None else timeout * 1000):
            raise TimeoutError
