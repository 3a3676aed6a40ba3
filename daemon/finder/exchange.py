"""One request on one association: how it comes in, and how its responses go out.

A C-FIND-RQ is read, and its responses are written, without pydicom; many pending responses leave in one write. Between
two writes the peer's C-CANCEL is heeded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from pynetdicom.dimse_primitives import C_FIND
from pynetdicom.pdu_primitives import P_DATA

from daemon.command_set import FindRequest, find_request, find_response
from daemon.config import Right
from daemon.finder.errors import NotAuthorised
from daemon.finder.wire import Syntax
from daemon.fragments import fragments, room_of, whole
from daemon.network import Caller, ServedAssociation
from daemon.reactor import QuickUpperLayer
from daemon.status import CANCELLED, Outcome

_COMMAND, _LAST = 1, 2
#: A command set is some hundred bytes; an Identifier with a list of 10,000 UIDs has 640 KB.
_MAXIMUM_COMMAND_BYTES = 64 * 1024
_MAXIMUM_IDENTIFIER_BYTES = 16 * 1024 * 1024
#: Pending responses are kept back up to about this much: a write costs as much as encoding several of them.
_WRITE_BYTES = 64 * 1024


class QueryingUpperLayer(QuickUpperLayer):
    """An upper layer that puts a C-FIND-RQ together itself; any other message goes the way of pynetdicom."""

    def __init__(self, assoc: Any) -> None:
        super().__init__(assoc)
        self._command, self._identifier = bytearray(), bytearray()
        self._find: FindRequest | None = None
        self._context_id = 0

    def take_fragment(self, context_id: int, control: int, fragment: memoryview) -> None:
        """Add a fragment to the C-FIND-RQ that it belongs to; pass any other on."""
        if control & _COMMAND:
            if self._find is not None or len(self._command) + len(fragment) > _MAXIMUM_COMMAND_BYTES:
                raise ValueError("command inside a data set, or endless")
            self._command += fragment
            if control & _LAST:
                command_set, self._command = bytes(self._command), bytearray()
                self._take_command(context_id, command_set)
        elif self._find is None:
            super().take_fragment(context_id, control, fragment)
        elif context_id != self._context_id or len(self._identifier) + len(fragment) > _MAXIMUM_IDENTIFIER_BYTES:
            raise ValueError("identifier in another presentation context than its command, or endless")
        else:
            self._identifier += fragment
            if control & _LAST:
                self._take_find(self._find)

    def _take_command(self, context_id: int, command_set: bytes) -> None:
        self._find, self._context_id = find_request(command_set), context_id
        if self._find is None:
            primitive = P_DATA()
            primitive.presentation_data_value_list.append((context_id, bytes((_COMMAND | _LAST,)) + command_set))
            self.assoc.dimse.receive_primitive(primitive)

    def _take_find(self, find: FindRequest) -> None:
        request = C_FIND()
        request.MessageID, request.AffectedSOPClassUID, request.Priority = find.message_id, find.sop_class_uid, 0
        request.Identifier = BytesIO(bytes(self._identifier))
        self._find, self._identifier = None, bytearray()
        self.assoc.dimse.msg_queue.put((self._context_id, request))


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request on one association."""

    assoc: Any
    request: Any
    context_id: int
    syntax: Syntax
    caller: Caller
    rights: frozenset[Right]

    @property
    def is_over(self) -> bool:
        """True when the peer has aborted, released or gone."""
        return not self.assoc.is_established or self.assoc.acse.is_aborted() or self.assoc.acse.is_release_requested()

    @property
    def is_cancelled(self) -> bool:
        """True when a C-CANCEL for this request has come (PS3.7 9.3.2.3)."""
        return self.request.MessageID in self.assoc.dimse.cancel_req

    def need(self, right: Right) -> None:
        """Raise NotAuthorised if the caller lacks a right."""
        if right not in self.rights:
            raise NotAuthorised(right)

    def send(
        self, outcome: Outcome, identifier: bytes | None = None, counts: Mapping[str, int] | None = None
    ) -> None:
        """Send one response (PS3.7 9.3.2.2, 9.3.3.2, 9.3.4.2); `counts`: NumberOf...Suboperations."""
        response = type(self.request)()
        response.MessageIDBeingRespondedTo = self.request.MessageID
        response.AffectedSOPClassUID = self.request.AffectedSOPClassUID
        response.Status = outcome.status
        if outcome.comment:
            response.ErrorComment = outcome.comment
        if outcome.offending:
            response.OffendingElement = list(outcome.offending)
        for name, count in (counts or {}).items():
            setattr(response, name, count)
        if identifier is not None:
            response.Identifier = BytesIO(identifier)
        self.assoc.dimse.send_msg(response, self.context_id)

    def send_found(self, pending: int, identifiers: Iterable[bytes], final: Outcome) -> tuple[int, Outcome | None]:
        """Send a pending response (PS3.7 9.3.2.2) for each Identifier of a C-FIND, then the final one.

        Returns
        -------
        int, Outcome or None
            How many Identifiers were sent, and the final response: CANCELLED when the peer wished so, None when it
            has gone.
        """
        messages, limit = self.assoc.dimse, self.assoc.dimse.maximum_pdu_size
        context_id, room = self.context_id, room_of(limit)
        find = FindRequest(self.request.MessageID, str(self.request.AffectedSOPClassUID))
        command = b"".join(
            fragments(find_response(find, pending, with_data_set=True), context_id, True, limit)
        )
        held: list[bytes] = []
        sent = held_count = held_bytes = 0
        each = len(command)
        for identifier in identifiers:
            size = len(identifier)
            if 0 < size <= room:
                held += (command, whole(identifier, context_id, False))
            else:
                held += (command, *fragments(identifier, context_id, False, limit))
            held_count += 1
            held_bytes += each + size
            if held_bytes >= _WRITE_BYTES:
                if self.is_over or self.is_cancelled:
                    break
                messages.send_pdus(held)
                sent += held_count
                held, held_count, held_bytes = [], 0, 0
        if self.is_over:
            return sent, None
        if self.is_cancelled:
            held, held_count, final = [], 0, Outcome(CANCELLED)
        last = find_response(find, final.status, final.comment, final.offending)
        messages.send_pdus([*held, *fragments(last, context_id, True, limit)])
        return sent + held_count, final


class QueryingAssociation(ServedAssociation):
    """An association of the similar AE."""

    upper_layer = QueryingUpperLayer
