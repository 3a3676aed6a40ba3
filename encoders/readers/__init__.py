"""From a stored DICOM file to what an encoder takes: SOP class -> reader, as the table in `table` says.

    file -> parse -> header (identity, queryable attributes)
                  -> reader of its SOP class -> Radiograph | Report | RejectionNote | Unindexed

Importing this package loads neither torch nor a codec (a test holds this): the listener needs the tables only.
"""

from __future__ import annotations

from pathlib import Path

from encoders.base import Float32, ReadInstance
from encoders.readers.table import READERS, TRANSFER_SYNTAXES, SopClass, TransferSyntax


def read_instance(path: Path, short_side: int) -> ReadInstance:
    """Return header and content of a DICOM file (PS3.10; a missing preamble or meta header is forgiven).

    Parameters
    ----------
    path : Path
    short_side : int
        Pixels of the short side that the caller needs; images come no larger than this, smaller only if they are.

    Raises
    ------
    UnreadableInstance
        With the reason, which never holds patient data.
    """
    from encoders.readers.instance import read_file  # pydicom's reader and the codecs load on first use

    return read_file(path, short_side)


def read_pixels(path: Path, short_side: int) -> Float32:
    """Return the pixels alone of a radiograph's file, even if it lacks the UIDs that say who it is.

    For data sets: VinDr-CXR's files, for one, have been stripped of every UID. What the service takes in has a header
    and comes through `read_instance`.

    Returns
    -------
    ndarray of float32, shape (rows, columns)
        As `encoders.base.Radiograph` holds them, no larger than `short_side` asks for.

    Raises
    ------
    UnreadableInstance
        With the reason; also if the SOP class is given and none of a radiograph.
    """
    from encoders.readers.instance import read_file_pixels

    return read_file_pixels(path, short_side)


__all__ = ["READERS", "TRANSFER_SYNTAXES", "SopClass", "TransferSyntax", "read_instance", "read_pixels"]
