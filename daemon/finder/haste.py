"""Queries go before whoever else wants the core, as long as they all together take only a share of one."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

log = structlog.get_logger(__name__)

#: So much below the finder's own niceness; with the worker's that makes 19, one weighs 70 times as much as the other.
NICER = 9
#: Of one core, by all queries that go before others, and how many seconds of it may be saved up: a flood of queries
#: holds up neither listener nor worker more than that.
_SHARE, _SAVED_S = 0.25, 0.1


class Haste:
    """Niceness of a thread that answers queries.

    Where the system refuses it (setpriority(2); RLIMIT_NICE, ``LimitNICE=``), and outside Linux, where a niceness is of
    processes, nothing is done; the log says so once.
    """

    def __init__(self, share: float = _SHARE, saved_s: float = _SAVED_S) -> None:
        """Allow `share` of a core, 0..1, and at most `saved_s` seconds of CPU time at once."""
        self._share, self._saved_s = share, saved_s
        self._left_s, self._at = saved_s, time.monotonic()
        self._counting, self._thread = threading.Lock(), threading.local()
        self._usual = os.getpriority(os.PRIO_PROCESS, 0)
        self._refused = not self._try()

    def _try(self) -> bool:
        if sys.platform != "linux":
            return False
        try:
            os.setpriority(os.PRIO_PROCESS, 0, self._usual - NICER)
        except OSError as error:
            log.info("queries.not_hastened", reason=error.strerror)
            return False
        os.setpriority(os.PRIO_PROCESS, 0, self._usual)
        return True

    @contextmanager
    def hastened(self) -> Iterator[bool]:
        """Let this thread go before others while the block runs, if there is anything left of the share; tell whether.

        It stays so until `usual`, or until nothing is left: a thread that waits with the usual niceness for the next
        query first makes up for what it was ahead with this one. Threads that it starts would keep the niceness.
        """
        if self._refused:
            yield False
            return
        is_hastened = self._may()
        self._set(is_hastened)
        began = time.thread_time()
        try:
            yield is_hastened
        finally:
            if is_hastened:
                with self._counting:
                    self._left_s -= time.thread_time() - began
                    left_s = self._left_s
                if left_s <= 0:
                    self._set(False)

    def usual(self) -> None:
        """Let this thread have the finder's niceness again."""
        if not self._refused:
            self._set(False)

    def _set(self, is_hastened: bool) -> None:
        if getattr(self._thread, "is_hastened", False) is not is_hastened:
            os.setpriority(os.PRIO_PROCESS, 0, self._usual - NICER * is_hastened)   # on Linux: of this thread
            self._thread.is_hastened = is_hastened

    def _may(self) -> bool:
        with self._counting:
            now = time.monotonic()
            self._left_s = min(self._saved_s, self._left_s + (now - self._at) * self._share)
            self._at = now
            return self._left_s > 0


__all__ = ["NICER", "Haste"]
