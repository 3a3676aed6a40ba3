"""The answers of one C-FIND as bytes: what is the same in all of them is encoded once, the rest without detours.

What an answer holds is said by `responses.plain_response` and `similarity_response`, which also make those answers
that need a character set; here is only the short way to the same bytes (a test holds them equal).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, repeat
from typing import Any, NamedTuple

from daemon.finder import private, responses
from daemon.finder.identifiers import EXAMPLE, STUDY_DESCRIPTION, FindRequest, Repeated
from daemon.finder.kept import PLACES, Layout
from daemon.finder.responses import Provenance
from daemon.finder.similarity import NO_MATCHES, Answer, Match, Matches
from daemon.finder.wire import Element, Syntax, name_of, needs_utf_8, write, write_element
from storage.base import StudyRecord

Attributes = Mapping[str, Element]
#: Makes an element that differs from answer to answer.
_Make = Callable[[Attributes, Match | None], bytes]


@lru_cache(maxsize=256)
def _packer(format_: str) -> struct.Struct:
    return struct.Struct(format_)


class _Known(NamedTuple):
    """What the catalogue knows of a study; `place`: where it is kept (PLACES), None: nowhere."""

    make: _Make
    place: int | None


@dataclass(frozen=True, slots=True)
class _Numbers:
    """Numbers of the match one behind the other, made in one go.

    Attributes
    ----------
    order : str
        ``"<"`` or ``">"``.
    head : bytes
        Before the first number: its tag and length.
    others : sequence of bytes
        Before each of the others: that, and what is the same in all answers between it and the number before.
    format : str
        How numbers and what is between them are packed.
    fields : sequence of str
        Which numbers of the match: rank, score, cosine.
    """

    order: str
    head: bytes
    others: Sequence[bytes]
    format: str
    fields: Sequence[str]

    def followed_by(self, between: bytes, other: _Numbers) -> _Numbers:
        """Return these numbers and more behind them."""
        others = (*self.others, between + other.head, *other.others)
        format_ = f"{self.format}{len(between + other.head)}s{other.format}"
        return _Numbers(self.order, self.head, others, format_, (*self.fields, *other.fields))

    def columns(self, values: Sequence[Iterable[float]], before: bytes = b"") -> list[bytes]:
        """Return the elements of each match, after something that all have; `values`: of its `fields`, as columns."""
        head = before + self.head
        pack = _packer(f"{self.order}{len(head)}s{self.format}").pack
        return list(map(pack, *chain.from_iterable(zip(map(repeat, (head, *self.others)), values, strict=True))))

    def __call__(self, _attributes: Attributes, match: Match | None) -> bytes:
        """Return the elements of a match."""
        return self.columns([(getattr(match, field),) for field in self.fields])[0]


_Part = bytes | _Known | _Make

#: Text VRs in repertoires that a 16-bit length holds, of which the catalogue nearly always has one value.
_PLAIN = frozenset({"AE", "AS", "CS", "DA", "LO", "SH", "TM", "UI"})


#: Private answers of one number, of a VR with a 16-bit length in explicit VR.
_NUMBERS: Mapping[str, tuple[str, str]] = {"Rank": ("H", "rank"), "Score": ("d", "score"), "Cosine": ("d", "cosine")}


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
        told = None if answered is None else (answered.flags, answered.model_id)
        self._example = b""
        if request.repeated is not None and request.block is not None:
            self._plan, self._tail = _plans_again(request.repeated, provenance, syntax, told)
            (uid,) = request.private_keys[EXAMPLE]["Value"]
            data = uid.encode() + b"\0" * (len(uid) % 2)
            self._example = _before_uid(responses.private_tag(request.block, EXAMPLE), len(data), syntax) + data
        else:
            self._plan, self._tail = _plans(request, provenance, syntax, told)

    def plain(self, attributes: Attributes) -> bytes:
        """Return the answer to a plain query."""
        try:
            return self._joined(attributes, None)
        except _NotAscii:
            return write(responses.plain_response(self._request, attributes, self._provenance), self._syntax)

    def similar(self, match: Match, attributes: Attributes | None = None) -> bytes:
        """Return the answer that tells of a match; without `attributes`, those of its study."""
        if attributes is None:
            attributes = match.study.attributes
        try:
            return self._joined(attributes, match)
        except _NotAscii:
            assert self._answered is not None
            answer = responses.similarity_response(
                self._request, attributes, self._answered, match, self._provenance
            )
            return write(answer, self._syntax)

    def _joined(self, attributes: Attributes, match: Match | None) -> bytes:
        answer, *others = self._plan.pieces
        for part, piece in zip(self._plan.parts, others, strict=True):
            make = part.make if isinstance(part, _Known) else part
            answer += (self._example if part is _example else make(attributes, match)) + piece
        return answer

    # ------------------------------------------------------------------------------------ heads

    def all_similar(self, matches: Matches) -> list[bytes]:
        """Return what `similar` does of each match; where its head is known, that and what is told of the match."""
        columns: list[Iterable[bytes]] = []
        constant, *others = self._tail.pieces
        for part, piece in zip(self._tail.parts, others, strict=True):
            if part is _example:
                constant += self._example + piece
                continue
            columns += self._columns(constant, part, matches)
            constant = piece
        if constant or not columns:
            columns.append(repeat(constant, len(matches)))
        tails = columns[0] if len(columns) == 1 else map(b"".join, zip(*columns, strict=False))
        together = zip(matches.known, tails, strict=True)
        if StudyRecord not in set(map(type, matches.known)):
            return list(map(b"".join, together))  # type: ignore[arg-type]
        return [
            known + tail if isinstance(known, bytes) else self.similar(matches[place])
            for place, (known, tail) in enumerate(together)
        ]

    def _columns(self, constant: bytes, part: _Known | _Make, matches: Matches) -> list[Iterable[bytes]]:
        """Return what is the same in all answers' tails, and one part of each."""
        if isinstance(part, _Numbers):
            told = {"rank": range(1, len(matches) + 1), "score": matches.scores, "cosine": matches.cosines}
            return [part.columns([told[field] for field in part.fields], constant)]
        assert not isinstance(part, _Known)
        return [repeat(constant), [part(_NOTHING, match) for match in matches]]


class _Plan(NamedTuple):
    """How an answer is put together.

    Attributes
    ----------
    pieces : sequence of bytes
        What is the same in all answers: before, between and after `parts`.
    parts : sequence
        What differs from answer to answer, or, the example, from request to request.
    """

    pieces: Sequence[bytes]
    parts: Sequence[_Known | _Make]


#: What an answer tells of all matches: flags and model, None where there is no match.
_Told = tuple[tuple[str, ...], str] | None


def _plans(request: FindRequest, provenance: Provenance, syntax: Syntax, told: _Told) -> tuple[_Plan, _Plan]:
    """Return how the answers to a request are put together: all of it, and their private part, the tail."""
    answered = None if told is None else Answer(NO_MATCHES, *told)
    parts = _standard(request.keys, request.level, provenance, syntax)
    if request.prefix_description and answered is not None and STUDY_DESCRIPTION in request.keys:
        parts[STUDY_DESCRIPTION] = _made(STUDY_DESCRIPTION, syntax)
    tail = _private(request, answered, syntax)
    return _put_together(parts | tail), _put_together(tail)


def _put_together(parts: Mapping[int, _Part]) -> _Plan:
    in_order = [parts[tag] for tag in sorted(parts)]
    pieces: list[bytes] = [b""]
    varying: list[_Known | _Make] = []
    for part in in_order:
        if isinstance(part, bytes):
            pieces[-1] += part
        elif isinstance(part, _Numbers) and varying and isinstance(varying[-1], _Numbers):
            varying[-1] = varying[-1].followed_by(pieces[-1], part)
            pieces[-1] = b""
        else:
            varying.append(part)
            pieces.append(b"")
    return _Plan(pieces, varying)


@lru_cache(maxsize=64)
def _plans_again(
    repeated: Repeated, provenance: Provenance, syntax: Syntax, told: _Told
) -> tuple[_Plan, _Plan]:
    return _plans(repeated.request, provenance, syntax, told)


def _private(request: FindRequest, answered: Answer | None, syntax: Syntax) -> dict[int, _Part]:
    """Return creator and private elements: what was asked is repeated, what was asked for is answered."""
    if request.block is None or not request.private_keys:
        return {}
    tag, element = responses.creator(request.block)
    parts: dict[int, _Part] = {tag: _checked(tag, element, syntax)}
    for offset, asked in request.private_keys.items():
        tag, keyword = responses.private_tag(request.block, offset), private.BY_OFFSET[offset].keyword
        if offset == EXAMPLE and request.repeated is not None:
            parts[tag] = _example
        elif answered is not None and keyword in responses.OF_THE_MATCH:
            parts[tag] = _made(tag, syntax)
        elif answered is not None and keyword in responses.OF_THE_ANSWER:
            parts[tag] = _checked(tag, responses.answer_element(keyword, answered), syntax)
        else:
            parts[tag] = _checked(tag, responses.echo(offset, asked), syntax)
    return parts


def _checked(tag: int, element: Element, syntax: Syntax) -> bytes | _Make:
    """Return an element that is the same in all answers, unless it calls for a character set."""
    return _not_ascii if needs_utf_8((element,)) else write_element(tag, element, syntax)


def _example(_attributes: Attributes, _match: Match | None) -> bytes:
    raise NotImplementedError("marks the place of the example, which differs from request to request")


@lru_cache(maxsize=256)
def _before_uid(tag: int, size: int, syntax: Syntax) -> bytes:
    """Return what stands before so many bytes of a UID."""
    return write_element(tag, {"vr": "UI", "Value": ["0" * size]}, syntax)[:-size]


def _not_ascii(_attributes: Attributes, _match: Match | None) -> bytes:
    raise _NotAscii


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
    (code, field), order = _NUMBERS[keyword], "<" if syntax.little_endian else ">"
    empty = write_element(tag, {"vr": private.BY_KEYWORD[keyword].vr}, syntax)
    width = 4 if syntax.implicit_vr else 2
    size = struct.calcsize(order + code)
    head = empty[:-width] + struct.pack(f"{order}{'I' if width == 4 else 'H'}", size)
    return _Numbers(order, head, (), code, (field,))


def _standard(
    keys: Mapping[int, Element], level: str, provenance: Provenance, syntax: Syntax
) -> dict[int, _Part]:
    """Return the standard elements of an answer: level and provenance, and what the catalogue knows."""
    parts: dict[int, _Part] = {tag: _known(tag, asked, syntax) for tag, asked in keys.items()}
    fixed = responses.fixed(keys, level, provenance)
    return parts | {tag: write_element(tag, element, syntax) for tag, element in fixed.items()}


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

    return _Known(part, PLACES.get(tag))


# ---------------------------------------------------------------------------------------------- layouts


def layout_of(request: FindRequest, provenance: Provenance, syntax: Syntax) -> Layout | None:
    """Return the layout of the answers' heads; None where studies' records are needed, or a character set is.

    All tags of a head are below those of the tail, which is private.
    """
    if request.repeated is not None:
        return _layout_again(request.repeated, provenance, syntax)
    return _layout(request, provenance, syntax)


@lru_cache(maxsize=64)
def _layout_again(repeated: Repeated, provenance: Provenance, syntax: Syntax) -> Layout | None:
    return _layout(repeated.request, provenance, syntax)


def _layout(request: FindRequest, provenance: Provenance, syntax: Syntax) -> Layout | None:
    if (
        not syntax.little_endian
        or request.prefix_description
        or _OF_RECORDS.intersection(request.private_keys)
        or needs_utf_8(request.private_keys.values())
    ):
        return None
    parts: list[bytes | int] = []
    for _, part in sorted(_standard(request.keys, request.level, provenance, syntax).items()):
        if isinstance(part, bytes):
            last = parts[-1] if parts else 0
            parts[-1:] = [last + part] if isinstance(last, bytes) else [*parts[-1:], part]
        elif isinstance(part, _Known) and part.place is not None:
            parts.append(part.place)
        else:
            return None
    return _same_layout(tuple(parts), syntax.implicit_vr)


@lru_cache(maxsize=256)
def _same_layout(parts: tuple[bytes | int, ...], implicit_vr: bool) -> Layout:
    """Return one layout for all requests of the same keys."""
    return Layout(parts, implicit_vr)
