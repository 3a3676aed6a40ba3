"""C-STORE throughput of the listener and of its peers on this machine, in one run.

    python tests/benchmarks/bench_ingest.py [--seconds 6] [--rounds 3] [--json out.json]

The sender is the same for all (128 KiB fragments straight from files), so what differs is the receiver. Peers run with
TCP_NODELAY=1 and TCP_BUFFER_LENGTH=4194304: without them Nagle and delayed ACK cost them ~45 ms an object. Ours answers
after fsync and journal commit; the peers do not flush. Rounds alternate between the receivers, ratios are per round.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from daemon.store_client import Peer, StoreClient

CR = "1.2.840.10008.5.1.4.1.1.1"
LOADS = {
    "4 associations x 10.2 MB uncompressed": (4, 10_240_000, "1.2.840.10008.1.2.1"),
    "1 association x 3.6 MB JPEG lossless": (1, 3_600_000, "1.2.840.10008.1.2.4.70"),
    "32 associations x 10.2 MB uncompressed": (32, 10_240_000, "1.2.840.10008.1.2.1"),
}
_OURS = """
import logging, signal, sys, threading
from pathlib import Path
import structlog
from daemon import listener
from daemon.config import Config
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
config = Config(storage={"directory": Path(sys.argv[1]), "min_free_bytes": 0, "max_used_percent": 100},
                ingest={"port": int(sys.argv[2]), "processes": int(sys.argv[3])})
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
listener.GRACE_S = 0.5
listener.run(config, stop, lambda: None)
"""
_SHIPPED = """
import sys
from pathlib import Path
from pynetdicom import AE, evt
from pynetdicom import AllStoragePresentationContexts, ALL_TRANSFER_SYNTAXES
def store(event):
    event.dataset.file_meta = event.file_meta
    event.dataset.save_as(Path(sys.argv[1]) / event.request.AffectedSOPInstanceUID, enforce_file_format=True)
    return 0
ae = AE("CXRFIND")
for context in AllStoragePresentationContexts:
    ae.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
ae.maximum_associations = 64
ae.start_server(("127.0.0.1", int(sys.argv[2])), evt_handlers=[(evt.EVT_C_STORE, store)])
"""


def receivers(quick: bool) -> dict[str, list[list[str]]]:
    """Return name -> the commands that make a receiver; {d} is its folder, {p} its port."""
    python = sys.executable
    found = {
        "cxrfind, 1 process": [[python, "-c", _OURS, "{d}", "{p}", "1"]],
        "cxrfind, 2 processes": [[python, "-c", _OURS, "{d}", "{p}", "2"]] * 2,
    }
    if not quick:
        found["pynetdicom as shipped"] = [[python, "-c", _SHIPPED, "{d}", "{p}"]]
    if shutil.which("storescp"):
        found["DCMTK storescp --fork"] = [["storescp", "--fork", "+xa", "-pdu", "131072", "-od", "{d}", "{p}"]]
    if shutil.which("Orthanc"):
        found["Orthanc"] = [["Orthanc", "{d}/orthanc.json"]]
    return found


def orthanc_configuration(folder: Path, port: int) -> None:
    """Write a configuration without HTTP, compression or checks that cost time."""
    (folder / "orthanc.json").write_text(json.dumps({
        "Name": "bench", "DicomAet": "CXRFIND", "DicomPort": port, "HttpServerEnabled": False,
        "StorageDirectory": str(folder), "IndexDirectory": str(folder), "DicomAlwaysAllowStore": True,
        "OverwriteInstances": True, "DicomThreadsCount": 32, "ConcurrentJobs": 2, "Plugins": [],
    }))


def data_set(size: int, compressed: bool) -> tuple[bytes, bytes]:
    """Return beginning and end of a data set with `size` bytes of pixels; its SOP Instance UID goes between them."""
    def element(tag: bytes, vr: bytes, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return tag + vr + len(value).to_bytes(2, "little") + value

    head = element(b"\x08\0\x16\0", b"UI", CR.encode())
    tail = element(b"\x10\0\x20\0", b"LO", b"BENCH ") + element(b"\x20\0\x0d\0", b"UI", b"1.2.3.4")
    tail += element(b"\x20\0\x0e\0", b"UI", b"1.2.3.4.5")
    item, length = b"\xfe\xff\x00\xe0", size.to_bytes(4, "little")
    if compressed:
        tail += b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff" + item + b"\0\0\0\0" + item + length
        return head, tail + os.urandom(size) + b"\xfe\xff\xdd\xe0\0\0\0\0"
    return head, tail + b"\xe0\x7f\x10\0OW\0\0" + length + os.urandom(size)


class Sender(threading.Thread):
    """Sends one object after the other, each with a UID of its own, until told to stop."""

    def __init__(self, port: int, name: str, size: int, syntax: str, folder: Path, until: float) -> None:
        super().__init__()
        self.client = StoreClient(Peer("127.0.0.1", port, "CXRFIND", "BENCH"), [(CR, syntax)], 60)
        self.pair, self.until, self.count = (CR, syntax), until, 0
        self.path, self.prefix = folder / name, f"1.2.826.{os.getpid()}.{time.time_ns()}.{name}"
        self.head, self.tail = data_set(size, compressed=".4." in syntax)

    def run(self) -> None:
        """Send."""
        element = b"\x08\0\x18\0UI"
        uid = f"{self.prefix}.{0:07d}".ljust(64, "0")
        self.path.write_bytes(self.head + element + (64).to_bytes(2, "little") + uid.encode() + self.tail)
        place = len(self.head) + 8
        with self.path.open("r+b") as file:
            while time.monotonic() < self.until:
                uid = f"{self.prefix}.1{self.count:07d}".ljust(64, "0")
                file.seek(place)
                file.write(uid.encode())
                file.flush()
                status, comment = self.client.store(self.path, 0, self.pair, uid)
                assert status == 0, f"{status:04X} {comment}"
                self.count += 1
        self.client.release()


def measure(commands: list[list[str]], load: tuple[int, int, str], seconds: float) -> tuple[float, float]:
    """Return objects a second of one receiver, freshly started, and its CPU milliseconds for each."""
    associations, size, syntax = load
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = os.environ | {"TCP_NODELAY": "1", "TCP_BUFFER_LENGTH": "4194304"}
    with tempfile.TemporaryDirectory(prefix="bench-ingest-") as scratch:
        folder, files = Path(scratch) / "data", Path(scratch) / "objects"
        folder.mkdir()
        files.mkdir()
        orthanc_configuration(folder, port)
        processes = [
            subprocess.Popen([part.replace("{d}", str(folder)).replace("{p}", str(port)) for part in command],
                             env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for command in commands
        ]
        try:
            await_listeners(port, len(processes))
            started_s = sum(cpu_of(process.pid) for process in processes)
            began = time.monotonic()
            senders = [Sender(port, str(n), size, syntax, files, began + seconds) for n in range(associations)]
            began = time.monotonic()
            for sender in senders:
                sender.until = began + seconds
                sender.start()
            for sender in senders:
                sender.join()
            count, elapsed = sum(sender.count for sender in senders), time.monotonic() - began
        finally:
            ended_s = sum(ended(process) for process in processes)
            os.sync()                               # the next one does not pay for what this one left unwritten
    return count / elapsed, (ended_s - started_s) * 1000 / max(count, 1)


def cpu_of(pid: int) -> float:
    """Return the CPU seconds that a running process has used (PROC(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def await_listeners(port: int, wanted: int) -> None:
    """Wait until as many sockets listen on a port (PROC(5): state 0A of net/tcp)."""
    deadline, mark = time.monotonic() + 60, f":{port:04X} "
    while time.monotonic() < deadline:
        tables = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
        if sum(mark in line[:60] and line.split()[3] == "0A" for line in tables.splitlines()) >= wanted:
            return
        time.sleep(0.1)
    raise TimeoutError("a receiver did not start")


def ended(process: subprocess.Popen[bytes]) -> float:
    """End a process; return the CPU seconds that it and its children have used."""
    process.terminate()
    killer = threading.Timer(15, process.kill)      # Orthanc does not end while it has work
    killer.start()
    _, process.returncode, usage = os.wait4(process.pid, 0)
    killer.cancel()
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="without the slow peer and the 32 associations")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results: dict[str, dict[str, dict[str, list[float]]]] = {}
    for title, load in LOADS.items():
        if options.quick and load[0] > 4:
            continue
        print(f"\n{title}, objects/s (median of {options.rounds} rounds, least and most)")
        rates: dict[str, list[float]] = {}
        costs: dict[str, list[float]] = {}
        for _ in range(options.rounds):
            for name, commands in receivers(options.quick).items():
                rate, cost = measure(commands, load, options.seconds)
                rates.setdefault(name, []).append(rate)
                costs.setdefault(name, []).append(cost)
        for name, values in rates.items():
            ratios = ", ".join(
                f"{statistics.median(a / b for a, b in zip(values, others, strict=True)):.2f} x {other}"
                for other, others in rates.items() if "cxrfind" in name and "cxrfind" not in other
            )  # fmt: skip
            spread = f"({min(values):.1f} to {max(values):.1f})"
            cost = f"{statistics.median(costs[name]):.0f} ms CPU"
            cost = "" if "--fork" in name else cost  # its children's is lost
            print(f"  {name:24} {statistics.median(values):7.1f}  {spread:18} {cost:12} {ratios}")
        results[title] = {"objects_per_s": rates, "cpu_ms_per_object": costs}
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
