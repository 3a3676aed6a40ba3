"""A study's searchable vectors and findings, made anew whenever something in it has changed."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
from sqlalchemy import Connection, bindparam, delete, insert, select, update

from storage.base import Fuse, InstanceState, Kind
from storage.catalogue.database import Transaction
from storage.catalogue.intake import put_encoding
from storage.catalogue.reports import match_reports, prevailing
from storage.catalogue.rows import AnyRow, add_many, chunks, of_key, of_studies, put, vector_bytes, vector_of
from storage.catalogue.schema import (
    counters,
    embeddings,
    encodings,
    generations,
    instances,
    present_findings,
    stale_studies,
    studies,
    study_findings,
    tombstones,
)
from storage.catalogue.settling import settle

#: Studies left over from another generation's commits that one commit renews beside its own.
_STALE_AT_ONCE = 256
_PRESENT = 0.5


def settle_all(transaction: Transaction, touched: Collection[str]) -> set[str]:
    """Settle studies and note that they changed, then match reports; return all studies that need new vectors."""
    connection, number = transaction.connection, transaction.next()
    there = settle(connection, touched)
    for some in chunks(there):
        connection.execute(update(studies).where(studies.c.study_uid.in_(some)).values(sequence=number))
    if len(there) < len(touched):
        note_erasure(connection, number)
    return set(touched) | match_reports(connection, touched)


def note_erasure(connection: Connection, number: int) -> None:
    """Note that rows of `studies` have gone."""
    connection.execute(update(counters).where(counters.c.name == "erased").values(value=number))


def renew_all(
    transaction: Transaction, touched: Collection[str], generation_id: int, dim: int, fuse: Fuse
) -> None:
    """Renew vectors and findings of studies in one generation, and see that the others know."""
    connection = transaction.connection
    mark_stale(transaction, touched, except_generation=generation_id)
    left = select(stale_studies.c.study_uid).where(stale_studies.c.generation_id == generation_id)
    stale = set(connection.execute(left.limit(_STALE_AT_ONCE)).scalars())
    for some in chunks(sorted({*touched, *stale})):
        wanted = _wanted(connection, some, generation_id)
        current = of_studies(connection, embeddings, some, generation_id)
        present = of_studies(connection, present_findings, some, generation_id)
        for uid in some:
            _put_findings(connection, uid, generation_id, wanted[uid].values(), {row.name for row in present[uid]})
            _renew(transaction, uid, generation_id, dim, fuse, wanted[uid], current[uid])
    for some in chunks(stale):
        done = (stale_studies.c.generation_id == generation_id) & stale_studies.c.study_uid.in_(some)
        connection.execute(delete(stale_studies).where(done))


def mark_stale(transaction: Transaction, touched: Collection[str], except_generation: int | None = None) -> None:
    """Withdraw at once what must no longer be found in other generations; their models fuse again later."""
    connection = transaction.connection
    for other in connection.execute(select(generations.c.generation_id)).scalars().all():
        if other == except_generation:
            continue
        wanted = _wanted(connection, touched, other)
        current = of_studies(connection, embeddings, touched, other)
        for study_uid in sorted(touched):
            rows = current[study_uid]
            gone = [row for row in rows if row.kind != Kind.JOINT and (row.kind, row.sop_uid) not in wanted[study_uid]]
            gone += [row for row in rows if row.kind != Kind.JOINT and _moved(row, wanted[study_uid])]
            if gone:
                gone += [row for row in rows if row.kind == Kind.JOINT]
            remove_embeddings(transaction, gone)
            _put_stale(connection, other, study_uid)


def _put_stale(connection: Connection, generation_id: int, study_uid: str) -> None:
    """Note that a study's vectors in a generation are to be renewed."""
    key = {"generation_id": generation_id, "study_uid": study_uid}
    where = (stale_studies.c.generation_id == generation_id) & (stale_studies.c.study_uid == study_uid)
    if connection.execute(select(stale_studies).where(where)).first() is None:
        connection.execute(insert(stale_studies).values(**key))


def _moved(row: AnyRow, wanted: dict[tuple[str, str], AnyRow]) -> bool:
    target = wanted.get((row.kind, row.sop_uid))
    return target is not None and target.encoding_id != row.encoding_id


_IMAGES = (
    select(encodings, instances.c.study_uid)
    .join(instances, instances.c.sop_uid == encodings.c.uid)
    .where(
        instances.c.study_uid.in_(bindparam("study_uids", expanding=True)),
        instances.c.state == InstanceState.INDEXED,
        encodings.c.kind == Kind.IMAGE,
        encodings.c.generation_id == bindparam("wanted_generation"),
    )
    .order_by(encodings.c.uid)
)


#: The encodings of a study that should be searchable, by (kind, SOP Instance UID).
_Wanted = dict[tuple[str, str], AnyRow]


def _wanted(connection: Connection, study_uids: Collection[str], generation_id: int) -> dict[str, _Wanted]:
    """Return what should be searchable of each study; images in order of their UID."""
    wanted: dict[str, _Wanted] = {uid: {} for uid in study_uids}
    for some in chunks(study_uids):
        for row in connection.execute(_IMAGES, {"study_uids": some, "wanted_generation": generation_id}):
            wanted[row.study_uid][str(Kind.IMAGE), row.uid] = row
    for study_uid, report in prevailing(connection, study_uids).items():
        key = {"uid": report.sop_uid, "kind": Kind.REPORT, "generation_id": generation_id}
        wanted[study_uid] |= {(str(Kind.REPORT), row.uid): row for row in of_key(connection, encodings, key)}
    return wanted


def _renew(
    transaction: Transaction, study_uid: str, generation_id: int, dim: int, fuse: Fuse, wanted: _Wanted,
    current: list[AnyRow],
) -> None:  # fmt: skip
    connection = transaction.connection
    targets = {key: row.encoding_id for key, row in wanted.items() if row.vector is not None}
    images = [vector_of(row.vector) for (kind, _), row in wanted.items() if kind == Kind.IMAGE and row.vector]
    texts = [vector_of(row.vector) for (kind, _), row in wanted.items() if kind == Kind.REPORT and row.vector]
    if targets:
        stack = np.stack(images) if images else np.zeros((0, dim), dtype=np.float32)
        joint = vector_bytes(fuse(stack, texts[0] if texts else None), dim)
        joint_key = {"generation_id": generation_id, "kind": Kind.JOINT, "uid": study_uid}
        targets[str(Kind.JOINT), ""] = put_encoding(connection, joint_key, joint, {})
    else:
        gone = (encodings.c.uid == study_uid) & (encodings.c.generation_id == generation_id)
        connection.execute(delete(encodings).where(gone, encodings.c.kind == Kind.JOINT))
    remove_embeddings(transaction, [row for row in current if targets.get((row.kind, row.sop_uid)) != row.encoding_id])
    kept = {(row.kind, row.sop_uid) for row in current if targets.get((row.kind, row.sop_uid)) == row.encoding_id}
    added = [
        {
            "generation_id": generation_id,
            "kind": kind,
            "study_uid": study_uid,
            "sop_uid": sop_uid,
            "encoding_id": encoding_id,
            "sequence": transaction.next(),
        }
        for (kind, sop_uid), encoding_id in targets.items()
        if (kind, sop_uid) not in kept
    ]
    add_many(connection, embeddings, added)


def remove_embeddings(transaction: Transaction, rows: Iterable[AnyRow]) -> None:
    """Take rows of `embeddings` out of every search; their labels are never used again."""
    for row in rows:
        transaction.connection.execute(delete(embeddings).where(embeddings.c.label == row.label))
        transaction.connection.execute(
            insert(tombstones).values(
                label=row.label,
                generation_id=row.generation_id,
                added_sequence=row.sequence,
                sequence=transaction.next(),
            )
        )


def _put_findings(
    connection: Connection, study_uid: str, generation_id: int, encoded: Iterable[AnyRow], old: set[str]
) -> None:
    """Store what the prevailing report says of each finding, else the images' highest probability.

    `old`: the findings that are stored as present.
    """
    said: dict[str, float] = {}
    seen: dict[str, float] = {}
    has_report = False
    for row in encoded:
        if row.kind == Kind.REPORT:
            said, has_report = dict(row.findings), True
        else:
            for name, value in row.findings.items():
                seen[name] = max(value, seen.get(name, 0.0))
    judged, least = (said, 1.0) if has_report else (seen, _PRESENT)
    present = {name for name, value in judged.items() if value >= least}
    key = {"study_uid": study_uid, "generation_id": generation_id}
    add_many(connection, present_findings, [{**key, "name": name} for name in sorted(present - old)])
    for name in old - present:
        gone = (present_findings.c.generation_id == generation_id) & (present_findings.c.study_uid == study_uid)
        connection.execute(delete(present_findings).where(gone, present_findings.c.name == name))
    if not (said or seen):
        gone = (study_findings.c.study_uid == study_uid) & (study_findings.c.generation_id == generation_id)
        connection.execute(delete(study_findings).where(gone))
        return
    put(connection, study_findings, key, {"findings": {**seen, **said}})
