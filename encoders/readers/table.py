"""What is taken in: one table of SOP classes and one of transfer syntaxes.

The listener offers exactly these presentation contexts, the conformance statement is printed from them, and
`read_instance` dispatches over them. Importing this module costs nothing: readers are named, not imported, so the
listener never loads a codec.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal, cast

if TYPE_CHECKING:
    from encoders.base import Reader

Group = Literal["image", "report", "note", "presentation"]


@dataclass(frozen=True, slots=True)
class SopClass:
    """One storage SOP class that C-STORE accepts.

    Attributes
    ----------
    name : str
        As in PS3.6 Table A-1.
    reader : str or None
        ``module:function`` of its Reader; None when objects are kept, but never read.
    group : str
        ``image``, ``report``, ``note`` (Key Object Selection) or ``presentation``.
    indexable : bool
        Whether objects of this class can end in the index.
    """

    name: str
    reader: str | None
    group: Group
    indexable: bool

    def load(self) -> Reader | None:
        """Return the Reader itself; the first call imports its module, and with it the codecs it needs."""
        if self.reader is None:
            return None
        module, _, function = self.reader.partition(":")
        return cast("Reader", getattr(import_module(module), function))


def _image(name: str) -> SopClass:
    return SopClass(name, "encoders.readers.radiograph:read_radiograph", "image", True)


def _report(name: str, reader: str = "encoders.readers.structured_report:read_structured_report") -> SopClass:
    return SopClass(name, reader, "report", True)


#: SOP class UID -> row. A newcomer adds a SOP class here and, if no reader fits, one module beside this one.
READERS: Mapping[str, SopClass] = {
    "1.2.840.10008.5.1.4.1.1.1": _image("Computed Radiography Image Storage"),
    "1.2.840.10008.5.1.4.1.1.1.1": _image("Digital X-Ray Image Storage - For Presentation"),
    "1.2.840.10008.5.1.4.1.1.1.1.1": _image("Digital X-Ray Image Storage - For Processing"),
    "1.2.840.10008.5.1.4.1.1.7": _image("Secondary Capture Image Storage"),
    "1.2.840.10008.5.1.4.1.1.7.1": _image("Multi-frame Single Bit Secondary Capture Image Storage"),
    "1.2.840.10008.5.1.4.1.1.7.2": _image("Multi-frame Grayscale Byte Secondary Capture Image Storage"),
    "1.2.840.10008.5.1.4.1.1.7.3": _image("Multi-frame Grayscale Word Secondary Capture Image Storage"),
    "1.2.840.10008.5.1.4.1.1.7.4": _image("Multi-frame True Color Secondary Capture Image Storage"),
    "1.2.840.10008.5.1.4.1.1.88.11": _report("Basic Text SR Storage"),
    "1.2.840.10008.5.1.4.1.1.88.22": _report("Enhanced SR Storage"),
    "1.2.840.10008.5.1.4.1.1.88.33": _report("Comprehensive SR Storage"),
    "1.2.840.10008.5.1.4.1.1.88.34": _report("Comprehensive 3D SR Storage"),
    "1.2.840.10008.5.1.4.1.1.88.35": _report("Extensible SR Storage"),
    "1.2.840.10008.5.1.4.1.1.104.1": _report(
        "Encapsulated PDF Storage", "encoders.readers.encapsulated_document:read_pdf"
    ),
    "1.2.840.10008.5.1.4.1.1.104.2": _report(
        "Encapsulated CDA Storage", "encoders.readers.encapsulated_document:read_cda"
    ),
    "1.2.840.10008.5.1.4.1.1.88.59": SopClass(
        "Key Object Selection Document Storage", "encoders.readers.key_object:read_key_object", "note", False
    ),
    "1.2.840.10008.5.1.4.1.1.11.1": SopClass(
        "Grayscale Softcopy Presentation State Storage", None, "presentation", False
    ),
}


@dataclass(frozen=True, slots=True)
class TransferSyntax:
    """One accepted transfer syntax; `name` as in PS3.6 Table A-1."""

    uid: str
    name: str
    compressed: bool = True


#: In the order of preference when a peer offers several in one presentation context: nothing lossy before lossless,
#: and what costs least to decode first.
TRANSFER_SYNTAXES: tuple[TransferSyntax, ...] = (
    TransferSyntax("1.2.840.10008.1.2.1", "Explicit VR Little Endian", False),
    TransferSyntax("1.2.840.10008.1.2", "Implicit VR Little Endian", False),
    TransferSyntax("1.2.840.10008.1.2.2", "Explicit VR Big Endian", False),
    TransferSyntax("1.2.840.10008.1.2.1.99", "Deflated Explicit VR Little Endian", False),
    TransferSyntax("1.2.840.10008.1.2.5", "RLE Lossless"),
    TransferSyntax("1.2.840.10008.1.2.4.70", "JPEG Lossless, Non-Hierarchical, First-Order Prediction"),
    TransferSyntax("1.2.840.10008.1.2.4.57", "JPEG Lossless, Non-Hierarchical"),
    TransferSyntax("1.2.840.10008.1.2.4.80", "JPEG-LS Lossless Image Compression"),
    TransferSyntax("1.2.840.10008.1.2.4.201", "High-Throughput JPEG 2000 Image Compression (Lossless Only)"),
    TransferSyntax("1.2.840.10008.1.2.4.202", "High-Throughput JPEG 2000 with RPCL Options (Lossless Only)"),
    TransferSyntax("1.2.840.10008.1.2.4.90", "JPEG 2000 Image Compression (Lossless Only)"),
    TransferSyntax("1.2.840.10008.1.2.4.50", "JPEG Baseline (Process 1)"),
    TransferSyntax("1.2.840.10008.1.2.4.51", "JPEG Extended (Process 2 & 4)"),
    TransferSyntax("1.2.840.10008.1.2.4.81", "JPEG-LS Lossy (Near-Lossless) Image Compression"),
    TransferSyntax("1.2.840.10008.1.2.4.91", "JPEG 2000 Image Compression"),
    TransferSyntax("1.2.840.10008.1.2.4.203", "High-Throughput JPEG 2000 Image Compression"),
)
