"""A readers-writer lock: many searches at once, or one change."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager


class ReadersWriterLock:
    """Many readers or one writer, by turns: a waiting writer goes before readers that come after it, and the readers
    that waited while one wrote go before the next.

    hnswlib 0.8.0 releases the GIL in searches and additions and guards neither against the other, so the GIL is no
    protection. Not re-entrant: a reader that asks again while a writer waits would stop both.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._changed = threading.Condition(self._mutex)
        self._reader = _Reader(self)
        self._readers = 0
        self._readers_waiting = 0
        self._readers_due = 0                       # waited while somebody wrote, and not yet inside
        self._writes = 0
        self._writing = False
        self._writers_waiting = 0

    def reading(self) -> AbstractContextManager[None]:
        """Hold off writers while the block runs."""
        return self._reader

    def _wait_for_turn(self) -> None:
        came = self._writes
        self._readers_waiting += 1
        try:
            while self._writing or (self._writers_waiting and self._writes == came):
                self._changed.wait()
        finally:
            self._readers_waiting -= 1
            self._readers_due -= self._writes != came
            if not self._readers_due:
                self._changed.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold off everybody while the block runs."""
        with self._changed:
            self._writers_waiting += 1
            try:
                while self._writing or self._readers or self._readers_due:
                    self._changed.wait()
            finally:
                self._writers_waiting -= 1
            self._writing = True
        try:
            yield
        finally:
            with self._changed:
                self._writing = False
                self._writes += 1
                self._readers_due = self._readers_waiting
                self._changed.notify_all()


class _Reader(AbstractContextManager[None]):
    """What `ReadersWriterLock.reading` returns, the same for all: a generator would take several times as long."""

    def __init__(self, lock: ReadersWriterLock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        lock = self._lock
        with lock._mutex:
            if lock._writing or lock._writers_waiting:
                lock._wait_for_turn()
            lock._readers += 1

    def __exit__(self, *_exception: object) -> None:
        lock = self._lock
        with lock._mutex:
            lock._readers -= 1
            if not lock._readers and lock._writers_waiting:
                lock._changed.notify_all()
