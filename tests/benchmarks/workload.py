"""The pipeline's work: real-sized radiographs sent at a pace, asked for until found, and the bare loop over the same.

    python tests/benchmarks/workload.py --bare FOLDER     # used by bench_pipeline.py: a process of its own

Every object that is sent has UIDs and a window of its own, so that none is a duplicate: its rendition and its vector
have to be made like any other's.
"""

from __future__ import annotations

import json
import multiprocessing
import struct
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.command_set import response_status
from daemon.store_client import Peer, StoreClient

BATCH = 16
_SIZE = (2500, 2048)
_SYNTAXES = ("explicit", "jpeg-lossless-sv1", "jpeg2000")
_UID_LENGTH, _WINDOW = 44, b"2048.0000 "
_FIND, _IMPLICIT = "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.1.2"


@dataclass(frozen=True, slots=True)
class Sample:
    """A file to be sent again and again: where its data set begins, and the places of what changes."""

    path: Path
    offset: int
    pair: tuple[str, str]
    sop_places: tuple[int, ...]
    study_places: tuple[int, ...]
    window_place: int


def make_samples(folder: Path, each: int = 2) -> list[Sample]:
    """Write `each` radiographs of 2048 x 2500 pixels in each of three transfer syntaxes; take turns between these."""
    from encoders.phantom.study import simulate
    from encoders.phantom.writing import write_study

    studies = list(simulate(each, 3, lateral_share=0.0))
    return [
        _sample(write_study(study, folder / name, transfer_syntax=name, size=_SIZE, bits=12, report=False)[0])
        for study in studies for name in _SYNTAXES
    ]  # fmt: skip


def _sample(path: Path) -> Sample:
    from pydicom import dcmread

    ds = dcmread(path)
    ds.SOPInstanceUID, ds.StudyInstanceUID = "1.1" + "1" * (_UID_LENGTH - 3), "1.2" + "2" * (_UID_LENGTH - 3)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.WindowCenter, ds.WindowWidth = _WINDOW.decode().strip(), "3600"
    ds.save_as(path, enforce_file_format=True)
    data = path.read_bytes()
    head = data[: data.index(b"\xe0\x7f\x10\x00O")]
    offset = 144 + struct.unpack_from("<L", head, 140)[0]
    places = {name: _places(head, uid.encode()) for name, uid in (("sop", ds.SOPInstanceUID),
                                                                 ("study", ds.StudyInstanceUID))}
    window = _places(head, _WINDOW)
    assert len(window) == 1
    pair = (str(ds.SOPClassUID), str(ds.file_meta.TransferSyntaxUID))
    return Sample(path, offset, pair, places["sop"], places["study"], window[0])


def _places(data: bytes, what: bytes) -> tuple[int, ...]:
    found, at = [], data.find(what)
    while at >= 0:
        found.append(at)
        at = data.find(what, at + 1)
    return tuple(found)


def study_uid(run: int, number: int) -> str:
    """Return the Study Instance UID of an object of a run; its SOP Instance UID begins with 1.1 instead."""
    return f"1.2.1{run:07d}.1{number:09d}".ljust(_UID_LENGTH, "0")


class Pacer:
    """Sends `count` objects over several associations, each at its time (rate 0: as fast as they are taken).

    Runs in a process of its own, like a PACS; `acknowledged` tells (number, time.time()) of each.
    """

    def __init__(self, port: int, samples: list[Sample], run: int, count: int, rate: float, associations: int) -> None:
        self.acknowledged: Any = multiprocessing.Queue()
        arguments = (port, samples, run, count, rate, associations, self.acknowledged)
        self._process = multiprocessing.Process(target=_send_all, args=arguments)
        self._process.start()

    def wait(self) -> None:
        """Wait until all has been sent and acknowledged."""
        self._process.join()
        assert self._process.exitcode == 0, "an object was refused"


def _send_all(
    port: int, samples: list[Sample], run: int, count: int, rate: float, associations: int, acknowledged: Any
) -> None:
    numbers, lock, failed = iter(range(count)), threading.Lock(), []
    pairs = sorted({sample.pair for sample in samples})
    began = time.monotonic()

    def serve(name: int) -> None:
        client = StoreClient(Peer("127.0.0.1", port, "CXRFIND", "BENCH"), pairs, 60)
        copies = {}
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return client.release()
            sample = samples[number % len(samples)]
            if sample.path not in copies:
                copies[sample.path] = sample.path.with_suffix(f".{name}")
                if not copies[sample.path].exists():
                    copies[sample.path].write_bytes(sample.path.read_bytes())
            uid = study_uid(run, number)
            sop_uid = uid.replace("1.2", "1.1", 1)
            with copies[sample.path].open("r+b", buffering=0) as file:
                window = f"{1900 + (number * 7 + run * 13) % 300}.{number % 10000:04d} ".encode()
                for place, value in [*((p, sop_uid.encode()) for p in sample.sop_places),
                                     *((p, uid.encode()) for p in sample.study_places), (sample.window_place, window)]:
                    file.seek(place)
                    file.write(value)
            if rate:
                time.sleep(max(0.0, began + number / rate - time.monotonic()))
            status, comment = client.store(copies[sample.path], sample.offset, sample.pair, sop_uid)
            if status:
                failed.append(comment)
                return None
            acknowledged.put((number, time.time()))

    threads = [threading.Thread(target=serve, args=(n,)) for n in range(associations)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.exit(1 if failed else 0)


class FindClient(StoreClient):
    """An association that asks the similar AE; answers are counted, not decoded."""

    def __init__(self, port: int) -> None:
        self._find_pair = (_FIND, _IMPLICIT)
        super().__init__(Peer("127.0.0.1", port, "CXRSIMILAR", "BENCH"), [self._find_pair], 60)

    def found(self, example: str, wanted: list[str]) -> set[str]:
        """Return which of the wanted studies are found by similarity to an example; at most 200."""
        return self.ask(self.request(example, wanted))

    @staticmethod
    def request(example: str, wanted: list[str]) -> bytes:
        """Return the Identifier of `found`."""
        from pydicom import config
        from pydicom.dataset import Dataset
        from pynetdicom.dsutils import encode

        from daemon.finder import private

        config.settings.reading_validation_mode = config.IGNORE     # bulk.py's UIDs have leading zeros
        identifier = Dataset()
        identifier.QueryRetrieveLevel = "STUDY"
        identifier.StudyInstanceUID = wanted or ""
        for name, value in {"QueryUID": example, "QueryBasis": "IMAGE", "ExcludeSamePatient": "NO",
                            "MaxResults": 200 if wanted else 10, "Rank": None, "Score": None}.items():  # fmt: skip
            private.add(identifier, name, value)
        encoded = encode(identifier, True, True)
        assert encoded is not None
        return encoded

    def ask(self, encoded: bytes) -> set[str]:
        """Send a request and return the studies of its answers."""
        command = b"".join(
            struct.pack("<HHL", 0, element, len(value)) + value for element, value in (
                (0x0002, _FIND.encode() + b"\0" * (len(_FIND) % 2)), (0x0100, b"\x20\0"), (0x0110, b"\1\0"),
                (0x0700, b"\0\0"), (0x0800, b"\1\0"),
            )
        )  # fmt: skip
        context_id = self._contexts[self._find_pair]
        self._send_fragments(context_id, struct.pack("<HHLL", 0, 0, 4, len(command)) + command)
        self._socket.sendall(struct.pack(">BBLLBB", 4, 0, len(encoded) + 6, len(encoded) + 2, context_id, 2) + encoded)
        answered = set()
        waiting = bytearray()
        while True:
            kind, pdu = self._receive_pdu()
            assert kind == 4, kind
            position = 6
            while position < len(pdu):
                length = int.from_bytes(pdu[position : position + 4], "big")
                control, fragment = pdu[position + 5], pdu[position + 6 : position + 4 + length]
                position += 4 + length
                waiting += fragment
                if not control & 2:
                    continue
                message, waiting = bytes(waiting), bytearray()
                if not control & 1:
                    at = message.find(b"\x20\0\x0d\0")
                    size = int.from_bytes(message[at + 4 : at + 8], "little")
                    answered.add(message[at + 8 : at + 8 + size].decode().strip("\0 "))
                    continue
                status, comment = response_status(message)
                if status not in (0xFF00, 0xFF01):
                    assert status == 0, f"{status:04X} {comment}"
                    return answered


def bare_loop(folder: Path, processes: int) -> None:
    """For each number on standard input: decode so many files, then encode them in batches; print the two times."""
    from concurrent.futures import ProcessPoolExecutor

    import encoders.readers.instance
    from daemon.config import Config
    from daemon.roles import give_way

    give_way()                                      # as the worker does: else other work on this machine slows it more
    paths = json.loads((folder / "paths.json").read_text())
    with ProcessPoolExecutor(processes, multiprocessing.get_context("fork")) as pool:
        list(pool.map(_decode, paths))              # processes are forked before torch is imported
        from daemon.encoder import configured_encoder

        encoder = configured_encoder(Config(storage={"directory": folder}))
        images = [encoders.readers.instance.read_file(Path(path), 512).content.pixels for path in paths]
        encoder.encode_images(images)
        print("ready", flush=True)
        for line in sys.stdin:
            count = int(line)
            began = time.perf_counter()
            list(pool.map(_decode, [paths[n % len(paths)] for n in range(count)]))
            decoded = time.perf_counter()
            for start in range(0, count, BATCH):
                encoder.encode_images([images[n % len(images)] for n in range(start, min(start + BATCH, count))])
            print(json.dumps([decoded - began, time.perf_counter() - decoded]), flush=True)


def _decode(path: str) -> int:
    import encoders.readers.instance

    return encoders.readers.instance.read_file(Path(path), 512).content.pixels.size


if __name__ == "__main__":
    bare_loop(Path(sys.argv[2]), int(sys.argv[3]))
