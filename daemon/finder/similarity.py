"""Similar studies for a query: no DICOM in it. Both the similar AE and ``cxrfind query`` answer through this."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from daemon.finder.errors import ExampleNotEncoded, ExampleUnknown, Loading, NoUsableIndex
from daemon.finder.examples import Example, Leg, SimilarityQuery, example_of, legs_of, pooled
from encoders.base import Basis, Encoder, Float32
from storage.base import Catalogue, Int64, Kind, StudyRecord
from storage.index.following import IndexSet

TRUNCATED = "TRUNCATED"
INDEX_PARTIAL = "INDEX PARTIAL"

#: First round of a search asks for this many neighbours for each study wanted: studies have one to three images.
_OVERSAMPLING = 3
_WIDENING = 4
#: Above this share of passing studies a filter is applied to what the index finds, below it is given to the index.
_SELECTIVE = 0.5


class Scorer(Protocol):
    """Cosine to probability (``Encoder.score``)."""

    def __call__(self, cosines: Float32, query: Basis, entry: Basis) -> Float32: ...


@dataclass(frozen=True, slots=True)
class Match:
    """One study of an answer; `basis` is what it was compared by, `sop_instance_uid` its best object ("": all)."""

    rank: int
    study_instance_uid: str
    score: float
    cosine: float
    basis: Basis
    sop_instance_uid: str
    study: StudyRecord


@dataclass(frozen=True, slots=True)
class Answer:
    """Matches by descending score, and what the reader has to know about them (xx16 Flags)."""

    matches: tuple[Match, ...]
    flags: tuple[str, ...]
    model_id: str


@dataclass(frozen=True, slots=True)
class _Candidate:
    study_instance_uid: str
    sop_instance_uid: str
    cosine: float


class Similarity:
    """Answers queries from one generation's indexes.

    Parameters
    ----------
    encoder : Encoder or None
        Needed for text only; used when it is the model of this generation.
    score : callable
        The generation's calibration.
    partial : callable
        Returns True while the indexes lack what the Catalogue has held for longer than a moment.
    waiting : callable
        Returns True for a SOP Instance UID that was received and is not in the Catalogue yet.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        indexes: IndexSet,
        encoder: Encoder | None,
        score: Scorer,
        *,
        partial: Callable[[], bool] = lambda: False,
        waiting: Callable[[str], bool] = lambda sop_instance_uid: False,
        default_results: int = 20,
        maximum_results: int = 200,
    ) -> None:
        self.catalogue, self.indexes, self.encoder, self.score = catalogue, indexes, encoder, score
        self.partial, self.waiting = partial, waiting
        self.default_results, self.maximum_results = default_results, maximum_results
        self._unreported: tuple[int, list[str]] = (-1, [])

    def answer(self, query: SimilarityQuery) -> Answer:
        """Return the most similar studies.

        Raises
        ------
        ExampleUnknown, ExampleNotEncoded, ExampleKeptOut
            The example cannot be used.
        NoUsableIndex
            Nothing is indexed, or the legs' indexes are empty.
        Loading
            Text or vectors were given and the model of this generation is not loaded.
        """
        generation = self.indexes.generation
        examples = [self._example(uid) for uid in query.uids]
        if query.vectors:
            self._model_of_this_generation()        # vectors of two models are never compared
            examples.append(Example("", query.vectors))
        text = self._text_vector(query.text) if query.text else None
        legs = legs_of(query.basis, pooled(examples) if examples else {}, text)
        counts = self.indexes.counts()
        if not any(counts[leg.kind] for leg in legs):
            raise NoUsableIndex("nothing is indexed yet" if not query.uids else "nothing to compare with is indexed")
        asked = query.max_results or self.default_results
        wanted = min(asked, self.maximum_results) + 1           # one more tells whether the list was cut
        hits = _Search(self, query, [example.study_instance_uid for example in examples if example.study_instance_uid])
        ranked: list[tuple[float, Leg, _Candidate]] = []
        for leg in legs:
            found = {candidate.study_instance_uid for _, _, candidate in ranked}   # a report may come between two legs
            candidates = [hit for hit in hits.leg(leg, wanted) if hit.study_instance_uid not in found]
            cosines = np.array([candidate.cosine for candidate in candidates], dtype=np.float32)
            scores = self.score(cosines, leg.query_basis, leg.entry_basis) if candidates else cosines
            ranked += zip((float(score) for score in scores), [leg] * len(candidates), candidates, strict=True)
        ranked.sort(key=lambda hit: -hit[0])        # stable: within a leg equal scores stay by cosine, then by UID
        if query.minimum_score is not None:
            ranked = [hit for hit in ranked if hit[0] >= query.minimum_score]
        limit = wanted - 1
        records = hits.records_of([])
        matches = tuple(
            Match(
                rank, candidate.study_instance_uid, min(1.0, max(0.0, score)), candidate.cosine, leg.entry_basis,
                candidate.sop_instance_uid, records[candidate.study_instance_uid],
            )
            for rank, (score, leg, candidate) in enumerate(ranked[:limit], 1)
        )
        flags = [TRUNCATED] if asked > self.maximum_results and len(ranked) > limit else []
        flags += [INDEX_PARTIAL] if self.partial() else []
        return Answer(matches, tuple(flags), generation.model_id)

    def _example(self, uid: str) -> Example:
        try:
            return example_of(self.catalogue, self.indexes.generation.generation_id, uid)
        except ExampleUnknown:
            if self.waiting(uid):
                raise ExampleNotEncoded("the example is not encoded yet: ask again in a moment") from None
            raise

    def unreported(self) -> list[str]:
        """Return the studies that have images and no report; kept until the indexes move on."""
        sequence, studies = self._unreported
        if sequence != self.indexes.sequence:
            sequence = self.indexes.sequence
            studies = self.indexes.studies_without(Kind.IMAGE, Kind.REPORT)
            self._unreported = (sequence, studies)
        return studies

    def _text_vector(self, text: str) -> Float32:
        return self._model_of_this_generation().encode_text(text)

    def _model_of_this_generation(self) -> Encoder:
        encoder = self.encoder
        if encoder is None:
            raise Loading("the model is loading: ask again in a moment")
        if encoder.fingerprint != self.indexes.generation.fingerprint:
            raise Loading("the archive is being encoded with a new model: ask later")
        return encoder


class _Search:
    """The legs of one query: filters, exclusions, and study records fetched once."""

    def __init__(self, similarity: Similarity, query: SimilarityQuery, query_studies: Sequence[str]) -> None:
        self._similarity, self._indexes, self._catalogue = similarity, similarity.indexes, similarity.catalogue
        self._query_studies = frozenset(query_studies)
        filters = query.findings or any(element.get("Value") for element in query.identifier.values())
        self._passing = self._catalogue.select_studies(query.identifier, query.findings) if filters else None
        self._records: dict[str, StudyRecord] = {}
        self._patients: frozenset[str] = frozenset()
        if query.exclude_same_patient and query_studies:
            records = self._catalogue.studies(query_studies).values()
            self._patients = frozenset(record.patient_key for record in records if record.patient_key)

    def records_of(self, studies: Sequence[str]) -> dict[str, StudyRecord]:
        """Return the records of studies, and of others seen before; without those that have gone meanwhile."""
        missing = [study for study in studies if study not in self._records]
        if missing:
            self._records.update(self._catalogue.studies(missing))
        return self._records

    def leg(self, leg: Leg, wanted: int) -> list[_Candidate]:
        """Return up to `wanted` studies by descending cosine, ties by UID; never fewer than exist."""
        allowed = self._allowed(leg)
        k = wanted * _OVERSAMPLING
        while True:
            best: dict[str, _Candidate] = {}
            exhausted, worst = True, -2.0
            for vector in leg.vectors:
                neighbours = self._indexes.search(leg.kind, vector, k, allowed)
                if len(neighbours) >= k:
                    exhausted, worst = False, max(worst, neighbours[-1].similarity)
                for neighbour in neighbours:
                    owner = self._indexes.owner(neighbour.label)
                    if owner is None:
                        continue
                    candidate = _Candidate(owner[0], owner[1], neighbour.similarity)
                    known = best.get(owner[0])
                    if known is None or _order(candidate) < _order(known):
                        best[owner[0]] = candidate
            # what lies beyond the last neighbour of any vector may still beat, or tie, what is no better than that
            sure = [candidate for candidate in best.values() if exhausted or candidate.cosine > worst]
            accepted = self._accepted(leg, sorted(sure, key=_order), wanted)
            if exhausted or len(accepted) >= wanted:
                return accepted
            k *= _WIDENING

    def _accepted(self, leg: Leg, candidates: Sequence[_Candidate], wanted: int) -> list[_Candidate]:
        passing = [
            candidate for candidate in candidates
            if candidate.study_instance_uid not in self._query_studies
            and (self._passing is None or candidate.study_instance_uid in self._passing)
            and (
                leg.reported is None
                or self._indexes.holds(Kind.REPORT, candidate.study_instance_uid) is leg.reported
            )
        ]
        accepted: list[_Candidate] = []
        for start in range(0, len(passing), wanted):
            part = passing[start : start + wanted]
            records = self.records_of([candidate.study_instance_uid for candidate in part])
            accepted += [
                candidate for candidate in part
                if (record := records.get(candidate.study_instance_uid)) and record.patient_key not in self._patients
            ]
            if len(accepted) >= wanted:
                break
        return accepted[:wanted]

    def _allowed(self, leg: Leg) -> Int64 | None:
        """Return the labels that may be found where few may, None where the index is asked without a filter."""
        counts = self._indexes.counts()
        total = max(1, counts[Kind.JOINT])          # one for each study
        studies: Collection[str] | None = None
        if self._passing is not None and len(self._passing) < _SELECTIVE * total:
            studies = self._passing
        if leg.reported is False and total - counts[Kind.REPORT] < _SELECTIVE * total:
            unreported = self._similarity.unreported()
            studies = unreported if studies is None else [study for study in unreported if study in studies]
        return None if studies is None else self._indexes.labels_of_studies(leg.kind, studies)


def _order(candidate: _Candidate) -> tuple[float, str, str]:
    return (-candidate.cosine, candidate.study_instance_uid, candidate.sop_instance_uid)
