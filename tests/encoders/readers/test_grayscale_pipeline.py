"""The order and the formulas of the grey scale pipeline."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from encoders.readers import read_instance


def pixels_of(path, short_side: int = 1024) -> np.ndarray:
    return read_instance(path, short_side).content.pixels


def lut(values: np.ndarray, first: int, bits: int) -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(values) % 65536, first, bits])
    item.add_new("LUTData", "OW", values.astype("<u2").tobytes())
    return Sequence([item])


def linear(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip((values.astype(float) - low) / (high - low), 0, 1)


def test_monochrome1_is_inverted_after_its_window(phantom, image, stored):
    plain = image(phantom, bits=12, WindowCenter=1500, WindowWidth=1000)
    negative = image(phantom, bits=12, photometric="MONOCHROME1", WindowCenter=1500, WindowWidth=1000)
    assert np.allclose(pixels_of(stored(plain)), 1 - pixels_of(stored(negative)), atol=1e-6)


def test_presentation_lut_shape_inverse_inverts_once(phantom, image, stored):
    plain = pixels_of(stored(image(phantom, bits=12, WindowCenter=2048, WindowWidth=4096)))
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        dataset = image(phantom, bits=12, photometric=photometric, WindowCenter=2048, WindowWidth=4096,
                        PresentationLUTShape="INVERSE")
        assert np.allclose(pixels_of(stored(dataset)), 1 - plain, atol=1e-6)


def test_rescale_comes_before_the_window(phantom, image, stored):
    dataset = image(phantom, bits=12, RescaleSlope="2", RescaleIntercept="-1000",
                    WindowCenter=3000, WindowWidth=4001, VOILUTFunction="LINEAR")
    expected = linear(phantom.astype(float) * 2 - 1000, 2999.5 - 2000, 2999.5 + 2000)
    assert np.abs(pixels_of(stored(dataset)) - expected).max() < 1e-5


@pytest.mark.parametrize("slope", ["0", "", "nan"])
def test_a_useless_slope_counts_as_one(slope, phantom, image, stored):
    dataset = image(phantom, bits=12, WindowCenter=2048, WindowWidth=4096)
    reference = pixels_of(stored(dataset))
    dataset.add_new("RescaleSlope", "DS", "1")
    dataset["RescaleSlope"]._value = slope
    assert np.allclose(pixels_of(stored(dataset)), reference)


def test_of_several_windows_the_first_is_taken(phantom, image, stored):
    dataset = image(phantom, bits=12, WindowCenter=[2048, 100], WindowWidth=[4096, 50])
    assert np.abs(pixels_of(stored(dataset)) - linear(phantom, -0.0, 4095.0)).max() < 1e-3


def test_linear_exact_has_no_half_pixel_offset(phantom, image, stored):
    dataset = image(phantom, bits=12, WindowCenter=2000, WindowWidth=2000, VOILUTFunction="LINEAR_EXACT")
    assert np.abs(pixels_of(stored(dataset)) - linear(phantom, 1000, 3000)).max() < 1e-5


def test_sigmoid_follows_its_formula(phantom, image, stored):
    dataset = image(phantom, bits=12, WindowCenter=2000, WindowWidth=2000, VOILUTFunction="SIGMOID")
    expected = 1 / (1 + np.exp(-4 * (phantom.astype(float) - 2000) / 2000))
    assert np.abs(pixels_of(stored(dataset)) - expected).max() < 1e-5


def test_a_modality_lut_replaces_rescale(phantom, image, stored):
    dataset = image(phantom, bits=12, WindowCenter=2048, WindowWidth=4096,
                    ModalityLUTSequence=lut(np.arange(4096)[::-1], 0, 12))
    plain = image(phantom, bits=12, WindowCenter=2048, WindowWidth=4096)
    assert np.abs(pixels_of(stored(dataset)) - (1 - pixels_of(stored(plain)))).max() < 1e-3


def test_a_voi_lut_wins_over_a_window(phantom, image, stored):
    curve = (4095 * np.linspace(0, 1, 4096) ** 2).round()
    dataset = image(phantom, bits=12, WindowCenter=10, WindowWidth=10, VOILUTSequence=lut(curve, 0, 12))
    assert np.abs(pixels_of(stored(dataset)) - (phantom / 4095.0) ** 2).max() < 1e-3


def test_a_voi_lut_with_a_wrong_bit_depth_is_scaled_by_what_it_holds(phantom, image, stored):
    dataset = image(phantom, bits=12, VOILUTSequence=lut(np.arange(4096), 0, 16))
    assert pixels_of(stored(dataset)).max() > 0.85


@pytest.mark.parametrize("window", [(None, None), (2048, 0), (90000, 10), (-5000, 100), ("nan", 4096)])
def test_without_a_usable_window_percentiles_show_the_picture(window, phantom, image, stored):
    dataset = image(phantom, bits=12)
    if window[0] is not None:
        dataset.add_new("WindowCenter", "DS", "1")
        dataset.add_new("WindowWidth", "DS", str(window[1]))
        dataset["WindowCenter"]._value = str(window[0])
    pixels = pixels_of(stored(dataset))
    low, high = np.percentile(phantom, (0.5, 99.5))
    assert np.abs(pixels - linear(phantom, low, high)).max() < 1e-5


def test_padding_is_black_and_does_not_count_for_the_window(phantom, image, stored):
    padded = phantom.copy()
    padded[:, :60] = 65535
    dataset = image(padded, PixelPaddingValue=65535)
    pixels = pixels_of(stored(dataset))
    assert np.all(pixels[:, :60] == 0)
    assert np.percentile(pixels[:, 60:], 99) > 0.9


def test_padding_stays_black_in_monochrome1_and_in_a_reduced_picture(phantom, image, stored):
    padded = phantom.copy()
    padded[:, :64] = 0
    dataset = image(padded, bits=12, photometric="MONOCHROME1", PixelPaddingValue=0,
                    WindowCenter=2048, WindowWidth=4096)
    pixels = pixels_of(stored(dataset), 60)
    assert pixels.shape == (75, 60)
    assert np.all(pixels[:, :16] == 0)
    expected = (1 - linear(phantom, 0, 4095)).reshape(75, 4, 60, 4).mean((1, 3))
    assert np.abs(pixels - expected)[:, 16:].max() < 2e-3


def test_a_padding_range_is_masked_whole(phantom, image, stored):
    padded = phantom.astype(np.int16)
    padded[:50] = np.arange(-2000, -2000 + 240)
    dataset = image(padded, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1700)
    pixels = pixels_of(stored(dataset))
    assert np.all(pixels[:50] == 0)
    assert np.percentile(pixels[50:], 99) > 0.9


def test_an_image_that_is_all_padding_value_is_still_a_picture(image, stored):
    dataset = image(np.zeros((80, 80), np.uint16), PixelPaddingValue=0)
    assert np.all(pixels_of(stored(dataset)) == 0)


def test_overlay_bits_above_the_stored_ones_are_ignored(phantom, image, stored):
    dataset = image(phantom | np.uint16(0x8000), bits=12, WindowCenter=2048, WindowWidth=4096)
    assert np.abs(pixels_of(stored(dataset)) - linear(phantom, 0, 4095)).max() < 1e-3


def test_a_high_bit_above_the_stored_bits_is_shifted_down(phantom, image, stored):
    dataset = image(phantom << 4, bits=12, WindowCenter=2048, WindowWidth=4096)
    dataset.HighBit = 15
    assert np.abs(pixels_of(stored(dataset)) - linear(phantom, 0, 4095)).max() < 1e-3


@pytest.mark.parametrize("keyword", ["PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing"])
def test_pixels_that_are_not_square_are_made_so(keyword, phantom, image, stored):
    dataset = image(phantom, bits=12, WindowCenter=2048, WindowWidth=4096)
    setattr(dataset, keyword, [2, 1] if keyword == "PixelAspectRatio" else ["0.4", "0.2"])
    assert pixels_of(stored(dataset)).shape == (600, 240)
    assert pixels_of(stored(dataset), 120).shape == (300, 120)


@pytest.mark.parametrize("short_side", [224, 100, 61, 31])
def test_the_short_side_is_what_was_asked_for(short_side, phantom, image, stored):
    pixels = pixels_of(stored(image(phantom, bits=12)), short_side)
    assert min(pixels.shape) == short_side
    assert abs(pixels.shape[0] / pixels.shape[1] - 300 / 240) < 0.05
    assert pixels.min() >= 0
    assert pixels.max() <= 1
