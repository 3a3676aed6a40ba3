"""What the answers to a C-FIND hold, element by element: studies of the Catalogue, matches of a similarity query."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from pydicom.datadict import tag_for_keyword

from daemon.finder import private
from daemon.finder.identifiers import (
    INSTANCE_AVAILABILITY,
    QUERY_RETRIEVE_LEVEL,
    RETRIEVE_AE_TITLE,
    SERIES_INSTANCE_UID,
    STUDY_DESCRIPTION,
    FindRequest,
    values_of,
)
from daemon.finder.similarity import Answer, Match
from daemon.finder.wire import Element, name_of, vr_of
from encoders.readers.header import QUERYABLE

#: Longest value of StudyDescription, an LO.
_DESCRIPTION_LENGTH = 64


def keys_of_series(request: FindRequest) -> frozenset[int]:
    """Return the keys of a STUDY level request that belong to series: answered where all series of a study agree."""
    if request.level != "STUDY":
        return frozenset()
    own = {int(tag) for keyword, level in QUERYABLE.items() if level == "SERIES" and (tag := tag_for_keyword(keyword))}
    return frozenset(own.intersection(request.keys) - {SERIES_INSTANCE_UID})


def with_series(
    attributes: Mapping[str, Element], series: Sequence[Mapping[str, Element]], keys: Collection[int]
) -> Mapping[str, Element]:
    """Return a study's attributes with those of its series that have one value in all of them."""
    found = dict(attributes)
    for name in map(name_of, keys):
        values = [part[name] for part in series if values_of(part.get(name))]
        if values and len(values) == len(series) and all(value == values[0] for value in values):
            found[name] = values[0]
    return found


class Provenance(NamedTuple):
    """Where found studies can be had from: RetrieveAETitle, and InstanceAvailability if known."""

    retrieve_ae_title: str
    availability: str = ""


def plain_response(
    request: FindRequest, attributes: Mapping[str, Element], provenance: Provenance
) -> dict[int, Element]:
    """Return the answer to a plain query, or the standard part of a similarity answer."""
    answer: dict[int, Element] = {}
    for tag, asked in request.keys.items():
        known = attributes.get(name_of(tag))
        answer[tag] = narrowed(known, asked) if known else {"vr": answer_vr(tag, asked)}
    answer.update(fixed(request.keys, request.level, provenance))
    if request.block is not None and request.private_keys:
        tag, element = creator(request.block)
        answer[tag] = element
        for offset, asked in request.private_keys.items():
            answer[private_tag(request.block, offset)] = echo(offset, asked)
    return answer


def fixed(keys: Collection[int], level: str, provenance: Provenance) -> dict[int, Element]:
    """Return those elements of an answer that have one value in all of them."""
    found: dict[int, Element] = {
        QUERY_RETRIEVE_LEVEL: {"vr": "CS", "Value": [level]},
        RETRIEVE_AE_TITLE: {"vr": "AE", "Value": [provenance.retrieve_ae_title]},
    }
    if INSTANCE_AVAILABILITY in keys:
        found[INSTANCE_AVAILABILITY] = _element("CS", [provenance.availability] if provenance.availability else [])
    return found


def creator(block: int) -> tuple[int, Element]:
    """Return the private creator of a block and its tag."""
    return private.GROUP << 16 | block, {"vr": "LO", "Value": [private.CREATOR]}


def similarity_response(
    request: FindRequest,
    attributes: Mapping[str, Element],
    answered: Answer,
    match: Match,
    provenance: Provenance,
) -> dict[int, Element]:
    """Return the response for one match of an answer: the standard keys, and those private ones asked for."""
    answer = plain_response(request, attributes, provenance)
    if request.prefix_description and STUDY_DESCRIPTION in request.keys:
        answer[STUDY_DESCRIPTION] = match_element(STUDY_DESCRIPTION, attributes, match)
    if request.block is None:
        return answer
    for offset in request.private_keys:
        keyword, tag = private.BY_OFFSET[offset].keyword, private_tag(request.block, offset)
        if keyword in OF_THE_MATCH:
            answer[tag] = match_element(tag, attributes, match)
        elif keyword in OF_THE_ANSWER:
            answer[tag] = answer_element(keyword, answered)
    return answer


#: Values of the private answers (xx10 and up) that differ from match to match, and those that do not.
OF_THE_MATCH: Mapping[str, Callable[[Match], list[Any]]] = {
    "Rank": lambda match: [match.rank],
    "Score": lambda match: [match.score],
    "Cosine": lambda match: [match.cosine],
    "BestMatchSOPInstanceUID": lambda match: [match.sop_instance_uid] if match.sop_instance_uid else [],
    "BasisUsed": lambda match: [match.basis.value],
    "ReportState": lambda match: [match.study.report.state if match.study.report else "NONE"],
    "FindingsPresent": lambda match: list(match.study.findings_present),
}
OF_THE_ANSWER: Mapping[str, Callable[[Answer], list[Any]]] = {
    "ModelID": lambda answered: [answered.model_id],
    "Flags": lambda answered: list(answered.flags),
}


def match_element(tag: int, attributes: Mapping[str, Element], match: Match) -> Element:
    """Return the value of a private answer to a match; of StudyDescription, with rank and score in front (mode C)."""
    if tag == STUDY_DESCRIPTION:
        description = " ".join(str(value) for value in values_of(attributes.get(name_of(STUDY_DESCRIPTION))))
        text = f"#{match.rank:02d} {match.score:.2f} {description}".strip()[:_DESCRIPTION_LENGTH]
        return {"vr": "LO", "Value": [text]}
    row = private.BY_OFFSET[tag & 0xFF]
    return _element(row.vr, OF_THE_MATCH[row.keyword](match))


def answer_element(keyword: str, answered: Answer) -> Element:
    """Return the value of a private answer that is the same for all matches."""
    return _element(private.BY_KEYWORD[keyword].vr, OF_THE_ANSWER[keyword](answered))


def private_tag(block: int, offset: int) -> int:
    """Return the tag of a private element in a block."""
    return private.GROUP << 16 | block << 8 | offset


def _element(vr: str, values: Sequence[Any]) -> Element:
    return {"vr": vr, "Value": list(values)} if values else {"vr": vr}


def echo(offset: int, asked: Element) -> Element:
    """Return what an answer repeats of a private key: what was asked with it."""
    row = private.BY_OFFSET[offset]
    return _element(row.vr, values_of(asked) if row.key and asked["vr"] == row.vr else [])


def answer_vr(tag: int, asked: Element) -> str:
    """Return the VR of an element without a value."""
    vr = vr_of(tag)
    return str(asked["vr"]) if vr == "UN" else vr


def narrowed(known: Element, asked: Element) -> Element:
    """Return a known element; of a sequence's items only the attributes asked for (all, if its item was empty)."""
    if known["vr"] != "SQ":
        return known
    wanted = {name for item in values_of(asked) for name in item}
    if not wanted:
        return known
    items = [{name: inner for name, inner in item.items() if name in wanted} for item in values_of(known)]
    return {"vr": "SQ", "Value": items}
