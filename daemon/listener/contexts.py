"""The presentation contexts of the ingest AE: every row of the readers' table with every transfer syntax."""

from __future__ import annotations

from pynetdicom import AE
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification

from encoders.readers import READERS, TRANSFER_SYNTAXES


def add_contexts(ae: AE, storage_commitment: bool) -> None:
    """Make `ae` accept C-ECHO, C-STORE of all that the readers' table names and, if wanted, storage commitment."""
    ae.add_supported_context(Verification)
    syntaxes = [syntax.uid for syntax in TRANSFER_SYNTAXES]
    for sop_class_uid in READERS:
        ae.add_supported_context(sop_class_uid, syntaxes)
    if storage_commitment:
        ae.add_supported_context(StorageCommitmentPushModel)
