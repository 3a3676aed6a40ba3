"""What a compressed frame says of itself, read from its first markers, before a native decoder touches it."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from encoders.base import UnreadableInstance


@dataclass(frozen=True, slots=True)
class Codestream:
    """Size and sample format of one frame.

    Attributes
    ----------
    levels : int
        How often a JPEG 2000 decoder can halve it.
    reversible : bool
        Whether its wavelet is the 5/3, else the 9/7.
    """

    rows: int
    columns: int
    components: int
    precision: int
    signed: bool = False
    levels: int = 0
    reversible: bool = True
    lossless: bool = False
    colour_transform: bool = False                  # the stream is Y Cb Cr by its own word (JFIF, Adobe)


# ISO/IEC 10918-1 table B.1: every start of frame but DHT, JPG and DAC; 0xF7 is JPEG-LS (ISO/IEC 14495-1).
_FRAME_MARKERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_LOSSLESS_MARKERS = frozenset({0xC3, 0xC7, 0xCB, 0xCF, 0xF7})


def parse_jpeg(frame: bytes) -> Codestream:
    """Return what the start-of-frame marker of a JPEG or JPEG-LS frame says (ISO/IEC 10918-1 B.2.2).

    Raises
    ------
    UnreadableInstance
        If there is no such marker: the frame is truncated, or no JPEG at all.
    """
    colour_transform = False
    position = frame.find(b"\xff\xd8")
    if position < 0:
        raise UnreadableInstance("the compressed frame is no JPEG stream")
    position += 2
    while position + 4 <= len(frame):
        if frame[position] != 0xFF:
            position += 1
            continue
        marker = frame[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            position += 2
            continue
        length = struct.unpack_from(">H", frame, position + 2)[0]
        body = frame[position + 4 : position + 2 + length]
        if marker in _FRAME_MARKERS:
            if len(body) < 6:
                break
            if frame.rfind(b"\xff\xd9", position) < 0:                  # coded data never holds these bytes
                raise UnreadableInstance("the JPEG stream is truncated: no end of image")
            precision, rows, columns, components = struct.unpack_from(">BHHB", body)
            return Codestream(
                rows, columns, components, precision, lossless=marker in _LOSSLESS_MARKERS,
                colour_transform=colour_transform,
            )
        if marker == 0xE0 and body.startswith(b"JFIF"):
            colour_transform = True
        if marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
            colour_transform = body[11] != 0
        position += 2 + length
    raise UnreadableInstance("the JPEG stream has no frame header: truncated or damaged")


def _refuse_truncated_tiles(frame: bytes, start: int) -> None:
    """Raise if a tile part is longer than what is there (ISO/IEC 15444-1 A.4.2); an end marker may be missing."""
    position = frame.find(b"\xff\x90\x00\x0a", start)
    while 0 <= position <= len(frame) - 12 and frame[position : position + 2] == b"\xff\x90":
        length = struct.unpack_from(">I", frame, position + 6)[0]
        if position + length > len(frame):
            raise UnreadableInstance("the JPEG 2000 codestream is truncated")
        if length < 14:                                                 # 0: up to the end
            return
        position += length
    if position < 0:
        raise UnreadableInstance("the JPEG 2000 codestream is truncated: it has no tile")


def parse_jpeg2000(frame: bytes) -> Codestream:
    """Return what SIZ and COD of a JPEG 2000 or HTJ2K codestream say (ISO/IEC 15444-1 A.5.1, A.6.1).

    A JP2 file around the codestream, which PS3.5 8.2.4 forbids and some senders add, is looked through.
    """
    start = frame.find(b"\xff\x4f\xff\x51")
    if start < 0 or len(frame) < start + 47:
        raise UnreadableInstance("the compressed frame is no JPEG 2000 codestream")
    width, height, left, top = struct.unpack_from(">IIII", frame, start + 8)
    components = struct.unpack_from(">H", frame, start + 40)[0]
    depth = frame[start + 42]
    levels, reversible = 0, True
    _refuse_truncated_tiles(frame, start)
    position = start + 4 + struct.unpack_from(">H", frame, start + 4)[0]
    while position + 14 <= len(frame) and frame[position] == 0xFF:
        marker, length = struct.unpack_from(">BH", frame, position + 1)
        if marker == 0x52:
            levels, reversible = frame[position + 9], frame[position + 13] == 1
            break
        if marker in (0x90, 0x93, 0xD9):                                # tile part, data, end: no COD came
            break
        position += 2 + length
    return Codestream(
        rows=height - top, columns=width - left, components=components, precision=(depth & 0x7F) + 1,
        signed=bool(depth & 0x80), levels=min(levels, 32), reversible=reversible,
    )
