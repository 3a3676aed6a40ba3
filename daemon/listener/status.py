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
class StoreStatusRow:
    """One row: which exception, which status, where the standard says so, and what it means to a reader."""

    error: type[Exception]
    status: int
    section: str
    meaning: str


#: The first row whose exception fits counts; the conformance statement prints this table.
STORE_STATUSES: tuple[StoreStatusRow, ...] = (
    StoreStatusRow(OutOfResources, 0xA700, "PS3.4 Table B.2-1", "out of resources: disk or queue limit reached"),
    StoreStatusRow(NoSuchSopClass, 0x0122, "PS3.7 C.4.2", "SOP class not supported"),
    StoreStatusRow(NoSopInstance, 0x0117, "PS3.7 C.5.12", "no usable Affected SOP Instance UID"),
    StoreStatusRow(NoDataSet, 0xC000, "PS3.4 Table B.2-1", "cannot understand: C-STORE without data set"),
    StoreStatusRow(OSError, 0xA700, "PS3.4 Table B.2-1", "out of resources: cannot write to disk"),
    StoreStatusRow(StorageError, 0xA700, "PS3.4 Table B.2-1", "out of resources: cannot write the journal"),
    StoreStatusRow(sqlite3.Error, 0xA700, "PS3.4 Table B.2-1", "out of resources: cannot read the journal"),
    StoreStatusRow(Exception, 0x0110, "PS3.7 C.5.18", "processing failure, see the log of cxrfind"),
)


def store_status(error: Exception) -> tuple[int, str]:
    """Return the status and error comment (0000,0902) that answer an object which was not taken."""
    row = next(row for row in STORE_STATUSES if isinstance(error, row.error))
    return row.status, (str(error) if isinstance(error, Refused) else row.meaning)[:64]
