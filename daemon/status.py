"""The one table from an exception to the DIMSE status a peer is answered with."""

from __future__ import annotations

from dataclasses import dataclass

from daemon.finder import errors

SUCCESS = 0x0000
PENDING = 0xFF00
PENDING_UNSUPPORTED_KEY = 0xFF01
CANCELLED = 0xFE00
SUBOPERATIONS_FAILED = 0xB000
UNABLE_TO_PERFORM_SUBOPERATIONS = 0xA702

#: (0000,0902) Error Comment is an LO: at most 64 characters of the default repertoire (PS3.7 Annex C, PS3.5 6.2).
COMMENT_LENGTH = 64


@dataclass(frozen=True, slots=True)
class StatusRow:
    """One row: which exception, which status, where the standard says so, and what it means to a reader."""

    error: type[Exception]
    status: int
    section: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """A final status with its optional elements (0000,0902) and (0000,0901)."""

    status: int
    comment: str = ""
    offending: tuple[int, ...] = ()


#: Most specific first; the conformance statement prints this table.
STATUSES: tuple[StatusRow, ...] = (
    StatusRow(errors.BadIdentifier, 0xA900, "PS3.4 C.4.1.1.4", "Identifier does not match SOP class"),
    StatusRow(errors.NotAuthorised, 0x0124, "PS3.7 Annex C", "Refused: not authorised"),
    StatusRow(errors.TooManyMatches, 0xA700, "PS3.4 C.4.1.1.4", "Out of resources: more matches than are answered"),
    StatusRow(errors.Loading, 0xA700, "PS3.4 C.4.1.1.4", "Out of resources: model or index loading"),
    StatusRow(errors.Overloaded, 0xA700, "PS3.4 C.4.1.1.4", "Out of resources: overload"),
    StatusRow(errors.ExampleUnknown, 0xC101, "PS3.4 C.4.1.1.4", "Unable to process: example unknown"),
    StatusRow(errors.ExampleNotEncoded, 0xC102, "PS3.4 C.4.1.1.4", "Unable to process: example not yet encoded"),
    StatusRow(errors.ExampleKeptOut, 0xC103, "PS3.4 C.4.1.1.4", "Unable to process: example kept out by the gate"),
    StatusRow(errors.NoUsableIndex, 0xC104, "PS3.4 C.4.1.1.4", "Unable to process: no usable index"),
    StatusRow(errors.DestinationUnknown, 0xA801, "PS3.4 C.4.2.1.5", "Move destination unknown"),
    StatusRow(errors.OriginalsNotKept, 0xA702, "PS3.4 C.4.2.1.5", "Unable to perform sub-operations: not kept here"),
    StatusRow(Exception, 0xC001, "PS3.4 C.4.1.1.4", "Unable to process: internal error, see our log"),
)


def comment_of(text: str) -> str:
    """Return a text fit for (0000,0902): ASCII, one line, at most 64 characters."""
    ascii_text = text.encode("ascii", "replace").decode("ascii").replace("\\", "/")
    return " ".join(ascii_text.split())[:COMMENT_LENGTH]


def outcome_of(error: Exception) -> Outcome:
    """Return what a peer is answered when this exception ended its request.

    Only our own errors show their message: that of any other exception could hold patient data.
    """
    row = next(row for row in STATUSES if isinstance(error, row.error))
    message = str(error) if isinstance(error, errors.FinderError) else "internal error, see the service's log"
    return Outcome(row.status, comment_of(message), getattr(error, "offending", ()))
