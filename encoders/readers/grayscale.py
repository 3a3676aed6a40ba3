"""The grayscale pipeline of PS3.3 C.11 and PS3.4 N.2, on values already reduced to the size that is needed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from encoders.readers.header import items_of, value_of

Float32 = NDArray[np.float32]
Bool = NDArray[np.bool_]

#: Share of the pixels left black and white when no usable window is given.
PERCENTILES = (0.5, 99.5)


def first_float(dataset: Dataset, keyword: str) -> float | None:
    """Return the first value of a numeric attribute, None if it is absent or no finite number."""
    value = value_of(dataset, keyword)
    if value is not None and not isinstance(value, str | bytes | int | float):
        value = next(iter(value), None) if hasattr(value, "__iter__") else value
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def padding_mask(values: NDArray[Any], dataset: Dataset, signed: bool) -> Bool | None:
    """Return where stored values are padding (PS3.3 C.7.5.1.1.2), None if nothing is or nothing else would be left."""
    limits = [first_float(dataset, keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if limits[0] is None:
        return None
    given = [limits[0], limits[0] if limits[1] is None else limits[1]]
    if signed:                                                          # written as US, meant as SS
        given = [limit - 65536 if limit > 32767 else limit for limit in given]
    low, high = min(given), max(given)
    mask = values == low if low == high else (values >= low) & (values <= high)
    return mask if mask.any() and not mask.all() else None


class _Table:
    """A Modality or VOI LUT (PS3.3 C.11.1.1, C.11.2.1.1)."""

    def __init__(self, item: Dataset, signed_input: bool, little_endian: bool) -> None:
        descriptor = [int(number) for number in item.LUTDescriptor]
        entries = descriptor[0] or 65536
        first, bits = descriptor[1], descriptor[2]
        if signed_input and first > 32767:
            first -= 65536
        data = item.LUTData
        if isinstance(data, bytes):
            wide = len(data) >= 2 * entries
            data = np.frombuffer(data, ("<u2" if little_endian else ">u2") if wide else np.uint8)
        table = np.asarray(data, np.float32)[:entries]
        if table.size < 2 or not np.isfinite(table).all():
            raise ValueError("empty LUT")
        top = float(2 ** min(max(bits, 1), 16) - 1)
        largest = float(table.max())
        # Descriptors lie: a table far below, or above, its declared bits is scaled by what it holds.
        self.top = top if top / 2 <= largest <= top else max(largest, 1.0)
        self.first, self.table = first, table

    def __call__(self, values: Float32) -> Float32:
        """Return table values; input outside of the table takes the nearest end."""
        index = np.clip(np.rint(values) - self.first, 0, self.table.size - 1).astype(np.intp)
        return np.asarray(self.table[index], np.float32)


def _table(dataset: Dataset, keyword: str, signed_input: bool) -> _Table | None:
    sequence = items_of(dataset, keyword)
    if not sequence:
        return None
    little_endian = getattr(dataset, "original_encoding", (None, None))[1] is not False
    try:
        return _Table(sequence[0], signed_input, little_endian)
    except (AttributeError, ValueError, TypeError, IndexError):
        return None                                                     # damaged: as if it were not there


def modality_values(values: Float32, dataset: Dataset, signed: bool) -> Float32:
    """Return values after the Modality LUT, or Rescale Slope and Intercept (PS3.3 C.11.1)."""
    table = _table(dataset, "ModalityLUTSequence", signed)
    if table is not None:
        return table(values)
    slope, intercept = first_float(dataset, "RescaleSlope"), first_float(dataset, "RescaleIntercept")
    if slope in (None, 0.0, 1.0) and not intercept:
        return values
    return values * np.float32(slope or 1.0) + np.float32(intercept or 0.0)


def _window(values: Float32, center: float, width: float, function: str) -> Float32 | None:
    """Return 0..1 by PS3.3 C.11.2.1.2 (LINEAR), C.11.2.1.3.2 (LINEAR_EXACT) or C.11.2.1.3.1 (SIGMOID)."""
    if function == "SIGMOID" and width > 0:
        exponent = np.clip(-4.0 * (values - center) / width, -60, 60)
        return np.asarray(1.0 / (1.0 + np.exp(exponent)), np.float32)
    if function == "LINEAR_EXACT" and width > 0:
        return np.asarray(np.clip((values - center) / width + 0.5, 0, 1), np.float32)
    if width == 1:
        return np.asarray(values > center - 0.5, np.float32)
    if width > 1:
        return np.asarray(np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1), np.float32)
    return None


def _sample(values: Float32) -> Float32:
    """Return an even sample of at most some 100,000 values: percentiles of more are slow and no better."""
    flat = values.reshape(-1)
    return flat[:: max(1, flat.size // 100_000)]


def _percentile_window(values: Float32, valid: Float32) -> Float32:
    low, high = (float(limit) for limit in np.percentile(_sample(valid), PERCENTILES))
    if high <= low:
        low, high = float(valid.min()), float(valid.max())
    if high <= low:
        return np.zeros_like(values)
    return np.asarray(np.clip((values - low) / (high - low), 0, 1), np.float32)


def _shows_something(display: Float32) -> bool:
    """Return whether a window leaves a picture: the middle 90 % of the pixels spread over 5 % of the grey scale."""
    low, high = np.percentile(_sample(display), (5, 95))
    return bool(high - low >= 0.05)


def displayed(values: Float32, dataset: Dataset, mask: Bool | None, signed: bool) -> Float32:
    """Return 0..1 by the first VOI LUT, else the first window, else percentiles, before any inversion.

    A table or window that shows nothing of this image is passed over.
    """
    valid = values if mask is None else values[~mask]
    table = _table(dataset, "VOILUTSequence", signed or bool(valid.min() < 0))
    if table is not None:
        display = np.clip(table(values) / table.top, 0, 1)
        if _shows_something(display if mask is None else display[~mask]):
            return np.asarray(display, np.float32)
    center, width = first_float(dataset, "WindowCenter"), first_float(dataset, "WindowWidth")
    if center is not None and width is not None:
        function = str(value_of(dataset, "VOILUTFunction") or "LINEAR").strip().upper()
        windowed = _window(values, center, width, function)
        if windowed is not None and _shows_something(windowed if mask is None else windowed[~mask]):
            return windowed
    if str(value_of(dataset, "PixelIntensityRelationship") or "").strip().upper() == "LIN":
        # Raw detector signal: film-like contrast is its logarithm (PS3.3 C.8.11.3.1.2).
        floor = float(valid.min())
        values, valid = np.log1p(values - min(floor, 0.0)), np.log1p(valid - min(floor, 0.0))
    return _percentile_window(values, valid)


def is_inverted(dataset: Dataset, photometric: str) -> bool:
    """Return whether larger values are darker (PS3.3 C.7.6.3.1.2, C.11.6; MONOCHROME1 and INVERSE are one)."""
    shape = str(value_of(dataset, "PresentationLUTShape") or "").strip().upper()
    return photometric == "MONOCHROME1" or shape == "INVERSE"
