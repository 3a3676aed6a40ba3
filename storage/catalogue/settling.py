"""What a study's instances amount to: who is hidden, who gives way to whom, and the counts over the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from sqlalchemy import Connection, bindparam, delete, select

from storage.base import InstanceState
from storage.catalogue.levels import first_value
from storage.catalogue.rows import AnyRow, change, chunks, of_key
from storage.catalogue.schema import (
    instances,
    present_findings,
    rejections,
    series,
    studies,
    study_findings,
)

#: PS3.16 CID 7011, IHE IOCM: what a rejection note says of the objects that it names.
REJECTIONS = {
    "113001": "rejected for quality reasons",
    "113037": "rejected for patient safety reasons",
    "113038": "incorrect modality worklist entry",
    "113039": "data retention policy expired",
}

_INSTANCES = (
    select(instances, series.c.attributes.label("series_attributes"))
    .join(series, (series.c.study_uid == instances.c.study_uid) & (series.c.series_uid == instances.c.series_uid))
    .where(instances.c.study_uid.in_(bindparam("study_uids", expanding=True)))
)
_REJECTIONS = select(rejections).where(rejections.c.uid.in_(bindparam("uids", expanding=True)))

_GIVES_WAY = "the FOR PRESENTATION image of the same exposure is indexed instead"


def settle(connection: Connection, study_uids: Collection[str]) -> list[str]:
    """Bring the states of studies' instances, and the counts of the studies and their series, up to date.

    A study without instances is erased; return those that are still there, sorted.
    """
    there = []
    for some in chunks(sorted(study_uids)):
        rows: dict[str, list[AnyRow]] = {uid: [] for uid in some}
        for row in connection.execute(_INSTANCES, {"study_uids": some}):
            rows[row.study_uid].append(row)
        rejected: dict[str, str] = {}
        for uids in chunks([*some, *(row.sop_uid for of_study in rows.values() for row in of_study)]):
            rejected |= {row.uid: row.code for row in connection.execute(_REJECTIONS, {"uids": uids})}
        for study_uid, of_study in rows.items():
            _settle(connection, study_uid, of_study, rejected)
        there += [study_uid for study_uid, of_study in rows.items() if of_study]
    return there


def _settle(connection: Connection, study_uid: str, rows: list[AnyRow], rejected: dict[str, str]) -> None:
    if not rows:
        for table in (studies, series, study_findings, present_findings):
            connection.execute(delete(table).where(table.c.study_uid == study_uid))
        return
    states = {row.sop_uid: _state(row, rejected) for row in rows}
    presented = {
        row.exposure_key
        for row in rows
        if row.exposure_key and row.for_presentation and states[row.sop_uid][0] == InstanceState.INDEXED
    }
    for row in rows:
        state, reason = states[row.sop_uid]
        if state == InstanceState.INDEXED and not row.for_presentation and row.exposure_key in presented:
            state, reason = InstanceState.GATED, _GIVES_WAY
            states[row.sop_uid] = state, reason
        if (state, reason) != (row.state, row.reason):
            change(connection, instances, {"sop_uid": row.sop_uid}, {"state": state, "reason": reason})
    _count(connection, study_uid, [row for row in rows if states[row.sop_uid][0] != InstanceState.HIDDEN])


def _state(row: AnyRow, rejected: dict[str, str]) -> tuple[str, str]:
    code = rejected.get(row.sop_uid) or rejected.get(row.study_uid)
    if code is None:
        return row.own_state, row.own_reason
    return InstanceState.HIDDEN, f"{REJECTIONS.get(code, 'rejected')} ({code})"


def _count(connection: Connection, study_uid: str, visible: list[AnyRow]) -> None:
    modalities = sorted({first_value(row.series_attributes, "Modality") for row in visible} - {""})
    sop_classes = sorted({row.sop_class_uid for row in visible} - {""})
    by_series = Counter(row.series_uid for row in visible)
    values = {
        "modalities": "".join(f"\\{name}" for name in modalities) + "\\",
        "sop_classes": "\\".join(sop_classes),
        "series_count": len(by_series),
        "instance_count": len(visible),
        "image_count": sum(row.is_image for row in visible),
    }
    change(connection, studies, {"study_uid": study_uid}, values)
    old = {row.series_uid: row.instance_count for row in of_key(connection, series, {"study_uid": study_uid})}
    for series_uid, count in old.items():
        if count != by_series[series_uid]:
            key = {"study_uid": study_uid, "series_uid": series_uid}
            change(connection, series, key, {"instance_count": by_series[series_uid]})
