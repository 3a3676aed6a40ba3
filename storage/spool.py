"""The node-local durable queue between listener and worker: a SQLite journal and the received files.

::

    spool/journal.db          what is known of every object ever received here
    spool/incoming/<process>/ files being received; locked by their process, swept when it has died
    spool/objects/<2 hex>/    accepted files, named by chance: no patient data, no caller's text in a path

`accept` returns only when a power cut cannot lose the object any more. A file is first linked from incoming/ to
objects/, then journalled, then unlinked from incoming/: a crash in between leaves its name in incoming/, where `sweep`
finds it, and the journal decides. Listener threads that arrive together share one commit.

A Spool belongs to the process that made it (SQLite connections do not survive a fork).
"""

from __future__ import annotations

import os
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from storage.base import SpooledInstance
from storage.incoming import Incoming
from storage.journal import Journal, SpoolUnavailable
from storage.snapshot import sync

log = structlog.get_logger(__name__)

_COLUMNS = (
    "spool_id, name, sop_class_uid, sop_instance_uid, transfer_syntax_uid, digest, size_bytes, calling_ae_title, "
    "received_at, deaths"
)
_NAME = re.compile(r"[0-9a-f]{32}\.dcm")
#: How many of the last finished objects `sweep` looks at for files that a crash left behind.
_SWEPT_DONE = 10_000


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of a received object.

    Attributes
    ----------
    duplicate : bool
        The same bytes were here before: no second copy was kept.
    superseded : bool
        Another version of this SOP instance was here before; this one is the newer and prevails.
    """

    spool_id: int
    duplicate: bool
    superseded: bool


@dataclass(slots=True)
class _Entry:
    """One object on its way into the journal, and the answer of the thread that commits for all."""

    values: tuple[str, str, str, str, str, int, str, float]     # name ... received_at, as the columns
    accepted: Accepted | None = None
    error: Exception | None = None


class Spool:
    """The durable queue in `directory`; open it once in each process.

    Raises
    ------
    SpoolUnavailable
        If the journal cannot be opened.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._objects = directory / "objects"
        self._pending: list[_Entry] = []
        self._pending_lock, self._committing = threading.Lock(), threading.Lock()
        try:
            for folder in (self._objects, directory / "incoming"):
                folder.mkdir(parents=True, exist_ok=True)
            directory.chmod(0o700)                  # patients' objects
            sync(directory)
            self._make_folders()
        except OSError as error:
            raise SpoolUnavailable(f"the spool in {directory} cannot be opened: {error}") from error
        self._journal = Journal(directory / "journal.db")
        self._incoming = Incoming(directory / "incoming", self._journal.exclusive)

    def close(self) -> None:
        """Close the journal; what is still in `incoming` is left to the next sweep."""
        self._journal.close()
        self._incoming.close()

    # ---- the listener's side

    @property
    def incoming(self) -> Path:
        """This process's folder for files being received, on the file system of the objects."""
        return self._incoming.folder

    def new_file(self) -> Path:
        """Return a path in `incoming` that nobody else uses."""
        return self.incoming / f"{secrets.token_hex(16)}.dcm"

    def accept(
        self,
        path: Path,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        calling_ae_title: str,
        digest: str,
        size_bytes: int,
    ) -> Accepted:
        """Take over a file written in `incoming`; return when it is safe on disk and in the journal.

        The newest version of a SOP instance decides what a duplicate is: the same `digest` is one (and waits again if
        it was in quarantine, so that a failed object does not block its re-send); another one supersedes it.

        Raises
        ------
        OSError, SpoolUnavailable
            If it cannot be kept; `path` is then still the caller's.
        """
        latest = self._journal.read(
            "SELECT spool_id, digest, state FROM objects WHERE sop_instance_uid = ? ORDER BY spool_id DESC LIMIT 1",
            (sop_instance_uid,),
        )
        if latest and latest[0][1] == digest and latest[0][2] != "quarantined":
            path.unlink()
            return Accepted(latest[0][0], duplicate=True, superseded=False)
        if not _NAME.fullmatch(path.name) or path.parent != self.incoming:
            path = path.rename(self.new_file())
        target = self._object(path.name)
        if not target.parent.is_dir():              # somebody has tidied up an empty one
            self._make_folders()
        os.link(path, target)
        entry = _Entry(
            (path.name, sop_class_uid, sop_instance_uid, transfer_syntax_uid, digest, size_bytes, calling_ae_title,
             time.time())
        )
        try:
            sync(path)                              # after the link: on ext4 one journal commit carries both
            sync(target.parent)
            accepted = self._commit(entry)
        except (OSError, SpoolUnavailable):
            target.unlink()
            raise
        if accepted.duplicate:
            target.unlink()
        path.unlink()
        if accepted.superseded:
            log.info("instance.superseded", sop_instance_uid=sop_instance_uid, digest=digest)
        return accepted

    def holds(self, sop_instance_uids: Iterable[str]) -> dict[str, str]:
        """Return SOP instance UID -> SOP class UID of those whose received file is kept here (PS3.4 Annex J)."""
        found = {}
        for uid in sop_instance_uids:
            rows = self._journal.read(
                "SELECT sop_class_uid FROM objects WHERE sop_instance_uid = ? AND (state <> 'done' OR kept)"
                " ORDER BY spool_id DESC LIMIT 1",
                (uid,),
            )
            if rows:
                found[uid] = rows[0][0]
        return found

    def waits(self, sop_instance_uid: str) -> bool:
        """Return whether a SOP instance waits, or is being worked on."""
        sql = "SELECT 1 FROM objects WHERE sop_instance_uid = ? AND state IN ('waiting', 'claimed') LIMIT 1"
        return bool(self._journal.read(sql, (sop_instance_uid,)))

    # ---- the worker's side

    def claim(self, limit: int, owner: str) -> list[SpooledInstance]:
        """Return up to `limit` waiting objects, oldest first, now `owner`'s.

        A version of an object is not given out before the older ones are done, so that the newest is committed last.
        """
        if not self._journal.read("SELECT 1 FROM objects WHERE state = 'waiting' LIMIT 1"):
            return []
        with self._journal.transaction() as write:
            rows = write.execute(
                "UPDATE objects SET state = 'claimed', owner = ? WHERE spool_id IN ("
                " SELECT spool_id FROM objects AS o WHERE state = 'waiting' AND NOT EXISTS ("
                "  SELECT 1 FROM objects AS e WHERE e.sop_instance_uid = o.sop_instance_uid"
                "  AND e.spool_id < o.spool_id AND e.state IN ('waiting', 'claimed'))"
                f" ORDER BY spool_id LIMIT ?) RETURNING {_COLUMNS}",
                (owner, limit),
            ).fetchall()
        return [self._spooled(row) for row in sorted(rows)]

    def finish(self, spool_ids: Sequence[int], keep: bool) -> None:
        """Mark objects as done; `keep` their files as originals, or drop them. Older versions' files are dropped."""
        unneeded: list[str] = []
        with self._journal.transaction() as write:
            for spool_id in spool_ids:
                uid, name = write.execute(
                    "UPDATE objects SET state = 'done', owner = NULL, kept = ? WHERE spool_id = ?"
                    " RETURNING sop_instance_uid, name",
                    (keep, spool_id),
                ).fetchone()
                older = write.execute(
                    "UPDATE objects SET kept = 0 WHERE sop_instance_uid = ? AND spool_id < ? AND kept RETURNING name",
                    (uid, spool_id),
                ).fetchall()
                unneeded += [row[0] for row in older] + ([] if keep else [name])
        for name in unneeded:
            self._object(name).unlink(missing_ok=True)

    def died(self, spool_id: int) -> int:
        """Count a death while reading an object, let it wait again, and return how often that has happened."""
        with self._journal.transaction() as write:
            row = write.execute(
                "UPDATE objects SET deaths = deaths + 1, state = 'waiting', owner = NULL WHERE spool_id = ?"
                " RETURNING deaths",
                (spool_id,),
            ).fetchone()
        return int(row[0])

    def quarantine(self, spool_id: int, reason: str) -> None:
        """Put an object aside with a reason (never patient data); its file is kept."""
        self._update("state = 'quarantined', owner = NULL, reason = ?", "spool_id = ?", (reason, spool_id))

    def quarantined(self) -> list[tuple[SpooledInstance, str]]:
        """Return the objects in quarantine, oldest first, each with its reason."""
        sql = f"SELECT {_COLUMNS}, reason FROM objects WHERE state = 'quarantined' ORDER BY spool_id"
        rows = self._journal.read(sql)
        return [(self._spooled(row[:-1]), row[-1]) for row in rows]

    def retry(self, spool_ids: Sequence[int]) -> None:
        """Let objects in quarantine wait again, except where a newer version has come since."""
        for spool_id in spool_ids:
            self._update(
                "state = 'waiting', deaths = 0, reason = ''",
                "spool_id = ? AND state = 'quarantined' AND NOT EXISTS (SELECT 1 FROM objects AS newer WHERE"
                " newer.sop_instance_uid = objects.sop_instance_uid AND newer.spool_id > objects.spool_id)",
                (spool_id,),
            )

    def release(self, owner: str) -> int:
        """Give back what a dead worker had claimed; return how many objects."""
        return self._update("state = 'waiting', owner = NULL", "state = 'claimed' AND owner = ?", (owner,))

    def release_all(self) -> int:
        """Give back every claim and clear away what crashes left: for the supervisor, before it starts workers."""
        released = self._update("state = 'waiting', owner = NULL", "state = 'claimed'", ())
        self.sweep()
        return released

    def original(self, sop_instance_uid: str) -> Path | None:
        """Return the newest kept file of a SOP instance, or None."""
        rows = self._journal.read(
            "SELECT name FROM objects WHERE sop_instance_uid = ? AND kept ORDER BY spool_id DESC LIMIT 1",
            (sop_instance_uid,),
        )
        return self._object(rows[0][0]) if rows else None

    def forget(self, sop_instance_uids: Iterable[str]) -> int:
        """Erase what was kept of SOP instances, files and journal; return how many objects.

        Sent again they are taken again. What waits or is being read is left: it is not known elsewhere yet.
        """
        names: list[str] = []
        with self._journal.transaction() as write:
            for uid in sop_instance_uids:
                names += [
                    row[0] for row in write.execute(
                        "DELETE FROM objects WHERE sop_instance_uid = ? AND state IN ('done', 'quarantined')"
                        " RETURNING name", (uid,),
                    ).fetchall()
                ]
        for name in names:
            self._object(name).unlink(missing_ok=True)
        return len(names)

    def depth(self) -> int:
        """Return how many objects wait or are being worked on."""
        counts = self._journal.read(
            "SELECT (SELECT count(*) FROM objects WHERE state = 'waiting'),"
            " (SELECT count(*) FROM objects WHERE state = 'claimed')"
        )[0]
        return int(counts[0] + counts[1])

    def counts(self) -> dict[str, int]:
        """Return the number of objects by state: waiting, claimed, quarantined, done."""
        parts = [self._journal.read(f"SELECT count(*) FROM objects WHERE state = '{s}'")[0][0]
                 for s in ("waiting", "claimed", "quarantined")]
        total = self._journal.read("SELECT count(*) FROM objects")[0][0]
        return {"waiting": parts[0], "claimed": parts[1], "quarantined": parts[2], "done": total - sum(parts)}

    def sweep(self) -> int:
        """Remove what dead processes left behind; return how many files. Files of living processes are not touched."""
        removed = 0
        with self._journal.exclusive():
            for leftover in self._incoming.sweep():
                if not self._journal.read("SELECT 1 FROM objects WHERE name = ?", (leftover.name,)):
                    self._object(leftover.name).unlink(missing_ok=True)
                removed += 1
        sql = "SELECT name FROM objects WHERE state = 'done' AND NOT kept ORDER BY spool_id DESC LIMIT ?"
        for (name,) in self._journal.read(sql, (_SWEPT_DONE,)):
            with suppress(FileNotFoundError):
                self._object(name).unlink()
                removed += 1
        if removed:
            log.info("spool.swept", files=removed)
        return removed

    # ---- inside

    def _commit(self, entry: _Entry) -> Accepted:
        """Journal an entry together with whatever other threads have ready by then; return what became of it."""
        with self._pending_lock:
            self._pending.append(entry)
        with self._committing:
            if entry.accepted is None and entry.error is None:      # nobody has committed it for us
                with self._pending_lock:
                    batch, self._pending = self._pending, []
                self._commit_batch(batch)
        if entry.error is not None:
            raise SpoolUnavailable(f"the journal cannot be written: {entry.error}") from entry.error
        assert entry.accepted is not None
        return entry.accepted

    def _commit_batch(self, batch: list[_Entry]) -> None:
        try:
            with self._journal.transaction() as write:
                accepted = [self._insert(write, entry) for entry in batch]
        except (sqlite3.Error, OSError, SpoolUnavailable) as error:
            for entry in batch:
                entry.error = error
            return
        for entry, result in zip(batch, accepted, strict=True):
            entry.accepted = result

    @staticmethod
    def _insert(write: sqlite3.Connection, entry: _Entry) -> Accepted:
        uid, digest = entry.values[2], entry.values[4]
        latest = write.execute(
            "SELECT spool_id, digest, state FROM objects WHERE sop_instance_uid = ? ORDER BY spool_id DESC LIMIT 1",
            (uid,),
        ).fetchone()
        if latest is not None and latest[1] == digest:
            if latest[2] == "quarantined":
                write.execute(
                    "UPDATE objects SET state = 'waiting', deaths = 0, reason = '' WHERE spool_id = ?", (latest[0],)
                )
            return Accepted(latest[0], duplicate=True, superseded=False)
        cursor = write.execute(
            "INSERT INTO objects (name, sop_class_uid, sop_instance_uid, transfer_syntax_uid, digest, size_bytes,"
            " calling_ae_title, received_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            entry.values,
        )
        assert cursor.lastrowid is not None
        return Accepted(cursor.lastrowid, duplicate=False, superseded=latest is not None)

    def _update(self, change: str, where: str, parameters: Sequence[object]) -> int:
        with self._journal.transaction() as write:
            return write.execute(f"UPDATE objects SET {change} WHERE {where}", parameters).rowcount

    def _object(self, name: str) -> Path:
        return self._objects / name[:2] / name

    def _make_folders(self) -> None:
        """Make all folders of objects: one that is made when its first object comes costs that object a flush."""
        for name in {f"{number:02x}" for number in range(256)} - set(os.listdir(self._objects)):
            (self._objects / name).mkdir(exist_ok=True)
        sync(self._objects)                         # also when another process has just made them

    def _spooled(self, row: tuple[Any, ...]) -> SpooledInstance:
        spool_id, name, sop_class, sop_instance, syntax, digest, size_bytes, calling, received_at, deaths = row
        return SpooledInstance(
            spool_id=spool_id,
            path=self._object(name),
            sop_class_uid=sop_class,
            sop_instance_uid=sop_instance,
            transfer_syntax_uid=syntax,
            digest=digest,
            size_bytes=size_bytes,
            calling_ae_title=calling,
            received_at=datetime.fromtimestamp(received_at, UTC),
            deaths=deaths,
        )
