"""The legs of one query, searched and ranked together; the Catalogue is asked once, for those that lead.

In columns: a query looks at some hundred studies, and a step in Python for each would take as long as the search.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from daemon.finder.examples import Leg, SimilarityQuery
from daemon.finder.kept import Layout, patient_number
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


#: What an answer is made from: a study's record, or its head where that is kept.
Known = StudyRecord | bytes


class Candidates(NamedTuple):
    """Studies, each with its best object, as columns: by descending cosine, then by UID.

    Attributes
    ----------
    studies : ndarray of int64
        Numbers (`IndexSet.numbers`).
    labels : ndarray of int64
        Of the objects.
    cosines, scores : ndarray of float64
        Scores are calibrated, 0..1.
    """

    studies: Int64
    labels: Int64
    cosines: Float64
    scores: Float64

    def part(self, part: slice) -> Candidates:
        """Return those of a part."""
        return Candidates(self.studies[part], self.labels[part], self.cosines[part], self.scores[part])

    def take(self, places: Int64) -> Candidates:
        """Return those at some places."""
        studies, labels, cosines, scores = self
        return Candidates(studies.take(places), labels.take(places), cosines.take(places), scores.take(places))


_NOBODY = Candidates(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0))


class Ranked(NamedTuple):
    """The best studies as columns: by descending score, then by cosine and UID.

    Attributes
    ----------
    bases : list of Basis
        What the entries were made from.
    """

    candidates: Candidates
    bases: list[Basis]
    known: list[Known]


@dataclass(slots=True)
class _Pool:
    """What one leg has found so far.

    Attributes
    ----------
    candidates : Candidates
        Filtered; all above the farthest cosine seen.
    bound : float
        Score that nothing unseen surpasses.
    exhausted : bool
        Whether all has been seen.
    """

    leg: Leg
    reach: int
    allowed: Int64 | None = None
    candidates: Candidates = _NOBODY
    bound: float = 1.0
    exhausted: bool = False


class Ranking:
    """Searches the legs of one query until the best studies are certain."""

    def __init__(
        self, similarity: Similarity, query: SimilarityQuery, query_studies: Sequence[str], layout: Layout | None,
        counts: Mapping[Kind, int],
    ) -> None:
        """Prepare; `counts`: of the indexes' vectors."""
        self._similarity, self._indexes, self._catalogue = similarity, similarity.indexes, similarity.catalogue
        self._query, self._query_studies = query, dict.fromkeys(query_studies)
        self._numbers, self._layout = self._indexes.numbers, layout
        self._kept = similarity.kept if layout is not None else None    # what is not levelled is not looked at
        self._own = self._numbers.of(self._query_studies)               # the index may learn of them meanwhile
        filters = query.findings or (
            query.identifier and any(element.get("Value") for element in query.identifier.values())
        )
        self._passing = self._catalogue.select_studies(query.identifier, query.findings) if filters else None
        self._counts = counts
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
            if len(ranked.known) == wanted:
                last = max(float(ranked.candidates.scores[-1]), least)
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
        leg, is_cut = pool.leg, len(labels) >= pool.reach
        scores = scores_of(self._similarity.score, cosines, leg.query_basis, leg.entry_basis)
        pool.exhausted, pool.bound = not is_cut, float(scores[-1]) if is_cut else -1.0
        studies, places = self._indexes.owners(labels, Kind.REPORT, leg.reported)
        if places is not None:
            labels, cosines, scores = labels.take(places), cosines.take(places), scores.take(places)
        found = Candidates(studies, labels, cosines, scores)
        if is_cut:                                  # what lies beyond may still beat, or tie, what is no better
            worst, kept = near.similarities[-1], len(studies)
            while kept and cosines[kept - 1] <= worst:
                kept -= 1
            found = found.part(slice(kept))
        if self._passing is not None:
            passing, texts = self._passing, self._numbers.texts
            numbers = enumerate(found.studies.tolist())
            passes = [place for place, study in numbers if texts[study] in passing]
            found = found.take(np.asarray(passes, dtype=np.int64))
        if len(set(found.studies.tolist())) < len(found.studies):   # of each study its nearest, that is the first
            found = found.take(np.sort(np.unique(found.studies, return_index=True)[1]))
        pool.candidates = self._by_uid_where_equal(found)

    def _by_uid_where_equal(self, found: Candidates) -> Candidates:
        """Return candidates, whose cosines descend, so that equal ones stand in order of UIDs."""
        if not len((found.cosines[1:] == found.cosines[:-1]).nonzero()[0]):
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
        found, bases = self._merged(pools)
        accepted: list[int] = []
        known: list[Known] = []
        step = wanted + len(self._own) + _SPARE
        for start in range(0, len(found.studies), step):
            told = self._learn(found.studies[start : start + step])
            accepted += [place for place, of in enumerate(told, start) if of]
            known += filter(None, told)
            if len(known) >= wanted:
                break
        accepted, known = accepted[:wanted], known[:wanted]
        if accepted and accepted[-1] - accepted[0] + 1 == len(accepted):    # nobody between them is left out
            part = slice(accepted[0], accepted[-1] + 1)
            return Ranked(found.part(part), bases[part], known)
        places = np.asarray(accepted, dtype=np.int64)
        return Ranked(found.take(places), [bases[place] for place in accepted], known)

    def _merged(self, pools: Sequence[_Pool]) -> tuple[Candidates, list[Basis]]:
        """Return the candidates of all legs by descending score, within a leg by cosine and UID, and their bases."""
        (first, *others), least = pools, self._query.minimum_score
        found, bases = first.candidates, [first.leg.entry_basis] * len(first.candidates.scores)
        if others:
            found = Candidates(*map(np.concatenate, zip(*(pool.candidates for pool in pools), strict=True)))
            bases = [pool.leg.entry_basis for pool in pools for _ in range(len(pool.candidates.scores))]
        elif least is None and not len((found.scores[1:] > found.scores[:-1]).nonzero()[0]):
            return found, bases                     # as nearly always: scores rise with cosines
        order = np.argsort(-found.scores, kind="stable")
        if least is not None:
            order = order[found.scores.take(order) >= least]
        if others:                                  # a report may come between two legs: a study is answered once
            order = order[np.sort(np.unique(found.studies.take(order), return_index=True)[1])]
        return found.take(order), [bases[place] for place in order.tolist()]

    def _learn(self, studies: Int64) -> Sequence[Known | None]:
        """Return what is known of studies; nothing of those that have gone, the query's own and the same patient's."""
        known: list[Known | None]
        if self._kept is not None and self._layout is not None:
            self._kept.level()
            heads, patients = self._kept.heads(self._layout, studies)
            known = [*heads]
        else:
            known, patients = [None] * len(studies), _NOBODY.studies
        missing = [] if all(known) else [place for place, head in enumerate(known) if not head]
        numbers, texts = studies.tolist(), self._numbers.texts
        asked = [texts[numbers[place]] for place in missing]
        if self._patients is None:
            self._patients = self._own_patients(asked)
        for patient in self._patients:
            for place in (patients == patient).nonzero()[0].tolist():
                known[place] = None
        if missing:
            self._ask(asked)
            for place, uid in zip(missing, asked, strict=True):
                record = self._records.get(uid)
                is_other = record is not None and patient_number(record.patient_key) not in self._patients
                known[place] = record if is_other else None
        for own in self._own:
            if own in numbers:
                known[numbers.index(own)] = None
        return known

    def _own_patients(self, asked: Sequence[str]) -> frozenset[int]:
        """Return the numbers of the query studies' patients; their records are asked for together with others."""
        patients, others = set(), []
        for uid, number in zip(self._query_studies, self._own, strict=True):
            patient = None if self._kept is None else self._kept.patient_of(number)
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


__all__ = ["Candidates", "Known", "Ranked", "Ranking"]
