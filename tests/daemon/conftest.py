"""Small DICOM objects for the worker's tests."""

import hashlib
import shutil
import subprocess

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid


def _write_dx(path, rows=300, columns=260, brightest=4095, **elements):
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = (generate_uid() for _ in range(3))
    dataset.PatientName, dataset.PatientID, dataset.Modality = "TEST^PHANTOM", "T1", "DX"
    dataset.BodyPartExamined, dataset.ViewPosition, dataset.PresentationIntentType = "CHEST", "PA", "FOR PRESENTATION"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = rows, columns, 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PhotometricInterpretation, dataset.PresentationLUTShape = "MONOCHROME2", "IDENTITY"
    dataset.RescaleIntercept, dataset.RescaleSlope = 0, 1
    dataset.WindowCenter, dataset.WindowWidth = 2048, 4096
    pixels = np.linspace(0, brightest, rows * columns).reshape(rows, columns).astype("<u2")
    dataset.PixelData = pixels.tobytes()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def write_dx():
    """Write a small chest DX with a gradient to a path, and return the path."""
    return _write_dx


@pytest.fixture
def receive(write_dx):
    """Put a new DX (or the given bytes) into a spool as the listener does; return its SOP Instance UID."""

    def receive(spool, content=None, **elements):
        uid = elements.setdefault("SOPInstanceUID", generate_uid())
        path = spool.new_file()
        if content is None:
            write_dx(path, **elements)
        else:
            path.write_bytes(content)
        spool.accept(
            path, sop_class_uid=DigitalXRayImageStorageForPresentation, sop_instance_uid=uid,
            transfer_syntax_uid=ExplicitVRLittleEndian, calling_ae_title="PACS", size_bytes=path.stat().st_size,
            digest=hashlib.sha256(path.read_bytes()).hexdigest(),
        )  # fmt: skip
        return str(uid)

    return receive


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: no certificate for the TLS tests")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder
