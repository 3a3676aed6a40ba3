"""C-MOVE and C-GET: the received bytes go out again in their own transfer syntax; no pixel is decoded here."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pynetdicom import AE, _config, evt
from pynetdicom.presentation import build_context

from daemon.config import PeerSection, TlsSection
from daemon.finder import wire
from daemon.finder.errors import BadIdentifier, DestinationUnknown, OriginalsNotKept
from daemon.finder.identifiers import (
    LEVELS,
    QUERY_RETRIEVE_LEVEL,
    SERIES_INSTANCE_UID,
    SOP_INSTANCE_UID,
    STUDY_INSTANCE_UID,
)
from daemon.status import (
    CANCELLED,
    PENDING,
    SUBOPERATIONS_FAILED,
    SUCCESS,
    UNABLE_TO_PERFORM_SUBOPERATIONS,
    Outcome,
)
from daemon.tls import tls_client
from encoders.readers.table import TRANSFER_SYNTAXES
from storage.base import Catalogue

if TYPE_CHECKING:
    from daemon.finder.exchange import Exchange

log = structlog.get_logger(__name__)

_config.STORE_SEND_CHUNKED_DATASET = True           # a path is sent from disk, fragment by fragment, as it is

_FAILED_SOP_INSTANCE_UID_LIST = 0x00080058
_UNCOMPRESSED = frozenset(syntax.uid for syntax in TRANSFER_SYNTAXES if not syntax.compressed)
#: Unique key of each level; ``Catalogue.instances_of`` takes the levels' names.
_UNIQUE = {"STUDY": STUDY_INSTANCE_UID, "SERIES": SERIES_INSTANCE_UID, "IMAGE": SOP_INSTANCE_UID}
#: (0000,1020) and the like are US; an association proposes at most 128 presentation contexts (PS3.8 9.3.2.2).
_MAXIMUM_SUBOPERATIONS = 65_535
_MAXIMUM_CONTEXTS = 128


@dataclass(frozen=True, slots=True)
class Original:
    """A kept object."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    path: Path


@dataclass(frozen=True, slots=True)
class Originals:
    """What a retrieval names: the objects that are kept, and the UIDs of those that are not."""

    objects: tuple[Original, ...]
    missing: tuple[str, ...]


def originals_of(
    identifier: bytes, syntax: wire.Syntax, catalogue: Catalogue, find_file: Callable[[str], Path | None]
) -> Originals:
    """Return the objects that a C-MOVE or C-GET Identifier names.

    Raises
    ------
    BadIdentifier
        When the level or its unique key is missing.
    OriginalsNotKept
        When there are such objects, but no file of any is kept.
    """
    elements = {wire.tag_of(name): element for name, element in wire.read(identifier, syntax).items()}
    level = next(iter(elements.get(QUERY_RETRIEVE_LEVEL, {}).get("Value", ())), "")
    if level not in LEVELS:
        raise BadIdentifier("QueryRetrieveLevel must be STUDY, SERIES or IMAGE", (QUERY_RETRIEVE_LEVEL,))
    uids = {
        name: [str(value) for value in elements.get(tag, {}).get("Value", ()) if value] for name, tag in _UNIQUE.items()
    }
    if not uids[level]:
        raise BadIdentifier(f"{level} level needs its unique key", (_UNIQUE[level],))
    objects, missing = [], []
    for sop_class, sop_instance, transfer_syntax in catalogue.instances_of(
        {name: values for name, values in uids.items() if values}
    ):
        path = find_file(sop_instance)
        if path is None:
            missing.append(sop_instance)
        else:
            objects.append(Original(sop_class, sop_instance, transfer_syntax, path))
    if missing and not objects:
        raise OriginalsNotKept("originals are not kept here: retrieve them from the PACS")
    if len(objects) + len(missing) > _MAXIMUM_SUBOPERATIONS:
        raise BadIdentifier("more than 65535 objects: retrieve them in parts", (_UNIQUE[level],))
    return Originals(tuple(objects), tuple(missing))


def destination_of(peers: Sequence[PeerSection], ae_title: str) -> PeerSection:
    """Return the configured peer that a C-MOVE sends to; DestinationUnknown (A801) if there is none with a port."""
    for peer in peers:
        if peer.ae_title == ae_title and peer.port and peer.address and "/" not in peer.address:
            return peer
    raise DestinationUnknown("no peer of this AE title with address and port configured")


@contextlib.contextmanager
def connection(
    ae_title: str, destination: PeerSection, objects: Sequence[Original], tls: TlsSection | None = None
) -> Iterator[Any]:
    """Yield an association with a C-MOVE destination that offers each object's own transfer syntax.

    Raises
    ------
    DestinationUnknown
        When it does not accept the association.
    """
    pairs = dict.fromkeys((item.sop_class_uid, item.transfer_syntax_uid) for item in objects)
    contexts = [build_context(sop_class, [syntax]) for sop_class, syntax in pairs]
    for sop_class in dict.fromkeys(sop_class for sop_class, syntax in pairs if syntax in _UNCOMPRESSED):
        contexts.append(build_context(sop_class, ["1.2.840.10008.1.2"]))  # the one that everybody takes
    if not contexts:
        yield None                                  # nothing to send: nobody needs to be called
        return
    tls_args = tls_client(tls, destination.address) if tls is not None else None
    association = AE(ae_title=ae_title).associate(
        destination.address, destination.port, contexts=contexts[:_MAXIMUM_CONTEXTS],
        ae_title=destination.ae_title, evt_handlers=[(evt.EVT_CONN_OPEN, _no_delay)], tls_args=tls_args,
    )
    if not association.is_established:
        raise DestinationUnknown("the destination does not accept the association")
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def _no_delay(event: Any) -> None:
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def send_all(exchange: Exchange, association: Any, originals: Originals, originator: str | None = None) -> None:
    """Send every object as C-STORE sub-operations, a pending response after each, and the final response.

    That one carries counts and the list of failed objects (PS3.4 C.4.2.1.4, C.4.3.1.4).
    """
    failed, completed, warnings = list(originals.missing), 0, 0
    remaining = len(originals.objects)

    def counts(with_remaining: bool) -> dict[str, int]:
        numbers = {
            "NumberOfFailedSuboperations": len(failed),
            "NumberOfWarningSuboperations": warnings,
            "NumberOfCompletedSuboperations": completed,
        }
        return numbers | {"NumberOfRemainingSuboperations": remaining} if with_remaining else numbers

    cancelled = False
    for number, item in enumerate(originals.objects, 1):
        if exchange.is_over:
            return
        cancelled = exchange.is_cancelled
        if cancelled:
            break
        status = _send_one(association, item, (exchange.request.MessageID + number) % 0x10000, originator, exchange)
        remaining -= 1
        if status == SUCCESS:
            completed += 1
        elif status is not None and status >> 12 == 0xB:
            warnings += 1
        else:
            failed.append(item.sop_instance_uid)
            log.warning(
                "object.not_sent", sop_instance_uid=item.sop_instance_uid,
                status="none" if status is None else f"{status:04X}",
            )
        if remaining and not exchange.is_over:
            exchange.send(Outcome(PENDING), counts=counts(True))
    if exchange.is_over:
        return
    if cancelled:
        outcome = Outcome(CANCELLED)
    elif failed and not completed and not warnings:
        outcome = Outcome(UNABLE_TO_PERFORM_SUBOPERATIONS, "no object could be sent")
    else:
        outcome = Outcome(SUBOPERATIONS_FAILED if failed or warnings else SUCCESS)
    log.info(
        "objects.sent", request=type(exchange.request).__name__, calling_ae_title=exchange.caller.ae_title,
        completed=completed, failed=len(failed), warnings=warnings, status=f"{outcome.status:04X}",
    )
    uids: dict[int, wire.Element] = {_FAILED_SOP_INSTANCE_UID_LIST: {"vr": "UI", "Value": failed}}
    identifier = None if outcome.status == SUCCESS else wire.write(uids, exchange.syntax)
    exchange.send(outcome, identifier, counts(cancelled))


def _send_one(
    association: Any, item: Original, message_id: int, originator: str | None, exchange: Exchange
) -> int | None:
    """Return the C-STORE status of one object, None when it could not be sent."""
    if not association.is_established:
        return None
    accepted = {
        context.transfer_syntax[0] for context in association.accepted_contexts
        if context.abstract_syntax == item.sop_class_uid and context.as_scu
    }
    try:
        if item.transfer_syntax_uid in accepted:
            source: Any = item.path
        elif item.transfer_syntax_uid in _UNCOMPRESSED and accepted & _UNCOMPRESSED:
            source = dcmread(item.path)             # between uncompressed syntaxes only elements are written anew
        else:
            return None
        answer = association.send_c_store(
            source, msg_id=message_id or 1, originator_aet=originator,
            originator_id=exchange.request.MessageID if originator else None,
        )
    except (OSError, ValueError, AttributeError, RuntimeError, InvalidDicomError) as error:
        log.warning("object.unreadable", sop_instance_uid=item.sop_instance_uid, error=type(error).__name__)
        return None
    return int(answer.Status) if "Status" in answer else None
