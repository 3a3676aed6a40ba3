"""The answers of one C-FIND as bytes: what is the same in all of them is encoded once, the rest without detours.

What an answer holds is said by `responses.plain_response` and `similarity_response`, which also make those answers
that need a character set; here is only the short way to the same bytes (a test holds them equal).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from daemon.finder import identifiers, private, responses
from daemon.finder.identifiers import STUDY_DESCRIPTION, FindRequest
from daemon.finder.responses import Provenance
from daemon.finder.similarity import Answer, Match
from daemon.finder.wire import Element, Syntax, name_of, needs_utf_8, write, write_element

Attributes = Mapping[str, Element]
#: Makes an element that differs from answer to answer.
_Part = Callable[[Attributes, Match | None], bytes]

#: Text VRs in repertoires that a 16-bit length holds, of which the catalogue nearly always has one value.
_PLAIN = frozenset({"AE", "AS", "CS", "DA", "LO", "SH", "TM", "UI"})


#: Private answers of one number, of a VR with a 16-bit length in explicit VR.
_NUMBERS: Mapping[str, tuple[str, Callable[[Match], float]]] = {
    "Rank": ("H", lambda match: match.rank),
    "Score": ("d", lambda match: match.score),
    "Cosine": ("d", lambda match: match.cosine),
}


class _NotAscii(Exception):
    """The answer needs (0008,0005)."""


class AnswerWriter:
    """Writes the answers to one request.

    Parameters
    ----------
    answered : Answer, optional
        What the matches belong to; without it answers are those of a plain query.
    """

    def __init__(
        self, request: FindRequest, provenance: Provenance, syntax: Syntax, answered: Answer | None = None
    ) -> None:
        self._request, self._provenance, self._syntax, self._answered = request, provenance, syntax, answered
        self._order = "<" if syntax.little_endian else ">"
        self._parts: list[bytes | _Part] = []
        constant = b""
        template = responses.plain_response(request, {}, provenance)
        for tag in sorted(template):
            part = self._part(tag, template[tag])
            if isinstance(part, bytes):
                constant += part
            else:
                self._parts += [constant, part]
                constant = b""
        self._parts.append(constant)

    def plain(self, attributes: Attributes) -> bytes:
        """Return the answer to a plain query."""
        try:
            return self._joined(attributes, None)
        except _NotAscii:
            return write(responses.plain_response(self._request, attributes, self._provenance), self._syntax)

    def similar(self, attributes: Attributes, match: Match) -> bytes:
        """Return the answer that tells of a match."""
        try:
            return self._joined(attributes, match)
        except _NotAscii:
            assert self._answered is not None
            answer = responses.similarity_response(
                self._request, attributes, self._answered, match, self._provenance
            )
            return write(answer, self._syntax)

    def _joined(self, attributes: Attributes, match: Match | None) -> bytes:
        return b"".join([part if isinstance(part, bytes) else part(attributes, match) for part in self._parts])

    # ------------------------------------------------------------------------------------ parts

    def _part(self, tag: int, element: Element) -> bytes | _Part:
        request = self._request
        if tag in (identifiers.QUERY_RETRIEVE_LEVEL, identifiers.RETRIEVE_AE_TITLE, identifiers.INSTANCE_AVAILABILITY):
            return write_element(tag, element, self._syntax)
        if tag >> 16 != private.GROUP:
            if tag == STUDY_DESCRIPTION and request.prefix_description and self._answered is not None:
                return self._made(tag)
            return self._known(tag, request.keys[tag], write_element(tag, element, self._syntax))
        if tag >> 8 == private.GROUP << 8 | (request.block or 0) and self._answered is not None:
            keyword = private.BY_OFFSET[tag & 0xFF].keyword
            if keyword in responses.OF_THE_MATCH:
                return self._made(tag)
            if keyword in responses.OF_THE_ANSWER:
                return self._checked(tag, responses.answer_element(keyword, self._answered))
        return self._checked(tag, element)

    def _checked(self, tag: int, element: Element) -> bytes | _Part:
        """Return an element that is the same in all answers, unless it calls for a character set."""
        if not needs_utf_8([element]):
            return write_element(tag, element, self._syntax)

        def part(_attributes: Attributes, _match: Match | None) -> bytes:
            raise _NotAscii

        return part

    def _made(self, tag: int) -> _Part:
        """Return a part that is worked out for each match."""
        syntax = self._syntax

        def part(attributes: Attributes, match: Match | None) -> bytes:
            assert match is not None
            element = responses.match_element(tag, attributes, match)
            if needs_utf_8((element,)):
                raise _NotAscii
            return write_element(tag, element, syntax)

        keyword = private.BY_OFFSET[tag & 0xFF].keyword if tag >> 16 == private.GROUP else ""
        return self._number(tag, keyword) if keyword in _NUMBERS else part

    def _number(self, tag: int, keyword: str) -> _Part:
        """Return a part that holds one number of the match."""
        code, value_of = _NUMBERS[keyword]
        number = struct.Struct(self._order + code)
        empty = write_element(tag, {"vr": private.BY_KEYWORD[keyword].vr}, self._syntax)
        width = 4 if self._syntax.implicit_vr else 2
        head = empty[:-width] + struct.pack(f"{self._order}{'I' if width == 4 else 'H'}", number.size)

        def part(_attributes: Attributes, match: Match | None) -> bytes:
            assert match is not None
            return head + number.pack(value_of(match))

        return part

    def _known(self, tag: int, asked: Element, empty: bytes) -> _Part:
        """Return a part that the catalogue knows, or not: then it is empty."""
        name, syntax = name_of(tag), self._syntax
        head = struct.pack(f"{self._order}HH", tag >> 16, tag & 0xFFFF)
        length = struct.Struct(f"{self._order}{'I' if syntax.implicit_vr else 'H'}").pack

        def part(attributes: Attributes, _match: Match | None) -> bytes:
            known: Any = attributes.get(name)
            if not known:
                return empty
            vr, values = known["vr"], known.get("Value")
            if vr in _PLAIN and values and len(values) == 1:
                value = values[0]
                if isinstance(value, str) and len(value) < 0xFFFE:
                    if not value.isascii():
                        raise _NotAscii
                    data = value.encode()
                    if len(data) % 2:
                        data += b"\0" if vr == "UI" else b" "
                    return head + (b"" if syntax.implicit_vr else vr.encode()) + length(len(data)) + data
            element = responses.narrowed(known, asked)
            if needs_utf_8((element,)):
                raise _NotAscii
            return write_element(tag, element, syntax)

        return part
