"""Mentions of findings in the sentences of a report, each with its state."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from encoders.findings.lexicon import Phrase, lexicon
from encoders.findings.scopes import Place, State, Verdict, classify
from encoders.findings.text import sentences

_SIDES = re.compile(
    r"\b(?:(?P<bilateral>bilateral(?:ly)?|both|biapical|bibasilar|bibasal|biapically|bases|apices|lungs"
    r"|right and left|left and right|right greater than left|left greater than right)"
    r"|(?P<left>left|lingula|lingular|left-sided)|(?P<right>right|right-sided|middle lobe))\b"
)
_CLAUSE = re.compile(r",|\b(?:and|or|but|with|versus|vs)\b")

#: Blanks, hyphens and apostrophes of word processors.
_PLAIN = str.maketrans("\n\r\t\u00a0\u2010\u2011\u2013\u2014\u2019", "    ----'")


@dataclass(frozen=True, slots=True)
class Mention:
    """One place of a report at which a finding is named.

    Attributes
    ----------
    finding : str
        One of ``FINDING_NAMES[1:]``.
    phrase : str
        The words that name it, as written.
    state : State
    cue : str
        The words that decided the state (lower case), "" where nothing but the phrase did.
    laterality : str
        ``left``, ``right``, ``bilateral``, or "" where the sentence does not tell.
    section : str
        ``findings`` or ``impression``: the argument of `mentions` in which it stands.
    start, end : int
        Place of the phrase in that argument.
    sentence_start, sentence_end : int
        Place of its sentence in that argument.
    """

    finding: str
    phrase: str
    state: State
    cue: str
    laterality: str
    section: str
    start: int
    end: int
    sentence_start: int
    sentence_end: int


@dataclass(frozen=True, slots=True)
class _Hit:
    finding: str
    verdict: Verdict
    laterality: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Match:
    phrase: Phrase
    start: int
    end: int


def mentions(findings: str, impression: str) -> list[Mention]:
    """Return every mention of the 13 findings, in reading order, findings section first.

    Parameters
    ----------
    findings, impression : str
        The report's two sections; either may be empty.
    """
    return list(_mentions(findings, "findings")) + list(_mentions(impression, "impression"))


def _mentions(text: str, section: str) -> Iterator[Mention]:
    for sentence in sentences(text):
        for hit in _hits(sentence.text):
            start, end = sentence.start + hit.start, sentence.start + hit.end
            yield Mention(
                finding=hit.finding,
                phrase=text[start:end],
                state=hit.verdict.state,
                cue=hit.verdict.cue,
                laterality=hit.laterality,
                section=section,
                start=start,
                end=end,
                sentence_start=sentence.start,
                sentence_end=sentence.end,
            )


@lru_cache(maxsize=32768)  # reports repeat sentences: about half of those of IU X-ray
def _hits(sentence: str) -> tuple[_Hit, ...]:
    text = _lower(sentence)
    found = list(_phrases(text))
    if not found:
        return ()
    found.sort(key=lambda item: (item.start, item.end))
    verdicts = classify(text, [Place(item.phrase.finding, item.phrase.kind, item.start, item.end) for item in found])
    return tuple(
        _Hit(item.phrase.finding, verdict, _laterality(text, item.start, item.end), item.start, item.end)
        for item, verdict in zip(found, verdicts, strict=True)
        if verdict.state is not State.NONE
    )


def _lower(text: str) -> str:
    """Return `text` in lower case, with plain spaces, hyphens and apostrophes, every character in its place."""
    lowered = text.lower()
    if len(lowered) != len(text):
        lowered = "".join(letter.lower() if len(letter.lower()) == 1 else letter for letter in text)
    return lowered.translate(_PLAIN)


def _phrases(text: str) -> Iterator[_Match]:
    """Yield phrases with their spans: of overlapping ones of one finding the earlier row of the table wins."""
    for table in lexicon().findings:
        if not any(stem in text for stem in table.stems):
            continue
        taken = [match.span() for match in table.ignore.finditer(text)] if table.ignore else []
        for phrase in table.phrases:
            for match in phrase.pattern.finditer(text):
                start, end = match.span()
                if all(end <= left or start >= right for left, right in taken):
                    taken.append((start, end))
                    yield _Match(phrase, start, end)


def _laterality(text: str, start: int, end: int) -> str:
    """Return the side told in the mention, else the nearest one before it in its clause, else the next after it."""
    for part, last in ((text[start:end], True), (_tail(text[:start]), True), (_head(text[end:]), False)):
        sides = list(_SIDES.finditer(part))
        if sides:
            if {side.lastgroup for side in sides} >= {"left", "right"} and part == text[start:end]:
                return "bilateral"
            return str(sides[-1 if last else 0].lastgroup)
    return ""


def _tail(text: str) -> str:
    cuts = [match.end() for match in _CLAUSE.finditer(text)]
    return text[cuts[-1] :] if cuts else text


def _head(text: str) -> str:
    cut = _CLAUSE.search(text)
    return text[: cut.start()] if cut else text
