"""Queries go before whoever else wants the core, as long as they all together take only a share of one."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import AbstractContextManager
from typing import NamedTuple

import structlog

log = structlog.get_logger(__name__)

#: Where a real-time priority is refused: so much below the finder's own niceness; with the worker's that makes 19, one
#: weighs 70 times as much as the other.
NICER = 9
#: The least real-time priority; sched(7).
REALTIME = 1
#: Of one core, by all queries that go before others, and how many seconds of it may be saved up: a flood of queries
#: holds up neither listener nor worker more than that.
_SHARE, _SAVED_S = 0.25, 0.1
#: A thread is in haste again when this part of what may be saved up is there: each change asks the system five times,
#: and where queries take more than their share all of them would be asked for at every query.
_AGAIN = 0.25


class Urgency(NamedTuple):
    """How a thread is scheduled: sched(7) policy, real-time priority (0: none) and niceness."""

    policy: int
    priority: int
    niceness: int

    @classmethod
    def of_this_thread(cls) -> Urgency:
        """Return the calling thread's."""
        found = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
        return cls(found, os.sched_getparam(0).sched_priority, os.getpriority(os.PRIO_PROCESS, 0))

    def take(self) -> None:
        """Schedule the calling thread so; OSError where that is refused. Threads that it starts have no priority."""
        if self == Urgency.of_this_thread():
            return                                  # nothing is asked of a system that refuses all of it
        os.sched_setscheduler(0, self.policy | os.SCHED_RESET_ON_FORK, os.sched_param(self.priority))
        if self.niceness != os.getpriority(os.PRIO_PROCESS, 0):
            os.setpriority(os.PRIO_PROCESS, 0, self.niceness)       # on Linux: of this thread


def _allowed() -> tuple[Urgency, Urgency] | None:
    """Return how the calling thread is scheduled, and how it may be in haste; None where it may not."""
    usual, reason = Urgency.of_this_thread(), None
    for hasty in (Urgency(os.SCHED_RR, REALTIME, usual.niceness), usual._replace(niceness=usual.niceness - NICER)):
        try:
            hasty.take()
        except OSError as error:
            reason = error.strerror
            continue
        usual.take()
        return usual, hasty
    log.info("queries.not_hastened", reason=reason)
    return None


class _Hastened(AbstractContextManager[bool]):
    """A block of `Haste.hastened`; a generator would take three times as long."""

    def __init__(self, haste: Haste) -> None:
        self._haste, self._began = haste, -1.0

    def __enter__(self) -> bool:
        haste = self._haste
        if haste._urgencies is None:
            return False
        is_hastened = haste._may()
        haste._set(is_hastened)
        if is_hastened:
            self._began = time.thread_time()
        return is_hastened

    def __exit__(self, *_exception: object) -> None:
        if self._began >= 0 and self._haste._spend(time.thread_time() - self._began) <= 0:
            self._haste._set(False)


class Haste:
    """Lets threads that read and answer queries go before others.

    By a real-time priority (``LimitRTPRIO=``; RLIMIT_RTPRIO), which the kernel runs at once, else by a niceness
    (``LimitNICE=``; RLIMIT_NICE), which it mostly does. Where the system refuses both, and outside Linux, where a
    niceness is of processes, nothing is done; the log says so once.
    """

    def __init__(self, share: float = _SHARE, saved_s: float = _SAVED_S) -> None:
        """Allow `share` of a core, 0..1, and at most `saved_s` seconds of CPU time at once."""
        self._share, self._saved_s = share, saved_s
        self._left_s, self._at = saved_s, time.monotonic()
        self._counting, self._thread = threading.Lock(), threading.local()
        self._urgencies = _allowed() if sys.platform == "linux" else None

    def _set(self, is_hastened: bool) -> None:
        if self._urgencies is not None and getattr(self._thread, "is_hastened", False) is not is_hastened:
            self._urgencies[is_hastened].take()
            self._thread.is_hastened = is_hastened

    def hastened(self) -> AbstractContextManager[bool]:
        """Let this thread go before others while the block runs, if there is enough left of the share; tell whether.

        It stays so until `usual`, or until nothing is left: a thread that waits as usual for the next query is woken
        later for it.
        """
        return _Hastened(self)

    def reads(self) -> None:
        """Let this thread, which reads what peers send, go before others from now on, if there is enough left.

        To be called with each piece: what the thread has used since the last call is counted.
        """
        if self._urgencies is None:
            return
        now = time.thread_time()
        self._spend(now - getattr(self._thread, "read_at", now))
        self._thread.read_at = now
        self._set(self._may())

    def usual(self) -> None:
        """Let this thread be scheduled as the finder is."""
        self._set(False)

    def _spend(self, used_s: float) -> float:
        """Count CPU time and return what is left."""
        with self._counting:
            self._left_s -= used_s
            return self._left_s

    def _may(self) -> bool:
        least_s = 0.0 if getattr(self._thread, "is_hastened", False) else self._saved_s * _AGAIN
        with self._counting:
            now = time.monotonic()
            self._left_s = min(self._saved_s, self._left_s + (now - self._at) * self._share)
            self._at = now
            return self._left_s > least_s


__all__ = ["NICER", "REALTIME", "Haste", "Urgency"]
