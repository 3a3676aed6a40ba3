"""A new file written past the page cache while files come in a burst: each is read once, by another process, later.

Writing through the cache costs a copy, a page for every 4 KiB and their write-back at fsync: of an object of 10 MB two
thirds of the kernel's work to receive and store it, and most of what a flush waits for. A file that comes alone is read
at once, and goes through the cache so that its reader need not wait for the disk.
"""

from __future__ import annotations

import errno
import fcntl
import math
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path

#: Bytes written at once. Smaller files go through the page cache as usual.
CHUNK_BYTES = 1 << 20
#: What O_DIRECT wants position, length and memory to be multiples of; a disk or file system that wants more refuses.
_BLOCK_BYTES = 4096


class Buffers:
    """Page-aligned buffers of CHUNK_BYTES, kept for the next file: fresh memory would have to be cleared.

    Parameters
    ----------
    burst_s : float
        Files of which one begins so soon after another ended come in a burst.
    """

    def __init__(self, kept: int = 32, burst_s: float = 0.1) -> None:
        self._kept, self._burst_s = kept, burst_s
        self._free, self._lent, self._ended = list[memoryview](), set[int](), -math.inf

    @property
    def burst(self) -> bool:
        """Whether another file has a buffer now, or had one a moment ago."""
        return len(self._lent) > 1 or time.monotonic() - self._ended < self._burst_s

    def take(self) -> memoryview:
        """Return a buffer that nobody else uses."""
        try:
            buffer = self._free.pop()
        except IndexError:
            buffer = memoryview(mmap.mmap(-1, CHUNK_BYTES))
        self._lent.add(id(buffer))
        return buffer

    def give_back(self, buffer: memoryview) -> None:
        """Let another file have a buffer."""
        self._lent.discard(id(buffer))
        self._ended = time.monotonic()
        if len(self._free) < self._kept:
            self._free.append(buffer)


class DirectFile:
    """A file that nobody has opened yet, written from its beginning to its end.

    Fill `room` from its beginning and tell `advance`, or `write`; then `close`. Flushing is the caller's.

    Parameters
    ----------
    buffers : Buffers
        Lends the buffer in which a chunk is put together.
    head : bytes
        Its first bytes, fewer than CHUNK_BYTES.
    seen : callable
        Gets all that follows the head, piece by piece, before it is written.

    Raises
    ------
    OSError
        From every method: it cannot be written; `close` it all the same.
    """

    def __init__(self, path: Path, buffers: Buffers, head: bytes, seen: Callable[[memoryview], object]) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._buffers, self._seen = buffers, seen
        self._buffer = buffers.take()
        self._buffer[: len(head)] = head
        self._unseen = self._end = len(head)
        self._cached, self._direct = True, buffers.burst

    def room(self) -> memoryview:
        """Return where the next bytes go, at least one; valid until `advance`."""
        return self._buffer[self._end :]

    def advance(self, count: int) -> None:
        """Count `count` bytes at the beginning of `room` as part of the file."""
        self._end += count
        if self._end == CHUNK_BYTES:
            self._look()
            self._cache(not self._direct)
            self._write(self._buffer)
            self._unseen = self._end = 0

    def write(self, data: memoryview) -> None:
        """Append `data`."""
        while data:
            room = self.room()
            count = min(len(room), len(data))
            room[:count] = data[:count]
            data = data[count:]
            self.advance(count)

    def close(self, whole: bool = True) -> None:
        """Write what is left, if it is to be `whole`, and close."""
        if self._descriptor < 0:
            return
        try:
            if whole:
                self._look()
                blocks = 0 if self._cached else self._end // _BLOCK_BYTES * _BLOCK_BYTES
                self._write(self._buffer[:blocks])
                self._cache(True)
                self._write(self._buffer[blocks : self._end])
        finally:
            os.close(self._descriptor)
            self._descriptor = -1
            self._buffers.give_back(self._buffer)

    def _look(self) -> None:
        self._seen(self._buffer[self._unseen : self._end])

    def _cache(self, wanted: bool) -> None:
        """Have what is written from now on go through the page cache, or past it where the file system allows."""
        if wanted == self._cached:
            return
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL) & ~os.O_DIRECT
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags if wanted else flags | os.O_DIRECT)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
        self._cached = wanted

    def _write(self, data: memoryview) -> None:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except OSError as error:                # blocks larger than ours, or the rest after a short write
                flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
                if error.errno != errno.EINVAL or not flags & os.O_DIRECT:
                    raise
                fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)
