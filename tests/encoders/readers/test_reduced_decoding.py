"""A compressed radiograph that is decoded small has the embedding of the same one decoded whole."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian

from encoders.phantom.codecs import SYNTAXES
from encoders.phantom.study import simulate
from encoders.phantom.writing import write_study
from encoders.readers import read_instance
from encoders.readers.decode import decode, layout_of
from encoders.readers.resample import square_means
from encoders.registry import load_encoder

#: What the worker asks for by default: storage.rendition_short_side.
SHORT_SIDE = 512
WHOLE = 1_000_000
#: Codecs that reach a reduced resolution (HTJ2K only with a bit to spare), with a depth that each of them knows.
REDUCING = [("jpeg-baseline", 8), ("jpeg2000", 8), ("jpeg2000", 12), ("jpeg2000", 16), ("jpeg2000-lossy", 8),
            ("jpeg2000-lossy", 12), ("htj2k", 12), ("htj2k-lossy", 12)]


@pytest.fixture(scope="module")
def encoder():
    return load_encoder(threads=1)


@pytest.fixture(scope="module")
def uncompressed(tmp_path_factory):
    """Real-sized radiographs, by Bits Stored."""
    folder = tmp_path_factory.mktemp("uncompressed")
    (study,) = simulate(1, 11, lateral_share=0.0)
    return {
        bits: write_study(study, folder / str(bits), transfer_syntax="explicit", size=(2500, 2048), bits=bits,
                          report=False)[0]
        for bits in (8, 12, 16)
    }  # fmt: skip


def whole_twin(dataset, path):
    """Write what a file holds, decoded whole, as an uncompressed file."""
    decoded = decode(dataset, layout_of(dataset), WHOLE)
    assert decoded.reduction == 1
    dataset.PixelData = decoded.values.astype(f"u{dataset.BitsAllocated // 8}").tobytes()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
    return path


def likeness(encoder, path, twin):
    pictures = [read_instance(each, SHORT_SIDE).content.pixels for each in (path, twin)]
    assert pictures[0].shape == pictures[1].shape
    one, other = encoder.encode_images(pictures).embeddings
    return float(one @ other)


@pytest.mark.parametrize(("name", "bits"), REDUCING)
def test_decoding_small_moves_the_embedding_by_less_than_a_thousandth(name, bits, uncompressed, encoder, tmp_path):
    dataset = dcmread(uncompressed[bits])
    syntax = SYNTAXES[name]
    dataset.PixelData = encapsulate([syntax.compress(dataset.pixel_array, bits)])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = syntax.uid
    dataset.save_as(tmp_path / "compressed.dcm", enforce_file_format=True)
    again = dcmread(tmp_path / "compressed.dcm")
    assert decode(again, layout_of(again), SHORT_SIDE).reduction == 4
    assert likeness(encoder, tmp_path / "compressed.dcm", whole_twin(again, tmp_path / "whole.dcm")) >= 0.999


def test_a_real_jpeg_2000_radiograph_keeps_its_embedding_too(real_dicom, encoder, tmp_path):
    path = real_dicom / "cxr" / "pydicom-data__RG1_J2KI.dcm"
    dataset = dcmread(path)
    assert decode(dataset, layout_of(dataset), SHORT_SIDE).reduction > 1
    assert likeness(encoder, path, whole_twin(dataset, tmp_path / "whole.dcm")) >= 0.999


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
@pytest.mark.parametrize("lossless", [True, False], ids=["5/3", "9/7"])
def test_a_low_pass_band_comes_much_closer_to_the_means_of_squares(lossless, levels, image):
    rng = np.random.default_rng(5)
    rough = rng.normal(size=(512, 512)).cumsum(0).cumsum(1)
    array = ((rough - rough.min()) / np.ptp(rough) * 4000).astype(np.uint16)
    dataset = image(array, "1.2.840.10008.1.2.4.90" if lossless else "1.2.840.10008.1.2.4.91", 12)
    side = 512 >> levels
    small = decode(dataset, layout_of(dataset), side)
    assert (small.reduction, small.reversible) == (2**levels, lossless)
    whole = decode(dataset, layout_of(dataset), WHOLE).values
    means = whole.reshape(side, 2**levels, side, 2**levels).mean((1, 3))
    before = np.abs(small.values - means)[2:-2, 2:-2].mean()
    after = np.abs(square_means(small.values, small.reduction, small.reversible) - means)[2:-2, 2:-2].mean()
    assert after < 0.6 * before
