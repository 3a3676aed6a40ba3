"""Storage commitment over real associations: only what is kept is promised."""

from __future__ import annotations

import hashlib
import queue
import threading

import pytest
from ports import free_port
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from daemon import listener
from daemon.config import Config
from storage.spool import Spool

CR, DX = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1"


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a listener whose spool holds 1.1 and 1.2, both CR; it returns the port."""
    running = []

    def _start(peers=({"ae_title": "*", "address": "127.0.0.1"},), keep_originals=True):
        port = free_port()
        spool = Spool(tmp_path / "spool")
        for uid in ("1.1", "1.2"):
            path = spool.new_file()
            path.write_bytes(b"data")
            spool.accept(path, sop_class_uid=CR, sop_instance_uid=uid, transfer_syntax_uid="1.2.840.10008.1.2",
                         calling_ae_title="A", digest=hashlib.sha256(b"data").hexdigest(), size_bytes=4)
        spool.finish([spool.claim(1, "w")[0].spool_id], keep=True)
        spool.close()
        config = Config(
            storage={"directory": tmp_path, "min_free_bytes": 0, "max_used_percent": 100,
                     "keep_originals": keep_originals},
            ingest={"port": port}, peers=peers,
        )  # fmt: skip
        stop, ready = threading.Event(), threading.Event()
        thread = threading.Thread(target=listener.run, args=(config, stop, ready.set))
        thread.start()
        running.append((stop, thread))
        assert ready.wait(30)
        return port

    yield _start
    for stop, thread in running:
        stop.set()
        thread.join(30)


def request(*references: tuple[str, str]) -> Dataset:
    action = Dataset()
    action.TransactionUID = generate_uid()
    action.ReferencedSOPSequence = []
    for sop_class, uid in references:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
        action.ReferencedSOPSequence.append(item)
    return action


class Modality:
    """An SCU that keeps the reports it gets."""

    def __init__(self, port: int):
        self.reports: queue.Queue = queue.Queue()
        ae = AE("MODALITY")
        ae.add_requested_context(StorageCommitmentPushModel)
        self.handlers = [(evt.EVT_N_EVENT_REPORT, self.on_report)]
        self.assoc = ae.associate("127.0.0.1", port, ae_title="CXRFIND", evt_handlers=self.handlers)

    def on_report(self, event):
        self.reports.put((event.event_type, event.event_information, event.assoc.is_requestor))
        return 0x0000, None

    def ask(self, action: Dataset, action_type: int = 1) -> int:
        status, _ = self.assoc.send_n_action(
            action, action_type, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
        return status.Status


def test_what_is_waiting_or_kept_is_committed_on_the_same_association(start):
    modality, action = Modality(start()), request((CR, "1.1"), (CR, "1.2"))
    assert modality.ask(action) == 0x0000
    event_type, report, same = modality.reports.get(timeout=30)
    assert (event_type, report.TransactionUID, same) == (1, action.TransactionUID, True)
    assert [item.ReferencedSOPInstanceUID for item in report.ReferencedSOPSequence] == ["1.1", "1.2"]
    assert "FailedSOPSequence" not in report
    assert modality.ask(action) == 0x0000           # the association is as good as before
    assert modality.reports.get(timeout=30)[0] == 1
    modality.assoc.release()


def test_what_is_not_here_or_of_another_class_fails_with_the_standard_s_reason(start):
    modality = Modality(start())
    assert modality.ask(request((CR, "1.1"), (CR, "9.9"), (DX, "1.2"))) == 0x0000
    event_type, report, _ = modality.reports.get(timeout=30)
    assert event_type == 2
    assert [item.ReferencedSOPInstanceUID for item in report.ReferencedSOPSequence] == ["1.1"]
    failed = {item.ReferencedSOPInstanceUID: item.FailureReason for item in report.FailedSOPSequence}
    assert failed == {"9.9": 0x0112, "1.2": 0x0119}
    modality.assoc.release()


def test_a_request_that_makes_no_sense_is_refused(start):
    modality, without_instances = Modality(start()), Dataset()
    without_instances.TransactionUID = "1.2.3"
    assert modality.ask(request((CR, "1.1")), action_type=2) == 0x0123
    assert modality.ask(without_instances) == 0x0115
    modality.assoc.release()


def test_a_peer_with_a_port_of_its_own_gets_its_report_there(start):
    reports: queue.Queue = queue.Queue()

    def on_report(event):
        reports.put((event.event_type, event.assoc.requestor.ae_title))
        return 0x0000, None

    ae = AE("MODALITY")
    ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, on_report)])
    own_port = server.server_address[1]
    port = start(peers=({"ae_title": "MODALITY", "address": "127.0.0.1", "port": own_port, "rights": ("store",)},))
    modality = Modality(port)
    assert modality.ask(request((CR, "1.1"))) == 0x0000
    modality.assoc.release()                        # as many modalities do, before the report
    assert reports.get(timeout=30) == (1, "CXRFIND")
    assert modality.reports.empty()
    server.shutdown()


def test_nothing_is_promised_where_originals_are_not_kept(start):
    assert not Modality(start(keep_originals=False)).assoc.is_established


def test_a_role_selection_of_the_requestor_does_no_harm(start):
    ae = AE("MODALITY")
    ae.add_requested_context(StorageCommitmentPushModel)
    role = build_role(StorageCommitmentPushModel, scu_role=True)
    assoc = ae.associate("127.0.0.1", start(), ae_title="CXRFIND", ext_neg=[role])
    assert assoc.is_established
    assoc.release()
