"""The legs of one query, searched and ranked together; the Catalogue is asked once, for those that lead."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from daemon.finder.examples import Leg, SimilarityQuery
from daemon.finder.kept import IS_PLAIN, PATIENT_KEY, Kept, KeptStudies
from storage.base import Int64, Kind, StudyRecord

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


_GONE = "", None


class Candidate(NamedTuple):
    """A study with its best object; sorts by descending cosine, then by UID."""

    negative_cosine: float
    study_instance_uid: str
    sop_instance_uid: str


class Ranked(NamedTuple):
    """A candidate of a leg with its calibrated score, and what is known of its study."""

    score: float
    leg: Leg
    candidate: Candidate
    known: StudyRecord | Kept


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
    scores: Sequence[float] = ()
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
        self._known: dict[str, tuple[str, StudyRecord | Kept]] = {}     # patient key, and what an answer needs
        self._patients: frozenset[str] | None = None if query.exclude_same_patient and query_studies else frozenset()

    def best(self, legs: Sequence[Leg], wanted: int) -> list[Ranked]:
        """Return up to `wanted` studies by descending score, then by cosine and UID; never fewer than exist."""
        pools = [self._pool(leg, wanted) for leg in legs]
        todo = pools
        while True:
            for pool in todo:
                self._search(pool)
            ranked = self._accepted(pools, wanted)
            least = self._query.minimum_score if self._query.minimum_score is not None else -1.0
            if len(ranked) == wanted:
                todo = [pool for pool in pools if not pool.exhausted and pool.bound > max(ranked[-1].score, least)]
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

    def _search(self, pool: _Pool) -> None:
        best: dict[str, Candidate] = {}
        pool.worst = -2.0
        for vector in pool.leg.vectors:
            neighbours = self._indexes.search(pool.leg.kind, vector, pool.reach, pool.allowed)
            if len(neighbours) >= pool.reach:
                pool.worst = max(pool.worst, neighbours[-1].similarity)
            labels = [label for label, _ in neighbours]
            owners = self._indexes.owners(labels, Kind.REPORT, pool.leg.reported)
            for (_, similarity), owned in zip(neighbours, owners, strict=True):
                if owned is None:
                    continue
                study, sop = owned
                candidate = Candidate(-similarity, study, sop)
                if study not in best or candidate < best[study]:
                    best[study] = candidate
        # what lies beyond the last neighbour of any vector may still beat, or tie, what is no better than that
        certain = -pool.worst
        passing, own = self._passing, self._query_studies
        pool.candidates = sorted([
            found for found in best.values()
            if found.negative_cosine < certain and found.study_instance_uid not in own
            and (passing is None or found.study_instance_uid in passing)
        ])  # fmt: skip
        cosines = np.array([-found.negative_cosine for found in pool.candidates] + [pool.worst], dtype=np.float32)
        *scores, bound = self._similarity.score(cosines, pool.leg.query_basis, pool.leg.entry_basis).tolist()
        pool.scores, pool.bound = scores, bound

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
        ranked = [
            (score, pool.leg, candidate)
            for pool in pools for score, candidate in zip(pool.scores, pool.candidates, strict=True)
        ]
        if self._query.minimum_score is not None:
            ranked = [hit for hit in ranked if hit[0] >= self._query.minimum_score]
        ranked.sort(key=itemgetter(0), reverse=True)    # stable: within a leg equal scores stay by cosine, then by UID
        accepted: dict[str, Ranked] = {}            # a report may come between two legs: a study is answered once
        step = wanted + _SPARE
        for start in range(0, len(ranked), step):
            part = ranked[start : start + step]
            patients = self._learn([hit[2].study_instance_uid for hit in part])
            for score, leg, candidate in part:
                study = candidate.study_instance_uid
                patient, known = self._known.get(study, _GONE)
                if known is not None and patient not in patients and study not in accepted:
                    accepted[study] = Ranked(score, leg, candidate, known)
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
                    known[study] = kept[PATIENT_KEY], kept
                else:
                    missing.append(study)
            asked = missing
        if asked:
            with_report, with_findings = self._query.with_report, self._query.with_findings
            found = self._catalogue.studies(asked, with_report=with_report, with_findings=with_findings)
            known.update((study, (record.patient_key, record)) for study, record in found.items())
        if self._patients is None:
            own = (known[study][0] for study in self._query_studies if study in known)
            self._patients = frozenset(key for key in own if key)
        return self._patients


__all__ = ["Candidate", "Ranked", "Ranking"]
