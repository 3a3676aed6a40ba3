"""The legs of one query, searched and ranked together; the Catalogue is asked once, for those that lead.

In columns: a query looks at some hundred studies, and a step in Python for each would take as long as the search.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from daemon.finder.examples import Leg, SimilarityQuery
from daemon.finder.kept import Heads, Layout, patient_number
from daemon.finder.scores import scores_of
from encoders.base import Basis
from storage.base import Float64, Int64, Kind, Neighbours, StudyRecord

if TYPE_CHECKING:
    from daemon.finder.similarity import Similarity

#: Studies looked at beyond those wanted: the example itself, the same patient's, those that went meanwhile.
_SPARE = 4
_WIDENING = 4
#: Among neighbours those that pass a filter are now more, now less than their share: so much farther, and one in a
#: hundred queries has to search again instead of one in ten.
_UNEVEN = 1.1
#: Of studies with and without a report, those that are fewer than this share are searched for themselves.
_RARE = 0.1
#: A filter is applied to what the index finds as long as so many neighbours are enough, else it is given to the index.
_SIEVED = 512


class Candidates(NamedTuple):
    """Studies, each with its best object, as columns: by descending cosine, then by UID.

    Attributes
    ----------
    studies : ndarray of int64
        Numbers (`IndexSet.numbers`).
    rows : ndarray of int64
        Of the objects (`IndexSet.owners`).
    """

    studies: Int64
    rows: Int64
    cosines: Float64

    def take(self, places: slice | Int64) -> Candidates:
        """Return those at some places."""
        return Candidates(self.studies[places], self.rows[places], self.cosines[places])


def _places(places: list[int]) -> slice | Int64:
    """Return where to look in arrays, ascending: a slice is not copied, and hardly anybody is left out in between."""
    if places and places[-1] - places[0] + 1 == len(places):
        return slice(places[0], places[-1] + 1)
    return np.asarray(places, dtype=np.int64)


_NOBODY = Candidates(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))


class Ranked(NamedTuple):
    """The best studies as columns: by descending score, then by cosine and UID.

    Attributes
    ----------
    scores : ndarray of float64
        Calibrated, 0..1.
    bases : list of Basis
        What the entries were made from.
    heads : Heads
        Of the answers.
    records : dict of int to StudyRecord
        Of those places that have no head.
    """

    candidates: Candidates
    scores: Float64
    bases: list[Basis]
    heads: Heads
    records: dict[int, StudyRecord]


@dataclass(slots=True)
class _Pool:
    """What one leg has found so far.

    Attributes
    ----------
    candidates : Candidates
        Filtered; complete down to `worst`.
    worst : float
        Cosine that nothing unseen surpasses; -2 when all has been seen.
    """

    leg: Leg
    reach: int
    allowed: Int64 | None = None
    candidates: Candidates = _NOBODY
    scores: Float64 = field(default_factory=partial(np.zeros, 0))   # of the candidates
    worst: float = -2.0
    bound: float = -1.0                             # score that nothing unseen surpasses

    @property
    def exhausted(self) -> bool:
        return self.worst < -1.5


class Ranking:
    """Searches the legs of one query until the best studies are certain."""

    def __init__(
        self, similarity: Similarity, query: SimilarityQuery, query_studies: Sequence[str], layout: Layout | None
    ) -> None:
        self._similarity, self._indexes, self._catalogue = similarity, similarity.indexes, similarity.catalogue
        self._query, self._query_studies = query, dict.fromkeys(query_studies)
        self._numbers, self._layout = self._indexes.numbers, layout
        self._kept = similarity.kept if layout is not None else None
        self._own = [number for uid in self._query_studies if (number := self._numbers.get(uid)) is not None]
        filters = query.findings or any(element.get("Value") for element in query.identifier.values())
        self._passing = self._catalogue.select_studies(query.identifier, query.findings) if filters else None
        self._counts = self._indexes.counts()
        self._records: dict[str, StudyRecord] = {}  # as far as they had to be asked for
        self._patients: frozenset[int] | None = None if query.exclude_same_patient and query_studies else frozenset()

    def best(self, legs: Sequence[Leg], wanted: int) -> Ranked:
        """Return up to `wanted` studies by descending score, then by cosine and UID; never fewer than exist."""
        pools = [self._pool(leg, wanted) for leg in legs]
        todo = pools
        while True:
            found = self._similarity.beside.all_of([partial(self._nearest, pool) for pool in todo])
            for pool, near in zip(todo, found, strict=True):
                self._take(pool, near)
            ranked = self._accepted(pools, wanted)
            least = self._query.minimum_score if self._query.minimum_score is not None else -1.0
            if len(ranked.heads) == wanted:
                last = max(float(ranked.scores[-1]), least)
                todo = [pool for pool in pools if not pool.exhausted and pool.bound > last]
            else:
                todo = [pool for pool in pools if not pool.exhausted and pool.bound >= least]
            if not todo:
                return ranked
            for pool in todo:
                self._widen(pool)

    # ------------------------------------------------------------------------------------ one leg

    def _pool(self, leg: Leg, wanted: int) -> _Pool:
        """Return a leg with the number of neighbours that should do, or the labels that alone may be found."""
        total = max(1, self._counts[Kind.JOINT])    # one for each study
        vectors_a_study = max(1.0, self._counts[leg.kind] / total)
        plain = math.ceil((wanted + len(self._query_studies) + _SPARE) * vectors_a_study)
        share = 1.0 if self._passing is None else len(self._passing) / total
        if leg.reported is not None:
            reported = min(1.0, self._counts[Kind.REPORT] / total)
            own = reported if leg.reported else 1 - reported
            share *= own if own < _RARE else max(own, 1 - own)  # the other leg finds what this one leaves out
        if plain <= share * max(_SIEVED, 2 * plain):
            return _Pool(leg, math.ceil(plain / share * (_UNEVEN if share < 1 else 1)))
        return _Pool(leg, plain, self._allowed(leg))

    def _widen(self, pool: _Pool) -> None:
        """Reach farther; where a filter leaves little near the example, search among what passes it."""
        pool.reach *= _WIDENING
        if pool.reach > _SIEVED and pool.allowed is None:
            pool.allowed = self._allowed(pool.leg)

    def _nearest(self, pool: _Pool) -> Neighbours:
        return self._indexes.nearest(pool.leg.kind, pool.leg.vector, pool.reach, pool.allowed)

    def _take(self, pool: _Pool, near: Neighbours) -> None:
        labels, cosines = near
        is_cut = len(labels) >= pool.reach
        pool.worst = float(cosines[-1]) if is_cut else -2.0
        studies, rows, places = self._indexes.owners(labels, Kind.REPORT, pool.leg.reported)
        found = Candidates(studies, rows, cosines if places is None else cosines.take(places))
        if is_cut:                                  # what lies beyond may still beat, or tie, what is no better
            found = found.take(slice(len(studies) - int(np.count_nonzero(found.cosines <= pool.worst))))
        if self._passing is not None:
            passing, texts = self._passing, self._numbers.texts
            numbers = enumerate(found.studies.tolist())
            passes = [place for place, study in numbers if texts[study] in passing]
            found = found.take(np.asarray(passes, dtype=np.int64))
        if len(set(found.studies.tolist())) < len(found.studies):   # of each study its nearest, that is the first
            found = found.take(np.sort(np.unique(found.studies, return_index=True)[1]))
        pool.candidates = found = self._by_uid_where_equal(found)
        scored = np.concatenate((found.cosines, cosines[-1:])) if is_cut else found.cosines
        scores = scores_of(self._similarity.score, scored, pool.leg.query_basis, pool.leg.entry_basis)
        pool.scores, pool.bound = scores[: len(found.cosines)], float(scores[-1]) if is_cut else -1.0

    def _by_uid_where_equal(self, found: Candidates) -> Candidates:
        """Return candidates, whose cosines descend, so that equal ones stand in order of UIDs."""
        if not np.count_nonzero(found.cosines[1:] == found.cosines[:-1]):
            return found
        uids, cosines = [self._numbers.texts[study] for study in found.studies.tolist()], found.cosines.tolist()
        places = sorted(range(len(uids)), key=lambda place: (-cosines[place], uids[place]))
        return found.take(np.asarray(places, dtype=np.int64))

    def _allowed(self, leg: Leg) -> Int64 | None:
        """Return the labels that a leg may find, None where all may be."""
        passing: Collection[str] | None = self._passing
        if passing is None:
            return self._similarity.unreported_labels(leg.kind) if leg.reported is False else None
        if leg.reported is not None:
            holds = self._indexes.holds
            passing = [study for study in passing if holds(Kind.REPORT, study) is leg.reported]
        return self._indexes.labels_of_studies(leg.kind, passing)

    # ------------------------------------------------------------------------------------ all legs

    def _accepted(self, pools: Sequence[_Pool], wanted: int) -> Ranked:
        found, scores, bases = self._merged(pools)
        places: list[int] = []
        parts: list[Heads] = []
        records: dict[int, StudyRecord] = {}
        step = wanted + len(self._own) + _SPARE
        for start in range(0, len(scores), step):
            heads, known, left_out = self._learn(found.studies[start : start + step])
            here = list(range(len(heads)))
            for place in sorted(left_out, reverse=True):
                del here[place]
            del here[wanted - len(places) :]
            if known:
                records |= {len(places) + number: known[place] for number, place in enumerate(here) if place in known}
            parts.append(heads.take(_places(here)))
            places += [start + place for place in here] if start else here
            if len(places) == wanted:
                break
        chosen = _places(places)
        of_each = bases[chosen] if isinstance(chosen, slice) else [bases[place] for place in places]
        return Ranked(found.take(chosen), scores[chosen], of_each, Heads.joined(parts or [Heads.of([])]), records)

    def _merged(self, pools: Sequence[_Pool]) -> tuple[Candidates, Float64, list[Basis]]:
        """Return the candidates of all legs by descending score, within a leg by cosine and UID; scores and bases."""
        (first, *others), least = pools, self._query.minimum_score
        found, scores, bases = first.candidates, first.scores, [first.leg.entry_basis] * len(first.scores)
        if others:
            found = Candidates(*map(np.concatenate, zip(*(pool.candidates for pool in pools), strict=True)))
            scores = np.concatenate([pool.scores for pool in pools])
            bases = [pool.leg.entry_basis for pool in pools for _ in range(len(pool.scores))]
        elif least is None and not np.count_nonzero(scores[1:] > scores[:-1]):
            return found, scores, bases             # as nearly always: scores rise with cosines
        order = np.argsort(-scores, kind="stable")
        if least is not None:
            order = order[scores.take(order) >= least]
        if others:                                  # a report may come between two legs: a study is answered once
            order = order[np.sort(np.unique(found.studies.take(order), return_index=True)[1])]
        return found.take(order), scores.take(order), [bases[place] for place in order.tolist()]

    def _learn(self, studies: Int64) -> tuple[Heads, dict[int, StudyRecord], set[int]]:
        """Return the heads of studies, by place the records of those that have none, and the places to leave out.

        These are studies that have gone, the query's own, and the same patient's.
        """
        kept, texts, numbers = self._kept, self._numbers.texts, studies.tolist()
        heads = self._heads(studies)
        missing = [place for place, length in enumerate(heads.lengths) if not length] if 0 in heads.lengths else []
        asked = [texts[numbers[place]] for place in missing]
        if self._patients is None:
            self._patients = self._own_patients(asked)
        left_out = {numbers.index(own) for own in self._own if own in numbers}
        if self._patients and kept is not None and len(missing) < len(numbers):
            patients = kept.patients(studies)       # right only of those that have a head
            for patient in self._patients:
                left_out.update((patients == patient).nonzero()[0].tolist())
            left_out.difference_update(place for place in missing if numbers[place] not in self._own)
        records: dict[int, StudyRecord] = {}
        if missing:
            self._ask(asked)
            for place, uid in zip(missing, asked, strict=True):
                record = self._records.get(uid)
                if record is None or patient_number(record.patient_key) in self._patients:
                    left_out.add(place)
                else:
                    records[place] = record
        return heads, records, left_out

    def _heads(self, studies: Int64) -> Heads:
        if self._kept is None or self._layout is None:
            return Heads.of([b""] * len(studies))
        self._kept.level()
        return self._kept.heads(self._layout, studies)

    def _own_patients(self, asked: Sequence[str]) -> frozenset[int]:
        """Return the numbers of the query studies' patients; their records are asked for together with others."""
        patients, others = set(), []
        for uid in self._query_studies:
            number = self._numbers.get(uid)
            patient = None if self._kept is None or number is None else self._kept.patient_of(number)
            if patient is None:
                others.append(uid)
            else:
                patients.add(patient)
        if others:
            self._ask([*others, *asked])
            patients |= {patient_number(self._records[uid].patient_key) for uid in others if uid in self._records}
        return frozenset(patients - {0})

    def _ask(self, uids: Sequence[str]) -> None:
        """Ask the Catalogue for the records of studies, but of those that it has been asked for."""
        asked = [uid for uid in uids if uid not in self._records]
        if asked:
            with_report, with_findings = self._query.with_report, self._query.with_findings
            self._records |= self._catalogue.studies(asked, with_report=with_report, with_findings=with_findings)


__all__ = ["Candidates", "Ranked", "Ranking"]
