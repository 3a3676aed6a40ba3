"""How values lie in the tables, and small statements that several parts share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import numpy as np
from sqlalchemy import Connection, Table, and_, insert, select, update

from storage.base import EmbeddingRow, Float32, Kind, ReportRecord, StorageError
from storage.catalogue.levels import Element, first_value, tag_of
from storage.catalogue.schema import embeddings, encodings

#: So many values go into one IN (...): far below every database's limit of bound parameters.
_IN_AT_ONCE = 500

T = TypeVar("T")

#: A row of a result; its columns are known from the statement, not to the type checker.
AnyRow = Any


def chunks(values: Iterable[T]) -> Iterator[list[T]]:
    """Yield values in lists short enough for an IN clause."""
    rest = list(values)
    for start in range(0, len(rest), _IN_AT_ONCE):
        yield rest[start : start + _IN_AT_ONCE]


def time_text(moment: datetime) -> str:
    """Return a moment as sortable UTC text; one without zone is taken as UTC."""
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return aware.isoformat(timespec="microseconds")


def _optional_time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def vector_bytes(vector: Float32, dim: int) -> bytes:
    """Return a unit vector as bytes, refusing one that a search could not bear.

    Raises
    ------
    StorageError
        If it is not finite, not of unit length, or of another dimension than the generation.
    """
    array = np.ascontiguousarray(vector, dtype="<f4")
    if array.shape != (dim,):
        raise StorageError(f"a vector of shape {array.shape} came for a generation of dim {dim}")
    if not abs(float(np.linalg.norm(array.astype(np.float64))) - 1) <= 1e-3:
        raise StorageError("a vector is not finite or not of unit length; the encoder that made it is broken")
    return array.tobytes()


def vector_of(data: bytes) -> Float32:
    """Return the vector of its bytes."""
    return np.frombuffer(data, dtype="<f4").astype(np.float32)


def finite(findings: Mapping[str, float]) -> dict[str, float]:
    """Return findings without NaN (not mentioned), as plain floats."""
    return {name: float(value) for name, value in findings.items() if math.isfinite(value)}


def patient_key_of(attributes: Mapping[str, Element]) -> str:
    """Return Patient ID and its issuer as one text, "" without an ID; a backslash can't stand in either (VR LO)."""
    patient_id = first_value(attributes, "PatientID")
    return f"{patient_id}\\{first_value(attributes, 'IssuerOfPatientID')}" if patient_id else ""


def accession_key_of(attributes: Mapping[str, Element]) -> str:
    """Return accession number, its issuer (0008,0051) and patient as one text; "" unless number and patient are known.

    An accession number alone is not unique across issuers, nor, in practice, across patients.
    """
    number, patient = first_value(attributes, "AccessionNumber"), patient_key_of(attributes)
    items = attributes.get(tag_of("IssuerOfAccessionNumberSequence"), {}).get("Value", ())
    issuer = "".join(
        first_value(item, keyword) + "\\"
        for item in list(items)[:1]
        for keyword in ("LocalNamespaceEntityID", "UniversalEntityID", "UniversalEntityIDType")
    )
    return f"{number}\\{issuer}\\{patient}" if number and patient else ""


def put(connection: Connection, table: Table, key: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Insert a row or update the one that is there."""
    where = and_(*(table.c[name] == value for name, value in key.items()))
    if connection.execute(update(table).where(where).values(**values)).rowcount == 0:
        connection.execute(insert(table).values(**key, **values))


def record_of(row: AnyRow) -> ReportRecord:
    """Return the report of a row of `reports`."""
    return ReportRecord(
        findings=row.findings,
        impression=row.impression,
        indication=row.indication,
        text=row.text,
        language=row.language,
        state=row.state,
        verified=row.verified,
        content_time=_optional_time(row.content_time),
        verification_time=_optional_time(row.verification_time),
        referenced_study_uids=tuple(row.referenced_study_uids),
        referenced_sop_uids=tuple(row.referenced_sop_uids),
    )


#: Columns that `embedding_rows` needs, with their vectors.
EMBEDDING_ROWS = select(
    embeddings.c.label,
    embeddings.c.sequence,
    embeddings.c.kind,
    embeddings.c.study_uid,
    embeddings.c.sop_uid,
    encodings.c.vector,
).join(encodings, encodings.c.encoding_id == embeddings.c.encoding_id)


def embedding_rows(rows: Sequence[AnyRow]) -> list[EmbeddingRow]:
    """Return rows of EMBEDDING_ROWS as the index and the finder see them."""
    return [
        EmbeddingRow(row.label, row.sequence, Kind(row.kind), row.study_uid, row.sop_uid, vector_of(row.vector))
        for row in rows
    ]
