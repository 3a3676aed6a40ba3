"""State of a mention from the triggers around it: positive, negative or uncertain."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
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
    "remaining": State.POSITIVE,
    "negated": State.NEGATIVE,
    "unseen": State.NEGATIVE,
    "uncertain": State.UNCERTAIN,
    "probable": State.POSITIVE,
}
#: What ends the reach of each kind.
_STOPS = {
    "elsewhere": ("stop", "stop_elsewhere", "statement", "comma"),
    "removed": ("stop",),
    "negated": ("stop", "stop_negated", "statement"),
    "unseen": ("stop", "stop_negated", "statement"),
    "open": ("stop", "statement"),
    "remaining": ("stop",),
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


#: What joins the items of a list: "no consolidation, effusion and pneumothorax".
_JOINT = re.compile(r"(?:,|:|(?<=\s)[-/]+(?=\s)|\band\b|(?<!compatible )(?<!consistent )(?<!associated )\bwith\b)\s+")
_SEEN = r"(?:seen|identified|noted|present|appreciated|demonstrated|visuali[sz]ed|evident)"
#: These words open a new statement after a joint, so that every trigger before it has ended, as does a verb before a
#: comma: "no pneumothorax, small left effusion".
_OPENING = re.compile(
    r"(?:a|an|the|there|some|again|small|mild(?:ly)?|moderate(?:ly)?|minimal(?:ly)?|stable"
    r"|unchanged|persistent|low|increased|decreased|improved|slight(?:ly)?|tiny|trace|possible|probable|likely|scattered"
    r"|chronic|old|healed|bibasilar|left|right|bilateral|calcified|subsegmental|streaky|redemonstrat\w+|this|these|it)\b"
    r"|(?:heart|lungs?|cardiac|cardiomediastinal|mediastinum|mediastinal|bon\w+|osseous|aort\w+|trachea"
    r"|pulmonary vascul\w+)\b[^,]*\b(?:is|are|appears?|remains?)\b"
)
_SEEN_BEFORE_COMMA = re.compile(rf"\b{_SEEN}\s*,\s*")
#: An item that says how, where or that something is has left the list of what is denied; "large", "focal" or no word
#: at all ("no consolidation, effusion") have not.
_CLAIMING = re.compile(
    r"(?:new|severe|marked|extensive|worse(?:ning)?|increasing|improving|resolving|residual|progressive|recurrent|known"
    r"|patchy|subtle|faint|hazy|diffuse|multiple|multifocal|several|numerous|few|linear|ill|prominent|enlarged"
    r"|borderline|worsened|prior|previous|continued|ongoing)\b"
    rf"|[^,]*\b(?:is|are|was|were|has|have|had)\b(?! (?:(?:not|also|been|\w+ly) )*(?:{_SEEN}|detected|visible|found"
    r"|observed|shown|apparent|suspected|suggested)\b)"
    r"|[^,]*\b(?:persists?|remains?|appears?|shows?|measures?|terminates?|projects?|overl(?:ies|ie|ying))\b"
    r"|[^,]*\b(?:in (?:\w+ )?(?:place|position|situ)|\d[\d.]*\s*[cm]m)\b"
)
#: So has one after a comma that says where: "no consolidation, atelectasis in the left base".
_PLACED = re.compile(
    r"(?:(?!\bwith\b)[^,])*?\b(?:left|right|bilateral(?:ly)?|(?:bi)?bas(?:al|ilar)|retrocardiac|lobes?|lingula\w*|[rl][lmu]l"
    r"|bas(?:e|es)|apex|apices|hemithorax)\b"
)
#: A list that "or" still joins is one list ("no consolidation, small effusion or pneumothorax"), unless it stands
#: between two readings of one thing: "no pneumonia, mild bibasilar atelectasis or scarring".
_EITHER = r"(?:atelecta\w+|scar\w*|fibrosis|thickening)"
_LIST_GOES_ON = re.compile(
    rf"(?!possible|probable|likely|[^,]*\b{_EITHER} or (?:\w+ )?{_EITHER})[^,]*\b(?:or|nor)\b"
    r"|.*?,\s*(?:or|nor)\b"
)
_LIST_ENDS = re.compile(r"\b(?:no|not|without|but|however|although|though|which|while|there|with)\b")
_COMMA = re.compile(r",")
_VERB = re.compile(r"\b(?:is|are|was|were|has|have|shows?|demonstrates?|remains?|appears?)\b|,(?!.*\b(?:or|and)\b)")
#: What may follow a judgement set behind a comma: "effusions, resolved."
_APPENDED = re.compile(r"\s*(?:$|[,.)]|and\b)")


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
    kept += _statements(text)
    kept += [_Found("comma", "both", match.start(), match.end()) for match in _COMMA.finditer(text)]
    return sorted(kept, key=lambda found: found.start)


def _statements(text: str) -> Iterator[_Found]:
    """Yield where a new statement begins within the sentence, and where only what a negation denies ends (an item)."""
    for seen in _SEEN_BEFORE_COMMA.finditer(text):
        if not _list_goes_on(text, seen.end()):
            yield _Found("statement", "both", seen.start(), seen.end())
    for joint in _JOINT.finditer(text):
        if _list_goes_on(text, joint.end()):
            continue
        if _OPENING.match(text, joint.end()):
            yield _Found("statement", "both", joint.start(), joint.end())
        elif (
            joint[0].startswith("-")
            or _CLAIMING.match(text, joint.end())
            or (joint[0].startswith((",", ":", "/")) and _PLACED.match(text, joint.end()))
        ):
            yield _Found("item", "both", joint.start(), joint.end())


def _list_goes_on(text: str, start: int) -> bool:
    ending = _LIST_ENDS.search(text, start)
    return _LIST_GOES_ON.match(text, start, ending.start() if ending else len(text)) is not None


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
    if found.kind == ("unseen" if place.finding == "Support Devices" else "removed"):
        return False
    stops = _STOPS[found.kind]
    if place.kind in ("predicate", "uncertain") and place.start <= found.start and found.end <= place.end:
        return True
    if found.side == "before" and found.end <= place.start:
        near = place.start - found.end <= _ADJACENT
        if place.kind == "predicate" and found.kind == "negated" and not near:
            return False
        return not _stopped(found.end, place.start, triggers, (*stops, "item") if found.kind == "negated" else stops)
    if found.side == "after" and found.start >= place.end:
        between = text[place.end : found.start]
        reaches = _APPENDED.match(text, found.end) if between.strip() == "," else not _VERB.search(between)
        return bool(reaches) and not _stopped(place.end, found.start, triggers, stops)
    return False


def _stopped(left: int, right: int, triggers: list[_Found], stops: tuple[str, ...]) -> bool:
    return any(found.kind in stops and left <= found.start < right for found in triggers)
