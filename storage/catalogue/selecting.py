"""Exact queries: what SQL can decide goes into the statement, the rest is matched on the few that are left."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, or_, select

from storage.base import InstanceState
from storage.catalogue.levels import Element, Level, is_key, level_of, tag_of
from storage.catalogue.matching import is_universal, matches, range_of, text_of
from storage.catalogue.rows import AnyRow, chunks
from storage.catalogue.schema import generations, instances, present_findings, series, studies

_FETCH = 500
_STUDY, _SERIES, _SOP = tag_of("StudyInstanceUID"), tag_of("SeriesInstanceUID"), tag_of("SOPInstanceUID")
_SOP_CLASS = tag_of("SOPClassUID")
_MODALITIES, _SOP_CLASSES = tag_of("ModalitiesInStudy"), tag_of("SOPClassesInStudy")
_SERIES_COUNT, _INSTANCE_COUNT = tag_of("NumberOfStudyRelatedSeries"), tag_of("NumberOfStudyRelatedInstances")
_NAME, _DATE = tag_of("PatientName"), tag_of("StudyDate")

#: Keys that a column of `studies` decides, by text.
_COLUMNS = {
    tag_of("PatientID"): studies.c.patient_id,
    tag_of("PatientSex"): studies.c.patient_sex,
    tag_of("AccessionNumber"): studies.c.accession_number,
}

Keys = Mapping[str, Element]


def keys_of(identifier: Mapping[str, Any]) -> dict[str, Element]:
    """Return the matching keys of a request that filter anything."""
    keys = {tag.upper(): element for tag, element in identifier.items()}
    return {tag: element for tag, element in keys.items() if is_key(tag) and not is_universal(element)}


def _texts(element: Element) -> list[str]:
    return [text for text in map(text_of, element.get("Value", ())) if text]


def _like(column: ColumnElement[str], wanted: str) -> ColumnElement[bool]:
    """Return a LIKE that every match of a wild card pattern passes; the values' own % and _ are no wild cards."""
    escaped = re.sub(r"([%_/])", r"/\1", wanted).replace("*", "%").replace("?", "_")
    return column.like(escaped, escape="/")


def _study_conditions(keys: Keys) -> tuple[list[ColumnElement[bool]], dict[str, Element]]:
    """Return what every matching study fulfils, and the keys that this doesn't decide for good."""
    conditions: list[ColumnElement[bool]] = [studies.c.instance_count > 0]
    undecided = dict(keys)
    for tag, element in keys.items():
        texts = _texts(element)
        wild = [text for text in texts if "*" in text or "?" in text]
        plain = [text for text in texts if text not in wild]
        if tag == _STUDY:
            conditions.append(studies.c.study_uid.in_(texts))
        elif tag == _DATE:
            ranges = [_date_range(text) for text in texts]
            if any(condition is None for condition in ranges):
                continue
            conditions.append(or_(*(condition for condition in ranges if condition is not None)))
        elif tag == _MODALITIES:
            conditions.append(or_(*(_like(studies.c.modalities, f"*\\{text}\\*") for text in texts)))
        elif tag == _NAME:
            folded = [re.sub(r"[\^=\s*]+", "*", text.casefold()) for text in texts]
            conditions.append(or_(*(_like(studies.c.patient_name, f"*{text}*") for text in folded)))
            continue
        elif tag in _COLUMNS:
            conditions.append(or_(_COLUMNS[tag].in_(plain), *(_like(_COLUMNS[tag], text) for text in wild)))
        else:
            continue
        if tag == _STUDY or not wild:                               # LIKE is blind to case in SQLite
            del undecided[tag]
    return conditions, undecided


def _date_range(text: str) -> ColumnElement[bool] | None:
    """Return the condition of one date or range, None if it is malformed and only `matches` may judge."""
    start, end = (None if bound is None else bound.replace(".", "") for bound in range_of("DA", text))
    if not all(bound is None or re.fullmatch(r"\d{4,8}", bound) for bound in (start, end)):
        return None
    condition = studies.c.study_date != ""
    if start is not None:
        condition &= studies.c.study_date >= start.ljust(8, "0")
    if end is not None:
        condition &= studies.c.study_date <= end.ljust(8, "9")
    return condition


# ---------------------------------------------------------------------------------------------- what is known


def study_attributes(row: AnyRow) -> dict[str, Any]:
    """Return the attributes of a row of `studies`, computed ones included."""
    return with_computed(
        dict(row.attributes), row.study_uid, row.modalities, row.sop_classes, row.series_count, row.instance_count
    )


def with_computed(
    attributes: dict[str, Any],
    study_uid: str,
    modalities: str,
    sop_classes: str,
    series_count: int,
    instance_count: int,
) -> dict[str, Any]:
    """Return a study's stored attributes, to which its computed ones have been added."""
    attributes[_STUDY] = {"vr": "UI", "Value": [study_uid]}
    attributes[_SERIES_COUNT] = {"vr": "IS", "Value": [series_count]}
    attributes[_INSTANCE_COUNT] = {"vr": "IS", "Value": [instance_count]}
    attributes[_MODALITIES] = {"vr": "CS", "Value": [name for name in modalities.split("\\") if name]}
    attributes[_SOP_CLASSES] = {"vr": "UI", "Value": [name for name in sop_classes.split("\\") if name]}
    return attributes


def _series_attributes(row: AnyRow) -> dict[str, Any]:
    count = {"vr": "IS", "Value": [row.series_instance_count]}
    return {
        **row.series_attributes,
        _SERIES: {"vr": "UI", "Value": [row.series_uid]},
        tag_of("NumberOfSeriesRelatedInstances"): count,
    }


def _instance_attributes(row: AnyRow) -> dict[str, Any]:
    return {
        **row.instance_attributes,
        _SOP: {"vr": "UI", "Value": [row.sop_uid]},
        _SOP_CLASS: {"vr": "UI", "Value": [row.sop_class_uid]},
    }


_SERIES_COLUMNS = (
    series.c.study_uid.label("of_study"),
    series.c.series_uid,
    series.c.attributes.label("series_attributes"),
    series.c.instance_count.label("series_instance_count"),
)
_INSTANCE_COLUMNS = (
    instances.c.study_uid.label("of_study"),
    instances.c.series_uid.label("of_series"),
    instances.c.sop_uid,
    instances.c.sop_class_uid,
    instances.c.attributes.label("instance_attributes"),
)
_VISIBLE = instances.c.state != InstanceState.HIDDEN


def _below(
    connection: Connection, level: Level, study_uids: Sequence[str], by_series: bool = False
) -> dict[Any, list[dict[str, Any]]]:
    """Return the attributes of what lies below studies, by study (or by study and series)."""
    found: dict[Any, list[dict[str, Any]]] = {}
    for some in chunks(study_uids):
        if level is Level.SERIES:
            statement = select(*_SERIES_COLUMNS).where(series.c.study_uid.in_(some), series.c.instance_count > 0)
            for row in connection.execute(statement):
                found.setdefault(row.of_study, []).append(_series_attributes(row))
        else:
            images = select(*_INSTANCE_COLUMNS).where(instances.c.study_uid.in_(some), _VISIBLE)
            for image in connection.execute(images):
                key = (image.of_study, image.of_series) if by_series else image.of_study
                found.setdefault(key, []).append(_instance_attributes(image))
    return found


# ---------------------------------------------------------------------------------------------- the queries


def _by_level(keys: Keys) -> dict[Level, dict[str, Element]]:
    parts: dict[Level, dict[str, Element]] = {level: {} for level in Level}
    for tag, element in keys.items():
        parts[level_of(tag)][tag] = element
    parts[Level.STUDY] |= parts.pop(Level.PATIENT)
    return parts


def _all_match(keys: Keys, *stored: Mapping[str, Any]) -> bool:
    return all(matches(tag, key, [attributes.get(tag, {}) for attributes in stored]) for tag, key in keys.items())


def _matching_studies(
    connection: Connection, keys: Keys, extra: Sequence[ColumnElement[bool]] = ()
) -> Iterator[AnyRow]:
    """Yield rows of `studies` that match, newest study date first; keys of lower levels match any part of the study."""
    conditions, undecided = _study_conditions(keys)
    parts = _by_level(undecided)
    statement = select(studies).where(*conditions, *extra).order_by(studies.c.study_date.desc(), studies.c.study_uid)
    for rows in connection.execution_options(yield_per=_FETCH).execute(statement).partitions(_FETCH):
        left = [row for row in rows if _all_match(parts[Level.STUDY], study_attributes(row))]
        for level in (Level.SERIES, Level.IMAGE):
            if parts[level] and left:
                below = _below(connection, level, [row.study_uid for row in left])
                left = [row for row in left if _all_match(parts[level], *below.get(row.study_uid, ()))]
        yield from left


def select_studies(
    connection: Connection,
    identifier: Mapping[str, Any],
    findings: Sequence[str],
    exclude_patient_keys: Sequence[str],
) -> set[str] | None:
    """See `Catalogue.select_studies`."""
    keys = keys_of(identifier)
    excluded = sorted({key for key in exclude_patient_keys if key})
    if not (keys or findings or excluded):
        return None
    active = select(generations.c.generation_id).where(generations.c.active).scalar_subquery()
    extra: list[ColumnElement[bool]] = [
        studies.c.study_uid.in_(
            select(present_findings.c.study_uid).where(
                present_findings.c.generation_id == active, present_findings.c.name == name
            )
        )
        for name in findings
    ]
    if excluded:
        extra.append(studies.c.patient_key.not_in(excluded))
    conditions, undecided = _study_conditions(keys)
    if not undecided:
        return set(connection.execute(select(studies.c.study_uid).where(*conditions, *extra)).scalars())
    return {row.study_uid for row in _matching_studies(connection, keys, extra)}


def find(
    connection: Connection, level: Level, identifier: Mapping[str, Any], limit: int
) -> tuple[list[dict[str, Any]], bool]:
    """See `Catalogue.find`."""
    found: list[dict[str, Any]] = []
    patients: list[str] = []
    for patient_key, attributes in _matches_at(connection, level, keys_of(identifier)):
        if len(found) >= limit:
            return _with_patient_counts(connection, identifier, found, patients), True
        found.append(attributes)
        patients.append(patient_key)
    return _with_patient_counts(connection, identifier, found, patients), False


def _matches_at(connection: Connection, level: Level, keys: Keys) -> Iterator[tuple[str, dict[str, Any]]]:
    if level is Level.STUDY:
        for row in _matching_studies(connection, keys):
            yield row.patient_key, study_attributes(row)
        return
    parts = _by_level(keys)
    own = {Level.SERIES: parts[Level.SERIES], Level.IMAGE: parts[Level.SERIES] | parts[Level.IMAGE]}[level]
    for study in _matching_studies(connection, _narrowed(connection, keys, parts)):
        above = study_attributes(study)
        in_series = _below(connection, Level.IMAGE, [study.study_uid], by_series=True)
        for series_attributes in _below(connection, Level.SERIES, [study.study_uid]).get(study.study_uid, ()):
            inside = in_series.get((study.study_uid, text_of(series_attributes[_SERIES]["Value"][0])), [])
            if level is Level.SERIES:
                if _all_match(own, series_attributes) and _all_match(parts[Level.IMAGE], *inside):
                    yield study.patient_key, {**above, **series_attributes}
                continue
            for attributes in inside:
                known = {**series_attributes, **attributes}
                if _all_match(own, known):
                    yield study.patient_key, {**above, **known}


def _narrowed(connection: Connection, keys: Keys, parts: Mapping[Level, Keys]) -> Keys:
    """Return the study's keys, with the studies of the series and SOP Instance UIDs that were asked for."""
    study_keys = dict(parts[Level.STUDY])
    for tag, column, of_study in (
        (_SERIES, series.c.series_uid, series.c.study_uid),
        (_SOP, instances.c.sop_uid, instances.c.study_uid),
    ):
        if tag in keys and _STUDY not in study_keys:
            uids = {
                uid
                for some in chunks(_texts(keys[tag]))
                for uid in connection.execute(select(of_study).where(column.in_(some))).scalars()
            }
            study_keys[_STUDY] = {"vr": "UI", "Value": sorted(uids) or ["none"]}
    return study_keys


def _with_patient_counts(
    connection: Connection, identifier: Mapping[str, Any], found: list[dict[str, Any]], patients: list[str]
) -> list[dict[str, Any]]:
    """Add the Number of Patient Related ... attributes where they were asked for: they cost a scan of the patients."""
    columns = {
        tag_of("NumberOfPatientRelatedStudies"): func.count(studies.c.study_uid),
        tag_of("NumberOfPatientRelatedSeries"): func.sum(studies.c.series_count),
        tag_of("NumberOfPatientRelatedInstances"): func.sum(studies.c.instance_count),
    }
    wanted = [tag for tag in columns if tag in {name.upper() for name in identifier}]
    counts: dict[str, AnyRow] = {}
    if wanted:
        for some in chunks(sorted({key for key in patients if key})):
            statement = (
                select(studies.c.patient_key, *(columns[tag].label(f"t{tag}") for tag in wanted))
                .where(studies.c.patient_key.in_(some), studies.c.instance_count > 0)
                .group_by(studies.c.patient_key)
            )
            counts |= {row.patient_key: row for row in connection.execute(statement)}
    for attributes, patient in zip(found, patients, strict=True):
        if patient in counts:
            for tag in wanted:
                attributes[tag] = {"vr": "IS", "Value": [int(getattr(counts[patient], f"t{tag}"))]}
    return found
