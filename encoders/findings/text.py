"""Sentences of a report, with their section and place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

#: A full stop ends a sentence unless it stands in a number ("1.2 cm") or after one of these abbreviations.
_ABBREVIATIONS = r"(?<!\bvs)(?<!\bDr)(?<!\bdr)(?<!\bcf)(?<!\be\.g)(?<!\bi\.e)(?<!\bapprox)"
_END = re.compile(
    rf"{_ABBREVIATIONS}\.(?=\s|$|[A-Z]|\d\.\s)|[!?](?=\s|$)|\n\s*\n|\n\s*(?=[-*•]|\d+[.)]\s)|;"
    r"|(?<=[a-z)])\s+(?=\d{1,2}\.\s+[A-Z])"
)
#: "1.", "2)", "- " in front of an item.
_ITEM = re.compile(r"(?:\s|[-*•.]|\(?\d{1,2}[.)](?=\s|$|[A-Z]))+")
_LINE_END = re.compile(r"(?<=\S)\s*\n")
_WORD = re.compile(r"[^\W\d_]{2,}")
#: Headings that a dictated text may hold inside its two sections; what stands under a context heading is no finding.
_HEADING = re.compile(
    r"\b(?:(?P<text>findings|impression|conclusion|opinion|chest)"
    r"|(?P<context>(?:clinical |reason for |brief )?(?:history|indications?|information|exam(?:ination)?|study)"
    r"|comparisons?|techniques?|procedure|views?|date of exam))\s*:",
    re.IGNORECASE,
)
#: A line that goes on whatever its length: it ends in one of these, or has one word only.
_UNFINISHED = re.compile(
    r"(?:\b(?:an?|the|this|no|not|without|of|in|on|at|to|for|from|by|with|and|or|is|are|was|were|has|have|been|as|than"
    r"|left|right)|[,(/&-]|^\s*\S+)\s*$",
    re.IGNORECASE,
)
#: Text is wrapped at this many characters at least, unless it is all in capitals and no line had room for more.
_NARROWEST = 60
#: No radiologist's sentence is longer; text without any punctuation is cut so that the work stays linear in its length.
_LONGEST = 800


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence: ``text`` is ``report[start:end]``."""

    text: str
    start: int
    end: int


def has_words(text: str) -> bool:
    """Return whether `text` says anything at all; "XXXX" (the anonymisation of IU X-ray) says nothing."""
    return any(word.strip("Xx") for word in _WORD.findall(text))


def sentences(text: str) -> list[Sentence]:
    """Return the sentences of one section in reading order, without those under HISTORY:, TECHNIQUE: and the like.

    A context heading reaches to the end of its line, or of its sentence where all stands on one line.
    """
    found: list[Sentence] = []
    items = _item_ends(text)
    for start, end in _readable(text):
        begin = start
        endings = [ending.span() for ending in _END.finditer(text, start, end)]
        for stop, following in sorted(endings + [(at, at + 1) for at in items if start <= at < end]):
            found += _trimmed(text, begin, stop)
            begin = max(begin, following)
        found += _trimmed(text, begin, end)
    return found


def _item_ends(text: str) -> list[int]:
    """Return the line breaks at which an item without a full stop ends: its line had room for the next word."""
    lines = text.split("\n")
    one_case = text in (text.upper(), text.lower())
    longest = max(map(len, lines))
    breaks, at = [], -1
    for line, following in pairwise(lines):
        at += len(line) + 1
        word = following.split(maxsplit=1)[:1]
        if word and (one_case or not word[0][0].islower()) and not _UNFINISHED.search(line):
            breaks.append((at, len(line) + 1 + len(word[0])))
    wrapped = one_case and all(needed > longest for _, needed in breaks)
    return [] if wrapped else [at for at, needed in breaks if needed <= max(longest, _NARROWEST)]


def _readable(text: str) -> Iterator[tuple[int, int]]:
    """Yield the spans of `text` that are not under a context heading."""
    start = 0
    for heading in _HEADING.finditer(text):
        if heading.start() > start:
            yield start, heading.start()
        start = heading.end()
        if heading["context"]:
            following = _HEADING.search(text, start)
            start = _end_of_context(text, start, following.start() if following else len(text))
    yield start, len(text)


def _end_of_context(text: str, start: int, stop: int) -> int:
    line = _LINE_END.search(text, start, stop)
    ending = line or _END.search(text, start, stop)
    return ending.end() if ending else stop


def _trimmed(text: str, start: int, end: int) -> Iterator[Sentence]:
    """Yield text[start:end] without item number and outer blanks, in pieces of at most _LONGEST characters."""
    item = _ITEM.match(text, start, end)
    start = item.end() if item else start
    while start < end:
        stop = end
        if end - start > _LONGEST:
            blank = text.rfind(" ", start, start + _LONGEST)
            stop = blank if blank > start else start + _LONGEST
        piece = text[start:stop].rstrip()
        if has_words(piece):
            yield Sentence(piece, start, start + len(piece))
        start = stop
