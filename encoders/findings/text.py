"""Sentences of a report, with their section and place."""

from __future__ import annotations

import re
from dataclasses import dataclass

#: A full stop ends a sentence unless it stands in a number ("1.2 cm") or after one of these abbreviations.
_ABBREVIATIONS = r"(?<!\bvs)(?<!\bDr)(?<!\bdr)(?<!\bcf)(?<!\be\.g)(?<!\bi\.e)(?<!\bapprox)(?<!\bNo)"
_END = re.compile(
    rf"{_ABBREVIATIONS}\.(?=\s|$|[A-Z]|\d\.\s)|[!?](?=\s|$)|\n\s*\n|\n\s*(?=[-*•]|\d+[.)]\s)|;"
    r"|(?<=[a-z)])\s+(?=\d{1,2}\.\s+[A-Z])"
)
#: "1.", "2)", "- " in front of an item.
_ITEM = re.compile(r"(?:\s|[-*•.]|\(?\d{1,2}[.)](?=\s|$|[A-Z]))+")
_WORD = re.compile(r"[A-Za-z]{2,}")
#: Headings that a dictated text may hold inside the two sections, and the section that they open.
_HEADING = re.compile(
    r"\b(?P<findings>findings)\s*:|\b(?P<impression>impression|conclusion|opinion)\s*:"
    r"|\b(?P<context>(?:clinical |reason for |brief )?(?:history|indications?|information|exam(?:ination)?|study)"
    r"|comparisons?|techniques?|procedure|views?|date of exam)\s*:",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence: `text` is ``section_text[start:end]``; `section` is findings, impression or context."""

    text: str
    section: str
    source: str
    start: int
    end: int


def has_words(text: str) -> bool:
    """Return whether `text` says anything at all; "XXXX" (the anonymisation of IU X-ray) says nothing."""
    return any(word.strip("Xx") for word in _WORD.findall(text))


def sentences(text: str, section: str) -> list[Sentence]:
    """Return the sentences of one section in reading order.

    Parameters
    ----------
    text : str
        The section's text as it came.
    section : str
        ``findings`` or ``impression``. A heading inside the text (``IMPRESSION:``, ``HISTORY:``) opens another section
        up to the end of its line (context) or of the text.
    """
    found: list[Sentence] = []
    current = section
    start = 0
    for stop, after in _cuts(text):
        begin, begun = start, current
        for heading in _HEADING.finditer(text, start, stop):
            _append(found, text, begin, heading.start(), begun, section)
            begun = heading.lastgroup or section
            begin = heading.end()
        _append(found, text, begin, stop, begun, section)
        # history and technique last to the end of their line; findings and impression until the next heading
        if begun == "context":
            current = "context" if "\n" not in text[stop:after] and begin < stop and current == "context" else section
        else:
            current = begun
        start = after
    return found


def _cuts(text: str) -> list[tuple[int, int]]:
    cuts = [(match.start(), match.end()) for match in _END.finditer(text)]
    return [*cuts, (len(text), len(text))]


def _append(found: list[Sentence], text: str, start: int, end: int, section: str, source: str) -> None:
    item = _ITEM.match(text, start, end)
    if item:
        start = item.end()
    while end > start and text[end - 1].isspace():
        end -= 1
    if end > start and has_words(text[start:end]):
        found.append(Sentence(text[start:end], section, source, start, end))
