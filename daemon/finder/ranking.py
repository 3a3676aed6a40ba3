"""The legs of one query, searched and ranked together; the Catalogue is asked once, for those that lead."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from operator import itemgetter
from typing import TYPE_CHECKING

from daemon.finder.examples import Leg, SimilarityQuery
from daemon.finder.kept import IS_PLAIN, PATIENT_KEY, Kept, KeptStudies
from daemon.finder.scores import scores_of
from encoders.base import Basis
from storage.base import Int64, Kind, Neighbours, StudyRecord

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


#: A study with its best object: negative cosine, StudyInstanceUID, row of the object in `Owners`.
#: Sorts by descending cosine, then by UID. A plain tuple: a query makes a hundred of them.
Candidate = tuple[float, str, int]

#: A candidate's calibrated score 0..1, what its entry was made from, itself, and what is known of its study.
Ranked = tuple[float, Basis, Candidate, StudyRecord | Kept]


@dataclass(slots=True)
class _Pool:
    """What one leg has found so far.

    Attributes
    ----------
    candidates : list of Candidate
        Sorted, filtered; complete down to `worst`.
    worst : float
        Cosine that nothing unseen surpasses; -2 when all has been seen.
    """

    leg: Leg
    reach: int
    allowed: Int64 | None = None
    candidates: Sequence[Candidate] = ()
    scores: Sequence[float] = ()                    # of the candidates
    worst: float = -2.0
    bound: float = -1.0                             # score that nothing unseen surpasses

    @property
    def exhausted(self) -> bool:
        return self.worst < -1.5


class Ranking:
    """Searches the legs of one query until the best studies are certain."""

    def __init__(
        self, similarity: Similarity, query: SimilarityQuery, query_studies: Sequence[str], kept: KeptStudies | None
    ) -> None:
        self._kept = kept
        self._similarity, self._indexes, self._catalogue = similarity, similarity.indexes, similarity.catalogue
        self._query, self._query_studies = query, frozenset(query_studies)
        filters = query.findings or any(element.get("Value") for element in query.identifier.values())
        self._passing = self._catalogue.select_studies(query.identifier, query.findings) if filters else None
        self._counts = self._indexes.counts()
        self._known: dict[str, StudyRecord | Kept] = {}
        self._patients: frozenset[str] | None = None if query.exclude_same_patient and query_studies else frozenset()

    def best(self, legs: Sequence[Leg], wanted: int) -> list[Ranked]:
        """Return up to `wanted` studies by descending score, then by cosine and UID; never fewer than exist."""
        pools = [self._pool(leg, wanted) for leg in legs]
        todo = pools
        while True:
            found = self._similarity.beside.all_of([partial(self._nearest, pool) for pool in todo])
            for pool, near in zip(todo, found, strict=True):
                self._take(pool, near)
            ranked = self._accepted(pools, wanted)
            least = self._query.minimum_score if self._query.minimum_score is not None else -1.0
            if len(ranked) == wanted:
                todo = [pool for pool in pools if not pool.exhausted and pool.bound > max(ranked[-1][0], least)]
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
        pool.worst = -2.0
        labels, similarities = near
        if len(labels) >= pool.reach:
            pool.worst = similarities[-1]
        owners = self._indexes.owners(labels, Kind.REPORT, pool.leg.reported)
        best: dict[str, Candidate] = {              # of each study its first, nearest: backwards, the first stays
            owner[0]: (-similarity, *owner)
            for similarity, owner in zip(reversed(similarities), reversed(owners), strict=True) if owner is not None
        }  # fmt: skip
        # what lies beyond the last neighbour may still beat, or tie, what is no better than that
        certain = -pool.worst
        passing, own = self._passing, self._query_studies
        pool.candidates = sorted([
            found for found in best.values()
            if found[0] < certain and found[1] not in own and (passing is None or found[1] in passing)
        ])  # fmt: skip
        cosines = [-found[0] for found in pool.candidates]
        cosines.append(pool.worst)
        *pool.scores, pool.bound = scores_of(
            self._similarity.score, cosines, pool.leg.query_basis, pool.leg.entry_basis
        )

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

    def _accepted(self, pools: Sequence[_Pool], wanted: int) -> list[Ranked]:
        ranked: list[tuple[float, Basis, Candidate]] = []
        for pool in pools:
            ranked += zip(pool.scores, repeat(pool.leg.entry_basis), pool.candidates)
        if self._query.minimum_score is not None:
            ranked = [hit for hit in ranked if hit[0] >= self._query.minimum_score]
        ranked.sort(key=itemgetter(0), reverse=True)    # stable: within a leg equal scores stay by cosine, then by UID
        learnt = self._known
        accepted: dict[str, Ranked] = {}            # a report may come between two legs: a study is answered once
        step = wanted + _SPARE
        for start in range(0, len(ranked), step):
            part = ranked[start : start + step]
            patients = self._learn([candidate[1] for _, _, candidate in part])
            for score, basis, candidate in part:
                study = candidate[1]
                known = learnt.get(study)
                if known is None or study in accepted:
                    continue
                patient = known[PATIENT_KEY] if isinstance(known, tuple) else known.patient_key
                if patient not in patients:
                    accepted[study] = score, basis, candidate, known
                    if len(accepted) == wanted:
                        return list(accepted.values())
        return list(accepted.values())

    def _learn(self, studies: Sequence[str]) -> frozenset[str]:
        """Learn what is not known yet of studies, but of those that have gone; return the patients to leave out."""
        known = self._known
        asked = [study for study in studies if study not in known]
        if asked and self._patients is None:
            asked += self._query_studies
        if asked and self._kept is not None:
            self._kept.level()
            missing, get = [], self._kept.get
            for study in asked:
                kept = get(study)
                if kept is not None and kept[IS_PLAIN]:
                    known[study] = kept
                else:
                    missing.append(study)
            asked = missing
        if asked:
            with_report, with_findings = self._query.with_report, self._query.with_findings
            known.update(self._catalogue.studies(asked, with_report=with_report, with_findings=with_findings))
        if self._patients is None:
            own = [known[study] for study in self._query_studies if study in known]
            keys = [of[PATIENT_KEY] if isinstance(of, tuple) else of.patient_key for of in own]
            self._patients = frozenset(key for key in keys if key)
        return self._patients


__all__ = ["Candidate", "Ranked", "Ranking"]
