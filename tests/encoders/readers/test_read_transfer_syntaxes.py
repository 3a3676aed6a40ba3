"""One phantom, every accepted transfer syntax, one picture."""

from __future__ import annotations

import numpy as np
import pytest

from encoders.readers import TRANSFER_SYNTAXES, read_instance

EVERY = [syntax.uid for syntax in TRANSFER_SYNTAXES]
EIGHT_BIT_ONLY = {"1.2.840.10008.1.2.4.50"}
LOSSY = {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.91",
         "1.2.840.10008.1.2.4.203"}
UNSIGNED_ONLY = {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81"}
NAMES = {syntax.uid: syntax.name for syntax in TRANSFER_SYNTAXES}


def windowed(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """PS3.3 C.11.2.1.2.1, written as the standard writes it."""
    x = values.astype(np.float64)
    display = ((x - (center - 0.5)) / (width - 1)) + 0.5
    display[x <= center - 0.5 - (width - 1) / 2] = 0
    display[x > center - 0.5 + (width - 1) / 2] = 1
    return display


def area(values: np.ndarray, factor: int) -> np.ndarray:
    rows, columns = values.shape[0] // factor, values.shape[1] // factor
    return values[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor).mean((1, 3))


@pytest.mark.parametrize("uid", EVERY, ids=NAMES.get)
def test_a_transfer_syntax_gives_the_reference_picture(uid, phantom, image, stored):
    array, bits, window = phantom, 12, (2100, 3600)
    if uid in EIGHT_BIT_ONLY:
        array, bits, window = (phantom >> 4).astype(np.uint8), 8, (131, 225)
    dataset = image(array, uid, bits, WindowCenter=window[0], WindowWidth=window[1])
    content = read_instance(stored(dataset), 1024).content
    assert content.pixels.dtype == np.float32
    assert content.pixels.shape == array.shape
    difference = np.abs(content.pixels - windowed(array, *window))
    assert difference.max() < (0.05 if uid in LOSSY else 1e-5)
    assert difference.mean() < (0.01 if uid in LOSSY else 1e-6)


@pytest.mark.parametrize("uid", EVERY, ids=NAMES.get)
def test_a_picture_decoded_small_is_close_to_one_decoded_whole_and_reduced(uid, phantom, image, stored):
    array, bits, window = phantom, 12, (2100, 3600)
    if uid in EIGHT_BIT_ONLY:
        array, bits, window = (phantom >> 4).astype(np.uint8), 8, (131, 225)
    path = stored(image(array, uid, bits, WindowCenter=window[0], WindowWidth=window[1]))
    small = read_instance(path, 60).content.pixels
    whole = area(read_instance(path, 1024).content.pixels, 4)
    assert small.shape == whole.shape == (75, 60)
    assert np.abs(small - whole).mean() < 0.006
    assert np.corrcoef(small.ravel(), whole.ravel())[0, 1] > 0.998


@pytest.mark.parametrize("uid", [uid for uid in EVERY if uid not in UNSIGNED_ONLY], ids=NAMES.get)
@pytest.mark.parametrize("short_side", [1024, 60], ids=["whole", "small"])
def test_signed_values_keep_their_sign(uid, short_side, phantom, image, stored):
    array = phantom.astype(np.int16) - 2048
    path = stored(image(array, uid, 16, WindowCenter=0, WindowWidth=4096))
    pixels = read_instance(path, short_side).content.pixels
    expected = windowed(array, 0, 4096)
    if short_side == 60:
        expected = area(expected, 4)
    assert np.abs(pixels - expected).mean() < 0.01


@pytest.mark.parametrize(
    "uid",
    ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.70",
     "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.201"],
    ids=NAMES.get,
)
def test_colour_becomes_its_luminance(uid, phantom, image, stored):
    grey = (phantom >> 4).astype(np.uint8)
    colour = np.stack([grey, 255 - grey, np.full_like(grey, 40)], -1)
    photometric = "YBR_FULL_422" if uid == "1.2.840.10008.1.2.4.50" else "RGB"
    dataset = image(colour, uid, 8, photometric, SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    pixels = read_instance(stored(dataset), 1024).content.pixels
    expected = (colour @ np.array([0.299, 0.587, 0.114])) / 255
    assert np.abs(pixels - expected).mean() < 0.02
    assert pixels.shape == grey.shape


def test_of_a_multi_frame_capture_the_first_frame_is_read(phantom, image, stored):
    second = phantom[::-1]
    dataset = image(phantom, bits=12, SOPClassUID="1.2.840.10008.5.1.4.1.1.7.3", NumberOfFrames=2,
                    WindowCenter=2100, WindowWidth=3600)
    dataset.PixelData = phantom.tobytes() + second.tobytes()
    pixels = read_instance(stored(dataset), 1024).content.pixels
    assert np.abs(pixels - windowed(phantom, 2100, 3600)).max() < 1e-5


def test_single_bit_captures_are_unpacked(image, stored):
    bits = np.zeros((80, 96), np.uint8)
    bits[20:60, 30:70] = 1
    dataset = image(bits, SOPClassUID="1.2.840.10008.5.1.4.1.1.7.1")
    dataset.BitsAllocated = dataset.BitsStored = 1
    dataset.HighBit = 0
    dataset.PixelData = np.packbits(bits, bitorder="little").tobytes()
    pixels = read_instance(stored(dataset), 512).content.pixels
    assert np.array_equal(pixels, bits.astype(np.float32))


@pytest.mark.parametrize("uid", [uid for uid in EVERY if uid not in LOSSY], ids=NAMES.get)
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_hard_edges_between_black_and_white_leave_no_specks_when_decoded_small(uid, bits, image, stored):
    top = 2**bits - 1
    array = np.zeros((512, 512), np.uint8 if bits == 8 else np.uint16)
    array[100:300, 100:300] = top                   # a wavelet's low-pass band overshoots here, above and below
    array[100:300, 110:300:20] = 0
    path = stored(image(array, uid, bits, WindowCenter=top / 2 + 0.5, WindowWidth=top + 1))
    small = read_instance(path, 128).content.pixels
    assert small[:24].max() < 0.5                   # black above, left of and below the square
    assert small[:, :24].max() < 0.5
    assert small[77:].max() < 0.5
    whole = area(read_instance(path, 1024).content.pixels, 4)
    assert np.abs(small - whole).max() < 0.8        # a speck is white in black
