"""The nouns and seams of this room: what the Spool holds, what the Catalogue keeps and tells, what an index answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


class StorageError(Exception):
    """Base of every error of the storage package."""


# ---------------------------------------------------------------------------------------------- spool


@dataclass(frozen=True, slots=True)
class SpooledInstance:
    """A received object on disk, waiting for a worker.

    Attributes
    ----------
    spool_id : int
        Row of the journal; grows in order of arrival, never reused.
    path : Path
        DICOM file (PS3.10) with the data set exactly as received.
    digest : str
        Of the data set's bytes, as the listener made it: BLAKE3, hex. Equal bytes are one version of an object.
    deaths : int
        How often a process died, or ran out of time, while reading this object.
    """

    spool_id: int
    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    digest: str
    size_bytes: int
    calling_ae_title: str
    received_at: datetime                           # UTC
    deaths: int = 0


# ---------------------------------------------------------------------------------------------- catalogue


class Kind(StrEnum):
    """What an embedding stands for. IMAGE: one instance; REPORT: a study's prevailing report; JOINT: a whole study."""

    IMAGE = "IMAGE"
    REPORT = "REPORT"
    JOINT = "JOINT"

    __hash__ = str.__hash__                         # Enum's own is written in Python, and each query asks it often


class InstanceState(StrEnum):
    """Where an instance stands: INDEXED, GATED (kept out, see reason), PLAIN (nothing to index), HIDDEN (rejected)."""

    INDEXED = "INDEXED"
    GATED = "GATED"
    PLAIN = "PLAIN"
    HIDDEN = "HIDDEN"


@dataclass(frozen=True, slots=True)
class ReportRecord:
    """One version of a report. `state` is PRELIMINARY or FINAL (xx15)."""

    findings: str
    impression: str
    indication: str = ""
    text: str = ""
    language: str = ""
    state: str = "FINAL"
    verified: bool = False
    content_time: datetime | None = None
    verification_time: datetime | None = None
    referenced_study_uids: tuple[str, ...] = ()
    referenced_sop_uids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RejectionRecord:
    """A rejection note: these UIDs leave the results now, and stay hidden if they arrive later (IHE IOCM)."""

    code: str
    rejected_sop_uids: tuple[str, ...]
    rejected_study_uids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """All that a worker learnt of one received object; committed in one transaction.

    Attributes
    ----------
    attributes : mapping
        DICOM JSON model (PS3.18 Annex F) of the queryable attributes.
    embedding : ndarray of float32 (dim,), unit norm, or None
        Of an image that is to be indexed.
    findings : mapping of finding name to probability 0..1 (image) or 1/0/-1 (report); empty when unknown.
    """

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    digest: str
    size_bytes: int
    calling_ae_title: str
    received_at: datetime
    attributes: Mapping[str, Any]
    state: InstanceState
    reason: str = ""
    view: str = "unknown"
    for_presentation: bool = True
    exposure_key: str | None = None
    embedding: Float32 | None = None
    findings: Mapping[str, float] = field(default_factory=dict)
    rendition: str | None = None                    # key of the Renditions store
    report: ReportRecord | None = None
    report_embedding: Float32 | None = None         # of this report version's own text
    rejection: RejectionRecord | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """Everything that one model made. Vectors of two generations are never compared."""

    generation_id: int
    fingerprint: str
    model_id: str
    dim: int
    calibration: Mapping[str, Any]
    active: bool


@dataclass(frozen=True, slots=True)
class EmbeddingRow:
    """One vector of the active generation as the index and the finder see it.

    Attributes
    ----------
    label : int
        Id of the row, monotonic, never reused: the label in the vector index.
    sequence : int
        The Catalogue's sequence number at which it appeared.
    vector : ndarray of float32, shape (dim,), unit norm
    """

    label: int
    sequence: int
    kind: Kind
    study_instance_uid: str
    sop_instance_uid: str                           # "" for JOINT
    vector: Float32


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened to one generation's vectors after a sequence number, in order; `sequence` is how far this goes."""

    sequence: int
    added: tuple[EmbeddingRow, ...]
    removed: tuple[int, ...]                        # labels


# ---------------------------------------------------------------------------------------------- index


class Neighbour(NamedTuple):
    """One answer of a vector index."""

    label: int
    similarity: float                               # cosine, -1..1


class Neighbours(NamedTuple):
    """The answers of a vector index as columns, best first; similarities are cosines, -1..1."""

    labels: Int64
    similarities: Float64

    def rows(self) -> list[Neighbour]:
        """Return one object for each answer."""
        return list(map(Neighbour, self.labels.tolist(), self.similarities.tolist()))

    @classmethod
    def none(cls) -> Neighbours:
        """Return no answers."""
        return cls(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float64))


class VectorIndex(Protocol):
    """Nearest neighbours by cosine among unit vectors; a cache of the Catalogue, safe to call from many threads.

    Labels are int64 >= 0, given by the Catalogue, monotonic and never reused. ``add`` refuses non-finite and zero
    vectors and a label seen before; equal vectors under several labels are all found. ``search`` returns
    min(k, live) neighbours by descending similarity, ties by ascending label; with `allowed`, min(k, live allowed).
    """

    dim: int

    def __len__(self) -> int: ...

    def __contains__(self, label: int) -> bool: ...

    def add(self, labels: Int64, vectors: Float32) -> None: ...

    def remove(self, labels: Iterable[int]) -> None: ...

    def search(self, vector: Float32, k: int, allowed: Int64 | None = None) -> list[Neighbour]: ...

    def vectors(self, labels: Sequence[int]) -> Float32: ...

    def save(self, folder: Path) -> None:
        """Write into an empty folder whatever `load` of the same class needs (the snapshot adds manifest and hash)."""


# ---------------------------------------------------------------------------------------------- catalogue seam


@dataclass(frozen=True, slots=True)
class StudyRecord:
    """A study as an answer shows it.

    Attributes
    ----------
    attributes : mapping
        DICOM JSON model of the study and patient level attributes, with ModalitiesInStudy, SOPClassesInStudy,
        NumberOfStudyRelatedSeries and NumberOfStudyRelatedInstances computed over what is not hidden.
    patient_key : str
        Patient ID with its issuer: equal for two studies of one patient; "" when the study has no Patient ID.
    findings : mapping
        Finding name to 1/0/-1 of the prevailing report where it says so, else the images' highest probability.
    findings_present : tuple of str
        Names judged present: 1 in the prevailing report; without report, probability of at least 0.5.
    source_ae_title : str
        Calling AE title that the study came from.
    """

    study_instance_uid: str
    patient_key: str
    attributes: Mapping[str, Any]
    findings: Mapping[str, float]
    findings_present: tuple[str, ...]
    report: ReportRecord | None
    source_ae_title: str


@dataclass(frozen=True, slots=True)
class StudyChanges:
    """What happened to studies after a sequence number.

    Attributes
    ----------
    sequence : int
        How far this goes.
    shown : tuple of StudyRecord
        Changed studies that have something to show, without report and findings.
    hidden : tuple of str
        StudyInstanceUIDs of changed studies that show nothing.
    erased : bool
        Studies were erased; which, nobody knows any longer.
    """

    sequence: int
    shown: tuple[StudyRecord, ...]
    hidden: tuple[str, ...]
    erased: bool


@dataclass(frozen=True, slots=True)
class Pending:
    """Something that a generation has not encoded yet: an image (rendition key) or a report version (texts)."""

    sop_instance_uid: str
    rendition: str | None
    report: ReportRecord | None


@dataclass(frozen=True, slots=True)
class Reencoded:
    """What a new generation's model made of one Pending."""

    sop_instance_uid: str
    embedding: Float32
    findings: Mapping[str, float]


class Fuse(Protocol):
    """How a study's vectors become one (``Encoder.fuse``)."""

    def __call__(self, images: Float32, report: Float32 | None) -> Float32: ...


class Catalogue(Protocol):
    """The only truth: studies, instances, report versions, findings, embeddings, generations, tombstones.

    Every change takes the next sequence number inside its own transaction. All methods are safe to call from many
    threads and processes; writers wait for each other.
    """

    def generation(
        self, fingerprint: str, model_id: str, dim: int, calibration: Mapping[str, Any] | None = None
    ) -> Generation:
        """Return the generation of this model, made when there is none; the very first one is active at once."""

    def active_generation(self) -> Generation | None: ...

    def activate(self, generation_id: int) -> None: ...

    def pending(self, generation_id: int, limit: int) -> list[Pending]:
        """Return what `generation_id` has yet to encode (everything indexable that has no embedding in it)."""

    def commit(self, records: Sequence[InstanceRecord], generation_id: int, fuse: Fuse) -> list[str]:
        """Store a batch in one durable transaction; return the study UIDs it touched.

        Idempotent by SOP Instance UID and digest. The same UID with other bytes replaces the instance (both digests are
        kept). Chooses each touched study's prevailing report, lets FOR PRESENTATION win, applies rejection notes both
        ways, and renews the study's REPORT and JOINT vectors.
        """

    def commit_reencoded(self, rows: Sequence[Reencoded], generation_id: int, fuse: Fuse) -> None: ...

    def sequence(self) -> int: ...

    def changes(self, generation_id: int, after: int, limit: int = 4096) -> Changes:
        """Return the vectors added and removed after a sequence number; call again until `sequence` stands still."""

    def studies_changed(self, after: int) -> StudyChanges:
        """Return the studies whose attributes or counts changed after a sequence number."""

    def studies_from(self, after_uid: str, limit: int) -> list[StudyRecord]:
        """Return the first studies after a StudyInstanceUID that have something to show, without report and findings.

        In order of their UIDs; fewer than `limit` only at the end.
        """

    def vector_counts(self, generation_id: int) -> dict[Kind, int]:
        """Return how many live vectors a generation has, by kind; no kind without any."""

    def labels(self, generation_id: int) -> Int64:
        """Return every live label of a generation, ascending."""

    def study_of(self, uid: str) -> str | None:
        """Return the StudyInstanceUID that a study, series or SOP Instance UID belongs to, or None if unknown."""

    def example_rows(self, generation_id: int, uid: str) -> list[EmbeddingRow]:
        """Return the live vectors behind a study, series or SOP Instance UID (all kinds; JOINT for a study UID)."""

    def example_state(self, uid: str) -> tuple[InstanceState | None, str]:
        """Return why a known UID has no vectors: its best instance state and reason; (None, "") when unknown."""

    def studies(
        self, study_instance_uids: Sequence[str], *, with_report: bool = True, with_findings: bool = True
    ) -> dict[str, StudyRecord]:
        """Return the studies that have something to show; without report or findings where these cost too much."""

    def select_studies(
        self, identifier: Mapping[str, Any], findings: Sequence[str] = (), exclude_patient_keys: Sequence[str] = ()
    ) -> set[str] | None:
        """Return the StudyInstanceUIDs that pass exact filters, or None when nothing filters.

        `identifier` is the DICOM JSON model of a request; matching as PS3.4 C.2.2.2 (universal keys filter nothing).
        """

    def find(self, level: str, identifier: Mapping[str, Any], limit: int) -> tuple[list[dict[str, Any]], bool]:
        """Return matches of an exact Study Root query at STUDY, SERIES or IMAGE level, and whether `limit` cut them.

        Each match is a DICOM JSON object with every attribute known at that level (callers keep what was asked for).
        """

    def instances_of(self, level_uids: Mapping[str, Sequence[str]]) -> list[tuple[str, str, str]]:
        """Return (SOP class, SOP instance, transfer syntax UID) below study/series/sop UIDs, for C-MOVE and C-GET."""

    def rendition_of(self, study_instance_uid: str, sop_instance_uid: str = "") -> str | None:
        """Return the rendition key of an instance, or of a study's first frontal image."""

    def counts(self) -> dict[str, int]:
        """Return studies, instances, images_searchable, reports_searchable, gated, hidden, patients."""
