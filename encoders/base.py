"""The nouns and seams of this room: what a reader returns, what an encoder takes and gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

#: The 14 CheXpert observations, in the order of the CheXpert and MIMIC-CXR-JPG label files
#: (Irvin et al., AAAI 2019). Every array with 14 columns follows this order.
FINDING_NAMES: tuple[str, ...] = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)

#: The findings that make a study abnormal: all but "No Finding" and "Support Devices" (protocol B).
ABNORMAL_FINDINGS: tuple[str, ...] = FINDING_NAMES[1:13]

#: Their columns in an array with 14.
ABNORMAL_COLUMNS: list[int] = [FINDING_NAMES.index(name) for name in ABNORMAL_FINDINGS]


class EncodersError(Exception):
    """Base of every error of the encoders package."""


class UnreadableInstance(EncodersError):
    """The object cannot be decoded; its message is the reason kept with it in quarantine (never patient data)."""


class CheckpointError(EncodersError):
    """A checkpoint is missing, damaged or of another layout; the message says which file and what to do."""


class ReportState(StrEnum):
    """How final a report is (xx15 ReportState; PS3.3 C.17.2 Completion, Verification and Preliminary Flag)."""

    NONE = "NONE"
    PRELIMINARY = "PRELIMINARY"
    FINAL = "FINAL"

    def __reduce_ex__(self, protocol: Any) -> tuple[type[ReportState], tuple[str]]:
        """Pickle by value: Python 3.11.2 (Debian 12) would name ``getattr``, which a worker takes from nobody."""
        return type(self), (self.value,)


@dataclass(frozen=True, slots=True)
class InstanceHeader:
    """Who an instance is, and the attributes that a C-FIND can ask for.

    Attributes
    ----------
    attributes : mapping
        DICOM JSON model (PS3.18 Annex F: ``{"00100010": {"vr": "PN", "Value": [...]}}``) of the queryable attributes
        present in the instance, text already decoded to Unicode by its Specific Character Set. The table of queryable
        keywords is ``encoders.readers.header.QUERYABLE``.
    """

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Radiograph:
    """One projection image, ready for preprocessing.

    Attributes
    ----------
    pixels : ndarray of float32, shape (rows, columns), 0..1
        Larger is brighter (MONOCHROME2 sense), padding is 0, windowed; reduced so that its short side is no larger
        than the reader was asked for.
    view : str
        ``frontal``, ``lateral`` or ``unknown``, from the header (a hint; MIMIC-CXR lacks it on 4 %).
    gate_reason : str or None
        Why the header says that this must not be indexed (not a chest, burned-in annotation, ...), or None.
    for_presentation : bool
        False for (0008,0068) ``FOR PROCESSING``.
    exposure_key : str or None
        Equal for the FOR PROCESSING and FOR PRESENTATION images of one exposure (from Irradiation Event UID, source
        image references, or series/acquisition attributes); None when the header does not tell.
    """

    pixels: Float32
    view: str
    gate_reason: str | None = None
    for_presentation: bool = True
    exposure_key: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """The text of one report version (an SR, CDA or PDF object)."""

    findings: str
    impression: str
    indication: str = ""
    text: str = ""                                  # the whole text, in reading order, headings included
    language: str = ""                              # RFC 5646, "" unknown
    state: ReportState = ReportState.FINAL
    verified: bool = False
    content_time: datetime | None = None
    verification_time: datetime | None = None
    referenced_study_uids: tuple[str, ...] = ()     # CurrentRequestedProcedureEvidenceSequence
    referenced_sop_uids: tuple[str, ...] = ()
    gate_reason: str | None = None                  # e.g. "no narrative text", "not a chest report"


@dataclass(frozen=True, slots=True)
class RejectionNote:
    """A Key Object Selection that takes objects out of sight (IHE IOCM; codes 113001, 113037, 113038, 113039 DCM)."""

    code: str
    rejected_sop_uids: tuple[str, ...]
    rejected_study_uids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unindexed:
    """An object that is catalogued and kept, but has nothing to index; `reason` says why."""

    reason: str


Content = Radiograph | Report | RejectionNote | Unindexed


@dataclass(frozen=True, slots=True)
class ReadInstance:
    """What a reader makes of one stored file."""

    header: InstanceHeader
    content: Content


class Reader(Protocol):
    """SOP class specific reading; one row of ``encoders.readers.READERS`` each."""

    def __call__(self, dataset: Any, short_side: int) -> Content:
        """Return the content of a parsed pydicom Dataset; raise UnreadableInstance when it cannot be decoded."""


@dataclass(frozen=True, slots=True)
class ReportText:
    """What the text tower sees of a report."""

    findings: str = ""
    impression: str = ""


@dataclass(frozen=True, slots=True)
class ImageEncoding:
    """The answer for a batch of n images.

    Attributes
    ----------
    embeddings : ndarray of float32, shape (n, dim), unit rows
    findings : ndarray of float32, shape (n, 14), 0..1
        Calibrated probabilities in the order of FINDING_NAMES.
    chest : ndarray of float32, shape (n,), 0..1
        Probability that the image is a chest radiograph.
    frontal : ndarray of float32, shape (n,), 0..1
        Probability of a frontal (PA or AP) view, given a chest radiograph.
    """

    embeddings: Float32
    findings: Float32
    chest: Float32
    frontal: Float32


@dataclass(frozen=True, slots=True)
class ReportEncoding:
    """The answer for a batch of n reports: unit embeddings (n, dim); findings (n, 14): 1, 0, -1 uncertain, NaN none."""

    embeddings: Float32
    findings: Float32


class Basis(StrEnum):
    """What a vector was made from."""

    IMAGE = "IMAGE"
    REPORT = "REPORT"
    JOINT = "JOINT"
    TEXT = "TEXT"                                   # free text typed by a person; only ever the query's side

    __hash__ = str.__hash__                         # Enum's own is written in Python, and each query asks it often


class Encoder(Protocol):
    """A model with image and text towers into one common subspace.

    Attributes
    ----------
    fingerprint : str
        sha256 (hex) of the weights file: vectors of two fingerprints are never compared.
    model_id : str
        Name and first 12 characters of the fingerprint (xx13 ModelID), at most 64 characters.
    image_size : int
        Short side in pixels that a Radiograph needs at least, so that nothing is lost to this model.
    chest_threshold : float
        `ImageEncoding.chest` below this is kept out by the gate; 0 when the model has no such head.
    """

    fingerprint: str
    model_id: str
    dim: int
    image_size: int
    chest_threshold: float

    def encode_images(self, images: Sequence[Float32]) -> ImageEncoding:
        """Encode images, each float32 (rows, columns) 0..1, larger brighter, any size."""

    def encode_reports(self, reports: Sequence[ReportText]) -> ReportEncoding:
        """Encode reports (Findings and Impression)."""

    def encode_text(self, text: str) -> Float32:
        """Return the unit vector (dim,) of a free-text query: a finding, a sentence, a whole report."""

    def fuse(self, images: Float32, report: Float32 | None) -> Float32:
        """Return the unit vector (dim,) of a study from its image vectors (n, dim), n >= 0, and its report's (dim,)."""

    def score(self, cosines: Float32, query: Basis, entry: Basis) -> Float32:
        """Return calibrated scores 0..1: P(both studies share an abnormal finding), monotonic in the cosine."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What `cxrfind status` and the generations table keep of a model, readable without importing torch."""

    name: str
    fingerprint: str
    model_id: str
    dim: int
    image_size: int
    card: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None
