"""Storing what a worker learnt of one object: instance, series, study, report version, rejection note, encodings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sqlalchemy import Connection, delete, select, update

from storage.base import InstanceRecord, InstanceState, Kind, ReportRecord
from storage.catalogue.levels import Level, first_value, split, tag_of
from storage.catalogue.rows import (
    accession_key_of,
    add,
    change,
    chunks,
    finite,
    of_key,
    patient_key_of,
    put,
    time_text,
    vector_bytes,
    vector_of,
)
from storage.catalogue.schema import (
    encodings,
    instance_versions,
    instances,
    patient_aliases,
    rejections,
    report_references,
    report_targets,
    reports,
    series,
    studies,
)

#: Attributes that change together: another Patient ID is another patient, with another name and issuer.
_PATIENT_ID, _ISSUER = tag_of("PatientID"), tag_of("IssuerOfPatientID")
_ACCESSION = tag_of("AccessionNumber")
_ACCESSION_ISSUER = tag_of("IssuerOfAccessionNumberSequence")


def store(connection: Connection, record: InstanceRecord, generation_id: int, dim: int) -> set[str]:
    """Store one record; return the studies whose state, vectors or counts may have changed (none if all was known)."""
    uid = record.sop_instance_uid
    known = next(iter(of_key(connection, instances, {"sop_uid": uid})), None)
    if known is not None and known.digest == record.digest:
        return _encode_again(connection, record, known.study_uid, generation_id, dim)
    _remember_bytes(connection, record)
    touched = {record.study_instance_uid}
    if known is not None:
        if time_text(record.received_at) < known.received_at:       # an older version that a worker finished later
            _store_report(connection, record, current=False)
            return set()
        touched |= {known.study_uid} | _forget_version(connection, uid, generation_id)
    _store_instance(connection, record, new=known is None)
    _store_study(connection, record)
    _store_report(connection, record, current=True)
    _store_encodings(connection, record, generation_id, dim, new=known is None)
    return touched | _store_rejection(connection, record)


def _encode_again(
    connection: Connection, record: InstanceRecord, study_uid: str, generation_id: int, dim: int
) -> set[str]:
    """Take only the vectors of an object that is known, if this generation lacks them."""
    kinds = encodings.c.kind.in_((Kind.IMAGE, Kind.REPORT))
    has = select(encodings.c.encoding_id).where(
        encodings.c.uid == record.sop_instance_uid, encodings.c.generation_id == generation_id, kinds
    )
    if connection.execute(has).first() is not None or not _store_encodings(connection, record, generation_id, dim):
        return set()
    return {study_uid}


def _remember_bytes(connection: Connection, record: InstanceRecord) -> None:
    values = {
        "sop_uid": record.sop_instance_uid,
        "digest": record.digest,
        "size_bytes": record.size_bytes,
        "calling_ae_title": record.calling_ae_title,
        "received_at": time_text(record.received_at),
    }
    add(connection, instance_versions, values)


def _forget_version(connection: Connection, uid: str, generation_id: int) -> set[str]:
    """Take back what followed from bytes that are replaced; return the studies that their report spoke of.

    Vectors of `generation_id` stay to be compared with the new ones.
    """
    targets = report_targets.c.sop_uid == uid
    spoke_of = set(connection.execute(select(report_targets.c.study_uid).where(targets)).scalars())
    connection.execute(delete(report_targets).where(targets))
    connection.execute(update(reports).where(reports.c.sop_uid == uid).values(current=False))
    connection.execute(delete(report_references).where(report_references.c.sop_uid == uid))
    connection.execute(
        delete(encodings).where(
            encodings.c.uid == uid, encodings.c.kind != Kind.JOINT, encodings.c.generation_id != generation_id
        )
    )
    return spoke_of


def _store_instance(connection: Connection, record: InstanceRecord, new: bool) -> None:
    values = {
        "study_uid": record.study_instance_uid,
        "series_uid": record.series_instance_uid,
        "sop_class_uid": record.sop_class_uid,
        "transfer_syntax_uid": record.transfer_syntax_uid,
        "digest": record.digest,
        "size_bytes": record.size_bytes,
        "calling_ae_title": record.calling_ae_title,
        "received_at": time_text(record.received_at),
        "is_image": record.report is None and record.rejection is None and record.state is not InstanceState.PLAIN,
        "own_state": record.state,
        "own_reason": record.reason,
        "state": record.state,
        "reason": record.reason,
        "view": record.view,
        "for_presentation": record.for_presentation,
        "exposure_key": record.exposure_key,
        "rendition": record.rendition,
        "attributes": split(record.attributes)[Level.IMAGE],
    }
    if record.rejection is not None:                                # a note shows nobody anything
        values |= {"own_state": InstanceState.HIDDEN, "own_reason": record.reason or "rejection note"}
    if new:
        add(connection, instances, {"sop_uid": record.sop_instance_uid, **values})
    else:
        change(connection, instances, {"sop_uid": record.sop_instance_uid}, values)


# ---------------------------------------------------------------------------------------------- study and series


def surviving(connection: Connection, patient: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return patient attributes with the identity that theirs was merged into, if it was."""
    key = patient_key_of(patient)
    known = next(iter(of_key(connection, patient_aliases, {"prior_key": key})), None)
    return patient if known is None else with_identity(patient, known.patient_id, known.issuer)


def with_identity(attributes: Mapping[str, Any], patient_id: str, issuer: str) -> dict[str, Any]:
    """Return attributes under another Patient ID and issuer ("" for none)."""
    changed = {**attributes, _PATIENT_ID: {"vr": "LO", "Value": [patient_id]}}
    changed.pop(_ISSUER, None)
    return changed | ({_ISSUER: {"vr": "LO", "Value": [issuer]}} if issuer else {})


def _merged(old: Mapping[str, Any], new: Mapping[str, Any], newer: bool) -> dict[str, Any]:
    return {**old, **new} if newer else {**new, **old}


def study_columns(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of `studies` that repeat attributes for searching."""
    return {
        "attributes": dict(attributes),
        "patient_key": patient_key_of(attributes),
        "patient_id": first_value(attributes, "PatientID"),
        "patient_name": folded_name(attributes),
        "patient_sex": first_value(attributes, "PatientSex"),
        "study_date": first_value(attributes, "StudyDate").replace(".", ""),
        "accession_number": first_value(attributes, "AccessionNumber"),
        "accession_key": accession_key_of(attributes),
    }


def folded_name(attributes: Mapping[str, Any]) -> str:
    """Return all component groups of the Patient's Name, case folded: a superset filter for LIKE."""
    names = attributes.get(tag_of("PatientName"), {}).get("Value", ())
    groups = [name if isinstance(name, str) else "=".join(map(str, name.values())) for name in names if name]
    return "\\".join(groups).casefold()


def _store_study(connection: Connection, record: InstanceRecord) -> None:
    """Merge the attributes of study and series: what was received last wins, what it leaves out stays."""
    parts = split(record.attributes)
    uid, received = record.study_instance_uid, time_text(record.received_at)
    patient, study = surviving(connection, parts[Level.PATIENT]), parts[Level.STUDY]
    row = next(iter(of_key(connection, studies, {"study_uid": uid})), None)
    newer = row is None or received >= row.attributes_at
    is_image = record.report is None and record.rejection is None and record.state is not InstanceState.PLAIN
    if row is None:
        attributes: Mapping[str, Any] = {**study, **patient}
    else:
        old = dict(row.attributes)
        if newer and _differs(_PATIENT_ID, old, patient):
            old = split(old)[Level.STUDY]
        if newer and _differs(_ACCESSION, old, study):
            old.pop(_ACCESSION_ISSUER, None)
        if not newer and _differs(_PATIENT_ID, old, patient):
            patient = {}
        attributes = _merged(old, {**study, **patient}, newer)
    values = study_columns(attributes) | {"attributes_at": received if row is None or newer else row.attributes_at}
    if row is None:
        empty = {"modalities": "", "sop_classes": "", "series_count": 0, "instance_count": 0, "image_count": 0}
        add(connection, studies, {"study_uid": uid, "source_ae_title": record.calling_ae_title, **values, **empty})
    else:
        if is_image:
            values["source_ae_title"] = record.calling_ae_title
        change(connection, studies, {"study_uid": uid}, values)
    key = {"study_uid": uid, "series_uid": record.series_instance_uid}
    old_series = next(iter(of_key(connection, series, key)), None)
    if old_series is None:
        values = {"attributes": parts[Level.SERIES], "attributes_at": received, "instance_count": 0}
        add(connection, series, {**key, **values})
        return
    newer = received >= old_series.attributes_at
    values = {
        "attributes": _merged(old_series.attributes, parts[Level.SERIES], newer),
        "attributes_at": received if newer else old_series.attributes_at,
    }
    change(connection, series, key, values)


def _differs(tag: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return tag in old and tag in new and old[tag].get("Value") != new[tag].get("Value")


# ---------------------------------------------------------------------------------------------- reports, notes, vectors


def _store_report(connection: Connection, record: InstanceRecord, current: bool) -> None:
    report = record.report
    if report is None:
        return
    values = {
        "sop_uid": record.sop_instance_uid,
        "study_uid": record.study_instance_uid,
        "current": current,
        "received_at": time_text(record.received_at),
    }
    add(connection, reports, values | _report_columns(report))
    named = {*report.referenced_study_uids, *report.referenced_sop_uids} if current else set()
    for uid in sorted(named):
        add(connection, report_references, {"sop_uid": record.sop_instance_uid, "referenced_uid": uid})


def _report_columns(report: ReportRecord) -> dict[str, Any]:
    content, verification = report.content_time, report.verification_time
    return {
        "findings": report.findings,
        "impression": report.impression,
        "indication": report.indication,
        "text": report.text,
        "language": report.language,
        "state": str(report.state),
        "verified": report.verified,
        "content_time": None if content is None else time_text(content),
        "verification_time": None if verification is None else time_text(verification),
        "referenced_study_uids": list(report.referenced_study_uids),
        "referenced_sop_uids": list(report.referenced_sop_uids),
    }


def _store_rejection(connection: Connection, record: InstanceRecord) -> set[str]:
    """Remember what a rejection note hides; return the studies of what is here already."""
    note = record.rejection
    if note is None:
        return set()
    hidden = sorted({*note.rejected_sop_uids, *note.rejected_study_uids})
    for uid in hidden:
        put(connection, rejections, {"uid": uid}, {"code": note.code, "note_sop_uid": record.sop_instance_uid})
    touched = set()
    for some in chunks(hidden):
        of = select(instances.c.study_uid).where(instances.c.sop_uid.in_(some) | instances.c.study_uid.in_(some))
        touched |= set(connection.execute(of).scalars())
    return touched


def put_encoding(
    connection: Connection, key: Mapping[str, Any], vector: bytes | None, findings: Mapping[str, float]
) -> int:
    """Store what a model made of an object; return the row's id, which stays the same if the vector does.

    `key`: generation_id, kind, uid.
    """
    found = next(iter(of_key(connection, encodings, key)), None)
    if found is not None:
        same = found.vector == vector or (
            vector is not None
            and found.vector is not None
            and np.allclose(vector_of(vector), vector_of(found.vector), rtol=0, atol=1e-6)
        )
        if same:
            if found.findings != findings:
                change(connection, encodings, key, {"findings": dict(findings)})
            return int(found.encoding_id)
        connection.execute(delete(encodings).where(encodings.c.encoding_id == found.encoding_id))
    return add(connection, encodings, {**key, "vector": vector, "findings": dict(findings)})


def _store_encodings(
    connection: Connection, record: InstanceRecord, generation_id: int, dim: int, new: bool = False
) -> bool:
    """Store the record's vectors, and take away those of replaced bytes that had some; return if there are any."""
    findings, stored = finite(record.findings), False
    for kind, vector, has in (
        (Kind.IMAGE, record.embedding, record.report is None),
        (Kind.REPORT, record.report_embedding, record.report is not None),
    ):
        if has and (vector is not None or (kind is Kind.REPORT and findings)):
            data = None if vector is None else vector_bytes(vector, dim)
            key = {"generation_id": generation_id, "kind": kind, "uid": record.sop_instance_uid}
            if new:
                add(connection, encodings, {**key, "vector": data, "findings": findings})
            else:
                put_encoding(connection, key, data, findings)
            stored = True
        elif not new:
            where = (encodings.c.uid == record.sop_instance_uid, encodings.c.generation_id == generation_id)
            connection.execute(delete(encodings).where(*where, encodings.c.kind == kind))
    return stored


