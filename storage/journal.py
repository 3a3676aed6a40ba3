"""The spool's journal: one SQLite file that several processes and many threads write, each commit durable."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from storage.base import StorageError

_SCHEMA_VERSION = 2
_SCHEMA = """
CREATE TABLE objects (
    spool_id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    sop_class_uid TEXT NOT NULL,
    sop_instance_uid TEXT NOT NULL,
    transfer_syntax_uid TEXT NOT NULL,
    digest TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    calling_ae_title TEXT NOT NULL,
    received_at REAL NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting',
    owner TEXT,
    deaths INTEGER NOT NULL DEFAULT 0,
    kept INTEGER NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT ''
);
CREATE INDEX objects_by_uid ON objects (sop_instance_uid, spool_id);
CREATE INDEX objects_waiting ON objects (spool_id) WHERE state = 'waiting';
CREATE INDEX objects_claimed ON objects (owner) WHERE state = 'claimed';
CREATE INDEX objects_quarantined ON objects (spool_id) WHERE state = 'quarantined';
"""


class SpoolUnavailable(StorageError):
    """The spool cannot be opened or written (disk full, read-only, damaged); nothing was accepted."""


class Journal:
    """SQLite in WAL mode with synchronous=FULL: a commit that returned survives a power cut.

    Writers of all processes wait for each other at a file lock, a queue of the kernel's, where SQLite alone would sleep
    and try again.

    Raises
    ------
    SpoolUnavailable
        If it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writing, self._reading = threading.Lock(), threading.Lock()
        try:
            self._gate = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with self.exclusive():                  # switching to WAL needs the file alone
                self._writer, self._reader = self._connect(), self._connect()
            with self.transaction() as write:
                version = write.execute("PRAGMA user_version").fetchone()[0]
                if version == 0:
                    for statement in _SCHEMA.split(";"):
                        write.execute(statement)
                if version == 1:
                    write.execute("ALTER TABLE objects RENAME COLUMN sha256 TO digest")
                if version < _SCHEMA_VERSION:
                    write.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        except (OSError, sqlite3.Error) as error:
            raise SpoolUnavailable(f"{path} cannot be opened: {error}") from error
        if version > _SCHEMA_VERSION:
            raise SpoolUnavailable(
                f"{path} has layout {version}, this cxrfind reads {_SCHEMA_VERSION}: let the version that wrote it "
                "empty the queue, then move the folder away"
            )

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=60.0, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_size_limit = 67108864")
        return connection

    def close(self) -> None:
        """Close the file."""
        with self._writing, self._reading:
            self._writer.close()
            self._reader.close()
            os.close(self._gate)
            self._gate = -1

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep all other writers, of this and other processes, out."""
        with self._writing:
            if self._gate < 0:
                raise SpoolUnavailable(f"{self.path} is closed")
            fcntl.flock(self._gate, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._gate, fcntl.LOCK_UN)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection that writes; committed, and on disk, at the end."""
        with self.exclusive():
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def read(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with self._reading:
            return self._reader.execute(sql, parameters).fetchall()
