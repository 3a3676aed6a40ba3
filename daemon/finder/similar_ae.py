"""The similar AE: C-ECHO, C-FIND, and C-MOVE and C-GET of what was found.

pynetdicom's association, its state machine and message encoding stay as they are; its query/retrieve service class does
not fit: it encodes every Identifier through pydicom, connects to a C-MOVE destination before it may refuse, and decodes
what it relays. Requests therefore come here before its dispatch; everything else goes on to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import structlog
from pynetdicom import AE
from pynetdicom.dimse_primitives import C_FIND, C_GET, C_MOVE
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from daemon.config import Config, Right
from daemon.finder import identifiers, relay, responses
from daemon.finder.answers import AnswerWriter, layout_of
from daemon.finder.errors import FinderError, TooManyMatches
from daemon.finder.exchange import Exchange, QueryingAssociation, QueryingUpperLayer
from daemon.finder.haste import Haste
from daemon.finder.similarity import Similarity
from daemon.finder.wire import Element, Syntax, name_of
from daemon.network import Caller, Server, caller_of, rights_of, serve
from daemon.status import CANCELLED, PENDING, PENDING_UNSUPPORTED_KEY, SUCCESS, Outcome, outcome_of
from encoders.readers.table import READERS, TRANSFER_SYNTAXES
from storage.base import Catalogue

log = structlog.get_logger(__name__)

UNCOMPRESSED = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2")
_IMPLICIT = "1.2.840.10008.1.2"
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
#: A study of radiographs and reports has a handful of series; no answer waits for more.
_SERIES_A_STUDY = 50


class Finder(Protocol):
    """What the AE answers from; swapped without closing an association."""

    @property
    def catalogue(self) -> Catalogue:
        """The Catalogue; raises Loading until it is open."""

    @property
    def similarity(self) -> Similarity:
        """The active generation's search; raises Loading until it is loaded."""

    def original(self, sop_instance_uid: str) -> Path | None:
        """Return the kept file of an instance."""


def syntax_of(transfer_syntax: str) -> Syntax:
    """Return how a context's Identifiers are encoded."""
    return Syntax(transfer_syntax == _IMPLICIT, transfer_syntax != _BIG_ENDIAN)


class HastyUpperLayer(QueryingUpperLayer):
    """One that reads requests before others run: what is read late is answered late."""

    def take_fragment(self, context_id: int, control: int, fragment: memoryview) -> None:
        """Take a fragment."""
        self.assoc.service.haste.reads()
        super().take_fragment(context_id, control, fragment)


class SimilarAssociation(QueryingAssociation):
    """An association whose C-FIND, C-MOVE and C-GET requests are answered by `service`."""

    upper_layer = HastyUpperLayer
    service: Service

    @cached_property
    def _asker(self) -> tuple[Caller, frozenset[Right]]:
        """Who asks, and what it may do: the same for all requests of an association."""
        caller = caller_of(self)
        peers = self.service.config.peers
        return caller, rights_of(peers, caller.ae_title, caller.address, caller.certificate_sha256)

    def _serve_request(self, msg: Any, context_id: int) -> None:
        context = self._accepted_cx.get(context_id)
        if not isinstance(msg, C_FIND):
            self.service.haste.usual()
        if not isinstance(msg, C_FIND | C_MOVE | C_GET) or not msg.is_valid_request or context is None:
            super()._serve_request(msg, context_id)
            return
        exchange = Exchange(self, msg, context_id, syntax_of(context.transfer_syntax[0]), *self._asker)
        self.dimse.cancel_req = {}
        self._is_paused = True                      # a C-GET sends its C-STORE requests from here
        try:
            self.service.serve(exchange)
        finally:
            self._is_paused = False
            self.dimse.cancel_req = {}


class Service:
    """Answers the requests of all associations, each in its association's thread."""

    def __init__(self, config: Config, finder: Finder) -> None:
        self.config, self.finder = config, finder
        self._provenance = _provenance(config)
        self.haste = Haste()

    def serve(self, exchange: Exchange) -> None:
        """Answer a request; whatever goes wrong becomes its final status."""
        serve_one: Callable[[Exchange], Outcome | None] = {C_FIND: self._find, C_MOVE: self._move, C_GET: self._get}[
            type(exchange.request)
        ]
        try:
            outcome = serve_one(exchange)
        except FinderError as error:
            outcome = outcome_of(error)
        except Exception as error:                  # the broad catch of an association's thread
            log.exception("request.failed", request=type(exchange.request).__name__)
            outcome = outcome_of(error)
        if outcome is None:
            return
        self.haste.usual()                          # refusals are not counted, hence not hastened
        if outcome.status not in (SUCCESS, CANCELLED):
            log.warning(
                "request.refused", request=type(exchange.request).__name__, status=f"{outcome.status:04X}",
                reason=outcome.comment, calling_ae_title=exchange.caller.ae_title,
            )
        if not exchange.is_over:
            exchange.send(outcome)

    # ------------------------------------------------------------------------------------ C-FIND

    def _find(self, exchange: Exchange) -> None:
        began = time.perf_counter()
        exchange.need("query")
        catalogue = self.finder.catalogue
        request = identifiers.parse(
            exchange.request.Identifier.getvalue(),
            exchange.syntax,
            mode_c="mode_c" in exchange.rights,
            studies_by_accession=lambda keys: _studies_by_accession(catalogue, keys),
        )
        if request.similarity is not None and request.similarity.text:
            exchange.need("text")
        pending = PENDING_UNSUPPORTED_KEY if request.unsupported else PENDING
        similarity = request.similarity
        if similarity is not None and not similarity.text:          # text starts threads of torch
            with self.haste.hastened():
                answers = self._answers(request, exchange.syntax)
                count, outcome = exchange.send_found(pending, answers, Outcome(SUCCESS))
        else:
            self.haste.usual()
            answers = self._answers(request, exchange.syntax)
            count, outcome = exchange.send_found(pending, answers, Outcome(SUCCESS))
        log.info(
            "query.answered",
            calling_ae_title=exchange.caller.ae_title,
            query_level=request.level,
            mode="exact" if request.similarity is None else "C" if request.prefix_description else "S",
            answers=count,
            cancelled=outcome is None or outcome.status == CANCELLED,
            answer_ms=round((time.perf_counter() - began) * 1000, 1),
        )

    def _answers(self, request: identifiers.FindRequest, syntax: Syntax) -> Iterator[bytes]:
        if request.similarity is not None:
            similarity = self.finder.similarity
            is_ascii = similarity.indexes.generation.model_id.isascii()
            layout = layout_of(request, self._provenance, syntax) if is_ascii else None
            answer = similarity.answer(request.similarity, layout=layout)
            writer = AnswerWriter(request, self._provenance, syntax, answer)
            if layout is not None:
                return iter(writer.all_similar(answer.matches))
            series = self._series(request, [match.study_instance_uid for match in answer.matches])
            return (
                writer.similar(match, series(match.study_instance_uid, match.study.attributes))
                for match in answer.matches
            )
        limit = self.config.similar.maximum_exact_results
        matches, more = self.finder.catalogue.find(request.level, request.identifier, limit)
        if more:
            raise TooManyMatches(limit)
        uids = [_study_uid(attributes) for attributes in matches]
        series = self._series(request, uids)
        writer = AnswerWriter(request, self._provenance, syntax)
        return (writer.plain(series(uid, attributes)) for uid, attributes in zip(uids, matches, strict=True))

    def _series(
        self, request: identifiers.FindRequest, study_uids: Sequence[str]
    ) -> Callable[[str, Mapping[str, Element]], Mapping[str, Element]]:
        """Return what adds the series' attributes to a study's; asked from the Catalogue at once, if at all."""
        keys = responses.keys_of_series(request)
        if not keys or not study_uids:
            return lambda _, attributes: attributes
        wanted = {name_of(identifiers.STUDY_INSTANCE_UID): {"vr": "UI", "Value": list(study_uids)}}
        found, _ = self.finder.catalogue.find("SERIES", wanted, _SERIES_A_STUDY * len(study_uids))
        by_study: dict[str, list[Mapping[str, Element]]] = {}
        for part in found:
            by_study.setdefault(_study_uid(part), []).append(part)
        return lambda uid, attributes: responses.with_series(attributes, by_study.get(uid, ()), keys)

    # ------------------------------------------------------------------------------------ C-MOVE, C-GET

    def _originals(self, exchange: Exchange) -> relay.Originals:
        exchange.need("retrieve")
        return relay.originals_of(
            exchange.request.Identifier.getvalue(), exchange.syntax, self.finder.catalogue, self.finder.original
        )

    def _move(self, exchange: Exchange) -> None:
        originals = self._originals(exchange)
        destination = relay.destination_of(self.config.peers, str(exchange.request.MoveDestination or "").strip())
        title, tls = self.config.similar.ae_title, self.config.tls
        with relay.connection(title, destination, originals.objects, tls) as association:
            relay.send_all(exchange, association, originals, originator=exchange.caller.ae_title)

    def _get(self, exchange: Exchange) -> None:
        relay.send_all(exchange, exchange.assoc, self._originals(exchange))


def _provenance(config: Config) -> responses.Provenance:
    pacs = config.similar.retrieve_ae_title
    if pacs:
        return responses.Provenance(pacs)
    return responses.Provenance(config.similar.ae_title, "ONLINE" if config.storage.keep_originals else "")


def _study_uid(attributes: Mapping[str, Element]) -> str:
    return str(attributes[name_of(identifiers.STUDY_INSTANCE_UID)]["Value"][0])


def _studies_by_accession(catalogue: Catalogue, keys: Mapping[str, Element]) -> list[str]:
    found, _ = catalogue.find("STUDY", keys, 2)
    return [_study_uid(study) for study in found]


def start(config: Config, finder: Finder) -> Server:
    """Return the running similar AE.

    Raises
    ------
    OSError
        When the port cannot be bound.
    """
    ae = AE(ae_title=config.similar.ae_title)
    ae.add_supported_context(Verification, list(UNCOMPRESSED))
    for model in (
        StudyRootQueryRetrieveInformationModelFind,
        StudyRootQueryRetrieveInformationModelMove,
        StudyRootQueryRetrieveInformationModelGet,
    ):
        ae.add_supported_context(model, list(UNCOMPRESSED))
    for sop_class in READERS:                       # for C-GET: the caller asks for the role of storage SCP
        ae.add_supported_context(sop_class, [row.uid for row in TRANSFER_SYNTAXES], scu_role=False, scp_role=True)
    association_class = type("BoundAssociation", (SimilarAssociation,), {"service": Service(config, finder)})
    return serve(
        ae, config.similar, [], peers=config.peers, tls=config.tls, required_right="query",
        reuse_port=config.finder.processes > 1, association_class=association_class,
    )
