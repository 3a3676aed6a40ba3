"""The listener: C-STORE to the spool, nothing decoded.

::

    receive     fragments of a C-STORE from the socket to a file, in the thread that reads the socket
    runs        PDUs that are alike, read so that their fragments come to lie one behind the other
    intake      the file: meta header, hash, watermark, hand-over to the spool
    status      exception -> DIMSE status
    contexts    what is negotiated, from the readers' table
    commitment  N-ACTION -> N-EVENT-REPORT

No torch and no codec is imported here, or by anything that is (a test holds this).
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog
from pynetdicom import AE, evt

from daemon.config import Config
from daemon.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from daemon.listener.commitment import Commitment
from daemon.listener.contexts import add_contexts
from daemon.listener.intake import Intake
from daemon.listener.receive import ReceivingAssociation
from daemon.network import serve
from storage.spool import Spool

#: How long associations may go on after the order to stop; with the time to abort the rest it stays below the 11 s
#: after which the supervisor kills.
GRACE_S = 8.0

log = structlog.get_logger(__name__)


def run(config: Config, stop: threading.Event, ready: Callable[[], None]) -> None:
    """Receive until `stop` is set; then accept no more, let associations finish for GRACE_S, and return.

    Several processes may run this on one port when ``ingest.processes`` is above 1.

    Parameters
    ----------
    ready : callable
        Called once the port is bound.

    Raises
    ------
    OSError
        When the port cannot be bound.
    SpoolUnavailable
        When the spool cannot be opened.
    """
    spool = Spool(config.storage.directory / "spool")
    try:
        spool.sweep()
        intake = Intake(config.storage, spool)
        ae = AE()
        ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        commitment = Commitment(config, spool)      # promised only where originals are kept
        add_contexts(ae, storage_commitment=config.storage.keep_originals)
        server = serve(
            ae,
            config.ingest,
            [(evt.EVT_N_ACTION, commitment.on_action)],
            peers=config.peers,
            tls=config.tls,
            required_right="store",
            reuse_port=config.ingest.processes > 1,
            association_class=lambda ae, mode: ReceivingAssociation(ae, mode, intake, commitment),
        )
        try:
            log.info("listener.started", ae_title=config.ingest.ae_title, host=config.ingest.host, port=server.port)
            ready()
            stop.wait()
        finally:
            server.shutdown(grace_s=GRACE_S)
            log.info("listener.stopped")
    finally:
        spool.close()
