"""An archive to fill: records as a worker would make them, and a follower that replays the Catalogue's changes."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

from storage.base import InstanceRecord, InstanceState, Kind, RejectionRecord, ReportRecord
from storage.catalogue import open_catalogue

DIM = 16
CR = "1.2.840.10008.5.1.4.1.1.1"
SR = "1.2.840.10008.5.1.4.1.1.88.11"
KO = "1.2.840.10008.5.1.4.1.1.88.59"
START = datetime(2024, 5, 1, 12, tzinfo=UTC)


def direction(seed):
    vector = np.random.default_rng(crc32(seed.encode()) if isinstance(seed, str) else seed).normal(size=DIM)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def fuse(images, report):
    total = images.sum(axis=0) + (0 if report is None else report)
    return (total / np.linalg.norm(total)).astype(np.float32)


def elements(**keywords):
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    out = {}
    for keyword, value in keywords.items():
        vr = dictionary_VR(tag_for_keyword(keyword))
        values = value if isinstance(value, list) else [value]
        if vr == "PN":
            groups = ("Alphabetic", "Ideographic", "Phonetic")
            values = [dict(zip(groups, name.split("="), strict=False)) for name in values]
        out[f"{tag_for_keyword(keyword):08X}"] = {"vr": vr, "Value": values}
    return out


class Archive:
    """Makes records and commits them; `searchable` is what an index that follows the Catalogue holds."""

    fuse = staticmethod(fuse)
    elements = staticmethod(elements)
    direction = staticmethod(direction)

    def __init__(self, path: Path):
        self.path = path
        self.catalogue = open_catalogue(path)
        self.generation = self.catalogue.generation("f" * 64, "test-model", DIM)
        self._clock = count()
        self._after = 0
        self._rows = {}

    def _record(self, study, sop, modality, attributes, **values):
        received = START + timedelta(seconds=next(self._clock))
        known = {"PatientID": "P1", "PatientName": "Doe^Jane", "StudyDate": "20240501", "Modality": modality}
        defaults = {
            "sop_class_uid": CR,
            "sop_instance_uid": sop,
            "series_instance_uid": f"{study}.{modality.encode()[0]}",
            "study_instance_uid": study,
            "transfer_syntax_uid": "1.2.840.10008.1.2.1",
            "digest": f"{sop}-bytes",
            "size_bytes": 1000,
            "calling_ae_title": "PACS",
            "received_at": received,
            "attributes": elements(**{key: value for key, value in {**known, **attributes}.items() if value}),
            "state": InstanceState.INDEXED,
        }
        return InstanceRecord(**{**defaults, **values})

    def image(self, study, number=1, attributes=None, **values):
        sop = values.pop("sop_instance_uid", f"{study}.1.{number}")
        defaults = {"embedding": direction(f"{sop}"), "rendition": f"r{sop}", "view": "frontal"}
        return self._record(study, sop, "DX", attributes or {}, **{**defaults, **values})

    def report(self, study, number=1, attributes=None, embedding=True, found=None, digest=None, **report):
        sop = f"{study}.9.{number}"
        record = self._record(study, sop, "SR", attributes or {}, sop_class_uid=SR)
        texts = {"findings": f"text {number}", "impression": "", "text": f"text {number}", **report}
        return replace(
            record,
            report=ReportRecord(**texts),
            report_embedding=direction(f"{sop}{texts['text']}") if embedding else None,
            findings=found or {},
            digest=digest or record.digest,
        )

    def note(self, study, code="113001", sops=(), studies=()):
        record = self._record(study, f"{study}.8.{next(self._clock)}", "KO", {}, sop_class_uid=KO)
        rejection = RejectionRecord(code, tuple(sops), tuple(studies))
        return replace(record, state=InstanceState.PLAIN, reason="rejection note", rejection=rejection)

    def commit(self, *records):
        return self.catalogue.commit(records, self.generation.generation_id, fuse)

    def follow(self, limit=4096, quiet=True):
        while True:
            changes = self.catalogue.changes(self.generation.generation_id, self._after, limit)
            for row in changes.added:
                assert row.label not in self._rows
                self._rows[row.label] = row
            for label in changes.removed:
                self._rows.pop(label, None)
            if changes.sequence == self._after:
                break
            self._after = changes.sequence
        counts = self.catalogue.vector_counts(self.generation.generation_id)
        assert not quiet or counts == Counter(row.kind for row in self._rows.values())
        assert not quiet or sorted(self._rows) == self.catalogue.labels(self.generation.generation_id).tolist()
        return sorted(self._rows.values(), key=lambda row: row.label)

    def searchable(self, kind=None):
        return {
            (row.kind.value, row.study_instance_uid, row.sop_instance_uid)
            for row in self.follow()
            if kind is None or row.kind is kind
        }

    def images(self):
        return {sop for _, _, sop in self.searchable(Kind.IMAGE)}

    def report_of(self, study):
        found = [sop for _, uid, sop in self.searchable(Kind.REPORT) if uid == study]
        assert len(found) <= 1
        return found[0] if found else None

    def joint_of(self, study):
        vectors = [row.vector for row in self.follow() if row.kind is Kind.JOINT and row.study_instance_uid == study]
        assert len(vectors) <= 1
        return vectors[0] if vectors else None


@pytest.fixture
def archive(tmp_path):
    return Archive(tmp_path / "catalogue.db")


@pytest.fixture
def keys():
    return elements
