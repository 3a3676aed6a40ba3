"""Storage Commitment Push Model (PS3.4 Annex J): what is really kept here is committed, nothing else.

The result of an N-ACTION goes back as an N-EVENT-REPORT: on a new association to the peer's configured port if it has
one, else (or when that fails) on the association that asked, if it is still there.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import structlog
from pydicom.dataset import Dataset
from pynetdicom import AE, build_role
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from daemon.config import Config, PeerSection
from daemon.peers import Caller, caller_of, peer_sections
from daemon.tls import tls_client
from storage.spool import Spool

_REQUEST, _ALL_COMMITTED, _SOME_FAILED = 1, 1, 2     # Action Type ID and Event Type IDs, PS3.4 J.3.2 and J.3.3
#: Failure Reason (0008,1197), PS3.3 C.14.1.1.
NO_SUCH_OBJECT_INSTANCE, CLASS_INSTANCE_CONFLICT = 0x0112, 0x0119
_SUCCESS, _INVALID_ARGUMENT, _NO_SUCH_ACTION = 0x0000, 0x0115, 0x0123
#: How long to wait before each attempt to reach a peer that wants its report on a new association.
_PAUSES_S = (0.0, 2.0, 10.0)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Report:
    """An N-EVENT-REPORT to be sent: event type and information."""

    event_type: int
    information: Dataset


def report_of(request: Dataset, held: dict[str, str]) -> Report:
    """Return the report on a request, given the SOP classes of the instances that are kept (by SOP Instance UID)."""
    information, committed, failed = Dataset(), [], []
    information.TransactionUID = request.TransactionUID
    for item in request.ReferencedSOPSequence:
        result = Dataset()
        result.ReferencedSOPClassUID = item.ReferencedSOPClassUID
        result.ReferencedSOPInstanceUID = item.ReferencedSOPInstanceUID
        sop_class_uid = held.get(str(item.ReferencedSOPInstanceUID))
        if sop_class_uid == item.ReferencedSOPClassUID:
            committed.append(result)
        else:
            result.FailureReason = NO_SUCH_OBJECT_INSTANCE if sop_class_uid is None else CLASS_INSTANCE_CONFLICT
            failed.append(result)
    if committed:
        information.ReferencedSOPSequence = committed
    if failed:
        information.FailedSOPSequence = failed
    return Report(_SOME_FAILED if failed else _ALL_COMMITTED, information)


class Commitment:
    """Answers N-ACTION requests and delivers their reports."""

    def __init__(self, config: Config, spool: Spool) -> None:
        self._config, self._spool = config, spool

    def on_action(self, event: Any) -> tuple[int, Dataset | None]:
        """Handle EVT_N_ACTION: remember the report with the association, which delivers it after the response."""
        if event.action_type != _REQUEST:
            return _NO_SUCH_ACTION, None
        try:
            request = event.action_information
            held = self._spool.holds(str(item.ReferencedSOPInstanceUID) for item in request.ReferencedSOPSequence)
            report = report_of(request, held)
        except (AttributeError, TypeError, ValueError, NotImplementedError):    # keys missing, or not decodable
            return _INVALID_ARGUMENT, None
        event.assoc.reports.append(report)
        return _SUCCESS, None

    def deliver(self, assoc: Any, context_id: int, report: Report) -> None:
        """Send a report, without waiting for it to arrive."""
        caller = caller_of(assoc)
        peer = next((p for p in peer_sections(self._config.peers, caller) if p.port), None)
        if peer is None:
            self._on_same(assoc, context_id, report)
        else:
            arguments = (assoc, context_id, report, caller, peer)
            threading.Thread(target=self._on_new, args=arguments, name="commitment", daemon=True).start()

    @staticmethod
    def _on_same(assoc: Any, context_id: int, report: Report) -> bool:
        context = assoc._accepted_cx.get(context_id)
        if context is None or not assoc.is_established:
            log.warning("commitment.undelivered", reason="the association is over; configure the peer's port")
            return False
        syntax = context.transfer_syntax[0]
        request = N_EVENT_REPORT()
        request.MessageID = 1
        request.AffectedSOPClassUID = StorageCommitmentPushModel
        request.AffectedSOPInstanceUID = StorageCommitmentPushModelInstance
        request.EventTypeID = report.event_type
        encoded = encode(report.information, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
        request.EventInformation = BytesIO(encoded or b"")
        assoc.dimse.send_msg(request, context_id)
        log.info("commitment.reported", event_type=report.event_type, association="same")
        return True

    def _on_new(
        self, assoc: Any, context_id: int, report: Report, caller: Caller, peer: PeerSection
    ) -> None:
        ae = AE(self._config.ingest.ae_title)
        ae.add_requested_context(StorageCommitmentPushModel)
        role = build_role(StorageCommitmentPushModel, scp_role=True)
        for pause_s in _PAUSES_S:
            time.sleep(pause_s)
            opened = ae.associate(
                caller.address, peer.port, ae_title=caller.ae_title, ext_neg=[role],
                tls_args=tls_client(self._config.tls, caller.address),
            )  # fmt: skip
            if not opened.is_established:
                continue
            status, _ = opened.send_n_event_report(
                report.information, report.event_type, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )
            opened.release()
            if status.get("Status") == _SUCCESS:
                log.info("commitment.reported", event_type=report.event_type, association="new")
                return
        self._on_same(assoc, context_id, report)
