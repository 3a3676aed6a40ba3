"""Encoding of pixels in every transfer syntax that the listener accepts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from encoders.base import EncodersError

Stored = NDArray[np.uint8] | NDArray[np.uint16]
Compress = Callable[[Stored, int], bytes]


class UnknownTransferSyntax(EncodersError):
    """The simulator has no encoder for a transfer syntax."""

    def __init__(self, name: str) -> None:
        known = ", ".join(SYNTAXES)
        super().__init__(f"no encoder for transfer syntax {name!r}; take 'mixed', a UID, or one of {known}")


@dataclass(frozen=True, slots=True)
class Syntax:
    """One row of the table of transfer syntaxes.

    Attributes
    ----------
    compress : callable or None
        From stored values (rows, columns) and Bits Stored to one frame's bytes; None for native pixel data.
    bits : tuple of int
        Bits Stored that the codestream can say of itself; a picture is brought to the nearest one.
    lossy : str
        (0028,2114) Lossy Image Compression Method, empty for a reversible one.
    tolerance : float
        Largest error to expect, as a share of the full range.
    """

    uid: UID
    compress: Compress | None = None
    bits: tuple[int, ...] = (8, 10, 12, 14, 16)
    lossy: str = ""
    tolerance: float = 0.0


def _jpeg(stored: Stored, bits: int) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(stored, 95, bitspersample=bits))


def _jpeg_lossless(predictor: int) -> Compress:
    def compress(stored: Stored, bits: int) -> bytes:
        return bytes(imagecodecs.jpeg8_encode(stored, lossless=True, predictor=predictor, bitspersample=bits))
    return compress


def _jpeg_ls(near: int) -> Compress:
    def compress(stored: Stored, bits: int) -> bytes:
        return bytes(imagecodecs.jpegls_encode(stored, near))
    return compress


def _jpeg_2000(lossy: bool) -> Compress:
    def compress(stored: Stored, bits: int) -> bytes:
        level = 52 if lossy else 0                    # PSNR in dB
        return bytes(imagecodecs.jpeg2k_encode(stored, level, codecformat="j2k", bitspersample=bits,
                                               reversible=not lossy, numthreads=1))
    return compress


def _htj2k(lossy: bool, tlm: bool = False) -> Compress:
    def compress(stored: Stored, bits: int) -> bytes:
        level = 0.0004 if lossy else None             # quantisation step, share of the full range
        return bytes(imagecodecs.htj2k_encode(stored, level, reversible=not lossy, tlm=tlm))
    return compress


def _rle(stored: Stored, bits: int) -> bytes:
    """Return a DICOM RLE frame (PS3.5 Annex G): PackBits of each byte plane, the most significant first."""
    planes = [stored] if stored.dtype == np.uint8 else [stored >> 8, stored & 0xFF]
    segments = [b"".join(_pack_row(row) for row in plane.astype(np.uint8)) for plane in planes]
    segments = [segment + b"\0" * (len(segment) % 2) for segment in segments]
    offsets = np.cumsum([64, *(len(segment) for segment in segments[:-1])])
    header = np.zeros(16, dtype="<u4")
    header[0] = len(segments)
    header[1: 1 + len(segments)] = offsets
    return header.tobytes() + b"".join(segments)


def _pack_row(row: NDArray[np.uint8]) -> bytes:
    return bytes(imagecodecs.packbits_encode(row.tobytes()))


#: Every transfer syntax of the listener, by the name that the command line takes.
SYNTAXES: dict[str, Syntax] = {
    "implicit": Syntax(ImplicitVRLittleEndian),
    "explicit": Syntax(ExplicitVRLittleEndian),
    "big-endian": Syntax(ExplicitVRBigEndian),
    "deflated": Syntax(DeflatedExplicitVRLittleEndian),
    "rle": Syntax(RLELossless, _rle),
    "jpeg-baseline": Syntax(JPEGBaseline8Bit, _jpeg, (8,), "ISO_10918_1", 0.04),
    "jpeg-extended": Syntax(JPEGExtended12Bit, _jpeg, (12,), "ISO_10918_1", 0.04),
    "jpeg-lossless": Syntax(JPEGLossless, _jpeg_lossless(4)),
    "jpeg-lossless-sv1": Syntax(JPEGLosslessSV1, _jpeg_lossless(1)),
    # imagecodecs tells CharLS and OpenJPH the depth of the array, so only 8 and 16 agree with Bits Stored; with 12,
    # the near-lossless codec stepped over 4095 and DCMTK showed the overflow as black.
    "jpeg-ls": Syntax(JPEGLSLossless, _jpeg_ls(0), (8, 16)),
    "jpeg-ls-near": Syntax(JPEGLSNearLossless, _jpeg_ls(2), (8, 16), "ISO_14495_1", 0.02),
    "jpeg2000": Syntax(JPEG2000Lossless, _jpeg_2000(False)),
    "jpeg2000-lossy": Syntax(JPEG2000, _jpeg_2000(True), (8, 10, 12, 14, 16), "ISO_15444_1", 0.04),
    "htj2k": Syntax(HTJ2KLossless, _htj2k(False), (8, 16)),
    "htj2k-rpcl": Syntax(HTJ2KLosslessRPCL, _htj2k(False, tlm=True), (8, 16)),
    "htj2k-lossy": Syntax(HTJ2K, _htj2k(True), (8, 16), "ISO_15444_15", 0.04),
}


def syntax_named(name: str) -> Syntax:
    """Return a row of SYNTAXES by its name or its UID; raise UnknownTransferSyntax."""
    for key, syntax in SYNTAXES.items():
        if name in (key, str(syntax.uid)):
            return syntax
    raise UnknownTransferSyntax(name)


def nearest_bits(syntax: Syntax, bits: int) -> int:
    """Return the Bits Stored that this syntax takes, nearest to those wanted (the larger of two)."""
    return min(syntax.bits, key=lambda each: (abs(each - bits), -each))


def encode(stored: Stored, bits: int, syntax: Syntax) -> tuple[bytes, float]:
    """Return the value of Pixel Data and the compression ratio (1.0 for native)."""
    if syntax.compress is None:
        big = syntax.uid == ExplicitVRBigEndian
        raw = stored.astype(stored.dtype.newbyteorder(">" if big else "<")).tobytes()
        return raw + b"\0" * (len(raw) % 2), 1.0
    frame = syntax.compress(stored, bits)
    return encapsulate([frame]), stored.nbytes / len(frame)
