"""State of a mention from the triggers around it: positive, negative or uncertain."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from encoders.findings.lexicon import lexicon


class State(Enum):
    """What a report says of a finding; the value is the label of CheXpert and MIMIC-CXR-JPG."""

    POSITIVE = 1.0
    NEGATIVE = 0.0
    UNCERTAIN = -1.0
    NONE = None  # named, but not of this examination: history, advice


#: Which kind of trigger wins where several govern a mention ("no opacity to suggest pneumonia" is negated).
_STATES = {
    "elsewhere": State.NONE,
    "removed": State.NEGATIVE,
    "open": State.UNCERTAIN,
    "negated": State.NEGATIVE,
    "uncertain": State.UNCERTAIN,
    "probable": State.POSITIVE,
}
#: What ends the reach of each kind.
_STOPS = {
    "elsewhere": ("stop", "statement", "comma"),
    "removed": ("stop",),
    "negated": ("stop", "stop_negated", "statement"),
    "open": ("stop", "statement"),
    "uncertain": ("stop", "statement"),
    "probable": ("stop", "statement"),
}
#: A negation counts for a clause with its own subject only this many characters before it: "not enlarged heart".
_ADJACENT = 12


@dataclass(frozen=True, slots=True)
class _Found:
    kind: str
    side: str
    start: int
    end: int


#: After a comma or "and", these words open a new statement, so that a negation before them has ended, as does a verb
#: before a comma:
#: "no pneumothorax, small left effusion". Words such as "large" or "focal" do not: they belong to negated lists.
_NEW_STATEMENT = re.compile(
    r"\b(?:seen|identified|noted|present|appreciated|demonstrated|visuali[sz]ed|evident)\s*,\s*"
    r"|(?:,|\band\b|,\s*and\b|(?<!compatible )(?<!consistent )\bwith\b)\s+(?=(?:"
    r"(?:a|an|the|there|some|again|small|mild(?:ly)?|moderate(?:ly)?|minimal(?:ly)?|stable"
    r"|unchanged|persistent|low|increased|decreased|improved|slight(?:ly)?|tiny|trace|possible|probable|likely|scattered"
    r"|chronic|old|healed|bibasilar|left|right|bilateral|calcified|subsegmental|streaky|redemonstrat\w+|this|these|it)\b"
    r"|(?:heart|lungs?|cardiac|cardiomediastinal|mediastinum|mediastinal|bon\w+|osseous|aort\w+|trachea"
    r"|pulmonary vascul\w+)\b[^,]*"
    r"\b(?:is|are|appears?|remains?)\b))"
)
_COMMA = re.compile(r",")
_LIST_GOES_ON = re.compile(r"\b(?:or|nor)\b")
_VERB = re.compile(r"\b(?:is|are|was|were|has|have|shows?|demonstrates?|remains?|appears?)\b|,(?!.*\b(?:or|and)\b)")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The state of a mention and the words that decided it ("" when nothing but the phrase itself did)."""

    state: State
    cue: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """A mention before it is judged: finding, kind of phrase (see `lexicon.Phrase`) and place in the sentence."""

    finding: str
    kind: str
    start: int
    end: int


def classify(text: str, places: Sequence[Place]) -> list[Verdict]:
    """Return the verdict on every mention of one sentence, given in lower case.

    References
    ----------
    Chapman et al., J Biomed Inform 34 (2001) 301 (NegEx); Harkema et al., J Biomed Inform 42 (2009) 839 (ConText).
    """
    triggers = _triggers(text)
    return [_verdict(text, place, triggers) for place in places]


def _triggers(text: str) -> list[_Found]:
    candidates = [
        _Found(trigger.kind, trigger.side, match.start(), match.end())
        for trigger in lexicon().triggers
        for match in trigger.pattern.finditer(text)
    ]
    candidates.sort(key=lambda found: (found.start - found.end, found.start))
    kept: list[_Found] = []
    for candidate in candidates:
        if all(_apart(candidate, other) for other in kept):
            kept.append(candidate)
    for match in _NEW_STATEMENT.finditer(text):
        rest = text[match.end() :].partition(",")[0]
        if not _LIST_GOES_ON.search(rest):
            kept.append(_Found("statement", "both", match.start(), match.start() + 1))
    kept += [_Found("comma", "both", match.start(), match.end()) for match in _COMMA.finditer(text)]
    return sorted(kept, key=lambda found: found.start)


def _apart(one: _Found, other: _Found) -> bool:
    """Return whether two triggers can both stand: apart, or the same words looking to both sides."""
    if (one.kind, one.start, one.end) == (other.kind, other.start, other.end):
        return one.side != other.side
    return one.end <= other.start or one.start >= other.end


def _verdict(text: str, place: Place, triggers: list[_Found]) -> Verdict:
    if place.kind == "normal":
        return Verdict(State.NEGATIVE, text[place.start : place.end])
    governing: dict[str, str] = {}
    for found in triggers:
        if _governs(text, place, found, triggers):
            governing[found.kind] = text[found.start : found.end]
    claim = State.UNCERTAIN if place.kind == "uncertain" else State.POSITIVE
    for kind, state in _STATES.items():
        if kind in governing:
            return Verdict(claim if kind == "probable" else state, governing[kind])
    return Verdict(claim)


def _governs(text: str, place: Place, found: _Found, triggers: list[_Found]) -> bool:
    if found.kind not in _STATES:
        return False
    if found.kind == "removed" and place.finding != "Support Devices":
        return False
    stops = _STOPS[found.kind]
    if place.kind in ("predicate", "uncertain") and place.start <= found.start and found.end <= place.end:
        return True
    if found.side == "before" and found.end <= place.start:
        near = place.start - found.end <= _ADJACENT
        if place.kind == "predicate" and found.kind == "negated" and not near:
            return False
        return not _stopped(found.end, place.start, triggers, stops)
    if found.side == "after" and found.start >= place.end:
        return not _stopped(place.end, found.start, triggers, stops) and not _VERB.search(text, place.end, found.start)
    return False


def _stopped(left: int, right: int, triggers: list[_Found], stops: tuple[str, ...]) -> bool:
    return any(found.kind in stops and left <= found.start < right for found in triggers)
