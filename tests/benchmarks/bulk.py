"""A catalogue of many synthetic studies, in seconds: a few are committed by the API, their rows then multiplied.

Committing 230,000 studies one by one would take longer than a benchmark may. The rows are those that the API wrote,
with other UIDs, patients, dates and vectors, so that whatever reads them later cannot tell the difference.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from encoders.checkpoint import model_info
from storage.base import Float32, InstanceRecord, InstanceState, Kind, ReportRecord
from storage.catalogue import open_catalogue
from storage.catalogue.schema import metadata

DX, SR = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.88.11"
_ROOT = "1.2.826.0.1.3680043.10.1.99"
_FIRST_TEMPLATE = 900_000_000
_DAY = "21770901"                                   # of the templates; every study gets another one
_AT_ONCE = 5000


@dataclass(frozen=True, slots=True)
class Archive:
    """What was made: `studies` studies, `reported` of them with a report, every one with one image."""

    path: Path
    studies: int
    reported: int


def study_uid(number: int) -> str:
    """Return the StudyInstanceUID of a study."""
    return f"{_ROOT}.{number:09d}"


def image_uid(number: int) -> str:
    """Return the SOP Instance UID of a study's image."""
    return f"{study_uid(number)}.1.1"


def patient_id(number: int) -> str:
    """Return the Patient ID of a study: two studies each."""
    return f"P{number // 2:09d}"


def vectors(count: int, dim: int, seed: int) -> Iterator[Float32]:
    """Yield unit vectors in blocks: 1,000 clusters on a manifold of 32 dimensions, and some noise off it."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(dim, 32)))[0].T.astype(np.float32)
    centres = rng.normal(size=(1000, 32)).astype(np.float32)
    for start in range(0, count, _AT_ONCE):
        n = min(_AT_ONCE, count - start)
        latent = centres[rng.integers(0, 1000, n)] + 0.7 * rng.normal(size=(n, 32)).astype(np.float32)
        yield unit(latent @ axes + 0.05 * rng.normal(size=(n, dim)).astype(np.float32))


def unit(rows: Float32) -> Float32:
    """Return rows of length 1."""
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def shipped_generation() -> dict[str, Any]:
    """Return the generation of the shipped model, as `make` takes it."""
    info = model_info()
    return {
        "fingerprint": info.fingerprint, "model_id": info.model_id, "dim": info.dim,
        "calibration": info.card["calibration"]["scores"],
    }  # fmt: skip


def make(
    path: Path, studies: int, generation: Mapping[str, Any], reported_share: float = 0.7, seed: int = 7
) -> Archive:
    """Fill a new catalogue.

    Parameters
    ----------
    generation : mapping
        fingerprint, model_id, dim, calibration of the only generation.
    reported_share : float
        So many of the studies have a report.
    """
    templates = _templates(path, generation)
    database = sqlite3.connect(path)
    database.execute("PRAGMA synchronous = OFF")
    database.execute("PRAGMA cache_size = -262144")
    rows = {number: _rows_of(database, number) for number in templates}
    for table in metadata.sorted_tables:            # the templates themselves go
        for number, column, value in _places(database, table.name):
            if number in rows:
                database.execute(f"DELETE FROM {table.name} WHERE {column} = ?", (value,))
    rng = np.random.default_rng(seed)
    writer = _Writer(database, rows, int(generation["dim"]))
    reported = 0
    for block, images in enumerate(vectors(studies, int(generation["dim"]), seed)):
        texts = unit(images + 0.25 * unit(rng.normal(size=images.shape).astype(np.float32)))
        joint = unit(images + texts)
        has = rng.random(len(images)) < reported_share
        sexes = rng.integers(0, 2, len(images))
        days = rng.integers(0, 3650, len(images))
        for place in range(len(images)):
            number = block * _AT_ONCE + place
            found = {Kind.IMAGE: images[place], Kind.JOINT: joint[place] if has[place] else images[place]}
            if has[place]:
                found[Kind.REPORT] = texts[place]
            day = str(np.datetime64("2015-01-01") + int(days[place])).replace("-", "")
            writer.put(templates[2 * int(has[place]) + int(sexes[place])], number, day, found)
        writer.flush()
        reported += int(has.sum())
    database.execute("UPDATE counters SET value = ? WHERE name = 'sequence'", (writer.sequence,))
    database.commit()
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.commit()
    database.close()
    return Archive(path, studies, reported)


# ---------------------------------------------------------------------------------------------- templates


def _element(vr: str, *values: Any) -> dict[str, Any]:
    return {"vr": vr, "Value": list(values)}


def _templates(path: Path, generation: Mapping[str, Any]) -> list[int]:
    """Commit four studies by the API: without and with report, of a woman and of a man; return their numbers."""
    catalogue = open_catalogue(path)
    own = catalogue.generation(
        generation["fingerprint"], generation["model_id"], generation["dim"], generation["calibration"]
    )
    vector = np.zeros(own.dim, dtype=np.float32)
    vector[0] = 1
    numbers = [_FIRST_TEMPLATE + number for number in range(4)]
    for number in numbers:
        records = [_record(number, DX, vector)]
        if number >= _FIRST_TEMPLATE + 2:
            records.append(_record(number, SR, vector))
        catalogue.commit(records, own.generation_id, lambda images, report: vector)
    catalogue.close()
    return numbers


def _record(number: int, sop_class: str, vector: Float32) -> InstanceRecord:
    uid, is_image = study_uid(number), sop_class == DX
    attributes = {
        "00080020": _element("DA", _DAY), "00080030": _element("TM", "101112"),
        "00080050": _element("SH", f"A{number:09d}"), "00080060": _element("CS", "DX" if is_image else "SR"),
        "00080080": _element("LO", "City Hospital"), "00080090": _element("PN", {"Alphabetic": "Referrer^Synthetic"}),
        "00081030": _element("LO", "CHEST PA AND LATERAL"),
        "00100010": _element("PN", {"Alphabetic": f"BENCH^P{number}"}),
        "00100020": _element("LO", f"P{number:09d}"), "00100030": _element("DA", "19500101"),
        "00100040": _element("CS", "FM"[number % 2]), "00101010": _element("AS", "070Y"),
        "0020000D": _element("UI", uid), "0020000E": _element("UI", f"{uid}.{1 if is_image else 2}"),
        "00200010": _element("SH", "1"), "00200011": _element("IS", 1 if is_image else 2),
        "00180015": _element("CS", "CHEST"), "00080070": _element("LO", "Synthetic Devices"),
    }  # fmt: skip
    common = {
        "sop_class_uid": sop_class, "sop_instance_uid": f"{uid}.{1 if is_image else 2}.1",
        "series_instance_uid": f"{uid}.{1 if is_image else 2}", "study_instance_uid": uid,
        "transfer_syntax_uid": "1.2.840.10008.1.2.1", "digest": f"{number:064d}", "size_bytes": 10_000_000,
        "calling_ae_title": "PACS", "received_at": datetime(2026, 1, 1, tzinfo=UTC), "attributes": attributes,
        "state": InstanceState.INDEXED,
    }  # fmt: skip
    if is_image:
        findings = {"Edema": 0.2, "Pleural Effusion": 0.8, "Cardiomegaly": 0.7, "Lung Opacity": 0.4}
        return InstanceRecord(
            **common, view="frontal", embedding=vector, findings=findings, rendition=f"{number}.png"
        )
    text = "The heart is enlarged. There is a small left pleural effusion. No pneumothorax. " * 4
    return InstanceRecord(
        **common, report=ReportRecord(findings=text, impression="Cardiomegaly and effusion."), report_embedding=vector,
        findings={"Pleural Effusion": 1.0, "Cardiomegaly": 1.0, "Pneumothorax": 0.0},
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- rows


def _places(database: sqlite3.Connection, table: str) -> list[tuple[int, str, Any]]:
    """Return (template, column, value) of every row of a table that belongs to a template."""
    cursor = database.execute(f"SELECT * FROM {table}")
    names = [column[0] for column in cursor.description]
    found = []
    for row in cursor.fetchall():
        for name, value in zip(names, row, strict=True):
            if isinstance(value, str) and value.startswith(_ROOT):
                found.append((int(value.removeprefix(_ROOT + ".").split(".")[0]), name, value))
                break
    return found


def _rows_of(database: sqlite3.Connection, number: int) -> dict[str, list[tuple[Any, ...]]]:
    """Return a template's rows by table."""
    found = {}
    for table in metadata.sorted_tables:
        places = dict.fromkeys((name, value) for of, name, value in _places(database, table.name) if of == number)
        rows: list[tuple[Any, ...]] = []
        for name, value in places:
            rows += database.execute(f"SELECT * FROM {table.name} WHERE {name} = ?", (value,)).fetchall()
        if rows:
            found[table.name] = rows
    return found


class _Writer:
    """Collects the rows of studies and inserts them."""

    def __init__(self, database: sqlite3.Connection, templates: Mapping[int, Any], dim: int) -> None:
        self._database, self._templates, self._dim = database, templates, dim
        self.sequence = int(database.execute("SELECT max(sequence) FROM embeddings").fetchone()[0] or 0)
        self._next = {"encodings": 1, "embeddings": 1, "reports": 1, "instance_versions": 1}
        self._rows: dict[str, list[tuple[Any, ...]]] = {}
        self._columns = {table.name: [column.name for column in table.columns] for table in metadata.sorted_tables}

    def put(self, template: int, number: int, day: str, found: Mapping[Kind, Float32]) -> None:
        """Add a study like a template, with vectors of its own."""
        old, new = f"{template:09d}", f"{number:09d}"
        patients = (f"P{template:09d}", patient_id(number))
        encoding_of: dict[int, int] = {}
        for table in ("encodings", *(name for name in self._templates[template] if name != "encodings")):
            for row in self._templates[template][table]:
                values = [
                    value.replace(patients[0], patients[1]).replace(old, new).replace(_DAY, day)
                    if isinstance(value, str) else value
                    for value in row
                ]  # fmt: skip
                columns = self._columns[table]
                if table in self._next:
                    values[0] = self._next[table]
                    self._next[table] += 1
                if table == "encodings":
                    encoding_of[row[0]] = values[0]
                    values[columns.index("vector")] = found[Kind(row[columns.index("kind")])].tobytes()
                elif table == "embeddings":
                    self.sequence += 1
                    values[columns.index("encoding_id")] = encoding_of[row[columns.index("encoding_id")]]
                    values[columns.index("sequence")] = self.sequence
                self._rows.setdefault(table, []).append(tuple(values))

    def flush(self) -> None:
        """Insert what was collected."""
        for table, rows in self._rows.items():
            places = ", ".join("?" * len(self._columns[table]))
            self._database.executemany(f"INSERT INTO {table} VALUES ({places})", rows)
        self._database.commit()
        self._rows.clear()
