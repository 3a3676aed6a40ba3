"""CR, DX and Secondary Capture objects -> Radiograph, in the order that PS3.3 C.11 and the design prescribe.

::

    decode -> padding mask -> reduce -> Modality LUT -> VOI LUT or window -> invert -> 0..1, square pixels

Of a multi-frame Secondary Capture the first frame stands for the object. Overlays are ignored.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut

from encoders.base import Radiograph, UnreadableInstance
from encoders.readers.decode import PixelLayout, decode, layout_of
from encoders.readers.gate import exposure_key_of, gate_reason_of, view_of
from encoders.readers.grayscale import displayed, is_inverted, modality_values, padding_mask
from encoders.readers.header import value_of
from encoders.readers.resample import box_reduce, fit, square_means

_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)                # Rec. ITU-R BT.601, as PS3.3 C.7.6.3.1.2


def _aspect_of(dataset: Dataset) -> float:
    """Return height over width of a pixel: PixelAspectRatio, else a spacing (PS3.3 C.7.6.3.1.7, 10.7.1.3)."""
    for keyword in ("PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing"):
        value = value_of(dataset, keyword)
        try:
            vertical, horizontal = (float(number) for number in value)
            aspect = vertical / horizontal
        except (TypeError, ValueError, ZeroDivisionError):
            continue
        if 0.2 <= aspect <= 5.0:
            return aspect if abs(aspect - 1.0) > 0.01 else 1.0
    return 1.0


def _luminance(values: NDArray[Any], dataset: Dataset, layout: PixelLayout) -> NDArray[np.float32]:
    """Return 0..1 luminance of a decoded colour frame."""
    top = float(2**layout.bits_stored - 1)
    if layout.photometric == "PALETTE COLOR":
        values = apply_color_lut(values, dataset)
        top = float(np.iinfo(values.dtype).max)
    if values.ndim == 3 and layout.photometric in ("YBR_FULL", "YBR_FULL_422"):
        values = values[..., 0]
    if values.ndim == 3:
        values = values[..., :3].astype(np.float32) @ _LUMINANCE
    return np.asarray(np.clip(values.astype(np.float32) / np.float32(top), 0, 1), np.float32)


def _reduced_extent(layout: PixelLayout, reduction: int) -> tuple[float, float]:
    return layout.rows / reduction, layout.columns / reduction


def _factor(shape: tuple[int, ...], short_side: int, aspect: float) -> int:
    """Return the whole factor to reduce by: the exact one, else one that leaves at least twice what is wanted.

    A second reduction by little more than 1 would mix each two neighbours.
    """
    height, width = shape[0] * max(aspect, 1.0), shape[1] * max(1.0 / aspect, 1.0)
    side = min(height, width)
    wanted = short_side if side % short_side == 0 else 2 * short_side
    return max(1, min(int(side // wanted), *shape[:2]))


def pixels_of(dataset: Dataset, short_side: int) -> NDArray[np.float32]:
    """Return the picture: float32 (rows, columns), 0..1, larger brighter, padding 0, short side at most `short_side`.

    Raises
    ------
    UnreadableInstance
        If there is no Pixel Data, or it cannot be decoded.
    """
    if "PixelData" not in dataset or not isinstance(dataset.PixelData, bytes) or not dataset.PixelData:
        raise UnreadableInstance("there is no Pixel Data")
    layout = layout_of(dataset)
    aspect = _aspect_of(dataset)
    decoded = decode(dataset, layout, short_side)
    values = decoded.values
    if not layout.photometric.startswith("MONOCHROME") or values.ndim == 3:
        luminance = _luminance(values, dataset, layout)
        luminance = square_means(luminance, decoded.wavelet_reduction, decoded.reversible)
        factor = _factor(luminance.shape, short_side, aspect)
        reduced, _ = box_reduce(luminance, factor)
        return fit(reduced, short_side, _reduced_extent(layout, decoded.reduction * factor), aspect)
    mask = padding_mask(values, dataset, layout.signed)
    factor = _factor(values.shape, short_side, aspect)
    values = square_means(values, decoded.wavelet_reduction, decoded.reversible)
    stored, mask = box_reduce(values, factor, mask)
    if mask is not None and mask.all():
        mask = None
    display = displayed(modality_values(stored, dataset, layout.signed), dataset, mask, layout.signed)
    if is_inverted(dataset, layout.photometric):
        display = np.float32(1.0) - display
    if mask is not None:
        display[mask] = 0.0
    return fit(display, short_side, _reduced_extent(layout, decoded.reduction * factor), aspect)


def read_radiograph(dataset: Dataset, short_side: int) -> Radiograph:
    """Return the Radiograph of a CR, DX or Secondary Capture data set (a `Reader`).

    An image that its header keeps out of the index is decoded all the same: the catalogue shows it with the reason.
    """
    pixels = pixels_of(dataset, short_side)
    return Radiograph(
        pixels=pixels,
        view=view_of(dataset),
        gate_reason=gate_reason_of(dataset),
        for_presentation=str(value_of(dataset, "PresentationIntentType") or "").strip().upper() != "FOR PROCESSING",
        exposure_key=exposure_key_of(dataset),
    )
