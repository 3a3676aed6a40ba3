"""Opening the database, bringing its schema up to date, and the two kinds of transaction."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, select, text, update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from storage.base import StorageError
from storage.catalogue.schema import SCHEMA_REVISION, counters

MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"

#: A writer waits so long for another process's transaction (a batch takes some 10 ms).
_BUSY_TIMEOUT_MS = 60_000

#: So much of the file is read through a mapping (SQLite's own limit): 100 studies at random took a quarter of the time.
_MAPPED_BYTES = 0x7FFF0000


class CatalogueError(StorageError):
    """The catalogue's database cannot be used as it is."""


class CatalogueTooNew(CatalogueError):
    """The database was written by a newer cxrfind."""


class CatalogueUnavailable(CatalogueError):
    """The database did not answer: locked too long, disk full, disk error, connection lost."""


_SEQUENCE = select(counters.c.value).where(counters.c.name == "sequence")
_SEQUENCE_TEXT = "SELECT value FROM counters WHERE name = 'sequence'"
#: Another number after each commit of another connection; half of the work of a question to a table.
_VERSION_TEXT = "PRAGMA data_version"


@dataclass(slots=True)
class Transaction:
    """A write transaction and the sequence numbers that it takes."""

    connection: Connection
    sequence: int

    def next(self) -> int:
        """Return the next sequence number; one for each vector that comes or goes, one for anything else."""
        self.sequence += 1
        return self.sequence


class Database:
    """An SQLAlchemy engine with the schema at SCHEMA_REVISION. Open it after forking, not before."""

    def __init__(self, url_or_path: str | Path) -> None:
        """Open, make or upgrade a database.

        Raises
        ------
        CatalogueTooNew
            If a newer cxrfind made it.
        CatalogueUnavailable
            If it cannot be opened.
        """
        self._engine = _engine(url_or_path)
        self._is_sqlite = self._engine.dialect.name == "sqlite"
        self._watching = threading.Lock()
        self._watch: Any = None                     # SQLite: a connection that only asks for what is new, its cursor,
        self._watch_cursor: Any = None
        self._seen = -1, 0                          # the data version and the sequence number that it found
        with _explained():
            self._migrate()

    def close(self) -> None:
        """Close all connections."""
        with self._watching:
            if self._watch is not None:
                self._watch.close()
                self._watch = self._watch_cursor = None
        self._engine.dispose()

    def sequence(self) -> int:
        """Return the newest sequence number; asked before each query, in SQLite for a few microseconds."""
        if not self._is_sqlite:
            with self.reading() as connection:
                return int(connection.execute(_SEQUENCE).scalar_one())
        with self._watching:
            try:
                if self._watch_cursor is None:
                    with _explained():
                        self._watch = self._engine.raw_connection()
                    self._watch_cursor, self._seen = self._watch.cursor(), (-1, 0)
                ask = self._watch_cursor.execute    # each answer is read to its end: an open transaction sees no news
                ((version,),) = ask(_VERSION_TEXT).fetchall()
                if version != self._seen[0]:
                    ((number,),) = ask(_SEQUENCE_TEXT).fetchall()
                    self._seen = version, int(number)
            except sqlite3.Error as error:
                raise CatalogueUnavailable(f"the catalogue's database failed: {error}") from error
            return self._seen[1]

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give a connection with one consistent view of the database."""
        with _explained(), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        """Give a transaction that no other writer runs beside; durable when the block has ended, else undone."""
        options = {"cxrfind_write": True}
        with _explained(), self._engine.connect().execution_options(**options) as connection, connection.begin():
            transaction = Transaction(connection, connection.execute(_SEQUENCE.with_for_update()).scalar_one())
            yield transaction
            connection.execute(
                update(counters).where(counters.c.name == "sequence").values(value=transaction.sequence)
            )

    def _migrate(self) -> None:
        with self._engine.connect() as connection, connection.begin():
            revision = _revision(connection)
        if revision == SCHEMA_REVISION:
            return
        from alembic import command  # 0.6 s, and rarely needed
        from alembic.config import Config as AlembicConfig
        from alembic.script import ScriptDirectory

        config = AlembicConfig()
        config.set_main_option("script_location", str(MIGRATIONS))
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if revision is not None and revision not in known:
            raise CatalogueTooNew(
                f"the catalogue has schema {revision}, this cxrfind knows up to {SCHEMA_REVISION}: install the cxrfind "
                "that made it or a newer one, or restore a backup from before the upgrade"
            )
        with self._engine.connect().execution_options(cxrfind_write=True) as connection, connection.begin():
            if _revision(connection) != SCHEMA_REVISION:            # another process may have been faster
                config.attributes["connection"] = connection
                command.upgrade(config, SCHEMA_REVISION)


def look_at(url: str) -> None:
    """Connect to a database, of which nothing is made or upgraded; an SQLite file that is not there yet is none.

    Raises
    ------
    CatalogueUnavailable
        If the URL names no database that answers, or a file where none can be made.
    """
    parsed = _parsed(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database and not Path(parsed.database).exists():
        folders = Path(parsed.database).absolute().parents
        nearest = next((folder for folder in folders if folder.exists()), Path("/"))
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            raise CatalogueUnavailable(f"catalogue.url: {parsed.database} cannot be made by this user")
        return
    options = {"connect_timeout": "5"} if parsed.get_backend_name() == "postgresql" else {}
    engine = _made(parsed.update_query_dict(options))
    try:
        with _explained(), engine.connect() as connection:
            _revision(connection)
    finally:
        engine.dispose()


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except ArgumentError as error:
        raise _not_usable(error) from error


def _made(url: URL) -> Engine:
    try:
        return create_engine(url, pool_size=16, max_overflow=-1)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise _not_usable(error) from error


def _not_usable(error: Exception) -> CatalogueUnavailable:
    return CatalogueUnavailable(f"catalogue.url cannot be used ({error}); e.g. sqlite:////path/file")


def _engine(url_or_path: str | Path) -> Engine:
    given = str(url_or_path)
    parsed = _parsed(given if "://" in given else f"sqlite:///{Path(given).absolute()}")
    if parsed.get_backend_name() != "sqlite":
        return _made(parsed)
    try:
        if parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CatalogueUnavailable(f"the catalogue's folder cannot be made: {error.strerror}") from error
    engine = _made(parsed)
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None                               # the driver must not begin on its own
    for pragma in (
        f"busy_timeout = {_BUSY_TIMEOUT_MS}",
        "page_size = 8192",                                         # three 512-number vectors a page instead of one
        "journal_mode = WAL",
        "synchronous = FULL",                                       # a commit survives a power cut
        "cache_size = -65536",
        f"mmap_size = {_MAPPED_BYTES}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    """Writers lock at once: a read lock that is raised later fails at once when somebody else has written."""
    write = connection.get_execution_options().get("cxrfind_write", False)
    if write:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:                                                           # SQLAlchemy's way costs as much as a small query
        driver: Any = connection.connection.driver_connection
        driver.execute("BEGIN")


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:                                     # its text would quote bound values, of patients
        raise CatalogueUnavailable(f"the catalogue's database failed: {error.orig}") from error.orig
