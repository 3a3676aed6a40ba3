"""Decoder processes: whatever a damaged object does to a native decoder, it does to one child and to nothing else.

Each child reads one object at a time, told and answered over its own socket, so that a crash, a hang or memory beyond
the limit is the fault of exactly that object. A child imports the readers, never torch. What comes back is unpickled
with an allow-list: a child that a hostile object has taken over can say nothing but plain results.

Pixels come back in the 256 greys in which renditions are kept: a quarter of the bytes of floats, and what a later model
encodes from the rendition is what this one has seen.
"""

from __future__ import annotations

import ctypes
import io
import logging
import os
import pickle
import queue
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from encoders.base import Radiograph, ReadInstance, UnreadableInstance
from storage.base import SpooledInstance
from storage.greys import Uint8, grey_levels, unit_range

#: prctl(2): the signal to get when the parent thread ends.
PR_SET_PDEATHSIG = 1

#: A child that has not imported the readers by then never will.
START_TIMEOUT_S = 120.0

#: Between an interrupted wait and the next look at `stop`.
_TICK_S = 0.2

#: glibc keeps the memory of one image for the next: else the kernel clears its pages anew, 3 of 58 ms an image.
_MALLOC = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "134217728", "MALLOC_TRIM_THRESHOLD_": "134217728"}

OUT_OF_MEMORY = "needs more memory to decode than worker.reader_memory_bytes allows"

_ALLOWED = frozenset(
    {
        ("encoders.base", "InstanceHeader"),
        ("encoders.base", "ReadInstance"),
        ("encoders.base", "Radiograph"),
        ("encoders.base", "Report"),
        ("encoders.base", "ReportState"),
        ("encoders.base", "RejectionNote"),
        ("encoders.base", "Unindexed"),
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.numeric", "_frombuffer"),
        ("datetime", "datetime"),
        ("datetime", "timezone"),
        ("datetime", "timedelta"),
    }
)


class ReaderFailure(Exception):
    """The decoder processes cannot be started; no object is to blame."""


@dataclass(frozen=True, slots=True)
class Read:
    """What became of one object.

    Attributes
    ----------
    result : ReadInstance or None
        Its header and content; None when it could not be read.
    grey : ndarray of uint8, shape (rows, columns), or None
        The pixels of a Radiograph in the 256 greys in which they came and are kept.
    reason : str
        Why not; never patient data.
    died : bool
        True when it took its process along, or was stopped for taking too long: not yet proof against the object.
    """

    instance: SpooledInstance
    result: ReadInstance | None
    reason: str = ""
    died: bool = False
    read_ms: float = 0.0
    grey: Uint8 | None = None


class _Allowed(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module_name}.{global_name} is not something that a reader returns")
        return super().find_class(module_name, global_name)


def loads_allowed(answer: bytes) -> Any:
    """Return what a child pickled, if it is something that a reader returns.

    Raises
    ------
    pickle.UnpicklingError
        If it names anything else.
    """
    return _Allowed(io.BytesIO(answer)).load()


def _packed(answer: ReadInstance | str) -> ReadInstance | str:
    """Return what a child says, for the way: pixels in 256 greys."""
    if isinstance(answer, ReadInstance) and isinstance(answer.content, Radiograph):
        grey: Any = grey_levels(answer.content.pixels)
        return replace(answer, content=replace(answer.content, pixels=grey))
    return answer


def _unpacked(answer: Any) -> tuple[Any, Uint8 | None]:
    """Return what a child said, with pixels 0..1 again, and their greys; raise ValueError if they are none."""
    if isinstance(answer, ReadInstance) and isinstance(answer.content, Radiograph):
        grey: Any = answer.content.pixels
        if not isinstance(grey, np.ndarray) or grey.dtype != np.uint8 or grey.ndim != 2 or not grey.size:
            raise ValueError("pixels are no picture")
        return replace(answer, content=replace(answer.content, pixels=unit_range(grey))), grey
    return answer, None


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent dies; leave at once if that has happened already."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


class _Child:
    """One decoder process. Start and use it from one thread that lives as long: PDEATHSIG looks at threads."""

    def __init__(self, memory_bytes: int) -> None:
        ours, theirs = Pipe()
        self.connection: Connection[Any, Any] = ours
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **_MALLOC}
        arguments = [str(theirs.fileno()), str(os.getpid()), str(memory_bytes)]
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "daemon.reading", *arguments],
                pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment,
            )  # fmt: skip
        except OSError as error:
            ours.close()
            raise ReaderFailure(f"a decoder process cannot be started: {error.strerror}") from error
        finally:
            theirs.close()

    def wait_until_ready(self, stop: threading.Event) -> None:
        until = time.monotonic() + START_TIMEOUT_S
        while not stop.is_set() and time.monotonic() < until:
            if self.connection.poll(_TICK_S):
                try:
                    self.connection.recv_bytes()
                except (EOFError, OSError):
                    break
                return
        if not stop.is_set():
            raise ReaderFailure(f"a decoder process did not start (exit status {self.process.poll()}); see the log")

    def read(self, instance: SpooledInstance, short_side: int, timeout_s: float) -> Read:
        began = time.perf_counter()
        try:
            self.connection.send_bytes(pickle.dumps((str(instance.path), short_side)))
            if not self.connection.poll(timeout_s):
                return Read(instance, None, f"not read within {timeout_s:g} s", died=True)
            answer = self.connection.recv_bytes()
        except (EOFError, OSError):
            return Read(instance, None, f"its decoder process died ({self._how_it_died()})", died=True)
        elapsed = (time.perf_counter() - began) * 1e3
        try:
            result, grey = _unpacked(loads_allowed(answer))
        except (pickle.UnpicklingError, EOFError, AttributeError, ValueError, TypeError, ImportError) as error:
            return Read(instance, None, f"its decoder process answered nonsense ({type(error).__name__})", died=True)
        if isinstance(result, ReadInstance):
            return Read(instance, result, read_ms=elapsed, grey=grey)
        return Read(instance, None, str(result), read_ms=elapsed)

    def _how_it_died(self) -> str:
        try:
            status = self.process.wait(5)
        except subprocess.TimeoutExpired:
            return "silently"
        return signal.Signals(-status).name if status < 0 else f"exit status {status}"

    def close(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.wait()


class ReaderPool:
    """Decoder processes behind two queues: put a SpooledInstance into :meth:`submit`, take a Read from `done`.

    Parameters
    ----------
    count : int
        Decoder processes.
    short_side : int
        Pixels of the short side that encoder and rendition need; nothing larger comes back.
    timeout_s, memory_bytes : float, int
        What one object may take; beyond either its process ends (0 bytes: no limit).
    """

    def __init__(self, count: int, short_side: int, timeout_s: float, memory_bytes: int) -> None:
        self.done: queue.SimpleQueue[Read] = queue.SimpleQueue()
        self._todo: queue.SimpleQueue[SpooledInstance | None] = queue.SimpleQueue()
        self._short_side, self._timeout_s, self._memory_bytes = short_side, timeout_s, memory_bytes
        self._stop = threading.Event()
        self._started = threading.Semaphore(0)
        self.failure: ReaderFailure | None = None
        self._children: dict[int, _Child] = {}
        self._threads = [threading.Thread(target=self._serve, args=(n,), name=f"reader-{n}") for n in range(count)]

    def __enter__(self) -> ReaderPool:
        """Start every child and wait until it can read."""
        for thread in self._threads:
            thread.start()
        for _ in self._threads:
            self._started.acquire()
        if self.failure:
            self.close()
            raise self.failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def process_ids(self) -> Mapping[int, int]:
        """Process id of each child that is up, by its number."""
        return {number: child.process.pid for number, child in list(self._children.items())}

    def submit(self, instance: SpooledInstance) -> None:
        """Have an object read; its Read comes out of `done`."""
        self._todo.put(instance)

    def close(self) -> None:
        """End every child at once; what it was reading comes to nothing."""
        self._stop.set()
        for _ in self._threads:
            self._todo.put(None)
        for child in list(self._children.values()):
            child.process.kill()                                    # wakes its thread out of a long read
        for thread in self._threads:
            thread.join()

    def _serve(self, number: int) -> None:
        child: _Child | None = None
        try:
            child = self._new_child(number)
            self._started.release()
            while (instance := self._todo.get()) is not None and not self._stop.is_set():
                read = child.read(instance, self._short_side, self._timeout_s)
                if self._stop.is_set():
                    break
                self.done.put(read)
                if read.died:
                    child.close()
                    child = self._new_child(number)
        except ReaderFailure as error:
            self.failure = error
            self._started.release()
        finally:
            self._children.pop(number, None)
            if child is not None:
                child.close()

    def _new_child(self, number: int) -> _Child:
        child = _Child(self._memory_bytes)
        self._children[number] = child
        try:
            child.wait_until_ready(self._stop)
        except ReaderFailure:
            child.close()
            raise
        return child


def read_one(path: Path, short_side: int) -> ReadInstance | str:
    """Return what a reader makes of a file, or the reason why it cannot be read."""
    from encoders.readers import read_instance

    try:
        return read_instance(path, short_side)
    except UnreadableInstance as error:
        return OUT_OF_MEMORY if isinstance(error.__cause__, MemoryError) else str(error) or "cannot be read"
    except MemoryError:
        return OUT_OF_MEMORY
    except Exception as error:                                      # the one broad catch of this process
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f" in {place.tb_frame.f_globals.get('__name__')}:{place.tb_lineno}" if place else ""
        return f"its reader failed: {type(error).__name__}{where}"


def main() -> None:
    """Serve as one decoder process, over the socket whose number the parent passes, until it closes."""
    descriptor, parent_pid, memory_bytes = (int(argument) for argument in sys.argv[1:])
    die_with_parent(parent_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)                    # Ctrl-C is for the worker, who ends us
    warnings.simplefilter("ignore")                                 # pydicom's quote data elements
    logging.disable(logging.CRITICAL)
    import encoders.readers.instance  # noqa: F401  (before anybody waits for a first object)

    if memory_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))                # a core dump is full of patient data
    with Connection(descriptor) as connection:
        connection.send_bytes(b"ready")
        while True:
            try:
                path, short_side = pickle.loads(connection.recv_bytes())
            except (EOFError, OSError):
                return
            connection.send_bytes(pickle.dumps(_packed(read_one(Path(path), short_side)), pickle.HIGHEST_PROTOCOL))


if __name__ == "__main__":
    main()
