"""Words of a report, with negation written into them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

_SENTENCE = re.compile(r"(?<=[.;:!?])\s+|\n+")
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+(?:\.\d+)?")
#: What opens a negated scope; it reaches to the end of the sentence or to one of _END.
_NEGATION = {"no", "not", "without", "negative", "free", "absent", "nor", "resolved", "denies"}
_END = {"but", "however", "although", "except", "with", "which", "otherwise", "though"}
_SKIP = re.compile(
    "xxxx|the|an?|is|are|of|there|and|or|to|in|was|were|be|been|has|have|that|this|for|at|on|as|by|evidence|definite"
)


def sentences(text: str) -> list[str]:
    """Return the sentences of a text, lower case, without empty ones."""
    return [part.strip() for part in _SENTENCE.split(text.lower()) if part.strip()]


def words(text: str) -> Iterator[list[str]]:
    """Yield the words of each sentence; inside the scope of a negation they are written ``not_word``.

    "no pleural effusion" and "pleural effusion" then share no word: the published sentence encoders give the two .83.
    """
    for sentence in sentences(text):
        found, negated = [], False
        for word in _WORD.findall(sentence):
            if word in _NEGATION:
                negated = True
            elif word in _END:
                negated = False
            elif not _SKIP.fullmatch(word):
                found.append(f"not_{word}" if negated else word)
        if found:
            yield found


def grams(text: str) -> Iterator[str]:
    """Yield words and pairs of neighbouring words of a sentence."""
    for sentence in words(text):
        yield from sentence
        yield from (f"{a} {b}" for a, b in itertools.pairwise(sentence))
