"""Storage SCPs on this machine that a benchmark sends to: ours, DCMTK's storescp, Orthanc; and a sender for all.

Peers run with TCP_NODELAY=1 and TCP_BUFFER_LENGTH=4194304: without them Nagle and delayed ACK cost them ~45 ms an
object.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from daemon.store_client import Peer, StoreClient

CR = "1.2.840.10008.5.1.4.1.1.1"
AE_TITLE = "CXRFIND"
_ENVIRONMENT = {"TCP_NODELAY": "1", "TCP_BUFFER_LENGTH": "4194304"}
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


@dataclass(frozen=True, slots=True)
class Receiver:
    """A kind of receiver: its commands, {d} for its folder and {p} for its port."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    forks: bool = False                             # then the CPU time of its children is not known


def ours(processes: int) -> Receiver:
    """Return our listener in so many processes on one port."""
    command = (sys.executable, "-c", _OURS, "{d}", "{p}", str(processes))
    return Receiver(f"cxrfind, {processes} process{'es' if processes > 1 else ''}", (command,) * processes)


def peers() -> list[Receiver]:
    """Return the peers that are installed."""
    found = []
    if shutil.which("storescp"):
        command = ("storescp", "--fork", "+xa", "-pdu", "131072", "-od", "{d}", "{p}")
        found.append(Receiver("DCMTK storescp", (command,), forks=True))
    if shutil.which("Orthanc"):
        found.append(Receiver("Orthanc", (("Orthanc", "{d}/orthanc.json"),)))
    return found


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _orthanc_configuration(folder: Path, port: int) -> None:
    """Write a configuration without HTTP, compression or checks that cost time; storage is flushed as by default."""
    (folder / "orthanc.json").write_text(json.dumps({
        "Name": "bench", "DicomAet": AE_TITLE, "DicomPort": port, "HttpServerEnabled": False,
        "StorageDirectory": str(folder), "IndexDirectory": str(folder), "DicomAlwaysAllowStore": True,
        "OverwriteInstances": True, "DicomThreadsCount": 32, "ConcurrentJobs": 2, "Plugins": [],
    }))


class Running:
    """A receiver that runs."""

    def __init__(self, port: int, folder: Path, processes: list[subprocess.Popen[bytes]]) -> None:
        self.port, self.folder, self._processes = port, folder, processes

    def cpu_s(self) -> float:
        """Return the CPU seconds that its processes have used (PROC(5))."""
        total = 0
        for process in self._processes:
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")


@contextmanager
def running(receiver: Receiver, folder: Path) -> Iterator[Running]:
    """Start a receiver in `folder`; it is ended, and the folder removed, with the block."""
    folder.mkdir(parents=True)
    port = free_port()
    _orthanc_configuration(folder, port)
    processes = [
        subprocess.Popen([part.replace("{d}", str(folder)).replace("{p}", str(port)) for part in command],
                         env=os.environ | _ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for command in receiver.commands
    ]  # fmt: skip
    try:
        _await_listeners(port, len(processes))
        yield Running(port, folder, processes)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:       # Orthanc does not end while it has work
                process.kill()
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)
        os.sync()                                   # the next one does not pay for what this one left unwritten


def _await_listeners(port: int, wanted: int) -> None:
    """Wait until as many sockets listen on a port (PROC(5): state 0A of net/tcp)."""
    deadline, mark = time.monotonic() + 60, f":{port:04X} "
    while time.monotonic() < deadline:
        tables = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
        if sum(mark in line[:60] and line.split()[3] == "0A" for line in tables.splitlines()) >= wanted:
            return
        time.sleep(0.05)
    raise TimeoutError("a receiver did not start")


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent: so many associations, each one object after the other, of so many bytes of pixels."""

    associations: int
    size: int
    transfer_syntax_uid: str

    @property
    def pixels(self) -> tuple[bytes, bytes]:
        """Beginning and end of a data set; its SOP Instance UID goes between them."""
        def element(tag: bytes, vr: bytes, value: bytes) -> bytes:
            value += b"\0" * (len(value) % 2)
            return tag + vr + len(value).to_bytes(2, "little") + value

        head = element(b"\x08\0\x16\0", b"UI", CR.encode())
        tail = element(b"\x10\0\x20\0", b"LO", b"BENCH ") + element(b"\x20\0\x0d\0", b"UI", b"1.2.3.4")
        tail += element(b"\x20\0\x0e\0", b"UI", b"1.2.3.4.5")
        item, length, noise = b"\xfe\xff\x00\xe0", self.size.to_bytes(4, "little"), os.urandom(self.size)
        if ".4." not in self.transfer_syntax_uid:
            return head, tail + b"\xe0\x7f\x10\0OW\0\0" + length + noise
        tail += b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff" + item + b"\0\0\0\0" + item + length
        return head, tail + noise + b"\xfe\xff\xdd\xe0\0\0\0\0"


class _Sender(threading.Thread):
    """Sends one object after the other, each with a UID of its own, until told to stop; 128 KiB fragments."""

    def __init__(self, port: int, name: str, load: Load, data: tuple[bytes, bytes], folder: Path) -> None:
        super().__init__()
        self._pair = (CR, load.transfer_syntax_uid)
        self._client = StoreClient(Peer("127.0.0.1", port, AE_TITLE, "BENCH"), [self._pair], 60)
        self._path, self._prefix = folder / f"{name}.object", f"1.2.826.{os.getpid()}.{time.time_ns()}.{name}"
        head, tail = data
        self._place = len(head) + 8
        self._path.write_bytes(head + b"\x08\0\x18\0UI" + (64).to_bytes(2, "little") + b"0" * 64 + tail)
        self.until, self.count = 0.0, 0

    def run(self) -> None:
        """Send."""
        with self._path.open("r+b") as file:
            while time.monotonic() < self.until:
                uid = f"{self._prefix}.1{self.count:07d}".ljust(64, "0")
                file.seek(self._place)
                file.write(uid.encode())
                file.flush()
                status, comment = self._client.store(self._path, 0, self._pair, uid)
                assert status == 0, f"{status:04X} {comment}"
                self.count += 1
        self._client.release()


def throughput(port: int, load: Load, seconds: float, folder: Path) -> tuple[float, int]:
    """Return objects a second that a receiver acknowledges, and how many it did."""
    data = load.pixels
    senders = [_Sender(port, str(n), load, data, folder) for n in range(load.associations)]
    began = time.monotonic()
    for sender in senders:
        sender.until = began + seconds
        sender.start()
    for sender in senders:
        sender.join()
    count, elapsed = sum(sender.count for sender in senders), time.monotonic() - began
    return count / elapsed, count
