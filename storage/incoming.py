"""The folder in which a process writes what it is receiving, locked for as long as the process lives."""

from __future__ import annotations

import fcntl
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

_LOCK = "lock"


class Incoming:
    """One folder for each process below `root`.

    Parameters
    ----------
    exclusive : callable returning a context manager
        Keeps other processes from sweeping a folder that is not locked yet.
    """

    def __init__(self, root: Path, exclusive: Callable[[], AbstractContextManager[None]]) -> None:
        self._root, self._exclusive = root, exclusive
        self._making = threading.Lock()
        self._folder: Path | None = None
        self._lock: IO[bytes] | None = None

    @property
    def folder(self) -> Path:
        """This process's folder, made when first asked for."""
        with self._making:
            if self._folder is None:
                with self._exclusive():
                    folder = self._root / secrets.token_hex(8)
                    folder.mkdir()
                    self._lock = (folder / _LOCK).open("wb")
                    fcntl.flock(self._lock, fcntl.LOCK_EX)
                self._folder = folder
            return self._folder

    def close(self) -> None:
        """Remove the folder if it is empty, else leave it to the next sweep."""
        if self._folder is not None and self._lock is not None:
            if [path.name for path in self._folder.iterdir()] == [_LOCK]:
                (self._folder / _LOCK).unlink()
                self._folder.rmdir()
            self._lock.close()

    def sweep(self) -> Iterator[Path]:
        """Yield the files of dead processes, each removed once the caller asks for the next; then their folders.

        Only while `exclusive` is held.
        """
        for folder in self._root.iterdir():
            with (folder / _LOCK).open("ab") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:             # its process lives
                    continue
                for path in [path for path in folder.iterdir() if path.name != _LOCK]:
                    yield path
                    path.unlink()
                (folder / _LOCK).unlink()
            folder.rmdir()
