"""Key Object Selection documents: rejection notes take objects out of sight, others are kept only."""

from __future__ import annotations

from pydicom.dataset import Dataset

from encoders.base import RejectionNote, Unindexed
from encoders.readers.header import items_of, text_of
from encoders.readers.report_common import evidence_of

#: Document titles that reject what they refer to (PS3.16 CID 7011; IHE RAD TF-3, Imaging Object Change Management).
REJECTIONS = {
    "113001": "Rejected for Quality Reasons",
    "113037": "Rejected for Patient Safety Reasons",
    "113038": "Incorrect Modality Worklist Entry",
    "113039": "Data Retention Policy Expired",
}


def read_key_object(dataset: Dataset, short_side: int) -> RejectionNote | Unindexed:
    """Return a RejectionNote for the four rejecting titles, else Unindexed (a `Reader`).

    `rejected_study_uids` names only studies that are referred to without any of their objects.
    """
    title = next(iter(items_of(dataset, "ConceptNameCodeSequence")), Dataset())
    code = text_of(title, "CodeValue")
    if text_of(title, "CodingSchemeDesignator") != "DCM" or code not in REJECTIONS:
        return Unindexed("key object selection that rejects nothing")
    evidence = evidence_of(dataset)
    return RejectionNote(
        code=code,
        rejected_sop_uids=tuple(dict.fromkeys(uid for _, uids in evidence for uid in uids)),
        rejected_study_uids=tuple(dict.fromkeys(study for study, uids in evidence if study and not uids)),
    )
