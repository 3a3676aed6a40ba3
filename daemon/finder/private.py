"""The private elements of mode S: one table, from which every dictionary is made."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pydicom.datadict import add_private_dict_entries
from pydicom.dataset import Dataset

GROUP = 0x0099
#: 22 characters: a creator of odd length came back padded and DCMTK lost its dictionary.
CREATOR = "CXRFIND SIMILARITY 1.0"
#: The block of a request is taken as it comes (PS3.5 7.8.1); this one is for dictionaries that know fixed tags only.
DEFAULT_BLOCK = 0x10


@dataclass(frozen=True, slots=True)
class PrivateElement:
    """One row: (0099,xx`offset`)."""

    offset: int
    vr: str
    keyword: str
    vm: str
    meaning: str
    key: bool                                       # True: asks; False: answers


ELEMENTS: tuple[PrivateElement, ...] = (
    PrivateElement(0x01, "UI", "QueryUID", "1-n", "study, series or SOP instance UID of the examples", True),
    PrivateElement(0x02, "CS", "QueryBasis", "1", "IMAGE, REPORT or JOINT", True),
    PrivateElement(0x03, "UT", "QueryText", "1", "free text: a finding, a sentence, a whole report", True),
    PrivateElement(0x04, "US", "MaxResults", "1", "at most this many matches", True),
    PrivateElement(0x05, "FD", "MinimumScore", "1", "leave out matches of a lower score", True),
    PrivateElement(0x06, "CS", "ExcludeSamePatient", "1", "YES (default) or NO", True),
    PrivateElement(0x07, "CS", "Findings", "1-n", "only studies with all of these findings present", True),
    PrivateElement(0x10, "US", "Rank", "1", "1 is the most similar study", False),
    PrivateElement(0x11, "FD", "Score", "1", "0..1: probability that both share an abnormal finding", False),
    PrivateElement(0x12, "UI", "BestMatchSOPInstanceUID", "1", "the object of the study that matched best", False),
    PrivateElement(0x13, "LO", "ModelID", "1", "name and first 12 digits of the weights' sha256", False),
    PrivateElement(0x14, "CS", "BasisUsed", "1", "IMAGE, REPORT or JOINT: what was compared", False),
    PrivateElement(0x15, "CS", "ReportState", "1", "NONE, PRELIMINARY or FINAL", False),
    PrivateElement(0x16, "LO", "Flags", "1-n", "TRUNCATED, INDEX PARTIAL", False),
    PrivateElement(0x17, "CS", "FindingsPresent", "1-n", "findings judged present", False),
    PrivateElement(0x18, "FD", "Cosine", "1", "raw cosine, -1..1", False),
)

BY_OFFSET = {element.offset: element for element in ELEMENTS}
BY_KEYWORD = {element.keyword: element for element in ELEMENTS}


def tag(keyword: str, block: int = DEFAULT_BLOCK) -> int:
    """Return the tag of a private element in a block (0x10..0xFF)."""
    return GROUP << 16 | block << 8 | BY_KEYWORD[keyword].offset


def register_with_pydicom() -> None:
    """Tell pydicom the private dictionary, so that data sets show names and implicit VR values are decoded."""
    add_private_dict_entries(
        CREATOR,
        {
            GROUP << 16 | DEFAULT_BLOCK << 8 | element.offset: (element.vr, element.vm, element.keyword, "")
            for element in ELEMENTS
        },
    )


def dcmtk_dictionary() -> str:
    """Return the dictionary for DCMTK (DCMDICTPATH): tag, VR, name, VM, version, separated by tabs."""
    lines = [
        "# Private elements of cxrfind's similarity C-FIND.",
        "# Use: DCMDICTPATH=/usr/share/libdcmtk17/dicom.dic:cxrfind.dic findscu ...",
    ]
    lines += [
        f'({GROUP:04x},"{CREATOR}",{element.offset:02x})\t{element.vr}\t{element.keyword}\t{element.vm}\tPrivateTag'
        for element in ELEMENTS
    ]
    return "\n".join(lines) + "\n"


def orthanc_dictionary() -> str:
    """Return the "Dictionary" option of Orthanc's configuration (JSON) for the default block."""
    entries: dict[str, list[Any]] = {
        f"{GROUP:04x},{DEFAULT_BLOCK << 8 | element.offset:04x}": [
            element.vr, element.keyword, 1, 1 if element.vm == "1" else 0, CREATOR,
        ]
        for element in ELEMENTS
    }
    return json.dumps({"Dictionary": entries}, indent=2) + "\n"


def add(dataset: Dataset, keyword: str, value: Any = None) -> None:
    """Put a private element into a request; None: asked for, without a value."""
    element = BY_KEYWORD[keyword]
    dataset.private_block(GROUP, CREATOR, create=True).add_new(element.offset, element.vr, value)


def get(dataset: Dataset, keyword: str) -> Any:
    """Return the value of a private element of an answer, None when it is absent or empty."""
    try:
        value = dataset.private_block(GROUP, CREATOR)[BY_KEYWORD[keyword].offset].value
    except KeyError:
        return None
    return None if value in ("", []) else value
