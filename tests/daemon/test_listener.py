"""What the listener takes, answers and leaves on disk, over real associations."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pydicom
import pytest
from blake3 import blake3
from ports import free_port
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE

from daemon import listener
from daemon.command_set import response_status
from daemon.config import Config
from daemon.store_client import MAXIMUM_CONTEXTS, AssociationLost, Peer, StoreClient
from encoders.readers import READERS, TRANSFER_SYNTAXES
from storage.spool import Spool

CR = "1.2.840.10008.5.1.4.1.1.1"
PAIR = (CR, str(ExplicitVRLittleEndian))
_PREFIX = b"\x08\x00\x16\x00UI\x1a\x001.2.840.10008.5.1.4.1.1.1\0"


class Running:
    """A listener in a thread of this process."""

    def __init__(self, directory: Path, storage: dict | None = None, tls: dict | None = None, **ingest):
        self.config = Config(
            storage={"directory": directory, "min_free_bytes": 0, "max_used_percent": 100, **(storage or {})},
            ingest={"port": free_port(), **ingest},
            tls=tls or {},
        )
        self.port, self.stop, ready = self.config.ingest.port, threading.Event(), threading.Event()
        self.thread = threading.Thread(target=listener.run, args=(self.config, self.stop, ready.set))
        self.thread.start()
        assert ready.wait(30)
        self.spool = Spool(directory / "spool")

    def client(self, pairs=(PAIR,)) -> StoreClient:
        return StoreClient(Peer("127.0.0.1", self.port, "CXRFIND", "PACS"), pairs, 30)

    def files(self) -> list[Path]:
        return [path for path in self.spool.directory.rglob("*.dcm") if path.is_file()]

    def end(self) -> None:
        self.stop.set()
        self.thread.join(30)
        self.spool.close()


@pytest.fixture
def running(tmp_path):
    service = Running(tmp_path / "data")
    yield service
    service.end()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One listener for tests that leave it as they found it, apart from objects that they have claimed."""
    service = Running(tmp_path_factory.mktemp("shared") / "data")
    yield service
    service.end()


@pytest.fixture
def objects(tmp_path):
    """Return a function that writes a file with some bytes as its data set."""
    folder = tmp_path / "objects"
    folder.mkdir()

    def write(content: bytes) -> Path:
        path = folder / hashlib.sha256(content).hexdigest()
        path.write_bytes(content)
        return path

    return write


# ---- what is negotiated


def test_every_sop_class_of_the_table_is_accepted_in_every_transfer_syntax_of_the_table(shared):
    pairs = [(sop_class, syntax.uid) for sop_class in READERS for syntax in TRANSFER_SYNTAXES]
    assert len(pairs) >= 17 * 16
    refused = []
    for first in range(0, len(pairs), MAXIMUM_CONTEXTS):
        chosen = pairs[first : first + MAXIMUM_CONTEXTS]
        client = shared.client(chosen)
        refused += [pair for pair in chosen if not client.accepts(pair)]
        client.release()
    assert refused == []


@pytest.mark.parametrize("syntax", [s.uid for s in TRANSFER_SYNTAXES])
def test_the_bytes_of_any_transfer_syntax_are_kept_as_they_came(shared, objects, syntax):
    content, uid = os.urandom(300_001), f"2.{syntax}"
    client = shared.client([(CR, syntax)])
    assert client.store(objects(content), 0, (CR, syntax), uid) == (0, "")
    client.release()
    (kept,) = shared.spool.claim(2, "w")
    shared.spool.finish([kept.spool_id], keep=True)
    stored = kept.path.read_bytes()
    assert stored.endswith(content)
    meta = pydicom.filereader.read_file_meta_info(kept.path)
    assert (meta.TransferSyntaxUID, meta.MediaStorageSOPInstanceUID) == (syntax, uid)
    assert len(stored) == 132 + 12 + meta.FileMetaInformationGroupLength + len(content)
    assert kept.digest == blake3(content).hexdigest()
    assert (kept.size_bytes, kept.calling_ae_title) == (len(content), "PACS")


@pytest.mark.parametrize("sop_class", ["1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.2.2.1"])
def test_other_sop_classes_are_refused_at_negotiation(shared, sop_class):
    client = shared.client([PAIR, (sop_class, str(ImplicitVRLittleEndian))])
    assert client.accepts(PAIR)
    assert not client.accepts((sop_class, str(ImplicitVRLittleEndian)))
    client.release()


def test_neither_torch_nor_a_codec_is_imported_to_receive():
    code = (
        "import sys, daemon.listener; "
        "print([m for m in ('torch', 'imagecodecs', 'hnswlib', 'transformers', 'scipy') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


# ---- other people's senders


@pytest.mark.skipif(shutil.which("storescu") is None, reason="DCMTK's storescu is not installed")
@pytest.mark.parametrize("options", [[], ["--max-send-pdu", "4096"], ["--max-send-pdu", "131072"]])
def test_dcmtk_s_storescu_is_served(running, tmp_path, options):
    paths = []
    for number in range(3):
        dataset = _dataset(f"1.2.826.0.1.{number}")
        paths.append(tmp_path / f"{number}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
    command = ["storescu", *options, "-aec", "CXRFIND", "127.0.0.1", str(running.port), *paths]
    assert subprocess.run(command, check=False, timeout=60).returncode == 0
    kept = running.spool.claim(9, "w")
    assert [pydicom.dcmread(k.path).SOPInstanceUID for k in kept] == [f"1.2.826.0.1.{n}" for n in range(3)]
    assert pydicom.dcmread(kept[0].path).PixelData == _dataset("1").PixelData


def _dataset(uid: str) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = CR, uid
    dataset.PatientName, dataset.StudyInstanceUID = "Test^Nobody", "1.2.3"
    dataset.Rows = dataset.Columns = 256
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.SamplesPerPixel = 16, 16, 15, 1
    dataset.PixelRepresentation, dataset.PhotometricInterpretation = 0, "MONOCHROME2"
    dataset.PixelData = bytes(range(256)) * 512
    return dataset


def test_pynetdicom_s_sender_is_served_and_echo_and_store_mix(running):
    ae = AE("PYNETDICOM")
    ae.add_requested_context(CR, ExplicitVRLittleEndian)
    ae.add_requested_context("1.2.840.10008.1.1")
    assoc = ae.associate("127.0.0.1", running.port, ae_title="CXRFIND")
    for number in range(3):
        assert assoc.send_c_echo().Status == 0
        status = assoc.send_c_store(_dataset(f"1.2.{number}"))
        assert (status.Status, running.spool.depth()) == (0, number + 1)
    assoc.release()
    assert assoc.is_released


# ---- fragments


@pytest.mark.parametrize("pdu_bytes", [64, 1000, 131072, 1 << 20])
def test_fragments_of_any_size_make_the_same_object(running, objects, pdu_bytes):
    content = os.urandom(2_500_000 if pdu_bytes > 1000 else 20_001)
    client = running.client()
    client._buffer = bytearray(pdu_bytes)           # also below and above what was agreed
    for number in range(3):
        assert client.store(objects(content), 0, PAIR, f"1.2.{number}")[0] == 0
    client.release()
    assert [k.digest for k in running.spool.claim(9, "w")] == [blake3(content).hexdigest()] * 3


def _cut_anyhow(client, content: bytes, numbers: random.Random) -> bytes:
    """Return PDUs of a data set: runs of some alike, single ones, and some with several fragments."""
    pdus, position = bytearray(), 0
    while position < len(content):
        size = numbers.choice([1, 2, 500, 4090, 16_372, 131_066, 700_000])
        for _ in range(numbers.choice([1, 2, 40])):
            parts = [content[position : position + size]]
            position += size
            if numbers.random() < 0.1:
                parts.append(content[position : position + 100])
                position += 100
            fragments = [_fragment(client, part, last=False)[6:] for part in parts if part]
            if fragments:
                pdus += b"\x04\0" + sum(map(len, fragments)).to_bytes(4, "big") + b"".join(fragments)
    return bytes(pdus + _fragment(client, b"", last=True))


@pytest.mark.parametrize("seed", range(6))
def test_fragments_that_are_cut_and_arrive_anyhow_make_the_same_object(running, seed):
    numbers = random.Random(seed)
    client = running.client()
    contents = [numbers.randbytes(numbers.choice([3_000_000, 1 << 20, 70_000])) for _ in range(4)]
    for number, content in enumerate(contents):
        client._send_fragments(client._contexts[PAIR], _command(f"1.2.{number}"))
        pdus = _cut_anyhow(client, content, numbers)
        while pdus:
            count = numbers.choice([1, 7, 11, 12, 13, 1000, 131_072, 131_078, 1_000_000])
            client._socket.sendall(pdus[:count])
            pdus = pdus[count:]
            if numbers.random() < 0.1:
                time.sleep(0.002)                   # so that the listener sees just this much
        assert response_status(client._receive_command())[0] == 0
    client.release()
    assert [k.digest for k in running.spool.claim(9, "w")] == [blake3(content).hexdigest() for content in contents]


class _SafeClient(StoreClient):
    context: ssl.SSLContext

    def _negotiate(self, peer, pairs) -> None:
        self._socket = self.context.wrap_socket(self._socket, server_hostname="localhost")
        super()._negotiate(peer, pairs)


def test_large_objects_come_over_tls_as_well(tmp_path, objects, certificate):
    names = {"certificate": str(certificate / "cert.pem"), "key": str(certificate / "key.pem")}
    service = Running(tmp_path / "data", tls=names | {"ca": names["certificate"]})
    try:
        _SafeClient.context = ssl.create_default_context(cafile=certificate / "cert.pem")
        _SafeClient.context.check_hostname = False
        _SafeClient.context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
        content = os.urandom(3_000_000)
        client = _SafeClient(Peer("127.0.0.1", service.port, "CXRFIND", "PACS"), [PAIR], 30)
        for number in range(2):
            assert client.store(objects(content), 0, PAIR, f"1.2.{number}")[0] == 0
        client.release()
        assert [k.digest for k in service.spool.claim(9, "w")] == [blake3(content).hexdigest()] * 2
    finally:
        service.end()


def test_a_large_object_that_is_refused_is_read_to_its_end_and_the_next_one_taken(running, objects):
    client = running.client()
    for uid, status in (("", 0x0117), ("1.2.3", 0)):
        assert client.store(objects(os.urandom(3_000_000)), 0, PAIR, uid)[0] == status
    client.release()
    assert running.spool.depth() == 1


@pytest.mark.parametrize("ending", [b"\x07\0\0\0\0\x04\0\0\0\0", b"\xff" * 40, b""])
def test_an_association_that_is_aborted_between_two_fragments_leaves_nothing(running, ending):
    client = running.client()
    client._send_fragments(client._contexts[PAIR], _command("1.2.3"))
    client._socket.sendall(_fragment(client, b"x" * 131_066, last=False) * 20)
    _until(running.files)
    client._socket.sendall(ending)
    client.close()
    _until(lambda: not running.files())
    assert running.spool.depth() == 0


def test_an_empty_data_set_is_an_object_too(running, objects):
    client = running.client()
    assert client.store(objects(b""), 0, PAIR, "1.2.3")[0] == 0
    client.release()
    assert running.spool.depth() == 1


def test_an_association_that_breaks_within_an_object_leaves_nothing(running, objects):
    client = running.client()
    client._send_fragments(client._contexts[PAIR], _command("1.2.3"))
    client._socket.sendall(_fragment(client, b"x" * 1000, last=False))
    _until(running.files)
    client.close()
    _until(lambda: not running.files())
    assert running.spool.depth() == 0


def _command(uid: str, message_id: int = 1, sop_class: str = CR, has_data_set: bool = True) -> bytes:
    from daemon.command_set import StoreRequest, encoded_store_request

    return encoded_store_request(StoreRequest(message_id, sop_class, uid, has_data_set))


def _fragment(client, data: bytes, last: bool) -> bytes:
    context_id = client._contexts[PAIR]
    body = (len(data) + 2).to_bytes(4, "big") + bytes((context_id, 2 if last else 0)) + data
    return b"\x04\0" + len(body).to_bytes(4, "big") + body


def _until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not come true within 30 s"
        time.sleep(0.02)


def test_a_command_within_a_data_set_aborts_the_association(running):
    client = running.client()
    client._send_fragments(client._contexts[PAIR], _command("1.2.3"))
    client._send_fragments(client._contexts[PAIR], _command("1.2.4"))
    with pytest.raises(ConnectionError):
        client._receive_command()
    client.close()
    _until(lambda: not running.files())


# ---- names


@pytest.mark.parametrize("uid", ["../../../etc/passwd", "1.2.3..4", "01.2", "x" * 70, "1.2 .3", "hello\\world"])
def test_an_irregular_uid_is_kept_and_never_becomes_a_path(shared, objects, uid):
    client = shared.client()
    assert client.store(objects(b"data"), 0, PAIR, uid)[0] == 0
    client.release()
    (kept,) = shared.spool.claim(9, "w")
    assert kept.sop_instance_uid == uid
    assert kept.path.parent.parent == shared.spool.directory / "objects"


@pytest.mark.parametrize("uid", ["", "1" * 400])
def test_an_object_without_usable_uid_is_refused_and_the_association_goes_on(running, objects, uid):
    client = running.client()
    status, comment = client.store(objects(b"data"), 0, PAIR, uid)
    assert status == 0x0117
    assert comment
    assert client.store(objects(b"data"), 0, PAIR, "1.2.3")[0] == 0
    client.release()
    assert len(running.files()) == 1


def test_a_store_without_data_set_is_refused(running):
    client = running.client()
    client._send_fragments(client._contexts[PAIR], _command("1.2.3", has_data_set=False))
    from daemon.command_set import response_status

    assert response_status(client._receive_command())[0] == 0xC000
    client.release()


def test_a_store_whose_command_names_a_foreign_sop_class_is_refused(running, objects):
    client = running.client()
    client._send_fragments(client._contexts[PAIR], _command("1.2.3", sop_class="1.2.840.10008.5.1.4.1.1.2"))
    client._socket.sendall(_fragment(client, b"data", last=True))
    from daemon.command_set import response_status

    assert response_status(client._receive_command())[0] == 0x0122
    assert client.store(objects(b"data"), 0, PAIR, "1.2.3")[0] == 0
    client.release()


# ---- the same again


def test_the_same_object_again_is_a_success_without_second_copy_and_other_bytes_are_a_newer_version(running, objects):
    client = running.client()
    for content in (b"first", b"first", b"second", b"second"):
        assert client.store(objects(content), 0, PAIR, "1.2.3")[0] == 0
    client.release()
    assert len(running.files()) == 2
    assert running.spool.counts()["waiting"] == 2


# ---- no room


def _refused(client, path: Path) -> str:
    status, comment = client.store(path, 0, PAIR, "9.9")
    assert status == 0xA700
    assert 0 < len(comment) <= 64
    return comment


@pytest.mark.parametrize("limit", [{"min_free_bytes": 1 << 60}, {"max_used_percent": 0.0001}])
def test_past_the_disk_watermark_objects_are_refused_before_they_are_written(tmp_path, objects, limit):
    service = Running(tmp_path / "full", storage=limit)
    client = service.client()
    assert "disk" in _refused(client, objects(os.urandom(3_000_000)))
    assert service.files() == []
    client.release()
    service.end()


def test_past_the_queue_limit_objects_are_refused_until_workers_have_caught_up(tmp_path, objects):
    service = Running(tmp_path / "full", storage={"max_spool_depth": 2})
    client = service.client()
    for uid in ("1.1", "1.2"):
        assert client.store(objects(b"data"), 0, PAIR, uid)[0] == 0
    assert "waiting" in _refused(client, objects(b"more"))
    service.spool.finish([k.spool_id for k in service.spool.claim(9, "w")], keep=False)
    _until(lambda: client.store(objects(b"data"), 0, PAIR, "1.3")[0] == 0)
    client.release()
    service.end()


# ---- whole processes

_PROCESS = """
import signal, sys, threading
from pathlib import Path
from daemon import listener
from daemon.config import Config
config = Config(storage={"directory": Path(sys.argv[1]), "min_free_bytes": 0, "max_used_percent": 100},
                ingest={"port": int(sys.argv[2]), "processes": int(sys.argv[3])})
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
listener.GRACE_S = 1.0
listener.run(config, stop, lambda: print("ready", flush=True))
"""


def start(directory: Path, port: int, processes: int = 1, limit_bytes: int | None = None) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", _PROCESS, str(directory), str(port), str(processes)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if limit_bytes is not None:                     # Python ignores SIGXFSZ: the write fails with EFBIG
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    assert process.stdout is not None
    while "ready" not in (line := process.stdout.readline()):
        assert line, "the listener did not start"
    threading.Thread(target=process.stdout.read, daemon=True).start()
    return process


def test_a_disk_that_fills_up_within_an_object_is_answered_and_the_association_lives_on(tmp_path, objects):
    port = free_port()
    process = start(tmp_path / "data", port, limit_bytes=1_000_000)
    client = StoreClient(Peer("127.0.0.1", port, "CXRFIND", "PACS"), [PAIR], 30)
    assert "write" in _refused(client, objects(os.urandom(3_000_000)))
    assert not list((tmp_path / "data" / "spool").rglob("*.dcm"))
    assert client.store(objects(b"small"), 0, PAIR, "1.2.3")[0] == 0
    client.release()
    process.terminate()
    assert process.wait(30) == 0


def _send_until_broken(port: int, objects, name: int, acknowledged: list[str]) -> None:
    content = os.urandom(400_000)
    path = objects(content)
    try:
        client = StoreClient(Peer("127.0.0.1", port, "CXRFIND", f"PACS{name}"), [PAIR], 30)
        for number in range(10_000):
            if client.store(path, 0, PAIR, f"1.{name}.{number}")[0] == 0:
                acknowledged.append(f"1.{name}.{number}")
    except AssociationLost:
        pass


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_that_was_acknowledged_is_lost_when_the_listener_dies(tmp_path, objects, how):
    port = free_port()
    process = start(tmp_path / "data", port)
    acknowledged: list[str] = []
    senders = [
        threading.Thread(target=_send_until_broken, args=(port, objects, name, acknowledged)) for name in range(4)
    ]
    for sender in senders:
        sender.start()
    _until(lambda: len(acknowledged) > 20)
    process.send_signal(how)
    if how is signal.SIGTERM:                       # it lets associations finish; these have no end of their own
        _until(lambda: process.poll() is not None)
    process.wait(30)
    for sender in senders:
        sender.join(30)
    spool = Spool(tmp_path / "data" / "spool")
    spool.release_all()
    kept = spool.claim(100_000, "w")
    assert set(acknowledged) <= {k.sop_instance_uid for k in kept}
    assert len({k.sop_instance_uid for k in kept}) == len(kept)
    assert all(blake3(k.path.read_bytes()[-k.size_bytes :]).hexdigest() == k.digest for k in kept)
    on_disk = [path for path in spool.directory.rglob("*.dcm") if path.is_file()]
    assert len(on_disk) == len(kept)
    spool.close()


def test_two_processes_share_a_port_and_32_associations_lose_nothing(tmp_path, objects):
    port = free_port()
    processes = [start(tmp_path / "data", port, processes=2) for _ in range(2)]
    path, results = objects(os.urandom(200_000)), []

    def work(name: int) -> None:
        client = StoreClient(Peer("127.0.0.1", port, "CXRFIND", "PACS"), [PAIR], 60)
        results.extend(client.store(path, 0, PAIR, f"1.{name}.{number}")[0] for number in range(4))
        client.release()

    threads = [threading.Thread(target=work, args=(name,)) for name in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for process in processes:
        process.terminate()
    assert [process.wait(30) for process in processes] == [0, 0]
    assert results == [0] * 128
    spool = Spool(tmp_path / "data" / "spool")
    assert len({k.sop_instance_uid for k in spool.claim(1000, "w")}) == 128
    spool.close()
