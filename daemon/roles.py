"""How a role's process starts, shows that it lives, and ends: logging, signals, heartbeat file, exit status.

A heartbeat is ``<storage.directory>/run/<role>-<index>.json``, renewed each second: ``pid``, ``at`` (Unix time),
``ready``, and what the role adds. The supervisor, ``cxrfind status`` and the watchdog read nothing else of a role.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import gc
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from daemon import logs
from daemon.config import Config, ConfigError
from daemon.reading import ReaderFailure, die_with_parent
from encoders.base import EncodersError

#: In the order in which they are started and, at the end, stopped.
ROLES = ("listener", "worker", "finder")

#: sysexits(3) EX_CONFIG: starting again cannot help, a person has to mend something first.
EX_CONFIG = 78

#: Set by the supervisor for its roles, so that they end when it does.
SUPERVISOR_PID = "CXRFIND_SUPERVISOR_PID"

BEAT_INTERVAL_S = 1.0

#: Of the worker and its decoders, nice(2): an idle core is theirs all the same. A core that is wanted is shared by
#: weight, in turns that end at a tick of the scheduler (4 ms): at nice 10 one query in seven waited for such a turn of
#: the worker, at 15 one in forty; but there two busy programs beside a service without a control group of its own left
#: the worker too little to load its model in two minutes. At 10 one that never pauses leaves it a tenth of a core.
WORKER_NICENESS = 10

#: Blocks up to this size are kept by malloc, and so much free memory in all; mallopt(3).
KEPT_BYTES = 256 << 20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8

#: Of the finder, at its start: malloc asks for huge pages (glibc 2.35; Linux, where
#: /sys/kernel/mm/transparent_hugepage/enabled says madvise). The graph is read in random order, so nearly every vector
#: is on a page that the processor has to look up: a search takes a seventh less time without that.
FINDER_ENVIRONMENT = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}

#: Of the finder: so many more objects than before start a collection. An association that has ended leaves a few
#: thousand in cycles.
COLLECTED_AFTER = 20_000

_UNBINDABLE = {errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES}


class AnotherRuns(ConfigError):
    """The same process runs already on this storage directory."""

    def __init__(self, what: str, directory: Path) -> None:
        super().__init__(f"another {what} runs on {directory}; end it first, or set another storage.directory")


def process_counts(config: Config) -> dict[str, int]:
    """Return how many processes of each role there are to be on this machine."""
    return {
        "listener": config.ingest.processes,
        "worker": config.worker.processes,
        "finder": config.finder.processes,
    }


def worker_owner(index: int) -> str:
    """Return the name under which a worker claims from the spool; `sole` keeps it to one process at a time."""
    return f"worker-{index}"


@contextlib.contextmanager
def sole(directory: Path, name: str, what: str) -> Iterator[None]:
    """Hold a lock of the storage directory; the kernel gives it back however this process ends.

    Raises
    ------
    AnotherRuns
        If another process holds it.
    """
    descriptor = os.open(run_folder(directory) / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AnotherRuns(what, directory) from None
        yield
    finally:
        os.close(descriptor)


def run_folder(directory: Path) -> Path:
    """Return the folder of heartbeats and of the supervisor's lock, made when there is none."""
    folder = directory / "run"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def heartbeat_path(directory: Path, role: str, index: int) -> Path:
    """Return where a role's process writes its heartbeat."""
    return directory / "run" / f"{role}-{index}.json"


def write_heartbeat(path: Path, facts: Mapping[str, Any]) -> None:
    """Replace a heartbeat in one step: nobody ever reads half of one."""
    temporary = path.with_suffix(f".{os.getpid()}.new")
    try:
        temporary.write_text(json.dumps({"pid": os.getpid(), "at": time.time(), **facts}), encoding="utf-8")
        temporary.replace(path)
    except OSError:                                 # a full disk: what was last said stays, and that we live
        temporary.unlink(missing_ok=True)
        path.touch()
        raise


def read_heartbeat(path: Path) -> dict[str, Any]:
    """Return a heartbeat; empty when there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


class Heartbeat:
    """A file that is renewed each second from a thread of its own, as long as the block lasts.

    Attributes
    ----------
    ready : threading.Event
        Set by the role; shown as ``ready``.
    facts : callable
        Returns what the role adds; called in the heartbeat's thread.
    """

    def __init__(self, path: Path) -> None:
        self.ready = threading.Event()
        self.facts: Callable[[], Mapping[str, Any]] = dict
        self._path = path
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        """Start beating."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Take the file away: this process serves no more."""
        self._ended.set()
        self._thread.join()
        self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._ended.is_set():
            was_ready = self.ready.is_set()
            try:
                write_heartbeat(self._path, {"ready": was_ready, **self.facts()})
            except Exception as error:                              # the one broad catch of this thread
                logs.get_logger().warning("heartbeat.missed", exc_info=error)
            until = time.monotonic() + BEAT_INTERVAL_S
            while time.monotonic() < until and self.ready.is_set() == was_ready and not self._ended.wait(0.05):
                pass


def stop_on_signals(stop: threading.Event) -> None:
    """Set `stop` at SIGTERM and SIGINT.

    From a thread, woken through a socket: a handler that sets an Event while the main thread is just entering the
    Event's ``wait`` would wait for the main thread, which is itself.
    """
    ours, wakeup = socket.socketpair()
    wakeup.setblocking(False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)
    signal.set_wakeup_fd(wakeup.detach())

    def listen() -> None:
        ours.recv(1)
        stop.set()

    threading.Thread(target=listen, name="signals", daemon=True).start()


def run_role(name: str, config: Config, index: int = 0) -> int:
    """Run one role in this process until SIGTERM or SIGINT, and return its exit status.

    Returns
    -------
    int
        0 after it was asked to end; EX_CONFIG (78) when it cannot start before a person mends something (port taken,
        no model), after one sentence on standard error that says what; 1 when it failed.
    """
    supervisor = os.environ.pop(SUPERVISOR_PID, None)
    if supervisor:
        die_with_parent(int(supervisor))
    logs.configure(config.log, name if index == 0 else f"{name}-{index}")
    log = logs.get_logger()
    stop = threading.Event()
    beat = Heartbeat(heartbeat_path(config.storage.directory, name, index))
    stop_on_signals(stop)
    try:
        with sole(config.storage.directory, f"{name}-{index}.lock", name), beat:
            _serve(name, config, stop, beat, index)
    except (ConfigError, EncodersError, ReaderFailure) as error:
        return _cannot_start(name, str(error))
    except OSError as error:
        if error.errno in _UNBINDABLE and not beat.ready.is_set():
            return _cannot_start(name, f"{_port(name, config)} cannot be used ({error.strerror}); set another one")
        log.critical("role.failed", exc_info=error)
        return 1
    except Exception as error:                                      # the one broad catch of the main thread
        log.critical("role.failed", exc_info=error)
        return 1
    if not stop.is_set():
        log.critical("role.ended_unasked")
        return 1
    log.info("role.ended")
    return 0


def keep_memory() -> None:
    """Have malloc keep what is freed for the next image or batch, where the C library is glibc.

    By itself it gives large blocks back at once, and the kernel clears each page again for the next layer of the model:
    7,500 page faults and 14 of 46 ms an image.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_M_ARENA_MAX, 2)                    # each would keep its own


def collect_less() -> None:
    """Look for cyclic garbage rarely, and never among what has been loaded so far.

    A query makes none, but of 100 answers some 1,000 objects at a time: Python looks through these after each 700.
    """
    gc.freeze()
    gc.set_threshold(COLLECTED_AFTER, 10, 10)


def give_way() -> None:
    """Make this process, the worker's, leave the cores to whoever needs them; before torch is imported.

    Encoder threads that wait for each other sleep instead of spinning (OpenMP 6.3): with decoders on the same cores a
    spinning thread keeps away the one that it waits for.
    """
    os.nice(WORKER_NICENESS)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _serve(name: str, config: Config, stop: threading.Event, beat: Heartbeat, index: int) -> None:
    shown: dict[str, Any] = {}
    match name:                                                     # each role imports its own libraries only
        case "listener":
            from daemon import listener

            listener.run(config, stop, beat.ready.set)
        case "worker":
            from daemon import worker

            give_way()
            keep_memory()
            beat.facts = shown.copy
            worker.run(config, stop, beat.ready.set, index, shown)
        case "finder":
            from daemon import finder
            from storage.index.registry import UnknownEngine, engine

            try:
                engine(config.index.type)
            except UnknownEngine as error:
                raise ConfigError(str(error)) from error
            beat.facts = shown.copy
            def ready() -> None:
                collect_less()
                beat.ready.set()

            finder.run(config, stop, ready, shown, index)
        case _:
            raise ConfigError(f"there is no role {name!r}; the roles are {', '.join(ROLES)}")


def _port(name: str, config: Config) -> str:
    section = config.similar if name == "finder" else config.ingest
    return f"{'similar' if name == 'finder' else 'ingest'}.port {section.port} on {section.host}"


def _cannot_start(name: str, reason: str) -> int:
    sys.stderr.write(f"cxrfind: the {name} cannot start: {reason}\n")
    return EX_CONFIG
