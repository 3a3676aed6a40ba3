"""From what a query names to vectors, and from vectors to the legs of a search."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from daemon.finder.errors import ExampleKeptOut, ExampleNotEncoded, ExampleUnknown
from encoders.base import Basis, Float32
from storage.base import Catalogue, InstanceState, Kind

_NOTHING: Mapping[Any, Any] = MappingProxyType({})


class SimilarityQuery(NamedTuple):
    """What is looked for. At least one of `uids`, `text`, `vectors` is given.

    Attributes
    ----------
    uids : tuple of str
        Study, series or SOP Instance UIDs of the examples.
    basis : Basis or None
        IMAGE, REPORT or JOINT; None: JOINT where every query study has a report, else IMAGE.
    identifier : mapping
        Exact filters, DICOM JSON model.
    vectors : mapping of Basis to ndarray of float32 (n, dim), unit rows
        An example that is not in the Catalogue (a file).
    with_report, with_findings : bool
        Whether the matches' records need them: each costs a question to the Catalogue.
    with_objects : bool
        Whether matches tell their best object.
    """

    uids: tuple[str, ...] = ()
    text: str = ""
    basis: Basis | None = None
    max_results: int | None = None
    minimum_score: float | None = None
    exclude_same_patient: bool = True
    findings: tuple[str, ...] = ()
    identifier: Mapping[str, Any] = _NOTHING
    vectors: Mapping[Basis, Float32] = _NOTHING
    with_report: bool = True
    with_findings: bool = True
    with_objects: bool = True


#: What vectors of a kind were made from.
BASES = {kind: Basis(kind.value) for kind in Kind}
_KINDS = {basis: kind for kind, basis in BASES.items()}


class Leg(NamedTuple):
    """One search: a vector of one basis against the vectors of one kind.

    Attributes
    ----------
    vector : ndarray of float32 (dim,), unit
    reported : bool or None
        Only studies with (True) or without (False) a report; None: all.
    """

    vector: Float32
    query_basis: Basis
    kind: Kind
    reported: bool | None = None

    @property
    def entry_basis(self) -> Basis:
        """What the entries were made from."""
        return BASES[self.kind]


class Example(NamedTuple):
    """One example.

    Attributes
    ----------
    study_instance_uid : str
        "" when it is not in the Catalogue.
    vectors : mapping of Basis to ndarray of float32 (n, dim)
        Those that may be compared.
    reported : bool
        Whether it has a report's vector, be that among `vectors` or not.
    """

    study_instance_uid: str
    vectors: Mapping[Basis, Float32]
    reported: bool


def unit(vectors: Float32) -> Float32:
    """Return rows (or one vector) scaled to length 1; a zero row stays zero."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(norms == 0, 1, norms), dtype=np.float32)


def example_of(catalogue: Catalogue, generation_id: int, uid: str) -> Example:
    """Return the example that a study, series or SOP Instance UID stands for.

    The image vectors are those of the UID itself (all of the study's for a study or a report); REPORT and JOINT are
    the study's.

    Raises
    ------
    ExampleUnknown, ExampleKeptOut, ExampleNotEncoded
    """
    rows = catalogue.example_rows(generation_id, uid)
    whole = bool(rows) and all(row.study_instance_uid == uid for row in rows)
    study = uid if whole else catalogue.study_of(uid)
    if study is None:
        raise ExampleUnknown("the example is unknown here: send it first")
    if not rows:
        raise _why_no_vectors(catalogue, uid)
    vectors: dict[Basis, list[Float32]] = {}
    for row in rows:
        vectors.setdefault(Basis(row.kind.value), []).append(row.vector)
    if uid != study:
        for row in catalogue.example_rows(generation_id, study):
            basis = Basis(row.kind.value)
            if basis is not Basis.IMAGE:
                vectors[basis] = [row.vector]
            elif not any(own.kind is Kind.IMAGE for own in rows):
                vectors.setdefault(basis, []).append(row.vector)
    return Example(study, {basis: np.stack(found) for basis, found in vectors.items()}, Basis.REPORT in vectors)


def _why_no_vectors(catalogue: Catalogue, uid: str) -> Exception:
    state, reason = catalogue.example_state(uid)
    if state in (InstanceState.GATED, InstanceState.PLAIN):
        return ExampleKeptOut(f"example kept out: {reason or 'nothing to index'}")
    if state is InstanceState.INDEXED:
        return ExampleNotEncoded("the example is not encoded yet: ask again in a moment")
    return ExampleUnknown("the example was withdrawn" if state else "the example is unknown here: send it first")


def compared(basis: Basis | None, held: Collection[Kind]) -> Collection[Kind]:
    """Return those kinds of the only example's vectors that `legs_of` looks at; each one costs a look into an index."""
    if basis is Basis.IMAGE or basis is Basis.REPORT:
        return (_KINDS[basis],) if _KINDS[basis] in held else held
    if Kind.JOINT in held and Kind.REPORT in held:
        return Kind.JOINT, Kind.IMAGE if Kind.IMAGE in held else Kind.REPORT
    return held


def pooled(examples: Sequence[Example]) -> dict[Basis, Float32]:
    """Return one unit vector (dim,) of an example, or of several, by basis; only bases that every example has.

    That is the mean: of a study's images, and of several examples, which count alike however many images each has. The
    mean of a frontal and a lateral image finds more than either, and than the best of both (model card).
    """
    if len(examples) == 1:
        return {basis: _mean(rows) for basis, rows in examples[0].vectors.items()}
    common = set(examples[0].vectors).intersection(*(example.vectors for example in examples[1:]))
    return {basis: _mean(np.stack([_mean(example.vectors[basis]) for example in examples])) for basis in common}


def _mean(rows: Float32) -> Float32:
    return np.asarray(rows[0]) if len(rows) == 1 else unit(rows.mean(axis=0))


def legs_of(
    basis: Basis | None, vectors: Mapping[Basis, Float32], text: Float32 | None, *, reported: bool
) -> list[Leg]:
    """Return the searches that answer a query.

    Cosines of different bases are never compared: where a query has two legs, their calibrated scores are, and no study
    is found by both.

    Parameters
    ----------
    vectors : mapping
        The pooled examples; empty for a query by text alone.
    text : ndarray of float32 (dim,), unit, or None
        With examples: the mean of the two unit vectors is searched.
    reported : bool
        Whether all examples have a report.

    Raises
    ------
    ExampleNotEncoded
        If the examples have no vector of the basis.
    """
    if not vectors:
        assert text is not None
        if basis in (Basis.IMAGE, Basis.REPORT):
            return [Leg(text, Basis.TEXT, _KINDS[basis])]
        return [Leg(text, Basis.TEXT, Kind.REPORT), Leg(text, Basis.TEXT, Kind.IMAGE, reported=False)]
    found = vectors if text is None else {name: unit(row + text) for name, row in vectors.items()}
    chosen = basis or (Basis.JOINT if Basis.JOINT in found and reported else Basis.IMAGE)
    if chosen is Basis.JOINT and not reported:
        chosen = Basis.IMAGE                        # a study without a report has its images alone
    if basis is None and chosen is Basis.IMAGE and Basis.IMAGE not in found:
        chosen = Basis.REPORT
    if chosen not in found:
        raise ExampleNotEncoded(f"the example has no {chosen.value} vector: choose another QueryBasis")
    if chosen is not Basis.JOINT:
        return [Leg(found[chosen], chosen, _KINDS[chosen])]
    second = Basis.IMAGE if Basis.IMAGE in found else Basis.REPORT
    return [
        Leg(found[Basis.JOINT], Basis.JOINT, Kind.JOINT, reported=True),
        Leg(found[second], second, Kind.IMAGE, reported=False),
    ]
