"""What both application entities share: rights of callers, caps on associations, TLS, the server itself.

The accept loop only accepts: a TLS handshake and a silent caller cost one thread, never the others' time. A connection
that has not yet asked for an association holds no association's place; it is dropped after ARTIM (acse_timeout_s), or
when as many wait as there may be associations: then the one that has been silent longest makes room.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from pynetdicom import AE, _config, evt
from pynetdicom.acse import ACSE
from pynetdicom.transport import AddressInformation, AssociationServer, RequestHandler

from daemon.config import AeSection, PeerSection, Right, TlsSection
from daemon.peers import Caller, caller_of, may, rights_of
from daemon.quick_socket import QuickSocket
from daemon.reactor import MAXIMUM_LENGTH, QuickAssociation
from daemon.tls import tls_context

_config.LOG_REQUEST_IDENTIFIERS = False             # pynetdicom logs patient names otherwise
_config.LOG_RESPONSE_IDENTIFIERS = False
_config.LOG_HANDLER_LEVEL = "none"                  # and a page of text for every association
logging.getLogger("pynetdicom").setLevel(logging.WARNING)

#: (result, source, reason) of A-ASSOCIATE-RJ, PS3.8 Table 9-21.
CALLING_AE_TITLE_NOT_RECOGNISED = (1, 1, 3)
CALLED_AE_TITLE_NOT_RECOGNISED = (1, 1, 7)
LOCAL_LIMIT_EXCEEDED = (2, 3, 2)

#: How long aborted associations get to end.
_ABORT_S = 2.0

log = structlog.get_logger(__name__)


class _Negotiation(ACSE):  # type: ignore[misc]
    """Rejects callers before pynetdicom negotiates presentation contexts with them."""

    def _negotiate_as_acceptor(self) -> None:
        reason = self.assoc._server.admit(self.assoc)
        if reason is None:
            super()._negotiate_as_acceptor()
            return
        self.send_reject(*reason)
        evt.trigger(self.assoc, evt.EVT_REJECTED, {})
        self.assoc.kill()


class _Handler(RequestHandler):  # type: ignore[misc]
    def _create_association(self) -> Any:
        assoc = self.server.association_class(self.ae, "acceptor")
        assoc._server = self.server
        assoc.acse = _Negotiation(assoc)
        assoc.name = f"AcceptorThread@{self.client_address[0]}:{self.client_address[1]}"
        assoc.set_socket(QuickSocket(assoc, self.request))
        assoc.acceptor.maximum_length = self.ae.maximum_pdu_size
        assoc.acceptor.ae_title = self.server.ae_title
        assoc.acceptor.address_info = self.local
        assoc.acceptor.implementation_class_uid = self.ae.implementation_class_uid
        assoc.acceptor.implementation_version_name = self.ae.implementation_version_name
        assoc.acceptor.supported_contexts = [copy.copy(context) for context in self.server.contexts]
        assoc.requestor.address_info = AddressInformation.from_tuple(self.client_address)
        for event, handlers in self.server._handlers.items():
            if event.is_intervention:
                if handlers:
                    assoc.bind(event, *handlers)
            else:
                for handler in handlers:
                    assoc.bind(event, handler[0], handler[1])
        assoc.client_address, assoc.ending = self.client_address, self.server.forget
        return assoc

    def handle(self) -> None:
        assoc = self._create_association()
        self.server.remember(assoc)
        evt.trigger(assoc, evt.EVT_CONN_OPEN, {"address": self.client_address})
        assoc.start()


class ServedAssociation(QuickAssociation):
    """An association of a `Server`, which it tells when it ends."""

    client_address: Any
    ending: Callable[[Any], None]

    def run_reactor(self) -> None:
        """Serve the association, from its request to its end."""
        try:
            super().run_reactor()
        finally:
            self.ending(self)


class Server(AssociationServer):  # type: ignore[misc]
    """An application entity that accepts associations; made by `serve`. The caps hold for each process."""

    request_queue_size = 128

    def __init__(
        self,
        ae: AE,
        section: AeSection,
        handlers: Sequence[tuple[Any, ...]],
        *,
        peers: Sequence[PeerSection],
        ssl_context: ssl.SSLContext | None,
        required_right: Right,
        reuse_port: bool,
        association_class: Callable[[AE, str], ServedAssociation],
    ) -> None:
        self.section, self.peers, self.required_right = section, tuple(peers), required_right
        self.association_class, self._reuse_port = association_class, reuse_port
        self._lock = threading.Lock()
        self._waiting: dict[Any, socket.socket] = {}    # connections without an association yet, by address and port
        self._admitted: Counter[str] = Counter()    # associations, by address
        self._associations: dict[Any, bool] = {}    # association -> admitted
        address = (section.host, section.port)
        super().__init__(ae, address, section.ae_title, ae.supported_contexts, ssl_context, list(handlers), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.1,), name="accept", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The TCP port that is listened on (chosen by the system when the configured one is 0)."""
        return int(self.server_address[1])

    @property
    def associations(self) -> int:
        """How many associations are open."""
        with self._lock:
            return self._admitted.total()

    # ---- the accept loop

    def server_bind(self) -> None:
        """Bind the port, shared with our sister processes if so asked."""
        if self._reuse_port:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection, nothing else."""
        connection, address = self.socket.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hand a connection to its own threads, unless too many are waiting already."""
        with self._lock:
            self._make_room(client_address[0])
            self._waiting[client_address] = request
        if self.ssl_context is None:
            self._begin(request, client_address)
        else:
            threading.Thread(target=self._shake_hands, args=(request, client_address), daemon=True).start()

    def _make_room(self, address: str) -> None:
        same = [waiting for waiting in self._waiting if waiting[0] == address]
        if len(same) >= self.section.maximum_associations_per_address:
            longest = same[0]
        elif len(self._waiting) >= self.section.maximum_associations:
            longest = next(iter(self._waiting))
        else:
            return
        log.warning("connection.dropped", address=longest[0], reason="too many connections without an association")
        with contextlib.suppress(OSError):
            self._waiting.pop(longest).shutdown(socket.SHUT_RDWR)

    def _begin(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except (OSError, RuntimeError) as error:    # out of descriptors or threads: this caller goes, we stay
            log.error("connection.failed", address=client_address[0], error=type(error).__name__)
            self._leave_waiting(client_address)
            self.shutdown_request(request)

    def _shake_hands(self, request: socket.socket, client_address: Any) -> None:
        assert self.ssl_context is not None
        connection = request
        try:
            request.settimeout(self.section.acse_timeout_s)
            connection = self.ssl_context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
            with self._lock:
                if client_address in self._waiting:
                    self._waiting[client_address] = connection
            connection.do_handshake()
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or type(error).__name__
            log.warning("tls.refused", address=client_address[0], reason=reason)
            self._leave_waiting(client_address)
            self.shutdown_request(connection)
            return
        self._begin(connection, client_address)

    def service_actions(self) -> None:
        """Do nothing between two connections (pynetdicom forces a garbage collection here)."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log an error of the accept loop without a traceback to stderr."""
        log.exception("connection.failed", address=client_address[0])

    # ---- places

    def _leave_waiting(self, client_address: Any) -> None:
        with self._lock:
            self._waiting.pop(client_address, None)

    def remember(self, assoc: Any) -> None:
        """Keep an association in mind until `forget`."""
        with self._lock:
            self._associations[assoc] = False

    def forget(self, assoc: Any) -> None:
        """Free the place of an association that is over."""
        address = assoc.requestor.address_info.address
        with self._lock:
            if self._associations.pop(assoc, False):
                self._admitted[address] -= 1
                if self._admitted[address] <= 0:
                    del self._admitted[address]
                return
        self._leave_waiting(assoc.client_address)

    def admit(self, assoc: Any) -> tuple[int, int, int] | None:
        """Return why an association is rejected, as (result, source, reason) of PS3.8 Table 9-21; None: it is not."""
        request, caller = assoc.requestor.primitive, caller_of(assoc)
        reason = self._place(assoc, caller, request.called_ae_title.strip())
        if reason is not None:
            log.warning(
                "association.rejected",
                calling_ae_title=caller.ae_title,
                address=caller.address,
                called_ae_title=request.called_ae_title.strip(),
                result=reason[0], source=reason[1], reason=reason[2],
            )
        return reason

    def _place(self, assoc: Any, caller: Caller, called_ae_title: str) -> tuple[int, int, int] | None:
        if called_ae_title != self.section.ae_title:
            return CALLED_AE_TITLE_NOT_RECOGNISED
        if not may(self.peers, caller.ae_title, caller.address, self.required_right, caller.certificate_sha256):
            return CALLING_AE_TITLE_NOT_RECOGNISED
        with self._lock:
            if (
                self._admitted.total() >= self.section.maximum_associations
                or self._admitted[caller.address] >= self.section.maximum_associations_per_address
            ):
                return LOCAL_LIMIT_EXCEEDED
            self._admitted[caller.address] += 1
            self._associations[assoc] = True
        self._leave_waiting(assoc.client_address)
        return None

    # ---- the end

    def shutdown(self, grace_s: float = 0.0) -> None:
        """Stop accepting; let associations finish for `grace_s`, then abort them."""
        if self._thread.is_alive():
            super(AssociationServer, self).shutdown()
            self._thread.join()
        self.server_close()
        deadline = time.monotonic() + grace_s
        while self.associations and time.monotonic() < deadline:
            time.sleep(0.02)
        with self._lock:
            remaining = list(self._associations)
        for assoc in remaining:
            if assoc.is_established:
                assoc.abort(block=False)
            else:
                assoc.dul.socket._shutdown_socket()
        deadline = time.monotonic() + _ABORT_S
        while self._associations and time.monotonic() < deadline:
            time.sleep(0.02)
        if self in self.ae._servers:
            self.ae._servers.remove(self)


def serve(
    ae: AE,
    section: AeSection,
    handlers: Sequence[tuple[Any, ...]],
    *,
    peers: Sequence[PeerSection],
    tls: TlsSection | None = None,
    required_right: Right,
    reuse_port: bool = False,
    association_class: Callable[[AE, str], ServedAssociation] = ServedAssociation,
) -> Server:
    """Return a running server for an AE whose supported contexts are set.

    Parameters
    ----------
    handlers : sequence of (event, function) or (event, function, args)
        As for pynetdicom.
    required_right : str
        Callers without it are rejected with "calling AE title not recognised".
    reuse_port : bool
        Share the port with other processes (SO_REUSEPORT).

    Raises
    ------
    OSError
        When the port cannot be bound.
    ConfigError
        When TLS is configured and its files cannot be used.
    """
    ae.ae_title = section.ae_title
    ae.maximum_pdu_size = MAXIMUM_LENGTH
    ae.maximum_associations = 1_000_000             # `Server.admit` counts better
    ae.acse_timeout = section.acse_timeout_s
    ae.network_timeout = section.network_timeout_s
    ae.dimse_timeout = section.network_timeout_s
    server = Server(
        ae,
        section,
        handlers,
        peers=peers,
        ssl_context=tls_context(tls) if tls else None,
        required_right=required_right,
        reuse_port=reuse_port,
        association_class=association_class,
    )
    ae._servers.append(server)
    return server


__all__ = ["MAXIMUM_LENGTH", "Caller", "ServedAssociation", "Server", "caller_of", "may", "rights_of", "serve"]
