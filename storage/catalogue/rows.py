"""How values lie in the tables, and small statements that several parts share."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, TypeVar

import numpy as np
from sqlalchemy import Connection, Insert, Table, Update, bindparam, insert, select, update

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
    """Return the vector of its bytes, read only."""
    return np.frombuffer(data, dtype="<f4").astype(np.float32, copy=False)


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


def add(connection: Connection, table: Table, values: Mapping[str, Any]) -> int:
    """Insert a row; return its generated id, 0 without one."""
    key = connection.execute(_insert(table), dict(values)).inserted_primary_key
    return int(key[0]) if key is not None and isinstance(key[0], int) else 0


def add_many(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows in one call."""
    if rows:
        connection.execute(_insert(table), [dict(row) for row in rows])


def change(connection: Connection, table: Table, key: Mapping[str, Any], values: Mapping[str, Any]) -> int:
    """Update the rows of a key; return how many there were."""
    bound = {f"key_{name}": value for name, value in key.items()}
    return int(connection.execute(_update(table, tuple(key)), {**bound, **values}).rowcount)


def put(connection: Connection, table: Table, key: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Insert a row or update the one that is there."""
    if not change(connection, table, key, values):
        add(connection, table, {**key, **values})


def of_key(connection: Connection, table: Table, key: Mapping[str, Any]) -> list[AnyRow]:
    """Return the rows of a key."""
    bound = {f"key_{name}": value for name, value in key.items()}
    return list(connection.execute(_select(table, tuple(key)), bound))


def of_studies(
    connection: Connection, table: Table, study_uids: Collection[str], generation_id: int
) -> dict[str, list[AnyRow]]:
    """Return the rows of each of some studies in one generation."""
    rows: dict[str, list[AnyRow]] = {uid: [] for uid in study_uids}
    for some in chunks(study_uids):
        for row in connection.execute(_select_studies(table), {"study_uids": some, "wanted_generation": generation_id}):
            rows[row.study_uid].append(row)
    return rows


# Making a statement costs SQLAlchemy as much as running it: the frequent ones are made once.


@cache
def _insert(table: Table) -> Insert:
    return insert(table)


@cache
def _update(table: Table, key: tuple[str, ...]) -> Update:
    return update(table).where(*(table.c[name] == bindparam(f"key_{name}") for name in key))


@cache
def _select(table: Table, key: tuple[str, ...]) -> Any:
    return select(table).where(*(table.c[name] == bindparam(f"key_{name}") for name in key))


@cache
def _select_studies(table: Table) -> Any:
    return select(table).where(
        table.c.study_uid.in_(bindparam("study_uids", expanding=True)),
        table.c.generation_id == bindparam("wanted_generation"),
    )


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


_KINDS = {kind.value: kind for kind in Kind}


def embedding_rows(rows: Sequence[AnyRow]) -> list[EmbeddingRow]:
    """Return rows of EMBEDDING_ROWS as the index and the finder see them; their vectors are rows of one array."""
    if not rows:
        return []
    vectors = vector_of(b"".join([row[-1] for row in rows])).reshape(len(rows), -1)
    return [
        EmbeddingRow(label, number, _KINDS[kind], study_uid, sop_uid, vector)
        for (label, number, kind, study_uid, sop_uid, _), vector in zip(rows, vectors, strict=True)
    ]
