"""Parsing a stored file, whatever it is, and handing it to the reader of its SOP class."""

from __future__ import annotations

import io
import logging
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydicom import dcmread
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileDataset
from pydicom.filereader import read_dataset, read_file_meta_info, read_preamble
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from encoders.base import Content, Float32, ReadInstance, Unindexed, UnreadableInstance
from encoders.readers.header import header_of, value_of
from encoders.readers.table import READERS

# pydicom logs and warns with the values that it stumbles over; those are patient data.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

Result = TypeVar("Result")

#: A deflated data set may not grow beyond this (a bomb of 1 MB can hold 1 GB).
MAX_INFLATED_BYTES = 1 << 30


def _inflate(path: Path) -> Dataset | None:
    """Return the data set of a file in Deflated Explicit VR Little Endian (PS3.5 A.5), None if it is another syntax."""
    try:
        meta = read_file_meta_info(path)
    except Exception:                                                   # then the general parser decides
        return None
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return None
    with path.open("rb") as file:
        read_preamble(file, force=True)
        length = int(meta.get("FileMetaInformationGroupLength", 0))
        file.seek(length + 12, io.SEEK_CUR)                             # (0002,0000) itself takes 12 bytes
        packed = file.read()
    machine = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = machine.decompress(packed, MAX_INFLATED_BYTES)
    except zlib.error as error:
        raise UnreadableInstance("the deflated data set is damaged") from error
    if machine.unconsumed_tail:
        raise UnreadableInstance(f"the deflated data set is larger than {MAX_INFLATED_BYTES} bytes")
    if not machine.eof:
        raise UnreadableInstance("the deflated data set is truncated")
    dataset = read_dataset(io.BytesIO(data), is_implicit_VR=False, is_little_endian=True)
    return FileDataset(path, dataset, file_meta=meta, is_implicit_VR=False, is_little_endian=True)


def _parse(path: Path) -> Dataset:
    dataset = _inflate(path)
    if dataset is None:
        dataset = dcmread(path, force=True)
    if not len(dataset):
        raise UnreadableInstance("not a DICOM object: no data elements")
    return dataset


def _content(dataset: Dataset, sop_class_uid: str, short_side: int) -> Content:
    row = READERS.get(sop_class_uid)
    if row is None:
        name = UID(sop_class_uid).name
        return Unindexed(f"SOP class {name} is not read")
    reader = row.load()
    if reader is None:
        return Unindexed(f"{row.name}: kept, nothing to index")
    return reader(dataset, short_side)


def _read_instance(dataset: Dataset, short_side: int) -> ReadInstance:
    if "DirectoryRecordSequence" in dataset:
        raise UnreadableInstance("a media directory (DICOMDIR), not an object")
    header = header_of(dataset)
    return ReadInstance(header, _content(dataset, header.sop_class_uid, short_side))


def _read_pixels(dataset: Dataset, short_side: int) -> Float32:
    from encoders.readers.radiograph import pixels_of

    meta = getattr(dataset, "file_meta", None) or Dataset()
    sop_class_uid = str(value_of(dataset, "SOPClassUID") or meta.get("MediaStorageSOPClassUID") or "").strip(" \0")
    row = READERS.get(sop_class_uid)
    if sop_class_uid and (row is None or row.group != "image"):
        raise UnreadableInstance("not a radiograph")
    return pixels_of(dataset, short_side)


def _guarded(path: Path, read: Callable[[Dataset, int], Result], short_side: int) -> Result:
    """Return what `read` makes of a file; whatever goes wrong with it is an UnreadableInstance."""
    with warnings.catch_warnings(), disable_value_validation():
        warnings.simplefilter("ignore")
        try:
            return read(_parse(path), short_side)
        except UnreadableInstance:
            raise
        except OSError as error:
            raise UnreadableInstance(f"the file cannot be read: {error.strerror or type(error).__name__}") from error
        except Exception as error:
            # The one broad catch: arbitrary bytes make parsers fail in every way there is. The exception's own text
            # may quote values, so only its name goes on.
            raise UnreadableInstance(f"not a readable DICOM object ({type(error).__name__})") from error


def read_file(path: Path, short_side: int) -> ReadInstance:
    """Return header and content of a file; see `encoders.readers.read_instance`."""
    return _guarded(path, _read_instance, short_side)


def read_file_pixels(path: Path, short_side: int) -> Float32:
    """Return the pixels of a radiograph's file, with or without UIDs; see `encoders.readers.read_pixels`."""
    return _guarded(path, _read_pixels, short_side)
