"""The phrase and scope tables, read once from the TOML files beside this module."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from encoders.base import FINDING_NAMES, EncodersError


class LexiconError(EncodersError):
    """A phrase or scope table is malformed; the message names the file and the entry."""


@dataclass(frozen=True, slots=True)
class Phrase:
    """One way to name a finding.

    Attributes
    ----------
    kind : str
        ``finding``: a noun, subject to scopes on both sides; ``predicate``: a whole clause with its own subject
        ("the heart is enlarged"), negated only from inside; ``normal``: the finding said to be absent ("heart size is
        normal"); ``uncertain``: words that name it without claiming it.
    """

    finding: str
    kind: str
    pattern: re.Pattern[str]


@dataclass(frozen=True, slots=True)
class FindingPhrases:
    """All that is looked for under one finding; a sentence without any of `stems` need not be searched."""

    finding: str
    stems: tuple[str, ...]
    phrases: tuple[Phrase, ...]
    ignore: re.Pattern[str] | None


@dataclass(frozen=True, slots=True)
class Trigger:
    """Words that set the state of mentions around them, or end the reach of other triggers."""

    kind: str
    side: str
    pattern: re.Pattern[str]


@dataclass(frozen=True, slots=True)
class Lexicon:
    """The compiled tables."""

    findings: tuple[FindingPhrases, ...]
    triggers: tuple[Trigger, ...]


def _read(name: str) -> Mapping[str, Any]:
    with files(__package__).joinpath(name).open("rb") as stream:
        return tomllib.load(stream)


def _joined(pattern: str) -> str:
    """Return a pattern without its folds: a line break and four spaces."""
    return pattern.replace("\n    ", "")


def _compile(pattern: str, fragments: Mapping[str, str], where: str) -> re.Pattern[str]:
    def fragment(match: re.Match[str]) -> str:
        if match[1] not in fragments:
            raise LexiconError(f"{where}: no fragment <{match[1]}>; add it to [fragments]")
        return f"(?:{_joined(fragments[match[1]])})"

    text = _joined(pattern)
    while re.search(r"<([a-z0-9_]+)>", text):
        text = re.sub(r"<([a-z0-9_]+)>", fragment, text)
    text = re.sub(r"\s+", " ", text.strip()).replace(" ?", r"[\s:-]*").replace(" ", r"[\s:-]+")
    try:
        return re.compile(rf"(?<![a-z0-9])(?:{text})(?![a-z])")
    except re.error as error:
        raise LexiconError(f"{where}: {pattern!r} is not a regular expression: {error}") from error


@cache
def lexicon() -> Lexicon:
    """Return the tables of ``phrases.toml`` and ``scopes.toml``, compiled.

    Patterns are regular expressions over lower-case text; a space matches spaces, hyphens and colons, ``<name>``
    inserts a fragment.
    """
    phrases, scopes = _read("phrases.toml"), _read("scopes.toml")
    fragments = phrases["fragments"]
    findings = []
    for finding in FINDING_NAMES[1:]:
        table = phrases.get(finding)
        if table is None:
            raise LexiconError(f"phrases.toml: no table for {finding!r}")
        rows = tuple(
            Phrase(finding, kind, _compile(pattern, fragments, f"phrases.toml: {finding}.{kind}"))
            for kind in ("finding", "predicate", "normal", "uncertain")
            for pattern in table.get(kind, ())
        )
        ignore = table.get("ignore", ())
        mask = _compile("|".join(ignore), fragments, f"phrases.toml: {finding}.ignore") if ignore else None
        findings.append(FindingPhrases(finding, tuple(table["stems"]), rows, mask))
    triggers = tuple(
        Trigger(kind, side, _compile("|".join(patterns), fragments, f"scopes.toml: {kind}.{side}"))
        for kind, sides in scopes["triggers"].items()
        for side, patterns in sides.items()
    )
    return Lexicon(tuple(findings), triggers)
