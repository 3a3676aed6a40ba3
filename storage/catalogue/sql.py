"""The Catalogue in a relational database: each method one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import insert, select, update

from storage.base import (
    Changes,
    EmbeddingRow,
    Fuse,
    Generation,
    InstanceRecord,
    InstanceState,
    Int64,
    Kind,
    Pending,
    Reencoded,
    ReportRecord,
    StudyChanges,
    StudyRecord,
)
from storage.catalogue import reading, selecting
from storage.catalogue.database import CatalogueError, Database, Transaction
from storage.catalogue.intake import put_encoding, store
from storage.catalogue.levels import Level
from storage.catalogue.patients import forget, merge
from storage.catalogue.renewing import renew_all, settle_all
from storage.catalogue.rows import AnyRow, finite, vector_bytes
from storage.catalogue.schema import generations, instances, report_targets


class UnknownGeneration(CatalogueError):
    """No generation has this number."""

    def __init__(self, generation_id: int) -> None:
        super().__init__(f"there is no generation {generation_id}; ask the catalogue for that of the model first")
        self.generation_id = generation_id


class SqlCatalogue:
    """A `storage.base.Catalogue` over SQLAlchemy Core; SQLite by default. See there for what each method does."""

    def __init__(self, url_or_path: str | Path) -> None:
        """Open, make or upgrade (see `Database`)."""
        self._database = Database(url_or_path)

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    # ------------------------------------------------------------------------------------ generations

    def generation(
        self, fingerprint: str, model_id: str, dim: int, calibration: Mapping[str, Any] | None = None
    ) -> Generation:
        with self._database.writing() as transaction:
            connection = transaction.connection
            mine = generations.c.fingerprint == fingerprint
            row = connection.execute(select(generations).where(mine)).one_or_none()
            if row is not None and row.dim != dim:
                raise CatalogueError(f"model {model_id} is known with dim {row.dim} and now comes with {dim}")
            if row is None:
                first = connection.execute(select(generations.c.generation_id).limit(1)).first() is None
                values = {"fingerprint": fingerprint, "model_id": model_id, "dim": dim, "active": first}
                connection.execute(insert(generations).values(**values, calibration=dict(calibration or {})))
                transaction.next()
            elif calibration is not None and row.calibration != dict(calibration):
                connection.execute(update(generations).where(mine).values(calibration=dict(calibration)))
                transaction.next()
            return _generation(connection.execute(select(generations).where(mine)).one())

    def active_generation(self) -> Generation | None:
        with self._database.reading() as connection:
            row = connection.execute(select(generations).where(generations.c.active)).one_or_none()
            return None if row is None else _generation(row)

    def activate(self, generation_id: int) -> None:
        with self._database.writing() as transaction:
            _known(transaction, generation_id)
            transaction.connection.execute(update(generations).values(active=False))
            mine = generations.c.generation_id == generation_id
            transaction.connection.execute(update(generations).where(mine).values(active=True))
            transaction.next()

    def pending(self, generation_id: int, limit: int) -> list[Pending]:
        with self._database.reading() as connection:
            return reading.pending(connection, generation_id, limit)

    # ------------------------------------------------------------------------------------ changes

    def commit(self, records: Sequence[InstanceRecord], generation_id: int, fuse: Fuse) -> list[str]:
        with self._database.writing() as transaction:
            dim = _known(transaction, generation_id).dim
            touched: set[str] = set()
            for record in records:
                touched |= store(transaction.connection, record, generation_id, dim)
            if touched:
                touched = settle_all(transaction, touched)
                renew_all(transaction, touched, generation_id, dim, fuse)
            return sorted(touched)

    def commit_reencoded(self, rows: Sequence[Reencoded], generation_id: int, fuse: Fuse) -> None:
        with self._database.writing() as transaction:
            connection = transaction.connection
            dim = _known(transaction, generation_id).dim
            touched: set[str] = set()
            for row in rows:
                uid = row.sop_instance_uid
                known = connection.execute(select(instances).where(instances.c.sop_uid == uid)).one_or_none()
                if known is None or known.own_state != InstanceState.INDEXED:
                    continue                                        # erased or replaced while it was encoded
                kind = Kind.IMAGE if known.is_image else Kind.REPORT
                key = {"generation_id": generation_id, "kind": kind, "uid": uid}
                put_encoding(connection, key, vector_bytes(row.embedding, dim), finite(row.findings))
                of = select(report_targets.c.study_uid).where(report_targets.c.sop_uid == uid)
                touched |= {known.study_uid, *connection.execute(of).scalars()}
            if touched:
                transaction.next()
            renew_all(transaction, touched, generation_id, dim, fuse)

    def merge_patient(self, prior_id: str, prior_issuer: str, patient_id: str, issuer: str = "") -> list[str]:
        """Move a patient's studies to another Patient ID, also those that come later; return the studies moved."""
        with self._database.writing() as transaction:
            return merge(transaction, (prior_id, prior_issuer), (patient_id, issuer))

    def forget(self, study_instance_uid: str) -> list[str]:
        """Erase a study; return the rendition keys that may now be deleted. Sent again, it is taken again."""
        with self._database.writing() as transaction:
            return forget(transaction, study_instance_uid)

    def sequence(self) -> int:
        return self._database.sequence()

    def changes(self, generation_id: int, after: int, limit: int = 4096) -> Changes:
        with self._database.reading() as connection:
            return reading.changes(connection, generation_id, after, limit)

    def studies_changed(self, after: int) -> StudyChanges:
        with self._database.reading() as connection:
            return reading.studies_changed(connection, after)

    def studies_from(self, after_uid: str, limit: int) -> list[StudyRecord]:
        with self._database.reading() as connection:
            return reading.studies_from(connection, after_uid, limit)

    def vector_counts(self, generation_id: int) -> dict[Kind, int]:
        with self._database.reading() as connection:
            return reading.vector_counts(connection, generation_id)

    def labels(self, generation_id: int) -> Int64:
        with self._database.reading() as connection:
            return reading.labels(connection, generation_id)

    # ------------------------------------------------------------------------------------ questions

    def study_of(self, uid: str) -> str | None:
        with self._database.reading() as connection:
            return reading.study_of(connection, uid)

    def example_rows(self, generation_id: int, uid: str) -> list[EmbeddingRow]:
        with self._database.reading() as connection:
            return reading.example_rows(connection, generation_id, uid)

    def example_state(self, uid: str) -> tuple[InstanceState | None, str]:
        with self._database.reading() as connection:
            return reading.example_state(connection, uid)

    def studies(
        self, study_instance_uids: Sequence[str], *, with_report: bool = True, with_findings: bool = True
    ) -> dict[str, StudyRecord]:
        with self._database.reading() as connection:
            return reading.studies_by_uid(connection, study_instance_uids, with_report, with_findings)

    def report_versions(self, study_instance_uid: str) -> list[ReportRecord]:
        """Return every report version that lies in a study, replaced bytes included, oldest first."""
        with self._database.reading() as connection:
            return reading.report_versions(connection, study_instance_uid)

    def studies_of_patients(self, patient_keys: Sequence[str]) -> set[str]:
        """Return the studies of these patients: cheaper to leave out than to list all others."""
        with self._database.reading() as connection:
            return reading.studies_of_patients(connection, patient_keys)

    def select_studies(
        self, identifier: Mapping[str, Any], findings: Sequence[str] = (), exclude_patient_keys: Sequence[str] = ()
    ) -> set[str] | None:
        with self._database.reading() as connection:
            return selecting.select_studies(connection, identifier, findings, exclude_patient_keys)

    def find(self, level: str, identifier: Mapping[str, Any], limit: int) -> tuple[list[dict[str, Any]], bool]:
        if level not in (Level.STUDY, Level.SERIES, Level.IMAGE):
            raise ValueError(f"{level!r} is no level of a Study Root query; use STUDY, SERIES or IMAGE")
        with self._database.reading() as connection:
            return selecting.find(connection, Level(level), identifier, limit)

    def instances_of(self, level_uids: Mapping[str, Sequence[str]]) -> list[tuple[str, str, str]]:
        with self._database.reading() as connection:
            return reading.instances_of(connection, level_uids)

    def rendition_of(self, study_instance_uid: str, sop_instance_uid: str = "") -> str | None:
        with self._database.reading() as connection:
            return reading.rendition_of(connection, study_instance_uid, sop_instance_uid)

    def counts(self) -> dict[str, int]:
        with self._database.reading() as connection:
            return reading.counts(connection)


def _known(transaction: Transaction, generation_id: int) -> AnyRow:
    row = transaction.connection.execute(
        select(generations).where(generations.c.generation_id == generation_id)
    ).one_or_none()
    if row is None:
        raise UnknownGeneration(generation_id)
    return row


def _generation(row: AnyRow) -> Generation:
    return Generation(
        generation_id=row.generation_id,
        fingerprint=row.fingerprint,
        model_id=row.model_id,
        dim=row.dim,
        calibration=row.calibration,
        active=row.active,
    )
