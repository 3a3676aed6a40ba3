"""What a file of a manifest is, DICOM object or picture, told by its first bytes, and its pixels at full depth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from encoders.base import Float32
from encoders.readers import read_pixels


def is_dicom(path: Path) -> bool:
    """Return whether a file is to be read as DICOM, whatever its name is.

    A file without preamble (PS3.10 7.1) is one if its first element is of group 0002 or 0008.

    Raises
    ------
    OSError
        If the file cannot be opened.
    """
    with path.open("rb") as file:
        head = file.read(132)
    return head[128:] == b"DICM" or head.startswith((b"\x02\x00", b"\x08\x00", b"\x00\x08"))


def deep_pixels(path: Path, short_side: int) -> Float32 | None:
    """Return what a DICOM file or a picture of more than 8 bits shows, None for a picture of 8 bits.

    A picture's white is the largest value of the bits that its brightest pixel needs: PadChest keeps 12 bits and fewer
    in PNG files of 16.

    Returns
    -------
    ndarray of float32, shape (rows, columns)
        0..1, larger is brighter; a DICOM image with a short side of at most `short_side`.

    Raises
    ------
    UnreadableInstance
        If a DICOM object is damaged or no radiograph.
    OSError
        If the file is absent or no picture.
    """
    if is_dicom(path):
        return read_pixels(path, short_side)
    with Image.open(path) as image:
        if image.mode != "I" and not image.mode.startswith("I;"):
            return None
        values = np.maximum(np.asarray(image, dtype=np.float32), 0)
    white = 2 ** max(int(values.max()).bit_length(), 1) - 1
    return np.asarray(values / white, np.float32)
