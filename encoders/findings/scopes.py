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
    NONE = None


@dataclass(frozen=True, slots=True)
class _Found:
    kind: str
    side: str
    start: int
    end: int


#: After a comma or "and", these words open a new statement, so that a negation before them has ended:
#: "no pneumothorax, small left effusion". Words such as "large" or "focal" do not: they belong to negated lists.
_NEW_STATEMENT = re.compile(
    r"(?:,|\band\b|,\s*and\b|\bwith\b)\s+(?=(?:(?:a|an|the|there|some|again|small|mild(?:ly)?|moderate(?:ly)?|minimal(?:ly)?|stable"
    r"|unchanged|persistent|low|increased|decreased|improved|slight(?:ly)?|tiny|trace|possible|probable|likely|scattered"
    r"|chronic|old|healed|bibasilar|left|right|bilateral|calcified|subsegmental|streaky|mildly|redemonstrat\w+|this|these|it)\b"
    r"|(?:heart|lungs?|cardiac|cardiomediastinal|mediastinum|mediastinal|bon\w+|osseous|aort\w+|trachea|pulmonary vascul\w+)\b[^,]*"
    r"\b(?:is|are|appears?|remains?)\b))"
)
_LIST_GOES_ON = re.compile(r"\b(?:or|nor)\b")
_VERB = re.compile(r"\b(?:is|are|was|were|has|have|shows?|demonstrates?|remains?|appears?)\b|,(?!.*\b(?:or|and)\b)")


def classify(text: str, found: Sequence[tuple[str, int, int]]) -> list[State]:
    """Return the state of every mention of one sentence.

    Parameters
    ----------
    text : str
        The sentence in lower case.
    found : sequence of (kind, start, end)
        The mentions: kind of phrase (see `lexicon.Phrase`) and place.

    References
    ----------
    Chapman et al., J Biomed Inform 34 (2001) 301 (NegEx); Harkema et al., J Biomed Inform 42 (2009) 839 (ConText).
    """
    triggers = _triggers(text)
    return [_state(text, kind, start, end, triggers) for kind, start, end in found]


def _triggers(text: str) -> list[_Found]:
    candidates = [
        _Found(trigger.kind, trigger.side, match.start(), match.end())
        for trigger in lexicon().triggers
        for match in trigger.pattern.finditer(text)
    ]
    candidates.sort(key=lambda found: (found.start - found.end, found.start))
    kept: list[_Found] = []
    for candidate in candidates:
        if all(candidate.end <= other.start or candidate.start >= other.end for other in kept):
            kept.append(candidate)
    for match in _NEW_STATEMENT.finditer(text):
        rest = text[match.end() :].split(",", maxsplit=1)[0]
        if not _LIST_GOES_ON.search(rest):
            kept.append(_Found("stop", "both", match.start(), match.start() + 1))
    return sorted(kept, key=lambda found: found.start)


def _state(text: str, kind: str, start: int, end: int, triggers: list[_Found]) -> State:
    if kind == "normal":
        return State.NEGATIVE
    governing = {found.kind for found in triggers if _governs(text, kind, found, start, end, triggers)}
    if "negated" in governing:
        return State.NEGATIVE
    if "uncertain" in governing or kind == "uncertain":
        return State.UNCERTAIN
    return State.POSITIVE


def _governs(text: str, kind: str, found: _Found, start: int, end: int, triggers: list[_Found]) -> bool:
    if found.kind in ("stop", "pseudo"):
        return False
    if kind in ("predicate", "uncertain") and start <= found.start and found.end <= end:
        return True
    if found.side == "before" and found.end <= start:
        if kind == "predicate" and found.kind == "negated" and start - found.end > 12:
            return False
        return not _stopped(found.end, start, triggers)
    if found.side == "after" and found.start >= end:
        return not _stopped(end, found.start, triggers) and not _VERB.search(text, end, found.start)
    return False


def _stopped(left: int, right: int, triggers: list[_Found]) -> bool:
    return any(found.kind == "stop" and left <= found.start < right for found in triggers)
