"""The one table of C-STORE: exception -> status (PS3.4 Table B.2-1, PS3.7 Annex C), and what the peer is told."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from storage.base import StorageError

SUCCESS = 0x0000


class Refused(Exception):
    """Base of the reasons why an object is not taken; the message goes to the peer and never names a patient."""


class OutOfResources(Refused):
    """The disk or queue watermark is passed; the peer should try again later."""


class NoSuchSopClass(Refused):
    """The command names a storage SOP class that was not negotiated and is not in the readers' table."""


class NoSopInstance(Refused):
    """The command names no SOP instance, or with a UID that cannot be kept."""


class NoDataSet(Refused):
    """A C-STORE-RQ without data set."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; `comment` replaces the exception's own words where those could tell too much."""

    exception: type[Exception]
    status: int
    section: str
    comment: str | None = None


#: The first row whose exception fits counts.
STORE_STATUS: tuple[Row, ...] = (
    Row(OutOfResources, 0xA700, "PS3.4 Table B.2-1 Refused: Out of Resources"),
    Row(NoSuchSopClass, 0x0122, "PS3.7 C.4.2 SOP class not supported"),
    Row(NoSopInstance, 0x0117, "PS3.7 C.5.12 Invalid object instance"),
    Row(NoDataSet, 0xC000, "PS3.4 Table B.2-1 Error: Cannot Understand"),
    Row(OSError, 0xA700, "PS3.4 Table B.2-1 Refused: Out of Resources", "cannot write to disk"),
    Row(StorageError, 0xA700, "PS3.4 Table B.2-1 Refused: Out of Resources", "cannot write the journal"),
    Row(sqlite3.Error, 0xA700, "PS3.4 Table B.2-1 Refused: Out of Resources", "cannot read the journal"),
    Row(Exception, 0x0110, "PS3.7 C.5.18 Processing failure", "unexpected error, see the log"),
)


def store_status(error: Exception) -> tuple[int, str]:
    """Return the status and error comment (0000,0902) that answer an object which was not taken."""
    row = next(row for row in STORE_STATUS if isinstance(error, row.exception))
    return row.status, (row.comment or str(error))[:64]
