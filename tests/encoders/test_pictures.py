"""Files of a manifest, whatever their names and depths, as training and evaluation read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from encoders.base import UnreadableInstance
from encoders.encode_manifest import read_image
from encoders.phantom import draw
from encoders.preprocess import sheet_of_bytes
from encoders.readers import read_instance
from encoders.training.arrays import load_bytes
from encoders.training.manifest import ManifestError

SIDE = 64


@pytest.fixture(scope="module")
def radiograph() -> np.ndarray:
    """Return float32 (256, 256), 0..1, black to white."""
    pixels = draw(3, 256)[0]
    return (pixels - pixels.min()) / (pixels.max() - pixels.min())


def as_png(path: Path, pixels: np.ndarray, largest: int) -> Path:
    Image.fromarray((pixels * largest).astype(np.uint16 if largest > 255 else np.uint8)).save(path, format="PNG")
    return path


def as_dicom(path: Path, pixels: np.ndarray, preamble: bool = True, **elements: object) -> Path:
    """Write a DICOM file with what its pixels need and, unless `elements` says so, nothing that says who it is."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128) if preamble else None)
    dataset.PatientSex, dataset.PatientAge = "M", "061Y"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelData = (pixels * 4095).astype(np.uint16).tobytes()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    pydicom.dcmwrite(path, dataset, enforce_file_format=False)
    return path


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - other.astype(float)).mean())


@pytest.mark.parametrize("largest", [4095, 65535])
def test_a_png_of_16_bits_looks_like_the_same_one_of_8_bits(tmp_path, radiograph, largest):
    deep, flat = as_png(tmp_path / "deep.png", radiograph, largest), as_png(tmp_path / "flat.png", radiograph, 255)
    assert difference(load_bytes(deep, (SIDE,)), load_bytes(flat, (SIDE,))) < 1.0
    assert difference(read_image(deep, SIDE), read_image(flat, SIDE)) < 1 / 255


def test_a_picture_of_8_bits_is_decoded_byte_for_byte_by_pillow(tmp_path, radiograph):
    path = as_png(tmp_path / "flat.png", radiograph, 255)
    with Image.open(path) as image:
        assert np.array_equal(load_bytes(path, (SIDE, 48)), sheet_of_bytes(image, (SIDE, 48)))
        assert np.array_equal(read_image(path, SIDE), np.asarray(image, np.float32) / 255)


def test_a_black_picture_of_16_bits_stays_black(tmp_path):
    assert not load_bytes(as_png(tmp_path / "black.png", np.zeros((80, 80)), 65535), (SIDE,)).any()


def test_a_dicom_file_stripped_of_its_uids_is_read_for_its_pixels_but_refused_by_the_service(tmp_path, radiograph):
    path = as_dicom(tmp_path / "x1.dicom", radiograph)
    with pytest.raises(UnreadableInstance, match="UID is missing"):
        read_instance(path, SIDE)
    uids = dict.fromkeys(("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"), "1.2.3")
    whole = as_dicom(tmp_path / "whole.dcm", radiograph, SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1", **uids)
    pixels = read_instance(whole, SIDE).content.pixels
    assert pixels.std() > 0.1
    assert np.array_equal(read_image(path, SIDE), pixels)
    assert np.array_equal(load_bytes(path, (SIDE,)), (pixels * 255 + 0.5).astype(np.uint8))


@pytest.mark.parametrize("name", ["1.2.840.113619.2.1234", "IM0001", "image.dcm", "wrongly.png"])
def test_a_dicom_file_is_known_by_its_first_bytes_whatever_its_name(tmp_path, radiograph, name):
    path = as_dicom(tmp_path / name, radiograph)
    assert load_bytes(path, (SIDE,)).std() > 20
    assert read_image(path, SIDE).shape == (SIDE, SIDE)


def test_a_dicom_file_without_preamble_and_a_png_without_suffix_are_told_apart(tmp_path, radiograph):
    bare = as_dicom(tmp_path / "1.2.3.4", radiograph, preamble=False)
    assert bare.read_bytes()[128:132] != b"DICM"
    assert load_bytes(bare, (SIDE,)).std() > 20
    assert load_bytes(as_png(tmp_path / "picture", radiograph, 255), (SIDE,)).std() > 20


def test_a_dicom_object_of_another_kind_is_refused_with_its_name(tmp_path, radiograph):
    path = as_dicom(tmp_path / "ct.dcm", radiograph, SOPClassUID="1.2.840.10008.5.1.4.1.1.2")
    with pytest.raises(ManifestError, match=r"ct\.dcm.*not a radiograph"):
        load_bytes(path, (SIDE,))


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(ManifestError, match=r"absent\.png"):
        load_bytes(tmp_path / "absent.png", (SIDE,))
    with pytest.raises(UnreadableInstance):
        read_image(tmp_path / "absent.png", SIDE)
