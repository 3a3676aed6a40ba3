"""From Pixel Data to stored values: one function a transfer syntax, each decoding no more than is needed.

Codecs are imagecodecs' (libjpeg-turbo, CharLS, OpenJPEG, OpenJPH: permissive licences) and Pillow's, which reach
reduced resolutions: DCT scaling for JPEG, fewer wavelet levels for JPEG 2000 and HTJ2K.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame

from encoders.base import UnreadableInstance
from encoders.readers.codestream import Codestream, parse_jpeg, parse_jpeg2000
from encoders.readers.header import value_of
from encoders.readers.table import TRANSFER_SYNTAXES

#: More pixels than any detector or film digitiser has (43 x 35 cm at 50 um are 60 million).
MAX_PIXELS = 100_000_000

Stored = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Decoded:
    """Stored values of a frame.

    Attributes
    ----------
    values : ndarray of int, shape (r, c) or (r, c, 3)
        Two dimensions of a colour frame are its luminance.
    reduction : int
        How many rows and columns of the whole image each of these stands for.
    is_wavelet : bool
        Then value [i, j] stands at [i, j] * reduction of the whole image, not in the middle of the square that it
        replaces (`resample.square_means`).
    reversible : bool
        Whether the wavelet is the reversible 5/3.
    """

    values: Stored
    reduction: int = 1
    is_wavelet: bool = False
    reversible: bool = True

    @property
    def wavelet_reduction(self) -> int:
        """The reduction that a wavelet decoder made, else 1."""
        return self.reduction if self.is_wavelet else 1


_EXPLICIT_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_SYNTAX = {syntax.uid: syntax for syntax in TRANSFER_SYNTAXES}


@dataclass(frozen=True, slots=True)
class PixelLayout:
    """The Image Pixel Module's numbers (PS3.3 C.7.6.3), checked."""

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    planar: bool
    photometric: str
    frames: int

    @property
    def frame_bytes(self) -> int:
        """Length of one native frame (PS3.5 8.1.1; YBR_FULL_422: two samples a pixel, PS3.3 C.7.6.3.1.2)."""
        samples = 2 if self.photometric == "YBR_FULL_422" else self.samples
        return (self.rows * self.columns * samples * self.bits_allocated + 7) // 8


def _number(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    value = value_of(dataset, keyword)
    if hasattr(value, "__iter__") and not isinstance(value, str | bytes):
        value = next(iter(value), None)
    if value is None or value == "":
        if default is None:
            raise UnreadableInstance(f"{keyword} is missing or empty")
        return default
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise UnreadableInstance(f"{keyword} is not a number") from error


def layout_of(dataset: Dataset) -> PixelLayout:
    """Return the checked layout of a data set with Pixel Data.

    Raises
    ------
    UnreadableInstance
        If a number is missing, contradicts another, or declares more pixels than any radiograph has.
    """
    rows, columns = _number(dataset, "Rows"), _number(dataset, "Columns")
    if rows < 1 or columns < 1:
        raise UnreadableInstance(f"Rows x Columns is {rows} x {columns}")
    if rows * columns > MAX_PIXELS:
        raise UnreadableInstance(f"{rows} x {columns} pixels are declared; no more than {MAX_PIXELS} are decoded")
    photometric = str(value_of(dataset, "PhotometricInterpretation") or "").strip().upper()
    colour = photometric.startswith(("RGB", "YBR"))
    samples = _number(dataset, "SamplesPerPixel", 3 if colour else 1)
    if samples not in (1, 3) or colour != (samples == 3):
        raise UnreadableInstance(f"SamplesPerPixel {samples} does not fit its Photometric Interpretation")
    if photometric not in _PHOTOMETRIC:
        raise UnreadableInstance("Photometric Interpretation is missing or unknown")
    bits_allocated = _number(dataset, "BitsAllocated")
    bits_stored = _number(dataset, "BitsStored", bits_allocated)
    high_bit = _number(dataset, "HighBit", bits_stored - 1)
    if bits_allocated not in (1, 8, 16, 32):
        raise UnreadableInstance(f"BitsAllocated is {bits_allocated}")
    if not 1 <= bits_stored <= bits_allocated or not bits_stored - 1 <= high_bit < bits_allocated:
        raise UnreadableInstance(
            f"BitsAllocated {bits_allocated}, BitsStored {bits_stored} and HighBit {high_bit} contradict each other"
        )
    return PixelLayout(
        rows=rows, columns=columns, samples=samples, bits_allocated=bits_allocated, bits_stored=bits_stored,
        high_bit=high_bit, signed=_number(dataset, "PixelRepresentation", 0) == 1,
        planar=_number(dataset, "PlanarConfiguration", 0) == 1, photometric=photometric,
        frames=max(1, _number(dataset, "NumberOfFrames", 1)),
    )


_PHOTOMETRIC = frozenset({
    "MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT",
})


def transfer_syntax_of(dataset: Dataset) -> str:
    """Return the transfer syntax UID of the meta header, or what the parser found to work where it is missing."""
    meta = getattr(dataset, "file_meta", None)
    named = str(meta.get("TransferSyntaxUID", "")) if meta is not None else ""
    if named:
        return named
    implicit, little = dataset.original_encoding
    if little is False:
        return _EXPLICIT_BIG_ENDIAN
    return "1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1"


def _first_frame(dataset: Dataset, layout: PixelLayout) -> bytes:
    """Return the compressed first frame, its fragments joined (PS3.5 A.4)."""
    data = dataset.PixelData
    offsets = None
    if "ExtendedOffsetTable" in dataset and "ExtendedOffsetTableLengths" in dataset:
        offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    try:
        frame: bytes = get_frame(data, 0, extended_offsets=offsets, number_of_frames=layout.frames)
    except Exception as error:
        raise UnreadableInstance(f"the fragments of Pixel Data are damaged ({type(error).__name__})") from error
    if not frame:
        raise UnreadableInstance("Pixel Data holds no compressed frame")
    return frame


def _native(dataset: Dataset, layout: PixelLayout, short_side: int) -> Decoded:
    data = dataset.PixelData
    if len(data) < layout.frame_bytes:
        raise UnreadableInstance(f"Pixel Data holds {len(data)} of the {layout.frame_bytes} bytes of a frame")
    if layout.bits_allocated == 1:
        bits = np.unpackbits(np.frombuffer(data, np.uint8, layout.frame_bytes), bitorder="little")
        return Decoded(bits[: layout.rows * layout.columns].reshape(layout.rows, layout.columns))
    order = ">" if transfer_syntax_of(dataset) == _EXPLICIT_BIG_ENDIAN else "<"
    dtype = np.dtype(f"{order}u{layout.bits_allocated // 8}")
    values = np.frombuffer(data, dtype, layout.frame_bytes // dtype.itemsize)
    if order == ">":
        values = values.astype(dtype.newbyteorder("="))
    return Decoded(_shape(values, layout))


def _shape(values: Stored, layout: PixelLayout) -> Stored:
    """Return flat samples as (rows, columns[, samples]), stored bits only, sign extended (PS3.5 8.1.1)."""
    if layout.photometric == "YBR_FULL_422":
        pairs = values.reshape(-1, 4)                                   # Y1 Y2 Cb Cr: luminance is all that is wanted
        return pairs[:, :2].reshape(layout.rows, layout.columns)
    unused = layout.bits_allocated - layout.bits_stored
    if layout.signed:
        values = values.view(values.dtype.str.replace("u", "i"))
    if unused and not layout.signed and layout.high_bit == layout.bits_stored - 1:
        values = values & ((1 << layout.bits_stored) - 1)               # old overlays live in the unused bits
    elif unused:
        values = (values << (layout.bits_allocated - 1 - layout.high_bit)) >> unused
    if layout.samples == 1:
        return values.reshape(layout.rows, layout.columns)
    if layout.planar:
        return np.moveaxis(values.reshape(layout.samples, layout.rows, layout.columns), 0, -1)
    return values.reshape(layout.rows, layout.columns, layout.samples)


def _rle(dataset: Dataset, layout: PixelLayout, short_side: int) -> Decoded:
    """PS3.5 Annex G: one segment a byte of a sample, most significant first; colour comes plane by plane.

    Segments are unpacked one by one: imagecodecs' decoder of whole frames trusts their header and can crash.
    """
    frame = _first_frame(dataset, layout)
    width = layout.bits_allocated // 8
    header = np.frombuffer(frame, "<u4", 16) if len(frame) >= 64 else np.zeros(16, "<u4")
    count, offsets = int(header[0]), [int(offset) for offset in header[1:]]
    if count != width * layout.samples or not width:
        raise UnreadableInstance(f"the RLE frame has {count} segments, {width * layout.samples} are needed")
    bounds = [*offsets[:count], len(frame)]
    if bounds[0] < 64 or any(begin >= end for begin, end in pairwise(bounds)):
        raise UnreadableInstance("the RLE frame's segment table is damaged")
    area = layout.rows * layout.columns
    samples = np.empty((layout.samples, area, width), np.uint8)
    for index, (begin, end) in enumerate(pairwise(bounds)):
        unpacked = np.frombuffer(imagecodecs.packbits_decode(frame[begin:end]), np.uint8)
        if unpacked.size < area:
            raise UnreadableInstance(f"an RLE segment holds {unpacked.size} of {area} bytes")
        samples[index // width, :, width - 1 - index % width] = unpacked[:area]
    values = samples.view(f"<u{width}")[..., 0]
    if layout.samples == 1:
        return Decoded(_shape(values[0], layout))
    return Decoded(np.moveaxis(values.reshape(layout.samples, layout.rows, layout.columns), 0, -1))


def _agree(stream: Codestream, layout: PixelLayout) -> None:
    """Refuse a stream of another size than the header's: a bomb, or another image."""
    if (stream.rows, stream.columns) != (layout.rows, layout.columns):
        raise UnreadableInstance(
            f"the compressed stream is {stream.rows} x {stream.columns}, "
            f"the header says {layout.rows} x {layout.columns}"
        )


def _signed(values: Stored, stream_bits: int, layout: PixelLayout) -> Stored:
    """Return values in the header's sense: codecs of the JPEG family know no sign, JPEG 2000 may differ from it."""
    if layout.signed and values.dtype.kind == "u":
        shift = values.dtype.itemsize * 8 - min(stream_bits, values.dtype.itemsize * 8)
        return (values << shift).view(values.dtype.str.replace("u", "i")) >> shift
    if not layout.signed and values.dtype.kind == "i":
        return values.astype(np.int32) & ((1 << stream_bits) - 1)
    return values


def _jpeg(dataset: Dataset, layout: PixelLayout, short_side: int) -> Decoded:
    """JPEG baseline, extended and lossless (ISO/IEC 10918-1); 8-bit DCT frames are scaled while they are decoded."""
    frame = _first_frame(dataset, layout)
    stream = parse_jpeg(frame)
    _agree(stream, layout)
    plain_rgb = stream.components == 3 and layout.photometric == "RGB" and not stream.colour_transform
    if stream.lossless or stream.precision > 8 or plain_rgb:
        space = "RGB" if plain_rgb and not stream.lossless else None
        values = imagecodecs.jpeg8_decode(frame, colorspace=space, outcolorspace=space)
        return Decoded(_signed(values, stream.precision, layout))
    with Image.open(io.BytesIO(frame)) as image:
        scale = max(1, min(layout.rows, layout.columns) // max(1, short_side))
        image.draft("L", (layout.columns // scale, layout.rows // scale))
        values = np.asarray(image.convert("L"))                         # Y Cb Cr: the luminance itself
    return Decoded(_signed(values, 8, layout), round(layout.columns / values.shape[1]))


def _jpeg_ls(dataset: Dataset, layout: PixelLayout, short_side: int) -> Decoded:
    frame = _first_frame(dataset, layout)
    stream = parse_jpeg(frame)
    _agree(stream, layout)
    return Decoded(_signed(imagecodecs.jpegls_decode(frame), stream.precision, layout))


def _halvings(stream: Codestream, short_side: int) -> int:
    """Return how often a wavelet decoder may leave out a level with at least `short_side` pixels remaining."""
    count, side = 0, min(stream.rows, stream.columns)
    while count < stream.levels and (side + 1) // 2 >= short_side:
        count, side = count + 1, (side + 1) // 2
    return count


def _jpeg2000(dataset: Dataset, layout: PixelLayout, short_side: int) -> Decoded:
    frame = _first_frame(dataset, layout)
    stream = parse_jpeg2000(frame)
    _agree(stream, layout)
    halvings = _halvings(stream, short_side)
    if not halvings or stream.components != 1 or not 8 <= stream.precision <= 16:
        return Decoded(_signed(imagecodecs.jpeg2k_decode(frame), stream.precision, layout))
    codestream = frame[frame.index(b"\xff\x4f\xff\x51"):]
    values = None
    while values is None:
        try:
            with Image.open(io.BytesIO(codestream)) as image:
                image.reduce = halvings                                 # type: ignore[method-assign, assignment]
                values = np.asarray(image)
        except OSError:                             # some valid streams lack what the fewest levels need
            if not halvings:
                raise
            halvings -= 1
    # Pillow moves samples to the top of its 8 or 16 bits, and signed ones up by half their range.
    values = values >> (values.dtype.itemsize * 8 - stream.precision)
    if stream.signed:
        values = values.astype(np.int32) - (1 << (stream.precision - 1))
    return Decoded(_signed(values, stream.precision, layout), 2**halvings, True, stream.reversible)


def _htj2k(dataset: Dataset, layout: PixelLayout, short_side: int) -> Decoded:
    frame = _first_frame(dataset, layout)
    stream = parse_jpeg2000(frame)
    _agree(stream, layout)
    # A low-pass band overshoots the range of its image, and the codec lets that wrap around in its 8 or 16 bits: white
    # specks in the black. With a bit to spare it can be told and clipped; without one the whole image is decoded.
    bits = min(stream.precision, layout.bits_stored)
    spare = not stream.signed and 8 < bits < 16
    halvings = _halvings(stream, short_side) if spare else 0
    values = imagecodecs.htj2k_decode(frame, skipres=halvings)
    if halvings:
        values = np.clip(values.view(np.int16), 0, (1 << bits) - 1).astype(np.uint16)
    return Decoded(_signed(values, stream.precision, layout), 2**halvings, True, stream.reversible)


Decoder = Callable[[Dataset, PixelLayout, int], Decoded]

#: Transfer syntax UID -> decoder of the first frame.
DECODERS: Mapping[str, Decoder] = {
    **{syntax.uid: _native for syntax in TRANSFER_SYNTAXES if not syntax.compressed},
    "1.2.840.10008.1.2.5": _rle,
    **{f"1.2.840.10008.1.2.4.{number}": _jpeg for number in (50, 51, 57, 70)},
    **{f"1.2.840.10008.1.2.4.{number}": _jpeg_ls for number in (80, 81)},
    **{f"1.2.840.10008.1.2.4.{number}": _jpeg2000 for number in (90, 91)},
    **{f"1.2.840.10008.1.2.4.{number}": _htj2k for number in (201, 202, 203)},
}


def decode(dataset: Dataset, layout: PixelLayout, short_side: int) -> Decoded:
    """Return the stored values of the first frame, possibly at a reduced resolution.

    Codecs that can, scale down while they decode, never below `short_side` on the short side.

    Raises
    ------
    UnreadableInstance
        If the syntax is unknown or the codec refuses the frame.
    """
    uid = transfer_syntax_of(dataset)
    decoder = DECODERS.get(uid)
    if decoder is None:
        shown = uid if re.fullmatch(r"[0-9.]{1,64}", uid) else "(malformed)"
        raise UnreadableInstance(f"transfer syntax {shown} is not supported")
    try:
        decoded = decoder(dataset, layout, short_side)
    except UnreadableInstance:
        raise
    except Exception as error:
        # Codecs raise errors of their own classes; none of them derives from another.
        fault = type(error).__name__
        raise UnreadableInstance(f"{_SYNTAX[uid].name}: the codec refuses the frame ({fault})") from error
    if decoded.values.ndim not in (2, 3) or decoded.values.size == 0:
        raise UnreadableInstance("the codec returned no image")
    return decoded
