"""The answers of one C-FIND as bytes: what is the same in all of them is encoded once, the rest without detours.

What an answer holds is said by `responses.plain_response` and `similarity_response`, which also make those answers
that need a character set; here is only the short way to the same bytes (a test holds them equal).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from operator import attrgetter
from typing import Any, NamedTuple

from daemon.finder import private, responses
from daemon.finder.identifiers import STUDY_DESCRIPTION, FindRequest
from daemon.finder.kept import PLACES, explicit
from daemon.finder.responses import Provenance
from daemon.finder.similarity import Answer, Match
from daemon.finder.wire import Element, Keys, Syntax, name_of, needs_utf_8, write, write_element
from storage.base import StudyRecord

Attributes = Mapping[str, Element]
#: Makes an element that differs from answer to answer.
_Make = Callable[[Attributes, Match | None], bytes]


class _Known(NamedTuple):
    """What the catalogue knows of a study; `place`: where a `Kept` has it, 0: nowhere; `vr`: in explicit VR."""

    make: _Make
    place: int
    vr: bytes


@dataclass(frozen=True, slots=True)
class _Number:
    """One number of the match: tag and length, then `pack`ed what `value_of` tells."""

    head: bytes
    pack: Callable[[float], bytes]
    value_of: Callable[[Match], float]

    def __call__(self, _attributes: Attributes, match: Match | None) -> bytes:
        """Return the element of a match."""
        assert match is not None
        return self.head + self.pack(self.value_of(match))


_Part = bytes | _Known | _Make
_Parts = Sequence[tuple[int, _Part]]

#: Text VRs in repertoires that a 16-bit length holds, of which the catalogue nearly always has one value.
_PLAIN = frozenset({"AE", "AS", "CS", "DA", "LO", "SH", "TM", "UI"})


#: Private answers of one number, of a VR with a 16-bit length in explicit VR.
_NUMBERS: Mapping[str, tuple[str, Callable[[Match], float]]] = {
    "Rank": ("H", attrgetter("rank")),
    "Score": ("d", attrgetter("score")),
    "Cosine": ("d", attrgetter("cosine")),
}


#: Private answers that need a study's report or findings.
_OF_RECORDS = frozenset(private.BY_KEYWORD[keyword].offset for keyword in ("ReportState", "FindingsPresent"))
_NOTHING: Attributes = {}


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
        keys = request.keys if isinstance(request.keys, Keys) else Keys(request.keys)
        standard = (_standard_again if keys.is_repeated else _standard)(keys, request.level, provenance, syntax)
        own = self._private()
        if request.prefix_description and answered is not None and STUDY_DESCRIPTION in keys:
            standard = [part for part in standard if part[0] != STUDY_DESCRIPTION]
            own.append((STUDY_DESCRIPTION, _made(STUDY_DESCRIPTION, syntax)))
        parts = [*standard, *own]
        if own and standard and own[0][0] < standard[-1][0]:
            parts.sort(key=lambda part: part[0])
        self._parts: list[_Part] = []
        for _, part in parts:
            if isinstance(part, bytes) and self._parts and isinstance(self._parts[-1], bytes):
                self._parts[-1] += part
            else:
                self._parts.append(part)

    def plain(self, attributes: Attributes) -> bytes:
        """Return the answer to a plain query."""
        try:
            return self._joined(attributes, None)
        except _NotAscii:
            return write(responses.plain_response(self._request, attributes, self._provenance), self._syntax)

    def similar(self, match: Match, attributes: Attributes | None = None) -> bytes:
        """Return the answer that tells of a match; without `attributes`, those of its study."""
        if attributes is None:
            if not isinstance(match.known, StudyRecord):
                return self.all_similar([match])[0]
            attributes = match.known.attributes
        try:
            return self._joined(attributes, match)
        except _NotAscii:
            assert self._answered is not None
            answer = responses.similarity_response(
                self._request, attributes, self._answered, match, self._provenance
            )
            return write(answer, self._syntax)

    def _joined(self, attributes: Attributes, match: Match | None) -> bytes:
        parts = [
            part if isinstance(part, bytes)
            else part.make(attributes, match) if isinstance(part, _Known) else part(attributes, match)
            for part in self._parts
        ]
        return b"".join(parts)

    # ------------------------------------------------------------------------------------ kept studies

    def all_similar(self, matches: Sequence[Match]) -> list[bytes]:
        """Return what `similar` does of each match; of kept studies column by column."""
        if not matches or not all(isinstance(match.known, tuple) for match in matches):
            return [self.similar(match) for match in matches]
        kept = list(zip(*[match.known for match in matches], strict=True))
        columns = [self._column(part, kept, matches) for part in self._parts]
        return list(map(b"".join, zip(*columns, strict=True)))

    def _column(self, part: _Part, kept: Sequence[Sequence[bytes]], matches: Sequence[Match]) -> Iterable[bytes]:
        """Return one part of each answer; `kept`: the columns of what is kept of the matches' studies."""
        if isinstance(part, bytes):
            return repeat(part, len(matches))
        if isinstance(part, _Number):
            return [part.head + part.pack(value) for value in map(part.value_of, matches)]
        if not isinstance(part, _Known):
            return [part(_NOTHING, match) for match in matches]
        if self._syntax.implicit_vr:
            return kept[part.place]
        return [explicit(element, part.vr) for element in kept[part.place]]

    # ------------------------------------------------------------------------------------ parts

    def _private(self) -> list[tuple[int, _Part]]:
        """Return creator and private elements: what was asked is repeated, what was asked for is answered."""
        request, answered = self._request, self._answered
        if request.block is None or not request.private_keys:
            return []
        tag, element = responses.creator(request.block)
        parts: list[tuple[int, _Part]] = [(tag, self._checked(tag, element))]
        for offset in sorted(request.private_keys):
            tag, keyword = responses.private_tag(request.block, offset), private.BY_OFFSET[offset].keyword
            if answered is not None and keyword in responses.OF_THE_MATCH:
                parts.append((tag, _made(tag, self._syntax)))
            elif answered is not None and keyword in responses.OF_THE_ANSWER:
                parts.append((tag, self._checked(tag, responses.answer_element(keyword, answered))))
            else:
                parts.append((tag, self._checked(tag, responses.echo(offset, request.private_keys[offset]))))
        return parts

    def _checked(self, tag: int, element: Element) -> bytes | _Make:
        """Return an element that is the same in all answers, unless it calls for a character set."""
        values = tuple(element.get("Value", ()))
        written = _written_again if len(str(values)) <= _REPEATED else _written
        return written(tag, element["vr"], values, self._syntax) or _not_ascii


def _written(tag: int, vr: str, values: tuple[Any, ...], syntax: Syntax) -> bytes:
    """Return an element of plain values; nothing where one of them is not ASCII."""
    element = {"vr": vr, "Value": values}
    return b"" if needs_utf_8((element,)) else write_element(tag, element, syntax)


_written_again = lru_cache(maxsize=256)(_written)
#: Longer values are hardly asked again: texts, lists of examples.
_REPEATED = 100


def _not_ascii(_attributes: Attributes, _match: Match | None) -> bytes:
    raise _NotAscii


@lru_cache(maxsize=256)
def _made(tag: int, syntax: Syntax) -> _Make:
    """Return a part that is worked out for each match."""

    def part(attributes: Attributes, match: Match | None) -> bytes:
        assert match is not None
        element = responses.match_element(tag, attributes, match)
        if needs_utf_8((element,)):
            raise _NotAscii
        return write_element(tag, element, syntax)

    keyword = private.BY_OFFSET[tag & 0xFF].keyword if tag >> 16 == private.GROUP else ""
    return _number(tag, keyword, syntax) if keyword in _NUMBERS else part


def _number(tag: int, keyword: str, syntax: Syntax) -> _Make:
    """Return a part that holds one number of the match."""
    (code, value_of), order = _NUMBERS[keyword], "<" if syntax.little_endian else ">"
    number = struct.Struct(order + code)
    empty = write_element(tag, {"vr": private.BY_KEYWORD[keyword].vr}, syntax)
    width = 4 if syntax.implicit_vr else 2
    head = empty[:-width] + struct.pack(f"{order}{'I' if width == 4 else 'H'}", number.size)
    return _Number(head, number.pack, value_of)


def _standard(keys: Keys, level: str, provenance: Provenance, syntax: Syntax) -> _Parts:
    """Return the standard elements of an answer by tag: level and provenance, and what the catalogue knows."""
    fixed = responses.fixed(keys, level, provenance)
    return [
        (tag, write_element(tag, fixed[tag], syntax) if tag in fixed else _known(tag, keys[tag], syntax))
        for tag in sorted({*keys, *fixed})
    ]


_standard_again = lru_cache(maxsize=64)(_standard)


def _known(tag: int, asked: Element, syntax: Syntax) -> _Known:
    """Return a part that the catalogue knows, or not: then it is empty."""
    name, order, vr_answered = name_of(tag), "<" if syntax.little_endian else ">", responses.answer_vr(tag, asked)
    empty = write_element(tag, {"vr": vr_answered}, syntax)
    head = struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF)
    length = struct.Struct(f"{order}{'I' if syntax.implicit_vr else 'H'}").pack

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

    return _Known(part, PLACES.get(tag, 0), vr_answered.encode())


def may_be_kept(request: FindRequest, syntax: Syntax) -> bool:
    """Return whether `KeptStudies` hold all that the answers show, and nothing in them calls for a character set."""
    return (
        syntax.little_endian
        and not request.prefix_description
        and not _OF_RECORDS.intersection(request.private_keys)
        and not needs_utf_8(request.private_keys.values())
        and all(tag in PLACES or tag in responses.FIXED for tag in request.keys)
    )
