"""Which studies a report speaks of, and which version of it prevails."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, bindparam, delete, insert, select

from storage.base import InstanceState
from storage.catalogue.rows import AnyRow, chunks
from storage.catalogue.schema import instances, report_references, report_targets, reports, studies


def match_reports(connection: Connection, study_uids: Collection[str]) -> set[str]:
    """Match every report that has to do with these studies anew; return the studies that they speak or spoke of.

    A report may come days before or after its images, so each arrival asks both ways.
    """
    changed: set[str] = set()
    for sop_uid in sorted(_concerned(connection, study_uids)):
        row = connection.execute(
            select(studies.c.study_uid, studies.c.accession_key, studies.c.image_count)
            .join(reports, reports.c.study_uid == studies.c.study_uid)
            .where(reports.c.sop_uid == sop_uid, reports.c.current)
        ).one()
        old_rows = select(report_targets.c.study_uid).where(report_targets.c.sop_uid == sop_uid)
        old = set(connection.execute(old_rows).scalars())
        new = _targets(connection, sop_uid, row)
        for uid in sorted(new - old):
            connection.execute(insert(report_targets).values(sop_uid=sop_uid, study_uid=uid))
        for uid in old - new:
            gone = (report_targets.c.sop_uid == sop_uid) & (report_targets.c.study_uid == uid)
            connection.execute(delete(report_targets).where(gone))
        changed |= old | new
    return changed


def _concerned(connection: Connection, study_uids: Collection[str]) -> set[str]:
    """Return current reports that lie in, name, or share the accession of these studies."""
    found: set[str] = set()
    for some in chunks(sorted(study_uids)):
        keys = select(studies.c.accession_key).where(studies.c.study_uid.in_(some), studies.c.accession_key != "")
        images = select(instances.c.sop_uid).where(instances.c.study_uid.in_(some))
        for statement in (
            select(reports.c.sop_uid).where(reports.c.study_uid.in_(some), reports.c.current),
            select(reports.c.sop_uid)
            .join(studies, studies.c.study_uid == reports.c.study_uid)
            .where(studies.c.accession_key.in_(keys), reports.c.current),
            select(report_targets.c.sop_uid).where(report_targets.c.study_uid.in_(some)),
            select(report_references.c.sop_uid).where(report_references.c.referenced_uid.in_(some)),
            select(report_references.c.sop_uid).where(report_references.c.referenced_uid.in_(images)),
        ):
            found |= set(connection.execute(statement).scalars())
    return found


def _targets(connection: Connection, sop_uid: str, own: AnyRow) -> set[str]:
    """Return the studies of a report: those it names (0040,A375) with images here, else its own.

    If its own has no images, also those of the same accession number, issuer and patient that have some: never the
    accession number alone. As long as nothing that it names has come, its own study carries it.
    """
    with_images = studies.c.image_count > 0
    named = select(report_references.c.referenced_uid).where(report_references.c.sop_uid == sop_uid)
    of_instances = select(instances.c.study_uid).where(instances.c.sop_uid.in_(named))
    found = select(studies.c.study_uid).where(
        with_images, studies.c.study_uid.in_(named) | studies.c.study_uid.in_(of_instances)
    )
    targets = set(connection.execute(found).scalars())
    if targets:
        return targets
    targets = {own.study_uid}
    if own.accession_key and not own.image_count:
        same = select(studies.c.study_uid).where(with_images, studies.c.accession_key == own.accession_key)
        targets |= set(connection.execute(same).scalars())
    return targets


_VERSIONS = (
    select(report_targets.c.study_uid.label("target_uid"), reports)
    .join(reports, (reports.c.sop_uid == report_targets.c.sop_uid) & reports.c.current)
    .join(instances, instances.c.sop_uid == reports.c.sop_uid)
    .where(
        report_targets.c.study_uid.in_(bindparam("study_uids", expanding=True)),
        instances.c.state.not_in((InstanceState.HIDDEN, InstanceState.GATED)),
    )
)


def prevailing(connection: Connection, study_uids: Collection[str]) -> dict[str, AnyRow]:
    """Return the row of `reports` that prevails in each of these studies that has a report (PS3.3 C.17.2)."""
    versions: dict[str, list[AnyRow]] = {}
    for some in chunks(study_uids):
        for row in connection.execute(_VERSIONS, {"study_uids": some}):
            versions.setdefault(row.target_uid, []).append(row)
    return {uid: _best(rows) for uid, rows in versions.items()}


def _best(versions: list[AnyRow]) -> AnyRow:
    """Return the verified and final version with the latest verification, else the latest content."""
    verified = [row for row in versions if row.verified and row.state == "FINAL"]
    if verified:
        return max(
            verified,
            key=lambda row: (row.verification_time or row.content_time or "", row.content_time or "", row.report_id),
        )
    return max(versions, key=lambda row: (row.content_time or "", row.received_at, row.report_id))
