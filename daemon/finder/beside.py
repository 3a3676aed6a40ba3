"""Searches of one query at once, where a core has time for the second."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from daemon.finder.haste import Urgency

T = TypeVar("T")


class Beside:
    """Threads that help whoever asks with what lets the GIL go; none of them is ever waited for to begin."""

    def __init__(self, helpers: int | None = None) -> None:
        """Have so many threads; by default one less than there are cores."""
        count = len(os.sched_getaffinity(0)) - 1 if helpers is None else helpers
        usual = Urgency.of_this_thread()            # a helper is started by whom it helps, perhaps in haste
        self._pool = ThreadPoolExecutor(count, "beside", usual.take) if count else None

    def all_of(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """Return what the calls return: of the first, which is made in this thread, and of those that no helper had
        begun when it was done.
        """
        if self._pool is None or len(calls) < 2:
            return [call() for call in calls]
        first, *others = calls
        urgency = Urgency.of_this_thread()
        begun = [self._pool.submit(_as_urgent_as, urgency, call) for call in others]
        found = [first()]
        found += [call() if future.cancel() else future.result() for call, future in zip(others, begun, strict=True)]
        return found


def _as_urgent_as(urgency: Urgency, call: Callable[[], T]) -> T:
    """Return what a call returns that is made as urgently as the thread that waits for it runs (`Haste`)."""
    usual = Urgency.of_this_thread()
    urgency.take()
    try:
        return call()
    finally:
        usual.take()


__all__ = ["Beside"]
