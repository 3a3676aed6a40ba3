"""Reports that nearly say what another one says and mean something else: a finding denied or claimed, sides swapped.

An encoder that looks at words alone calls them the same: "no pleural effusion" against "pleural effusion", left
against right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from encoders.base import ABNORMAL_FINDINGS
from encoders.findings import Mention, State, label, mentions

_DENIED = re.compile(
    r"\b(?:no|(?P<without>without)|not|free of|negative for)\s+"
    r"(?:(?:definite|convincing|acute)\s+)?(?:(?:evidence|signs?) of\s+)?",
    re.IGNORECASE,
)
_THERE = re.compile(r"(there (?:is|are|was|were)) (?:an? )?", re.IGNORECASE)
_SIDE = re.compile(r"\b(left|right)(?=\b|ward)", re.IGNORECASE)
_OTHER = {"left": "right", "right": "left"}


def _swapped(match: re.Match[str]) -> str:
    word = match[0]
    other = _OTHER[word.lower()]
    return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other


def sides_swapped(text: str) -> str | None:
    """Return the report of the mirrored chest: left for right and right for left; None if it names no side."""
    result = _SIDE.sub(_swapped, text)
    return None if result == text else result


def _contrary(text: str, mention: Mention) -> str | None:
    """Return the text with the mention's sentence turned round; None where that takes more than a word."""
    start, end = mention.sentence_start, mention.sentence_end
    sentence = text[start:end]
    if mention.state is State.NEGATIVE:
        turned, count = _DENIED.subn(lambda said: "with " if said["without"] else "", sentence)
        if not count:
            return None
        turned = turned[:1].upper() + turned[1:]
    elif there := _THERE.match(sentence):
        turned = f"{there[1]} no {sentence[there.end():]}"
    else:
        turned = f"No evidence of {sentence[:1].lower()}{sentence[1:]}"
    return text[:start] + turned + text[end:]


def _contraries(text: str, order: np.random.Generator) -> Iterator[str]:
    said = [
        mention
        for mention in mentions(text, "")
        if mention.finding in ABNORMAL_FINDINGS and mention.state in (State.POSITIVE, State.NEGATIVE)
    ]
    for index in order.permutation(len(said)):
        turned = _contrary(text, said[index])
        if turned is not None and label(turned, "")[said[index].finding] == 1 - (said[index].state.value or 0):
            yield turned


def contradicted(text: str, order: np.random.Generator) -> str | None:
    """Return the report with one sentence about an abnormal finding turned round, claimed to denied or the other way.

    Which sentence is drawn. The labeler must then say the contrary of that finding; None if no sentence is like that.
    """
    return next(_contraries(text, order), None)
