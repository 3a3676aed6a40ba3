"""Similar studies for a query: no DICOM in it. Both the similar AE and ``cxrfind query`` answer through this."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, overload

from daemon.finder.beside import Beside
from daemon.finder.errors import ExampleNotEncoded, ExampleUnknown, Loading, NoUsableIndex
from daemon.finder.examples import BASES, Example, SimilarityQuery, compared, example_of, legs_of, pooled
from daemon.finder.kept import KeptStudies, Layout
from daemon.finder.ranking import Known, Ranking
from daemon.finder.scores import Scorer
from encoders.base import Basis, Encoder, Float32
from storage.base import Catalogue, Int64, Kind, StudyRecord
from storage.index.following import IndexSet
from storage.index.table import BadLabel

TRUNCATED = "TRUNCATED"
INDEX_PARTIAL = "INDEX PARTIAL"


class Match(NamedTuple):
    """One study of an answer.

    `basis` is what it was compared by, `sop_instance_uid` its best object ("": all of them, or nobody asked).
    """

    rank: int
    study_instance_uid: str
    score: float
    cosine: float
    basis: Basis
    sop_instance_uid: str
    known: Known

    @property
    def study(self) -> StudyRecord:
        """The study's record; there is none where `Similarity.answer` was told that heads will do."""
        assert isinstance(self.known, StudyRecord)
        return self.known


def _no_object(_place: int) -> str:
    return ""


@dataclass(slots=True)
class Matches(Sequence[Match]):
    """Matches by rank, as columns, which stay as they are; one match is made when it is looked at.

    Attributes
    ----------
    scores, cosines : list of float
    bases : list of Basis
    known : list of StudyRecord or bytes
    study_uid, sop_uid : callable
        Return the StudyInstanceUID and the best object's SOPInstanceUID of a place.
    """

    scores: list[float]
    cosines: list[float]
    bases: list[Basis]
    known: list[Known]
    study_uid: Callable[[int], str]
    sop_uid: Callable[[int], str] = _no_object

    def __len__(self) -> int:
        return len(self.known)

    @overload
    def __getitem__(self, place: int) -> Match: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Match]: ...

    def __getitem__(self, place: int | slice) -> Match | Sequence[Match]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        return Match(
            place + 1, self.study_uid(place), self.scores[place], self.cosines[place], self.bases[place],
            self.sop_uid(place), self.known[place],
        )  # fmt: skip


NO_MATCHES = Matches([], [], [], [], _no_object)


class Answer(NamedTuple):
    """Matches by descending score, and what the reader has to know about them (xx16 Flags)."""

    matches: Matches
    flags: tuple[str, ...]
    model_id: str


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
    kept : KeptStudies, optional
        Studies whose records need not be asked for; by the indexes' numbers (ValueError).
    beside : Beside, optional
        Threads that search a second graph meanwhile.
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
        kept: KeptStudies | None = None,
        beside: Beside | None = None,
    ) -> None:
        if kept is not None and kept.numbers is not indexes.numbers:
            raise ValueError("studies have other numbers in the indexes than where they are kept")
        self.catalogue, self.indexes, self.encoder, self.score = catalogue, indexes, encoder, score
        self.partial, self.waiting = partial, waiting
        self.default_results, self.maximum_results, self.kept = default_results, maximum_results, kept
        self.beside = Beside(0) if beside is None else beside
        self._unreported: tuple[int, dict[Kind, Int64]] = (-1, {})

    def answer(self, query: SimilarityQuery, *, layout: Layout | None = None) -> Answer:
        """Return the most similar studies.

        Parameters
        ----------
        layout : Layout, optional
            Of an answer's head: a match may hold that instead of its study's record.

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
        alone = len(query.uids) == 1 and not query.vectors
        examples = [self._example(uid, query.basis, alone) for uid in query.uids]
        if query.vectors:
            self._model_of_this_generation()        # vectors of two models are never compared
            examples.append(Example("", query.vectors, Basis.REPORT in query.vectors))
        text = self._text_vector(query.text) if query.text else None
        reported = all([example.reported for example in examples])
        legs = legs_of(query.basis, pooled(examples) if examples else {}, text, reported=reported)
        counts = self.indexes.counts()
        if not any([counts[leg.kind] for leg in legs]):
            raise NoUsableIndex("nothing is indexed yet" if not query.uids else "nothing to compare with is indexed")
        asked = query.max_results or self.default_results
        limit = min(asked, self.maximum_results)
        own = [example.study_instance_uid for example in examples if example.study_instance_uid]
        ranking = Ranking(self, query, own, layout, counts)
        ranked = ranking.best(legs, limit + (asked > limit))        # one more: the list was cut
        studies, labels, cosines, scores = ranked.candidates.part(slice(limit))
        texts, sop_of = self.indexes.numbers.texts, self.indexes.sop_instance_uid
        matches = Matches(
            scores.tolist(), cosines.tolist(), ranked.bases, ranked.known[:limit],
            lambda place: texts[studies[place]],
            (lambda place: sop_of(int(labels[place]))) if query.with_objects else _no_object,
        )
        flags = [TRUNCATED] if len(ranked.known) > limit else []
        flags += [INDEX_PARTIAL] if self.partial() else []
        return Answer(matches, tuple(flags), generation.model_id)

    def _example(self, uid: str, basis: Basis | None, alone: bool) -> Example:
        """Return an example; of the only one those vectors that are compared."""
        try:
            held = self.indexes.labels_of_study(uid)
            if held:                                # a study in the index: the Catalogue need not be asked
                kinds = compared(basis, held) if alone else held
                vectors = {BASES[kind]: self.indexes.vectors(kind, held[kind]) for kind in kinds}
                return Example(uid, vectors, Kind.REPORT in held)
        except BadLabel:                            # removed just now
            pass
        try:
            return example_of(self.catalogue, self.indexes.generation.generation_id, uid)
        except ExampleUnknown:
            if self.waiting(uid):
                raise ExampleNotEncoded("the example is not encoded yet: ask again in a moment") from None
            raise

    def unreported_labels(self, kind: Kind) -> Int64:
        """Return the labels of one kind of studies that have images and no report; kept until the indexes move on."""
        sequence, labels = self._unreported
        if sequence != self.indexes.sequence:
            sequence, labels = self.indexes.sequence, {}
            self._unreported = (sequence, labels)
        if kind not in labels:
            labels[kind] = self.indexes.labels_without(kind, has=Kind.IMAGE, lacks=Kind.REPORT)
        return labels[kind]

    def _text_vector(self, text: str) -> Float32:
        return self._model_of_this_generation().encode_text(text)

    def _model_of_this_generation(self) -> Encoder:
        encoder = self.encoder
        if encoder is None:
            raise Loading("the model is loading: ask again in a moment")
        if encoder.fingerprint != self.indexes.generation.fingerprint:
            raise Loading("the archive is being encoded with a new model: ask later")
        return encoder
