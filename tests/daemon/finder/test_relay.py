"""C-MOVE and C-GET over real associations: what was received goes out again, byte for byte."""

import contextlib
import hashlib
import shutil
import subprocess

import numpy as np
import pytest
from finder_archive import DX, IMPLICIT
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pynetdicom import AE, evt
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet as GET
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove as MOVE
from toy_encoder import DIM

from storage.spool import Spool

AXES = np.eye(DIM, dtype=np.float32)
JPEG_LS = "1.2.840.10008.1.2.4.80"
SYNTAXES = {"1.1.1": IMPLICIT, "1.1.2": JPEG_LS, "1.2.1": "1.2.840.10008.1.2.1"}


def dicom_file(path, uid, syntax):
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = DX, uid
    dataset.StudyInstanceUID = uid[:3]
    dataset.PatientName = "Banner^Synthetic"
    pixels = hashlib.sha256(uid.encode()).digest()  # no picture at all: whoever decodes it fails
    dataset.PixelData = encapsulate([pixels]) if syntax == JPEG_LS else pixels
    dataset["PixelData"].VR = "OB" if syntax == JPEG_LS else "OW"
    dataset["PixelData"].is_undefined_length = syntax == JPEG_LS
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dcmwrite(path, dataset, enforce_file_format=True)


def put(spool, uid, syntax):
    """Receive, read and keep an object as listener and worker do."""
    path = spool.new_file()
    dicom_file(path, uid, syntax)
    data = path.read_bytes()
    spool.accept(
        path, sop_class_uid=DX, sop_instance_uid=uid, transfer_syntax_uid=syntax, calling_ae_title="PACS",
        digest=hashlib.sha256(data).hexdigest(), size_bytes=len(data),
    )  # fmt: skip
    spool.finish([item.spool_id for item in spool.claim(10, "test")], keep=True)


@contextlib.contextmanager
def destination(received, syntaxes=(), status=0x0000):
    """Run a C-STORE SCP; yield its port."""

    def store(event):
        received[event.request.AffectedSOPInstanceUID] = (
            event.context.transfer_syntax, event.encoded_dataset(include_meta=False)
        )  # fmt: skip
        return status

    ae = AE(ae_title="VIEWER")
    ae.add_supported_context(DX, list(syntaxes or SYNTAXES.values()))
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


@pytest.fixture
def retrieving(running, tmp_path):
    """Return a function that starts a finder with three kept objects and a C-MOVE destination on a port."""

    def start(port=1, keep=tuple(SYNTAXES), rights=("query", "retrieve")):
        def fill(archive):
            archive.commit(
                archive.image("1.1", 1, AXES[0], transfer_syntax=SYNTAXES["1.1.1"]),
                archive.image("1.1", 2, AXES[1], transfer_syntax=SYNTAXES["1.1.2"]),
                archive.image("1.2", 1, AXES[2], transfer_syntax=SYNTAXES["1.2.1"]),
            )
            spool = Spool(tmp_path / "data" / "spool")
            for uid in keep:
                put(spool, uid, SYNTAXES[uid])
            spool.close()

        peers = (
            {"ae_title": "*", "address": "127.0.0.1", "rights": rights},
            {"ae_title": "VIEWER", "address": "127.0.0.1", "port": port, "rights": ()},
        )
        return running(fill, peers=peers)

    return start


def asked(level="STUDY", **keys):
    dataset = Dataset()
    dataset.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(dataset, keyword, value)
    return dataset


def move(finder, identifier, to="VIEWER"):
    scu = AE(ae_title="TESTSCU")
    scu.add_requested_context(MOVE)
    association = scu.associate("127.0.0.1", finder.facts["port"], ae_title="CXRSIMILAR")
    try:
        return list(association.send_c_move(identifier, to, MOVE))
    finally:
        association.release()


def original(tmp_path, uid):
    """Return the data set bytes of a kept object."""
    spool = Spool(tmp_path / "data" / "spool")
    data = spool.original(uid).read_bytes()
    spool.close()
    return data


def test_a_study_is_moved_byte_for_byte_in_its_own_transfer_syntaxes(retrieving, tmp_path):
    received = {}
    with destination(received) as port:
        found = move(retrieving(port), asked(StudyInstanceUID="1.1"))
    status = found[-1][0]
    assert status.Status == 0x0000
    assert (status.NumberOfCompletedSuboperations, status.NumberOfFailedSuboperations) == (2, 0)
    assert found[0][0].NumberOfRemainingSuboperations == 1
    assert {uid: syntax for uid, (syntax, _) in received.items()} == {uid: SYNTAXES[uid] for uid in ("1.1.1", "1.1.2")}
    assert all(original(tmp_path, uid).endswith(data) for uid, (_, data) in received.items())


def test_one_instance_is_moved_at_image_level(retrieving):
    received = {}
    with destination(received) as port:
        identifier = asked("IMAGE", StudyInstanceUID="1.1", SeriesInstanceUID="1.1.0", SOPInstanceUID="1.1.2")
        move(retrieving(port), identifier)
    assert list(received) == ["1.1.2"]


def test_an_uncompressed_object_reaches_a_peer_of_another_uncompressed_syntax_a_compressed_one_does_not(retrieving):
    received = {}
    with destination(received, syntaxes=[IMPLICIT]) as port:
        finder = retrieving(port)
        assert move(finder, asked(StudyInstanceUID="1.2"))[-1][0].Status == 0x0000
        status, failed = move(finder, asked(StudyInstanceUID="1.1"))[-1]
    assert set(received) == {"1.2.1", "1.1.1"}
    assert status.Status == 0xB000
    assert failed.FailedSOPInstanceUIDList == "1.1.2"


def test_when_the_destination_refuses_everything_the_move_has_failed(retrieving):
    with destination({}, status=0xA700) as port:
        status, failed = move(retrieving(port), asked(StudyInstanceUID="1.1"))[-1]
    assert status.Status == 0xA702
    assert sorted(failed.FailedSOPInstanceUIDList) == ["1.1.1", "1.1.2"]


def test_what_is_not_kept_any_more_is_named_as_failed(retrieving):
    with destination({}) as port:
        status, failed = move(retrieving(port, keep=("1.1.1",)), asked(StudyInstanceUID="1.1"))[-1]
    assert status.Status == 0xB000
    assert failed.FailedSOPInstanceUIDList == "1.1.2"


def test_refusals_come_before_anybody_is_called(retrieving):
    finder = retrieving(keep=())
    nothing_kept = move(finder, asked(StudyInstanceUID="1.1"))[-1][0]
    assert nothing_kept.Status == 0xA702
    assert "PACS" in nothing_kept.ErrorComment
    assert move(finder, asked())[-1][0].Status == 0xA900
    assert move(finder, asked("SERIES", StudyInstanceUID="1.1"))[-1][0].Status == 0xA900
    assert move(finder, asked(StudyInstanceUID="1.9"))[-1][0].Status == 0x0000


def test_an_unknown_or_silent_destination_is_a801(retrieving):
    finder = retrieving(port=1)
    assert move(finder, asked(StudyInstanceUID="1.1"), to="NOBODY")[-1][0].Status == 0xA801
    assert move(finder, asked(StudyInstanceUID="1.1"))[-1][0].Status == 0xA801


def test_retrieval_needs_its_right(retrieving):
    assert move(retrieving(rights=("query",)), asked(StudyInstanceUID="1.1"))[-1][0].Status == 0x0124


def test_get_returns_the_objects_over_the_same_association(retrieving, tmp_path):
    received = {}

    def store(event):
        received[event.request.AffectedSOPInstanceUID] = event.encoded_dataset(include_meta=False)
        return 0x0000

    finder = retrieving()
    scu = AE(ae_title="TESTSCU")
    scu.add_requested_context(GET)
    scu.add_requested_context(DX, JPEG_LS)
    scu.add_requested_context(DX, IMPLICIT)
    role = SCP_SCU_RoleSelectionNegotiation()
    role.sop_class_uid, role.scu_role, role.scp_role = DX, False, True
    association = scu.associate(
        "127.0.0.1", finder.facts["port"], ae_title="CXRSIMILAR", ext_neg=[role],
        evt_handlers=[(evt.EVT_C_STORE, store)],
    )
    try:
        found = list(association.send_c_get(asked(StudyInstanceUID="1.1"), GET))
    finally:
        association.release()
    assert found[-1][0].Status == 0x0000
    assert found[-1][0].NumberOfCompletedSuboperations == 2
    assert set(received) == {"1.1.1", "1.1.2"}
    assert all(original(tmp_path, uid).endswith(data) for uid, data in received.items())


@pytest.mark.skipif(shutil.which("getscu") is None, reason="needs DCMTK's getscu (apt install dcmtk)")
def test_getscu_gets_a_study(retrieving, tmp_path):
    folder = tmp_path / "got"
    folder.mkdir()
    finder = retrieving()
    done = subprocess.run(
        ["getscu", "-v", "-S", "-aec", "CXRSIMILAR", "-od", str(folder), "-k", "0008,0052=STUDY", "-k", "0020,000d=1.2",
         "127.0.0.1", str(finder.facts["port"])],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(folder.iterdir())) == 1
