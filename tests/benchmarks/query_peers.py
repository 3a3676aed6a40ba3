"""The servers that bench_query.py asks: ours, the same with answers made beforehand, pynetdicom, Orthanc."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness import PEER_ENVIRONMENT, await_listeners, end, free_port
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from raw_scu import RawScu

from daemon.roles import heartbeat_path, read_heartbeat
from daemon.store_client import Peer, StoreClient

CR = "1.2.840.10008.5.1.4.1.1.1"
_AS_EVER = 20
_ROOT = "1.2.826.0.1.3680043.10.1.98"

#: MaxResults -> that many Identifiers, sent by our AE without having been looked for; with a graph's file and its
#: dimension: after a search in it, for which nothing else is done.
_BARE = """
import pickle, signal, sys, threading
import numpy, random, structlog, logging
from daemon.config import Config
from daemon.finder import similar_ae
from daemon.status import PENDING, SUCCESS, Outcome
from storage.index.native import hnswlib
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
config = Config(similar={"port": int(sys.argv[2])})
answers = pickle.load(open(sys.argv[1], "rb"))
search = lambda wanted: None
if len(sys.argv) > 3:
    graph = hnswlib.Index(space="ip", dim=int(sys.argv[4]))
    graph.load_index(sys.argv[3])
    graph.set_ef(config.index.ef_search)
    vectors = numpy.asarray(graph.get_items(range(0, graph.get_current_count(), 8)), dtype=numpy.float32)
    search = lambda wanted: graph.knn_query(random.choice(vectors), k=wanted, num_threads=1)
class Bare(similar_ae.Service):
    def _find(self, exchange):
        wanted = int.from_bytes(exchange.request.Identifier.getvalue()[-2:], "little")
        search(wanted)
        exchange.send_found(PENDING, answers[wanted], Outcome(SUCCESS))
similar_ae.Service = Bare
server = similar_ae.start(config, None)
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
stop.wait()
"""
_SHIPPED = """
import pickle, sys
from io import BytesIO
from pydicom.filereader import read_dataset
from pynetdicom import AE, evt
answers = {n: [read_dataset(BytesIO(data), True, True) for data in sets]
           for n, sets in pickle.load(open(sys.argv[1], "rb")).items()}
def find(event):
    for answer in answers[int.from_bytes(event.request.Identifier.getvalue()[-2:], "little")]:
        yield 0xFF00, answer
ae = AE("CXRSIMILAR")
ae.add_supported_context("1.2.840.10008.1.1")
ae.add_supported_context("1.2.840.10008.5.1.4.1.2.2.1")
ae.maximum_associations = 64
ae.start_server(("127.0.0.1", int(sys.argv[2])), evt_handlers=[(evt.EVT_C_FIND, find)])
"""


@contextlib.contextmanager
def _process(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=os.environ | PEER_ENVIRONMENT, stdout=file, stderr=file)
    try:
        yield process
    finally:
        end(process)


@contextlib.contextmanager
def finders(
    data: Path, studies: int, timeout_s: float, processes: int = 1
) -> Iterator[tuple[int, list[int]]]:
    """Run finders on one port over a storage directory of so many studies; give the port and their process ids.

    Once all are ready and have taken in the studies: a service is long past its start.
    """
    port, configuration = free_port(), data / "cxrfind.toml"
    configuration.write_text(
        f'[storage]\ndirectory = "{data}"\n[similar]\nport = {port}\n'
        f"[finder]\nprocesses = {processes}\nkept_studies = {studies}\n"
    )
    command = [sys.executable, "-m", "daemon", "run", "--role", "finder", "--config", str(configuration), "--index"]
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(_process([*command, str(number)], data / f"finder-{number}.log"))
            for number in range(processes)
        ]
        for number, process in enumerate(started):
            until, beat = time.monotonic() + timeout_s, heartbeat_path(data, "finder", number)
            while not read_heartbeat(beat).get("ready"):
                assert process.poll() is None, (data / f"finder-{number}.log").read_text()[-2000:]
                assert time.monotonic() < until, "the finder did not become ready"
                time.sleep(0.1)
            while read_heartbeat(beat).get("studies_kept", 0) < studies:
                assert time.monotonic() < until, "the finder did not take its studies in"
                time.sleep(0.1)
        yield port, [process.pid for process in started]


def ask_as_ever(scu: RawScu, request: bytes, data: Path, studies: int) -> None:
    """Ask for the same keys so often that the only finder makes heads of answers beforehand, and wait until it has."""
    for _ in range(_AS_EVER):
        scu.find(request)
    timeout_s = 60 + studies / 1000                 # 4,096 heads at each look at the catalogue
    until, beat = time.monotonic() + timeout_s, heartbeat_path(data, "finder", 0)
    while not read_heartbeat(beat).get("layouts_made"):
        assert time.monotonic() < until, "the finder did not make heads of answers beforehand"
        time.sleep(0.1)


@contextlib.contextmanager
def premade(kind: str, answers: dict[int, list[bytes]], folder: Path, *graph: str) -> Iterator[int]:
    """Run our AE ("bare") or pynetdicom's ("shipped") with answers made beforehand; give its port.

    `graph`: file and dimension of an hnswlib index that ours searches before each answer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port, file = free_port(), folder / f"{kind}.pickle"
    file.write_bytes(pickle.dumps(answers))
    script = {"bare": _BARE, "shipped": _SHIPPED}[kind]
    with _process([sys.executable, "-c", script, str(file), str(port), *graph], folder / f"{kind}.log"):
        await_listeners(port)
        yield port


# ---------------------------------------------------------------------------------------------- Orthanc


@contextlib.contextmanager
def orthanc(folder: Path, counts: Sequence[int]) -> Iterator[int | None]:
    """Run Orthanc with studies of which StudyDescription ``SET <n>`` finds n; give its DICOM port, None without it."""
    program = shutil.which("Orthanc")
    if program is None:
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    (folder / "orthanc.json").write_text(json.dumps({
        "Name": "bench", "DicomAet": "CXRSIMILAR", "DicomPort": port, "HttpServerEnabled": False,
        "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowFind": True, "Plugins": [], "LimitFindResults": 0,
    }))  # fmt: skip
    with _process([program, str(folder / "orthanc.json")], folder / "orthanc.log"):
        await_listeners(port)
        _fill(port, folder, counts)
        yield port


def _fill(port: int, folder: Path, counts: Sequence[int]) -> None:
    client = StoreClient(Peer("127.0.0.1", port, "CXRSIMILAR", "BENCH"), [(CR, ExplicitVRLittleEndian)], 60)
    for count in counts:
        for number in range(count):
            path = folder / "object.dcm"
            uid = f"{_ROOT}.{count}.{number}"
            dcmwrite(path, _tiny(uid, count, number), enforce_file_format=True)
            offset = _data_set_offset(path)
            status, comment = client.store(path, offset, (CR, ExplicitVRLittleEndian), f"{uid}.1.1")
            assert status == 0, comment
    client.release()


def _data_set_offset(path: Path) -> int:
    return 144 + int(dcmread(path).file_meta.FileMetaInformationGroupLength)


def _tiny(uid: str, count: int, number: int) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CR
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = f"{uid}.1.1"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid, f"{uid}.1"
    dataset.StudyDate, dataset.StudyTime, dataset.Modality = "20260101", "101112", "CR"
    dataset.AccessionNumber, dataset.StudyDescription = f"A{count}{number:07d}", f"SET {count}"
    dataset.PatientName, dataset.PatientID = f"BENCH^P{count}{number:07d}", f"P{count}{number:07d}"
    dataset.PatientBirthDate, dataset.PatientSex = "19500101", "F"
    dataset.Rows = dataset.Columns = 2
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.SamplesPerPixel, dataset.PixelRepresentation = 7, 1, 0
    dataset.PhotometricInterpretation, dataset.PixelData = "MONOCHROME2", b"\0\0\0\0"
    return dataset

