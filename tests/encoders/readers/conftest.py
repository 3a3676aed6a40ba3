"""Objects made in code: a phantom of known values, encoded into every accepted transfer syntax, and reports."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.uid import UID, generate_uid

EXPLICIT = "1.2.840.10008.1.2.1"
CR = "1.2.840.10008.5.1.4.1.1.1"


def _rle(array: np.ndarray, bits: int) -> bytes:
    allocated = array.dtype.itemsize * 8
    return RLELosslessEncoder.encode(
        array, rows=array.shape[0], columns=array.shape[1], samples_per_pixel=1 if array.ndim == 2 else 3,
        bits_allocated=allocated, bits_stored=bits, pixel_representation=int(array.dtype.kind == "i"),
        photometric_interpretation="MONOCHROME2" if array.ndim == 2 else "RGB", number_of_frames=1,
        **({} if array.ndim == 2 else {"planar_configuration": 0}),
    )


def _unsigned(array: np.ndarray) -> np.ndarray:
    return array.view(array.dtype.str.replace("i", "u"))


def _lossless_jpeg(array: np.ndarray, predictor: int) -> bytes:
    depth = array.dtype.itemsize * 8
    return imagecodecs.jpeg8_encode(_unsigned(array), lossless=True, bitspersample=depth, predictor=predictor)


def _j2k(array: np.ndarray, bits: int, lossless: bool) -> bytes:
    return imagecodecs.jpeg2k_encode(
        array, codecformat="J2K", reversible=lossless, level=0 if lossless else 55 + 6 * (bits - 12),
        bitspersample=bits, mct=False,
    )


#: Transfer syntax UID -> (array, bits stored) -> compressed frame.
ENCODERS: dict[str, Callable[[np.ndarray, int], bytes]] = {
    "1.2.840.10008.1.2.5": _rle,
    "1.2.840.10008.1.2.4.50": lambda a, _: imagecodecs.jpeg8_encode(a, level=95),
    "1.2.840.10008.1.2.4.51": lambda a, bits: imagecodecs.jpeg8_encode(
        a, level=95, bitspersample=12 if bits > 8 else 8
    ),
    "1.2.840.10008.1.2.4.57": lambda a, _: _lossless_jpeg(a, 4),
    "1.2.840.10008.1.2.4.70": lambda a, _: _lossless_jpeg(a, 1),
    "1.2.840.10008.1.2.4.80": lambda a, _: imagecodecs.jpegls_encode(_unsigned(a)),
    "1.2.840.10008.1.2.4.81": lambda a, _: imagecodecs.jpegls_encode(_unsigned(a), level=2),
    "1.2.840.10008.1.2.4.90": lambda a, bits: _j2k(a, bits, True),
    "1.2.840.10008.1.2.4.91": lambda a, bits: _j2k(a, bits, False),
    "1.2.840.10008.1.2.4.201": lambda a, _: imagecodecs.htj2k_encode(a, reversible=True),
    "1.2.840.10008.1.2.4.202": lambda a, _: imagecodecs.htj2k_encode(a, reversible=True, tlm=True),
    "1.2.840.10008.1.2.4.203": lambda a, _: imagecodecs.htj2k_encode(a, reversible=False, level=0.0005),
}


def make_phantom(rows: int = 300, columns: int = 240, top: int = 4095) -> np.ndarray:
    """Return uint16 (rows, columns) 0..top: a smooth ramp, waves, a bright disc and a dark one."""
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float64)
    values = 0.25 + 0.35 * x / columns + 0.1 * np.sin(x / 17) * np.cos(y / 23)
    values[(y - rows / 3) ** 2 + (x - columns / 2) ** 2 < (columns / 8) ** 2] = 0.9
    values[(y - 2 * rows / 3) ** 2 + (x - columns / 4) ** 2 < (columns / 10) ** 2] = 0.1
    return np.clip(values * top, 0, top).round().astype(np.uint16)


def make_object(sop_class_uid: str = CR, transfer_syntax_uid: str = EXPLICIT, **attributes: Any) -> Dataset:
    """Return a data set with identity and file meta information and the given attributes."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    dataset.SOPClassUID = UID(sop_class_uid)
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = generate_uid()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = "Phantom^Of Geometry"
    dataset.PatientID = "P-1"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def make_image(
    array: np.ndarray, transfer_syntax_uid: str = EXPLICIT, bits: int = 0, photometric: str = "MONOCHROME2",
    **attributes: Any,
) -> Dataset:
    """Return a CR with this array as Pixel Data, chest and frontal unless told otherwise."""
    bits = bits or array.dtype.itemsize * 8
    given = {"Modality": "CR", "BodyPartExamined": "CHEST", "ViewPosition": "PA", **attributes}
    dataset = make_object(given.pop("SOPClassUID", CR), transfer_syntax_uid, **given)
    dataset.Rows, dataset.Columns = array.shape[:2]
    dataset.SamplesPerPixel = 1 if array.ndim == 2 else array.shape[2]
    if array.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated = array.dtype.itemsize * 8
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = int(array.dtype.kind == "i")
    if transfer_syntax_uid in ENCODERS:
        dataset.PixelData = encapsulate([ENCODERS[transfer_syntax_uid](np.ascontiguousarray(array), bits)])
    elif transfer_syntax_uid == "1.2.840.10008.1.2.2":
        dataset.PixelData = array.astype(array.dtype.newbyteorder(">")).tobytes()
    else:
        dataset.PixelData = array.tobytes()
    dataset["PixelData"].VR = "OB" if array.dtype.itemsize == 1 or transfer_syntax_uid in ENCODERS else "OW"
    return dataset


@pytest.fixture(scope="session")
def phantom() -> np.ndarray:
    return make_phantom()


@pytest.fixture
def image() -> Callable[..., Dataset]:
    return make_image


@pytest.fixture
def object_of() -> Callable[..., Dataset]:
    return make_object


@pytest.fixture
def stored(tmp_path: Path) -> Callable[[Dataset], Path]:
    """Return a function that writes a data set as a PS3.10 file."""

    def write(dataset: Dataset) -> Path:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        return path

    return write


@pytest.fixture(scope="session")
def real_dicom() -> Path:
    """Return the folder of real DICOM files, or skip."""
    root = os.environ.get("CXRFIND_TEST_DATA")
    if not root:
        pytest.skip("CXRFIND_TEST_DATA names no folder with real files (dicom/cxr, other, broken, sr)")
    folder = Path(root) / "dicom"
    if not folder.is_dir():
        pytest.skip(f"CXRFIND_TEST_DATA has no folder {folder}")
    return folder
