"""What the finder's tests share: an archive of small real vectors, and the finder role in a thread."""

import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pynetdicom import AE
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as FIND
from toy_encoder import ToyEncoder, unit

from daemon import finder
from daemon.config import Config
from storage.base import InstanceRecord, InstanceState, ReportRecord

DX = "1.2.840.10008.5.1.4.1.1.1.1"
BASIC_TEXT_SR = "1.2.840.10008.5.1.4.1.1.88.11"
IMPLICIT = "1.2.840.10008.1.2"


def element(vr, *values):
    return {"vr": vr, "Value": list(values)}


def near(vector, noise, seed):
    """Return a unit vector beside another one."""
    return unit(np.asarray(vector) + noise * np.random.default_rng(seed).normal(size=len(vector)))


@dataclass
class Archive:
    """A Catalogue and what was put into it."""

    catalogue: object
    encoder: ToyEncoder = field(default_factory=ToyEncoder)

    def __post_init__(self):
        encoder = self.encoder
        self.generation = self.catalogue.generation(encoder.fingerprint, encoder.model_id, encoder.dim)

    def attributes(self, study, patient, sex="F", date="20260101", **more):
        return {
            "0020000D": element("UI", study),
            "00100020": element("LO", patient),
            "00100010": element("PN", {"Alphabetic": more.get("name", "Banner^Synthetic")}),
            "00100040": element("CS", sex),
            "00080020": element("DA", date),
            "00080050": element("SH", more.get("accession", f"A{study}")),
            "00081030": element("LO", more.get("description", "CHEST PA")),
            "00080060": element("CS", more.get("modality", "DX")),
            "00080080": element("LO", more.get("institution", "City")),
        }

    def record(
        self, study, number, sop_class, attributes, state=InstanceState.INDEXED, transfer_syntax=IMPLICIT, **more
    ):
        return InstanceRecord(
            sop_class_uid=sop_class, sop_instance_uid=f"{study}.{number}", series_instance_uid=f"{study}.0",
            study_instance_uid=study, transfer_syntax_uid=transfer_syntax, digest=f"{study}.{number}", size_bytes=1,
            calling_ae_title="PACS", received_at=datetime(2026, 1, 1, tzinfo=UTC),
            attributes={**attributes, "0020000E": element("UI", f"{study}.0")}, state=state, **more,
        )  # fmt: skip

    def image(
        self, study, number=1, vector=None, patient=None, findings=None, state=InstanceState.INDEXED,
        transfer_syntax=IMPLICIT, rendition=None, **more,
    ):  # fmt: skip
        """Return an image's record; a state other than INDEXED has no vector."""
        attributes = self.attributes(study, patient or f"P{study}", **more)
        indexed = state is InstanceState.INDEXED
        return self.record(
            study, number, DX, attributes, state, transfer_syntax, reason="" if indexed else "not a chest",
            embedding=unit(vector) if indexed else None, findings=findings or {}, view="frontal", rendition=rendition,
        )  # fmt: skip

    def report(self, study, vector, number=9, patient=None, findings=None, text="Clear lungs.", **more):
        attributes = self.attributes(study, patient or f"P{study}", **{"modality": "SR", **more})
        return self.record(
            study, number, BASIC_TEXT_SR, attributes, report=ReportRecord(findings=text, impression=""),
            report_embedding=unit(vector), findings=findings or {},
        )  # fmt: skip

    def commit(self, *records):
        self.catalogue.commit(records, self.generation.generation_id, self.encoder.fuse)


@dataclass
class RunningFinder:
    """The finder role in a thread of this process, on a free port, over a real Catalogue and Spool."""

    directory: Path
    archive: Archive
    peers: tuple[dict[str, object], ...] = ({"ae_title": "*", "address": "127.0.0.1"},)
    settings: dict[str, dict[str, object]] = field(default_factory=dict)

    def __enter__(self):
        similar = {"port": 0, **self.settings.get("similar", {})}
        self.config = Config(
            similar=similar, storage={"directory": self.directory, **self.settings.get("storage", {})},
            encoder={"type": "toy_encoder:ToyEncoder"}, index={"type": "exact"}, finder={"poll_interval_s": 0.02},
            peers=self.peers,
        )  # fmt: skip
        self.facts, self.stop, ready = {}, threading.Event(), threading.Event()
        self.thread = threading.Thread(target=finder.run, args=(self.config, self.stop, ready.set, self.facts))
        self.thread.start()
        assert ready.wait(30)
        return self

    def __exit__(self, *error):
        self.stop.set()
        self.thread.join(30)
        assert not self.thread.is_alive()

    def level(self):
        """Wait until the finder has followed the Catalogue."""
        wanted, until = self.archive.catalogue.sequence(), time.monotonic() + 20
        while self.facts["sequence"] < wanted:
            assert time.monotonic() < until
            time.sleep(0.01)

    def ask(self, identifier, ae_title="TESTSCU", syntax=IMPLICIT, cancel_after=None):
        """Return the statuses and answers of one C-FIND."""
        scu = AE(ae_title=ae_title)
        scu.add_requested_context(FIND, syntax)
        association = scu.associate("127.0.0.1", self.facts["port"], ae_title=self.config.similar.ae_title)
        assert association.is_established
        found = []
        try:
            for status, answer in association.send_c_find(identifier, FIND, msg_id=7):
                found.append((status, answer))
                if cancel_after is not None and len(found) == cancel_after:
                    association.send_c_cancel(7, query_model=FIND)
        finally:
            association.release()
        return found
