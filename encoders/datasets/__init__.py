"""Data sets by name: each a function from a root, a folder or the CSV file, to examples."""

from __future__ import annotations

from collections.abc import Mapping

from encoders.datasets.base import (
    MANIFEST_COLUMNS,
    Dataset,
    DatasetError,
    Example,
    split_by_patient,
    write_manifest,
)
from encoders.datasets.chexpert import chexpert
from encoders.datasets.csv_file import csv_file
from encoders.datasets.dicom_folder import dicom_folder
from encoders.datasets.iu_xray import iu_xray
from encoders.datasets.mimic_cxr import mimic_cxr_dicom, mimic_cxr_jpg
from encoders.datasets.nih import nih_chestxray14
from encoders.datasets.padchest import padchest
from encoders.datasets.vindr_cxr import vindr_cxr

#: Name -> data set. A newcomer adds one file and one row here.
DATASETS: Mapping[str, Dataset] = {
    "mimic-cxr-jpg": mimic_cxr_jpg,
    "mimic-cxr": mimic_cxr_dicom,
    "iu-xray": iu_xray,
    "chexpert": chexpert,
    "nih-chestxray14": nih_chestxray14,
    "padchest": padchest,
    "vindr-cxr": vindr_cxr,
    "dicom-folder": dicom_folder,
    "csv": csv_file,
}

__all__ = ["DATASETS", "MANIFEST_COLUMNS", "Dataset", "DatasetError", "Example", "split_by_patient", "write_manifest"]
