"""Attribute matching of PS3.4 C.2.2.2, on the DICOM JSON model.

Lenient where archives are: a ``*`` alone is universal for every VR, several values of any VR match on any of them, and
PatientAge takes a range.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from storage.catalogue.levels import Element, has_value, vr_of

#: VRs with wild card matching (PS3.4 C.2.2.2.4).
WILDCARD_VRS = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
_RANGE_VRS = frozenset({"DA", "TM", "DT", "AS"})
_NUMBER_VRS = frozenset({"DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"})
_DT_WITH_OFFSET = re.compile(r"\d{8,14}(?:\.\d{1,6})?[+-](?:0\d|1[0-4])[0-5]\d")
_AGE_DAYS = {"D": 1.0, "W": 7.0, "M": 30.4375, "Y": 365.25}

Predicate = Callable[[Element], bool]


def is_universal(element: Element) -> bool:
    """Return whether a key matches everything: no value, ``*``, or a sequence whose items say nothing."""
    values = element.get("Value", ())
    if element.get("vr") == "SQ":
        return all(not isinstance(item, Mapping) or all(map(is_universal, item.values())) for item in values)
    return not has_value(element) or any(text_of(value) == "*" for value in values)


def text_of(value: Any) -> str:
    """Return a value as text without outer spaces and NULs; of a person name its groups joined by ``=``."""
    if isinstance(value, Mapping):
        groups = [str(value.get(name, "")) for name in ("Alphabetic", "Ideographic", "Phonetic")]
        return "=".join(groups).rstrip("=")
    return "" if value is None else str(value).strip(" \0")


def matches(tag: str, key: Element, stored: Sequence[Element]) -> bool:
    """Return whether any of the stored elements matches a request's key."""
    if is_universal(key):
        return True
    vr = str(key.get("vr") or vr_of(tag))
    if vr == "UN":
        vr = vr_of(tag)
    if vr == "SQ":
        return any(_item_matches(key["Value"], item) for element in stored for item in element.get("Value", ()))
    tests = [_test(vr, text_of(value)) for value in key["Value"] if text_of(value)]
    values = [text_of(value) for element in stored for value in element.get("Value", ())]
    return any(test(value) for test in tests for value in values if value)


def _item_matches(wanted: Sequence[Any], item: Any) -> bool:
    """Return whether a stored item fulfils one of the key's items (PS3.4 C.2.2.2.6)."""
    return isinstance(item, Mapping) and any(
        all(is_universal(key) or matches(tag, key, [item.get(tag, {})]) for tag, key in items.items())
        for items in wanted
        if isinstance(items, Mapping)
    )


@lru_cache(maxsize=1024)
def _test(vr: str, wanted: str) -> Callable[[str], bool]:
    if vr == "PN":
        return _name_test(wanted)
    if vr in _RANGE_VRS:
        return _range_test(vr, wanted)
    if vr in _NUMBER_VRS:
        return lambda value: _number(value) == _number(wanted)
    if vr in WILDCARD_VRS and ("*" in wanted or "?" in wanted):
        pattern = wildcard(wanted)
        return lambda value: pattern.fullmatch(value) is not None
    return lambda value: value == wanted


def wildcard(wanted: str, flags: int = 0) -> re.Pattern[str]:
    """Return the expression of a pattern in which * stands for any text and ? for one character, nothing else."""
    parts = {"*": ".*", "?": "."}
    return re.compile("".join(parts.get(part) or re.escape(part) for part in re.split(r"([*?])", wanted)), flags | re.S)


def _number(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value


# ---------------------------------------------------------------------------------------------- names


def _name_test(wanted: str) -> Callable[[str], bool]:
    """Match without regard to case, group by group; a key of one group matches any group of the name.

    Trailing carets and empty components don't count (PS3.5 6.2.1).
    """
    keys = [_group(part) for part in wanted.split("=")]
    patterns = [wildcard(part, re.I) for part in keys]

    def test(value: str) -> bool:
        groups = [_group(part) for part in value.split("=")]
        if len(keys) == 1:
            return any(patterns[0].fullmatch(group) for group in groups)
        groups += [""] * (len(keys) - len(groups))
        pairs = zip(keys, patterns, groups, strict=False)
        return all(not key or pattern.fullmatch(group) for key, pattern, group in pairs)

    return test


def _group(part: str) -> str:
    return re.sub(r"\s*\^\s*", "^", part).strip().rstrip("^").casefold()


# ---------------------------------------------------------------------------------------------- ranges


def _range_test(vr: str, wanted: str) -> Callable[[str], bool]:
    """Match a date, time, age or a range of them, open ends too (PS3.4 C.2.2.2.5); 10 as a time is 10:00 to 10:59."""
    start, end = range_of(vr, wanted)
    if vr == "AS":
        low, high = (None if bound is None else _days(bound) for bound in (start, end))
        return lambda value: (low is None or low <= _days(value)) and (high is None or _days(value) <= high)

    def test(value: str) -> bool:
        return (start is None or _padded(vr, start, "0") <= _padded(vr, value, "0")) and (
            end is None or _padded(vr, value, "0") <= _padded(vr, end, "9")
        )

    return test


def range_of(vr: str, wanted: str) -> tuple[str | None, str | None]:
    """Return the ends of a range, None where it is open; a single value is both ends."""
    if "-" not in wanted or (vr == "DT" and _DT_WITH_OFFSET.fullmatch(wanted)):
        return wanted, wanted
    if vr == "DT":
        for place in (match.start() for match in re.finditer("-", wanted)):
            left, right = wanted[:place], wanted[place + 1 :]
            if all(not part or re.fullmatch(r"[\d.]+(?:[+-]\d{4})?", part) for part in (left, right)):
                return left or None, right or None
    start, _, end = wanted.partition("-")
    return start.strip() or None, end.strip() or None


def _padded(vr: str, value: str, filler: str) -> str:
    """Return digits that sort, filled up to full precision; zone offsets are left aside."""
    digits = re.sub(r"[.:/]", "", re.split(r"[+-]", value.strip())[0])
    return digits.ljust({"DA": 8, "TM": 12, "DT": 20}[vr], filler)


def _days(age: str) -> float:
    match = re.fullmatch(r"(\d{1,3})([DWMY])", age.strip())
    return int(match[1]) * _AGE_DAYS[match[2]] if match else float("nan")
