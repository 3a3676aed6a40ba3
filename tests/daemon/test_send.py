"""Sending a folder: each object as it is, none stops the others."""

from __future__ import annotations

import hashlib
import threading

import pytest
from ports import free_port
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
)
from pynetdicom import AE, evt

from daemon.send import DicomFile, NotSendable, batches, inspect, send_folder
from daemon.store_client import MAXIMUM_CONTEXTS

CR, DX, CT = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.2"
SYNTAXES = (
    ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian,
    JPEGBaseline8Bit, JPEG2000Lossless,
)  # fmt: skip


def write(path, uid, sop_class=CR, syntax=ExplicitVRLittleEndian, meta=True, content=b"\x01\x02" * 500):
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, uid
    dataset.PatientName = "Test^Nobody"
    dataset.EncapsulatedDocument = content          # any bytes: nobody decodes them here
    path.parent.mkdir(parents=True, exist_ok=True)
    if meta:
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(path, enforce_file_format=True)
    else:
        dataset.save_as(path, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    return path


class Archive:
    """A pynetdicom storage SCP that keeps what it gets, and answers as it is told."""

    def __init__(self, answer=lambda _event: 0x0000, contexts=((CR, SYNTAXES), (DX, SYNTAXES))):
        self.received, self.associations, self._answer = [], 0, answer
        ae = AE("ARCHIVE")
        ae.require_called_aet = True
        ae.maximum_pdu_size = 4096
        for sop_class, syntaxes in contexts:
            ae.add_supported_context(sop_class, list(syntaxes))
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_ACCEPTED, self._accepted)]
        self.server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port = self.server.server_address[1]

    def _accepted(self, _event):
        self.associations += 1

    def _store(self, event):
        request = event.request
        status = self._answer(event)
        self.received.append(
            (request.AffectedSOPInstanceUID, event.context.transfer_syntax, request.DataSet.getvalue(), status)
        )
        return status


@pytest.fixture
def archive():
    archives = []

    def make(*args, **kwargs):
        archives.append(Archive(*args, **kwargs))
        return archives[-1]

    yield make
    for one in archives:
        one.server.shutdown()


def send(folder, port, called="ARCHIVE", progress=None):
    return send_folder(folder, "127.0.0.1", port, called, "SENDER", progress)


def test_each_file_arrives_byte_for_byte_in_its_own_transfer_syntax(archive, tmp_path):
    expected = {}
    for number, syntax in enumerate(SYNTAXES):
        path = write(tmp_path / f"deep{number}" / "file", f"1.2.{number}", syntax=syntax, content=b"\x01\x02" * 30_000)
        expected[f"1.2.{number}"] = (str(syntax), path.read_bytes()[inspect(path).offset :])
    peer, steps = archive(), []
    result = send(tmp_path, peer.port, progress=lambda done, total: steps.append((done, total)))
    assert (result.acknowledged, result.refused, result.unreadable) == (len(SYNTAXES), [], [])
    assert {uid: (str(syntax), data) for uid, syntax, data, _ in peer.received} == expected
    assert steps == [(n + 1, len(SYNTAXES)) for n in range(len(SYNTAXES))]
    assert peer.associations == 1


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_file_without_preamble_and_meta_information_is_sent_too(archive, tmp_path, syntax):
    path = write(tmp_path / "bare", "1.2.3", syntax=syntax, meta=False)
    assert path.read_bytes()[:2] in (b"\x08\x00", b"\x00\x08")
    peer = archive()
    assert send(tmp_path, peer.port).acknowledged == 1
    assert peer.received[0][:3] == ("1.2.3", str(syntax), path.read_bytes())


def test_meta_information_without_preamble_is_understood(tmp_path):
    path = write(tmp_path / "x", "1.2.3", syntax=ImplicitVRLittleEndian)
    bare = tmp_path / "bare"
    bare.write_bytes(path.read_bytes()[132:])
    with_preamble, without = inspect(path), inspect(bare)
    assert (without.offset, without.pair) == (with_preamble.offset - 132, with_preamble.pair)


def test_the_data_set_s_own_uids_win_over_the_meta_information(tmp_path):
    path = write(tmp_path / "x", "1.2.3")
    path.write_bytes(path.read_bytes().replace(b"1.2.3\0", b"9.9.9\0", 1))
    assert inspect(path).sop_instance_uid == "1.2.3"


def test_refused_and_unreadable_files_do_not_stop_the_others(archive, tmp_path):
    for number in range(4):
        write(tmp_path / f"{number}.dcm", f"1.2.{number}")
    write(tmp_path / "ct.dcm", "1.2.9", sop_class=CT)
    (tmp_path / "notes.txt").write_text("no DICOM")
    (tmp_path / "empty").touch()
    write(tmp_path / "nobody.dcm", "1.2.10").write_bytes(write(tmp_path / "nobody.dcm", "1.2.10").read_bytes()[:200])
    peer = archive(lambda event: 0xA700 if event.request.AffectedSOPInstanceUID == "1.2.1" else 0xB000)
    result = send(tmp_path, peer.port)
    assert result.acknowledged == 3                 # with a warning (B000), but taken
    reasons = {path.name: reason for path, reason in result.refused}
    assert "A700" in reasons["1.dcm"]
    assert "CT Image Storage" in reasons["ct.dcm"]
    assert len(reasons) == 2
    assert {path.name for path, _ in result.unreadable} == {"notes.txt", "empty", "nobody.dcm"}


def test_a_broken_association_is_opened_again_and_nothing_is_left_out(archive, tmp_path):
    for number in range(5):
        write(tmp_path / f"{number}.dcm", f"1.2.{number}")
    broken = threading.Event()

    def answer(event):
        if event.request.AffectedSOPInstanceUID == "1.2.2" and not broken.is_set():
            broken.set()
            event.assoc.abort()
        return 0x0000

    peer = archive(answer)
    result = send(tmp_path, peer.port)
    assert (result.acknowledged, result.refused) == (5, [])
    assert peer.associations == 2


def test_an_object_that_always_breaks_the_association_is_reported_and_the_others_are_sent(archive, tmp_path):
    for number in range(4):
        write(tmp_path / f"{number}.dcm", f"1.2.{number}")

    def answer(event):
        if event.request.AffectedSOPInstanceUID == "1.2.1":
            event.assoc.abort()
        return 0x0000

    result = send(tmp_path, archive(answer).port)
    assert result.acknowledged == 3
    ((path, reason),) = result.refused
    assert path.name == "1.dcm"
    assert "broke" in reason


def test_more_kinds_of_objects_than_an_association_has_contexts_take_several(archive, tmp_path):
    sop_classes = [f"1.2.840.10008.5.1.4.1.1.{number}" for number in range(900, 900 + MAXIMUM_CONTEXTS + 2)]
    files = [DicomFile(tmp_path, 0, sop_class, "1.2", "1.2.840.10008.1.2") for sop_class in sop_classes]
    sizes = [(len(pairs), len(batch)) for pairs, batch in batches(files)]
    assert sizes == [(MAXIMUM_CONTEXTS, MAXIMUM_CONTEXTS), (2, 2)]


def test_a_peer_that_rejects_or_is_not_there_is_named_for_every_file(archive, tmp_path):
    write(tmp_path / "a.dcm", "1.2.1")
    write(tmp_path / "b.dcm", "1.2.2")
    result = send(tmp_path, archive().port, called="OTHER")
    assert [reason for _, reason in result.refused] == [result.refused[0][1]] * 2
    assert "called ae title" in result.refused[0][1]
    result = send(tmp_path, free_port())
    assert (result.acknowledged, len(result.refused)) == (0, 2)
    assert "no connection" in result.refused[0][1]


def test_a_single_file_can_be_sent_and_a_missing_folder_is_an_error(archive, tmp_path):
    path = write(tmp_path / "a.dcm", "1.2.1")
    assert send(path, archive().port).acknowledged == 1
    with pytest.raises(FileNotFoundError):
        send(tmp_path / "absent", 1)


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0JFIF", b"study_id,image\n1,2\n", b"\0" * 500, b"DICM" * 60])
def test_files_that_are_not_dicom_are_told_apart(tmp_path, content):
    path = tmp_path / hashlib.sha256(content).hexdigest()
    path.write_bytes(content)
    with pytest.raises(NotSendable):
        inspect(path)
