"""A synthetic study as DICOM objects: DX or CR images and a Basic Text, Enhanced or Comprehensive SR report."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
)

from encoders.base import Float32
from encoders.phantom.codecs import Stored, Syntax, encode, nearest_bits
from encoders.phantom.film import BANNER, field_height
from encoders.phantom.sr import code, report_dataset
from encoders.phantom.study import SyntheticStudy, derived_uid

IMPLEMENTATION_CLASS_UID = derived_uid("implementation class")
#: SNOMED CT, as PS3.16 CID 4010 (DX view) and CID 4009 (anatomy) list them.
VIEW_CODES = {"PA": ("272479007", "postero-anterior"), "AP": ("272478004", "antero-posterior"),
              "LL": ("399173006", "left lateral")}


@dataclass(frozen=True, slots=True)
class Format:
    """How a picture is stored: size, depth, sense, SOP class and transfer syntax."""

    rows: int
    columns: int
    syntax: Syntax
    bits: int = 12
    photometric: str = "MONOCHROME2"
    modality: str = "DX"


def study_datasets(study: SyntheticStudy, form: Format) -> list[FileDataset]:
    """Return the study's images, one series each, and its report, ready to be written or sent."""
    images = [image_dataset(study, view, form) for view in study.views]
    syntax = form.syntax.uid if form.syntax.compress is None else ExplicitVRLittleEndian
    return [*images, _finish(report_dataset(study, images, common(study)), syntax)]


def image_dataset(study: SyntheticStudy, view: str, form: Format) -> FileDataset:
    """Return one radiograph with every Type 1 and 2 attribute of its IOD (PS3.3 A.2, A.26)."""
    ds = common(study)
    position = "LL" if view == "lateral" else "AP" if study.portable else "PA"
    number = study.views.index(view) + 1
    dx = form.modality == "DX"
    ds.SOPClassUID = DigitalXRayImageStorageForPresentation if dx else ComputedRadiographyImageStorage
    ds.SOPInstanceUID = study.uid("image", view, form)
    ds.Modality = form.modality
    ds.SeriesInstanceUID = study.uid("series", view)
    ds.SeriesNumber, ds.InstanceNumber = number, 1
    ds.SeriesDescription = f"CHEST {'LAT' if view == 'lateral' else position}"
    ds.ProtocolName = "CHEST"
    _set_time(ds, "Series", study.taken)
    _set_time(ds, "Acquisition", study.taken)
    _set_time(ds, "Content", study.taken)
    ds.ImageType = ["ORIGINAL", "PRIMARY", ""] if dx else ["ORIGINAL", "PRIMARY"]
    ds.PatientOrientation = ["P", "F"] if view == "lateral" else ["L", "F"]
    ds.BodyPartExamined, ds.ViewPosition = "CHEST", position
    ds.KVP = "120"
    ds.ImageComments = BANNER
    spacing = f"{field_height(study.anatomy) * 10 / form.rows:.4f}"
    ds.ImagerPixelSpacing = [spacing, spacing]
    if dx:
        _dx_modules(ds, position, form)
    _pixels(ds, study.pixels(view, form.rows, form.columns), form, harder=bool(study.number % 2))
    return _finish(ds, form.syntax.uid)


def _dx_modules(ds: Dataset, position: str, form: Format) -> None:
    """Add DX Series, Anatomy Imaged, Image, Detector, Positioning and Acquisition Context (PS3.3 C.8.11)."""
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.ImageLaterality = "U"
    ds.AnatomicRegionSequence = [code("51185008", "SCT", "Chest")]
    ds.ViewCodeSequence = [code(VIEW_CODES[position][0], "SCT", VIEW_CODES[position][1])]
    ds.PositionerType = "NONE"
    ds.DetectorType = "DIRECT"
    ds.PixelIntensityRelationship = "LOG"
    ds.PixelIntensityRelationshipSign = 1 if form.photometric == "MONOCHROME1" else -1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
    ds.PresentationLUTShape = "INVERSE" if form.photometric == "MONOCHROME1" else "IDENTITY"
    ds.AcquisitionContextSequence = []


def stored_values(picture: Float32, bits: int, photometric: str) -> tuple[Stored, int, int]:
    """Return stored values of `bits`, and the lowest and highest that belong to the window.

    The window leaves room at both ends, as detectors do; black borders are 0, the banner's white is the largest value.
    """
    top = 2**bits - 1
    low, high = round(0.06 * top), round(0.90 * top)
    stored = np.rint(low + picture * np.float32(high - low))
    stored[picture >= 0.9995] = top
    stored[picture <= 0] = 0
    if photometric == "MONOCHROME1":
        stored, low, high = top - stored, top - high, top - low
    return stored.astype(np.uint8 if bits <= 8 else np.uint16), low, high


def _pixels(ds: Dataset, picture: Float32, form: Format, harder: bool) -> None:
    """Add Image Pixel and VOI LUT modules, and what compression has done."""
    bits = nearest_bits(form.syntax, form.bits)
    stored, low, high = stored_values(picture, bits, form.photometric)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, form.photometric
    ds.Rows, ds.Columns = stored.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = stored.dtype.itemsize * 8, bits, bits - 1
    ds.PixelRepresentation = 0
    centre, width = (low + high + 1) / 2, high - low + 1
    ds.WindowCenter, ds.WindowWidth = [f"{centre:g}"], [f"{width}"]
    if harder:
        ds.WindowCenter, ds.WindowWidth = [f"{centre:g}"] * 2, [f"{width}", f"{round(width * 0.7)}"]
        ds.WindowCenterWidthExplanation = ["NORMAL", "HARDER"]
    ds.BurnedInAnnotation = "NO"                      # the banner and the marker tell nobody's identity
    value, ratio = encode(stored, bits, form.syntax)
    ds.LossyImageCompression = "01" if form.syntax.lossy else "00"
    if form.syntax.lossy:
        ds.LossyImageCompressionRatio = f"{ratio:.2f}"
        ds.LossyImageCompressionMethod = form.syntax.lossy
    ds.PixelData = value
    compressed = form.syntax.compress is not None
    ds["PixelData"].VR = "OB" if compressed or bits <= 8 else "OW"
    ds["PixelData"].is_undefined_length = compressed


def common(study: SyntheticStudy) -> Dataset:
    """Return Patient, General Study, Patient Study, General Equipment and SOP Common, as far as shared."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    _set_time(ds, "InstanceCreation", study.taken)
    _set_time(ds, "Study", study.taken)
    ds.AccessionNumber = study.accession_number
    ds.Manufacturer = "cxrfind"
    ds.ManufacturerModelName = "geometric phantom"
    ds.InstitutionName = "cxrfind simulator"
    ds.SoftwareVersions = "1"
    ds.ReferringPhysicianName = "Simulator^Referring"
    ds.StudyDescription = study.description
    ds.PatientName = f"Phantom^Synthetic {study.patient:04d}"
    ds.PatientID = study.patient_id
    ds.PatientBirthDate = f"{study.birth:%Y%m%d}"
    ds.PatientSex = study.anatomy.sex
    ds.PatientAge = f"{study.age:03d}Y"
    ds.PatientComments = BANNER
    ds.StudyInstanceUID = study.uid("study")
    ds.StudyID = f"S{study.number:05d}"
    return ds


def _set_time(ds: Dataset, prefix: str, when: datetime) -> None:
    setattr(ds, f"{prefix}Date", f"{when:%Y%m%d}")
    setattr(ds, f"{prefix}Time", f"{when:%H%M%S}")


def _finish(ds: Dataset, transfer_syntax: UID) -> FileDataset:
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = transfer_syntax
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = "CXRFIND_SIM_1"
    return FileDataset("", ds, preamble=b"\0" * 128, file_meta=meta, is_implicit_VR=transfer_syntax.is_implicit_VR,
                       is_little_endian=transfer_syntax.is_little_endian)
