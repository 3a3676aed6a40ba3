"""What can go wrong with a query or a retrieval; ``daemon.status`` says which DIMSE status each becomes."""

from __future__ import annotations

from collections.abc import Sequence


class FinderError(Exception):
    """Base of every error that a peer is told about. The message is its Error Comment: no patient data, no UIDs."""


class BadIdentifier(FinderError):
    """The request's Identifier breaks the rules of its information model.

    Attributes
    ----------
    offending : tuple of int
        Tags for (0000,0901) Offending Element.
    """

    def __init__(self, message: str, offending: Sequence[int]) -> None:
        super().__init__(message)
        self.offending = tuple(offending)


class NotAuthorised(FinderError):
    """The calling AE lacks a right; `right` names it."""

    def __init__(self, right: str) -> None:
        super().__init__(f"right '{right}' needed: see peers in the configuration")
        self.right = right


class Loading(FinderError):
    """Model or index are not loaded yet: ask again in a moment."""


class Overloaded(FinderError):
    """A limit of resources is reached."""


class TooManyMatches(Overloaded):
    """A plain C-FIND matches more than the configured maximum."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"more than {limit} matches: narrow the query")
        self.limit = limit


class ExampleUnknown(FinderError):
    """No object of this UID has been received."""


class ExampleNotEncoded(FinderError):
    """The example is known, but has no vector yet, or none of the basis asked for."""


class ExampleKeptOut(FinderError):
    """The example was kept out of the index by the gate; the message holds the reason."""


class NoUsableIndex(FinderError):
    """There is nothing to search in."""


class DestinationUnknown(FinderError):
    """The C-MOVE destination is no configured peer with a port, or does not answer."""


class OriginalsNotKept(FinderError):
    """The objects are not kept here: they are to be retrieved from the PACS."""
