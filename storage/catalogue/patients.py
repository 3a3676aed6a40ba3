"""What befalls whole patients and studies: a merge or change of ID, and erasure."""

from __future__ import annotations

from sqlalchemy import delete, or_, select, update

from storage.catalogue.database import CatalogueError, Transaction
from storage.catalogue.intake import study_columns, with_identity
from storage.catalogue.levels import Level, split
from storage.catalogue.renewing import mark_stale, note_erasure, remove_embeddings, settle_all
from storage.catalogue.reports import match_reports
from storage.catalogue.rows import chunks, patient_key_of, put
from storage.catalogue.schema import (
    embeddings,
    encodings,
    instance_versions,
    instances,
    patient_aliases,
    present_findings,
    report_references,
    report_targets,
    reports,
    series,
    stale_studies,
    studies,
    study_findings,
)


def merge(transaction: Transaction, prior: tuple[str, str], target: tuple[str, str]) -> list[str]:
    """Move everything of patient (ID, issuer) `prior` to `target`, now and when it comes later; return the studies.

    Name, sex and the like become those of the target's last received study, where there is one (HL7 A40: the surviving
    patient's demographics hold).
    """
    connection = transaction.connection
    prior_key, target_key = (patient_key_of(with_identity({}, *identity)) for identity in (prior, target))
    if not prior[0].strip() or not target[0].strip() or prior_key == target_key:
        raise CatalogueError("a merge needs two different Patient IDs, neither of them empty")
    connection.execute(delete(patient_aliases).where(patient_aliases.c.prior_key == target_key))
    values = {"patient_id": target[0], "issuer": target[1]}
    connection.execute(
        update(patient_aliases)
        .where(patient_aliases.c.patient_id == prior[0], patient_aliases.c.issuer == prior[1])
        .values(**values)
    )
    put(connection, patient_aliases, {"prior_key": prior_key}, values)
    newest = select(studies.c.attributes).where(studies.c.patient_key == target_key)
    survivor = connection.execute(newest.order_by(studies.c.attributes_at.desc()).limit(1)).scalar()
    moved = connection.execute(select(studies).where(studies.c.patient_key == prior_key)).all()
    for row in moved:
        parts = split(row.attributes)
        patient = split(survivor)[Level.PATIENT] if survivor else parts[Level.PATIENT]
        attributes = {**parts[Level.STUDY], **with_identity(patient, *target)}
        changed = update(studies).where(studies.c.study_uid == row.study_uid)
        connection.execute(changed.values(**study_columns(attributes)))
    uids = [row.study_uid for row in moved]
    if uids:
        mark_stale(transaction, settle_all(transaction, uids))
    transaction.next()
    return sorted(uids)


def forget(transaction: Transaction, study_uid: str) -> list[str]:
    """Erase a study: attributes, report versions, vectors; return rendition keys that nobody names any longer.

    What stays: tombstones (numbers only), and what rejection notes said of its UIDs. Sent again, it is taken again.
    """
    connection = transaction.connection
    rows = connection.execute(select(instances).where(instances.c.study_uid == study_uid)).all()
    sop_uids = [row.sop_uid for row in rows]
    spoke_of: set[str] = set()
    for some in chunks(sop_uids):
        of = select(report_targets.c.study_uid).where(report_targets.c.sop_uid.in_(some))
        spoke_of |= set(connection.execute(of).scalars())
    concerned = embeddings.c.study_uid == study_uid
    for some in [*chunks(sop_uids), []]:
        where = or_(concerned, embeddings.c.sop_uid.in_(some))
        remove_embeddings(transaction, connection.execute(select(embeddings).where(where)).all())
        for table in (instances, instance_versions, reports, report_references, report_targets):
            connection.execute(delete(table).where(table.c.sop_uid.in_(some)))
        connection.execute(delete(encodings).where(encodings.c.uid.in_([*some, study_uid])))
    for table in (studies, series, study_findings, present_findings, stale_studies):
        connection.execute(delete(table).where(table.c.study_uid == study_uid))
    spoke_of |= match_reports(connection, [study_uid])              # reports elsewhere that spoke of this study
    mark_stale(transaction, spoke_of - {study_uid})
    note_erasure(connection, transaction.next())
    unused = {row.rendition for row in rows if row.rendition}
    for some in chunks(sorted(unused)):
        named = select(instances.c.rendition).where(instances.c.rendition.in_(some))
        unused -= set(connection.execute(named).scalars())
    return sorted(unused)
