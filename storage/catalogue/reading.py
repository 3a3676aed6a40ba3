"""What the finder asks: changes since a sequence number, examples, studies, renditions, counts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from sqlalchemy import BindParameter, ColumnElement, Connection, ScalarSelect, bindparam, case, func, select, union_all

from storage.base import (
    Changes,
    EmbeddingRow,
    InstanceState,
    Int64,
    Kind,
    Pending,
    ReportRecord,
    StudyChanges,
    StudyRecord,
)
from storage.catalogue.reports import prevailing
from storage.catalogue.rows import EMBEDDING_ROWS, AnyRow, chunks, embedding_rows, record_of
from storage.catalogue.schema import (
    counters,
    embeddings,
    encodings,
    generations,
    instances,
    present_findings,
    reports,
    series,
    studies,
    study_findings,
    tombstones,
)
from storage.catalogue.selecting import with_computed

_BEST_STATE_FIRST = (InstanceState.INDEXED, InstanceState.GATED, InstanceState.PLAIN, InstanceState.HIDDEN)
_VISIBLE = instances.c.state != InstanceState.HIDDEN


def sequence(connection: Connection) -> int:
    """Return the newest sequence number."""
    return int(connection.execute(select(counters.c.value).where(counters.c.name == "sequence")).scalar_one())


def changes(connection: Connection, generation_id: int, after: int, limit: int) -> Changes:
    """See `Catalogue.changes`. Every vector that comes or goes has a sequence number of its own, so pages fit."""
    newest = sequence(connection)
    added = connection.execute(
        EMBEDDING_ROWS.where(embeddings.c.generation_id == generation_id, embeddings.c.sequence > after)
        .order_by(embeddings.c.sequence)
        .limit(limit)
    ).all()
    removed = connection.execute(
        select(tombstones.c.label, tombstones.c.sequence)
        .where(
            tombstones.c.generation_id == generation_id,
            tombstones.c.sequence > after,
            tombstones.c.added_sequence <= after,                   # else the caller has never seen it
        )
        .order_by(tombstones.c.sequence)
        .limit(limit)
    ).all()
    reached = min([newest, *(rows[-1].sequence for rows in (added, removed) if len(rows) == limit)])
    return Changes(
        sequence=reached,
        added=tuple(embedding_rows([row for row in added if row.sequence <= reached])),
        removed=tuple(row.label for row in removed if row.sequence <= reached),
    )


def vector_counts(connection: Connection, generation_id: int | ScalarSelect[int]) -> dict[Kind, int]:
    """See `Catalogue.vector_counts`."""
    of_generation = select(embeddings.c.kind, func.count()).where(embeddings.c.generation_id == generation_id)
    return {Kind(kind): count for kind, count in connection.execute(of_generation.group_by(embeddings.c.kind))}


def labels(connection: Connection, generation_id: int) -> Int64:
    """See `Catalogue.labels`."""
    statement = select(embeddings.c.label).where(embeddings.c.generation_id == generation_id)
    return np.sort(np.fromiter(connection.execute(statement).scalars(), dtype=np.int64))


_STUDY_OF = (
    select(studies.c.study_uid).where(studies.c.study_uid == bindparam("example")),
    select(instances.c.study_uid).where(instances.c.sop_uid == bindparam("example")),
    select(series.c.study_uid)
    .where(series.c.series_uid == bindparam("example"))
    .order_by(series.c.instance_count.desc())
    .limit(1),
)


def study_of(connection: Connection, uid: str) -> str | None:
    """See `Catalogue.study_of`."""
    for statement in _STUDY_OF:
        found = connection.execute(statement, {"example": uid}).scalar()
        if found is not None:
            return str(found)
    return None


def _in_series(uid: str | BindParameter[str]) -> ColumnElement[bool]:
    """Return the condition of instances that lie in a series; by way of its studies, whose index leads there."""
    of_series = select(series.c.study_uid).where(series.c.series_uid == uid)
    return instances.c.study_uid.in_(of_series) & (instances.c.series_uid == uid)


_EXAMPLE = EMBEDDING_ROWS.where(
    embeddings.c.label.in_(                         # each by its own index; OR made SQLite read the whole generation
        union_all(
            select(embeddings.c.label).where(embeddings.c.study_uid == bindparam("example")),
            select(embeddings.c.label).where(embeddings.c.sop_uid == bindparam("example")),
            select(embeddings.c.label).where(
                embeddings.c.sop_uid.in_(select(instances.c.sop_uid).where(_in_series(bindparam("example"))))
            ),
        )
    ),
    encodings.c.generation_id == bindparam("wanted_generation"),
).order_by(embeddings.c.label)


def example_rows(connection: Connection, generation_id: int, uid: str) -> list[EmbeddingRow]:
    """See `Catalogue.example_rows`."""
    found = connection.execute(_EXAMPLE, {"example": uid, "wanted_generation": generation_id})
    return embedding_rows(found.all())


def example_state(connection: Connection, uid: str) -> tuple[InstanceState | None, str]:
    """See `Catalogue.example_state`."""
    known = select(instances.c.state, instances.c.reason)
    rows = connection.execute(
        union_all(
            known.where(instances.c.sop_uid == uid),
            known.where(instances.c.study_uid == uid),
            known.where(_in_series(uid)),
        )
    ).all()
    for state in _BEST_STATE_FIRST:
        for row in rows:
            if row.state == state:
                return state, row.reason
    return None, ""


_ANY_STUDIES: BindParameter[Any] = bindparam("study_uids", expanding=True)
_RECORDS = select(
    studies.c.study_uid,
    studies.c.patient_key,
    studies.c.source_ae_title,
    studies.c.attributes,
    studies.c.modalities,
    studies.c.sop_classes,
    studies.c.series_count,
    studies.c.instance_count,
)
_STUDIES = _RECORDS.where(studies.c.study_uid.in_(_ANY_STUDIES), studies.c.instance_count > 0)
_ERASED = select(counters.c.value).where(counters.c.name == "erased")
_CHANGED = _RECORDS.where(studies.c.sequence > bindparam("after"))
_FROM = (
    _RECORDS.where(studies.c.study_uid > bindparam("after"), studies.c.instance_count > 0)
    .order_by(studies.c.study_uid)
    .limit(bindparam("at_most"))
)
_ACTIVE = select(generations.c.generation_id).where(generations.c.active)
_FINDINGS = select(study_findings.c.study_uid, study_findings.c.findings).where(
    study_findings.c.study_uid.in_(_ANY_STUDIES),
    study_findings.c.generation_id == bindparam("wanted_generation"),
)
_PRESENT = select(present_findings.c.study_uid, present_findings.c.name).where(
    present_findings.c.study_uid.in_(_ANY_STUDIES),  # no ORDER BY: it made SQLite read the whole generation
    present_findings.c.generation_id == bindparam("wanted_generation"),
)


def studies_by_uid(
    connection: Connection, study_uids: Sequence[str], with_report: bool, with_findings: bool
) -> dict[str, StudyRecord]:
    """See `Catalogue.studies`."""
    found: dict[str, StudyRecord] = {}
    for some in chunks(dict.fromkeys(study_uids)):
        best = prevailing(connection, some) if with_report else {}
        findings, present = _findings_of(connection, some) if with_findings else ({}, {})
        for uid, patient_key, source, attributes, *computed in connection.execute(_STUDIES, {"study_uids": some}):
            found[uid] = StudyRecord(
                study_instance_uid=uid,
                patient_key=patient_key,
                attributes=with_computed(attributes, uid, *computed),
                findings=findings.get(uid, {}),
                findings_present=tuple(sorted(present.get(uid, ()))),
                report=record_of(best[uid]) if uid in best else None,
                source_ae_title=source,
            )
    return found


def _plain_records(rows: Iterable[AnyRow]) -> Iterator[StudyRecord]:
    for uid, patient_key, source, attributes, *computed in rows:
        yield StudyRecord(uid, patient_key, with_computed(attributes, uid, *computed), {}, (), None, source)


def studies_changed(connection: Connection, after: int) -> StudyChanges:
    """See `Catalogue.studies_changed`."""
    newest = sequence(connection)                   # first: what comes after it is told again the next time
    erased = int(connection.execute(_ERASED).scalar_one())
    rows = connection.execute(_CHANGED, {"after": after}).all()
    return StudyChanges(
        sequence=newest,
        shown=tuple(_plain_records(row for row in rows if row.instance_count)),
        hidden=tuple(row.study_uid for row in rows if not row.instance_count),
        erased=erased > after,
    )


def studies_from(connection: Connection, after_uid: str, limit: int) -> list[StudyRecord]:
    """See `Catalogue.studies_from`."""
    return list(_plain_records(connection.execute(_FROM, {"after": after_uid, "at_most": limit})))


def _findings_of(
    connection: Connection, study_uids: Sequence[str]
) -> tuple[dict[str, dict[str, float]], dict[str, list[str]]]:
    active = connection.execute(_ACTIVE).scalar()
    wanted = {"study_uids": study_uids, "wanted_generation": active}
    findings = {row.study_uid: dict(row.findings) for row in connection.execute(_FINDINGS, wanted)}
    present: dict[str, list[str]] = {}
    for row in connection.execute(_PRESENT, wanted):
        present.setdefault(row.study_uid, []).append(row.name)
    return findings, present


def studies_of_patients(connection: Connection, patient_keys: Sequence[str]) -> set[str]:
    """Return the studies of patients; the empty key is nobody's."""
    return {
        uid
        for some in chunks(key for key in patient_keys if key)
        for uid in connection.execute(select(studies.c.study_uid).where(studies.c.patient_key.in_(some))).scalars()
    }


def instances_of(connection: Connection, level_uids: Mapping[str, Sequence[str]]) -> list[tuple[str, str, str]]:
    """See `Catalogue.instances_of`; keys STUDY, SERIES, IMAGE (or study, series, sop), together."""
    columns = {
        "STUDY": instances.c.study_uid,
        "SERIES": instances.c.series_uid,
        "IMAGE": instances.c.sop_uid,
        "SOP": instances.c.sop_uid,
    }
    conditions = []
    for name, uids in level_uids.items():
        column = columns.get(name.upper())
        if column is None:
            raise ValueError(f"{name!r} is no level; use one of {', '.join(columns)}")
        if uids:
            conditions.append(column.in_(list(uids)))
    if not conditions:
        return []
    statement = select(instances.c.sop_class_uid, instances.c.sop_uid, instances.c.transfer_syntax_uid)
    rows = connection.execute(statement.where(*conditions, _VISIBLE).order_by(instances.c.sop_uid))
    return [(row.sop_class_uid, row.sop_uid, row.transfer_syntax_uid) for row in rows]


def rendition_of(connection: Connection, study_instance_uid: str, sop_instance_uid: str) -> str | None:
    """See `Catalogue.rendition_of`."""
    statement = select(instances.c.rendition).where(
        instances.c.study_uid == study_instance_uid, instances.c.rendition.is_not(None), _VISIBLE
    )
    if sop_instance_uid:
        statement = statement.where(instances.c.sop_uid == sop_instance_uid)
    indexed_first = case((instances.c.state == InstanceState.INDEXED, 0), else_=1)
    frontal_first = case((instances.c.view == "frontal", 0), (instances.c.view == "unknown", 1), else_=2)
    ordered = statement.order_by(indexed_first, frontal_first, instances.c.received_at, instances.c.sop_uid)
    found = connection.execute(ordered.limit(1)).scalar()
    return None if found is None else str(found)


def pending(connection: Connection, generation_id: int, limit: int) -> list[Pending]:
    """See `Catalogue.pending`: images with a rendition, current report versions with a text."""

    def lacking(kind: Kind, uid: ColumnElement[str]) -> ColumnElement[bool]:
        mine = (encodings.c.generation_id == generation_id) & (encodings.c.kind == kind)
        return ~select(encodings.c.encoding_id).where(encodings.c.uid == uid, mine).exists()

    images = select(instances.c.sop_uid, instances.c.rendition).where(
        instances.c.own_state == InstanceState.INDEXED,
        instances.c.is_image,
        instances.c.rendition.is_not(None),
        lacking(Kind.IMAGE, instances.c.sop_uid),
    )
    found = [Pending(row.sop_uid, row.rendition, None) for row in connection.execute(images.limit(limit))]
    texts = (
        select(reports)
        .join(instances, instances.c.sop_uid == reports.c.sop_uid)
        .where(
            reports.c.current,
            instances.c.own_state == InstanceState.INDEXED,
            (reports.c.findings != "") | (reports.c.impression != "") | (reports.c.text != ""),
            lacking(Kind.REPORT, reports.c.sop_uid),
        )
        .order_by(reports.c.report_id)
    )
    if len(found) < limit:
        rows = connection.execute(texts.limit(limit - len(found)))
        found += [Pending(row.sop_uid, None, record_of(row)) for row in rows]
    return found


def report_versions(connection: Connection, study_instance_uid: str) -> list[ReportRecord]:
    """Return every report version that lies in a study, replaced bytes included, oldest first."""
    rows = connection.execute(
        select(reports).where(reports.c.study_uid == study_instance_uid).order_by(reports.c.report_id)
    )
    return [record_of(row) for row in rows]


def counts(connection: Connection) -> dict[str, int]:
    """See `Catalogue.counts`."""

    def one(statement: Any) -> int:
        return int(connection.execute(statement).scalar_one())

    by_state: dict[str, int] = {
        row.state: row.number
        for row in connection.execute(
            select(instances.c.state, func.count().label("number")).group_by(instances.c.state)
        )
    }
    active = select(generations.c.generation_id).where(generations.c.active).scalar_subquery()
    by_kind = vector_counts(connection, active)
    shown = studies.c.instance_count > 0
    return {
        "studies": one(select(func.count()).select_from(studies).where(shown)),
        "instances": sum(count for state, count in by_state.items() if state != InstanceState.HIDDEN),
        "images_searchable": by_kind.get(Kind.IMAGE, 0),
        "reports_searchable": by_kind.get(Kind.REPORT, 0),
        "gated": by_state.get(InstanceState.GATED, 0),
        "hidden": by_state.get(InstanceState.HIDDEN, 0),
        "patients": one(
            select(func.count(studies.c.patient_key.distinct())).where(shown, studies.c.patient_key != "")
        ),
    }
