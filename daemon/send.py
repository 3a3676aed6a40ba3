"""C-STORE out: every DICOM file of a folder to a peer, each in its own transfer syntax, byte for byte.

Nothing is decoded but the few elements that name an object. A refused object does not stop the others, and a broken
association is opened again.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pydicom.filereader import read_dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian
from pydicom.uid import ImplicitVRLittleEndian as ImplicitVR

from daemon.store_client import MAXIMUM_CONTEXTS, AssociationLost, AssociationRejected, Pair, Peer, StoreClient

_MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"
_SOP_INSTANCE_UID = 0x00080018
#: How long to wait before each attempt to associate: a peer that was never there is given up soon, one that was may
#: be restarting.
_FIRST_PAUSES_S = (0.0, 0.5)
_LATER_PAUSES_S = (0.0, 0.5, 1.0, 2.0, 4.0)


class NotSendable(Exception):
    """A file that holds no DICOM object; the message says why."""


@dataclass(frozen=True, slots=True)
class DicomFile:
    """A file and what C-STORE needs to know of it; the data set begins at `offset`."""

    path: Path
    offset: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str

    @property
    def pair(self) -> Pair:
        """SOP class and transfer syntax."""
        return self.sop_class_uid, self.transfer_syntax_uid


@dataclass(slots=True)
class SendResult:
    """How many objects the peer has acknowledged, and every other file with the reason."""

    acknowledged: int = 0
    refused: list[tuple[Path, str]] = field(default_factory=list)
    unreadable: list[tuple[Path, str]] = field(default_factory=list)


def _guessed_syntax(first: bytes) -> UID:
    """Return the transfer syntax of a data set from its first element (for files without meta information)."""
    little = struct.unpack("<H", first[:2])[0] <= struct.unpack(">H", first[:2])[0]
    group = struct.unpack("<H" if little else ">H", first[:2])[0]
    if group != 0x0008:
        raise NotSendable("not a DICOM file")
    explicit = first[4:6].isalpha() and first[4:6].isupper()
    if little:
        return ExplicitVRLittleEndian if explicit else ImplicitVR
    return ExplicitVRBigEndian


def _inspect(path: Path, file: BinaryIO) -> DicomFile:
    start = file.read(132)
    position = 132 if start[128:] == b"DICM" else 0
    file.seek(position)
    first = file.read(8)
    if len(first) < 8:
        raise NotSendable("not a DICOM file")
    file.seek(position)
    named: dict[str, str] = {}
    if first[:2] == b"\x02\x00":
        meta = read_dataset(file, False, True, stop_when=lambda tag, _vr, _length: tag.group != 2)
        named = {
            keyword: str(meta.get(keyword) or "")
            for keyword in ("TransferSyntaxUID", "MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID")
        }
    offset = file.tell()
    first = file.read(8)
    file.seek(offset)
    if len(first) < 8:
        raise NotSendable("a DICOM file without data set")
    syntax = UID(named.get("TransferSyntaxUID") or _guessed_syntax(first))
    sop_class_uid, sop_instance_uid = "", ""
    if syntax != DeflatedExplicitVRLittleEndian:
        identity = read_dataset(
            file, syntax == ImplicitVR, syntax != ExplicitVRBigEndian,
            stop_when=lambda tag, _vr, _length: tag > _SOP_INSTANCE_UID,
        )  # fmt: skip
        sop_class_uid, sop_instance_uid = (str(identity.get(k) or "") for k in ("SOPClassUID", "SOPInstanceUID"))
    sop_class_uid = sop_class_uid or named.get("MediaStorageSOPClassUID", "")
    sop_instance_uid = sop_instance_uid or named.get("MediaStorageSOPInstanceUID", "")
    if sop_class_uid == _MEDIA_STORAGE_DIRECTORY:
        raise NotSendable("a DICOMDIR, the directory of a medium")
    if not sop_class_uid or not sop_instance_uid:
        raise NotSendable("no SOP Class UID or no SOP Instance UID")
    if not (sop_class_uid + sop_instance_uid + syntax).isascii() or len(sop_class_uid) > 64 or len(syntax) > 64:
        raise NotSendable("its UIDs are not UIDs")
    return DicomFile(path, offset, sop_class_uid, sop_instance_uid, str(syntax))


def inspect(path: Path) -> DicomFile:
    """Return what C-STORE needs to know of a file; preamble and meta information may be missing.

    Raises
    ------
    NotSendable
        If it is no DICOM object.
    """
    try:
        with path.open("rb") as file:
            return _inspect(path, file)
    except NotSendable:
        raise
    except OSError as error:
        raise NotSendable(error.strerror or "cannot be read") from error
    except Exception as error:                      # whatever a damaged file makes the parser raise
        raise NotSendable(f"damaged header ({type(error).__name__})") from error


def batches(files: Sequence[DicomFile]) -> Iterator[tuple[list[Pair], list[DicomFile]]]:
    """Yield files by association: no association holds more presentation contexts than there are ids for."""
    pairs = list(dict.fromkeys(file.pair for file in files))
    for first in range(0, len(pairs), MAXIMUM_CONTEXTS):
        chosen = pairs[first : first + MAXIMUM_CONTEXTS]
        yield chosen, [file for file in files if file.pair in set(chosen)]


class _Sender:
    """One association at a time, opened when needed and again when it broke."""

    def __init__(self, peer: Peer, timeout_s: float) -> None:
        self._peer, self._timeout_s = peer, timeout_s
        self._client: StoreClient | None = None
        self._was_there = False

    def _open(self, pairs: Sequence[Pair]) -> StoreClient:
        for pause_s in _LATER_PAUSES_S if self._was_there else _FIRST_PAUSES_S:
            time.sleep(pause_s)
            try:
                client = StoreClient(self._peer, pairs, self._timeout_s)
                self._was_there = True
                return client
            except AssociationRejected as rejection:
                if not rejection.transient:
                    raise
                last: Exception = rejection
            except AssociationLost as lost:
                last = lost
        raise last

    def store(self, pairs: Sequence[Pair], file: DicomFile) -> str:
        """Send a file, a second time if the association breaks; return why it was refused, or ""."""
        reason = ""
        for _ in range(2):
            if self._client is None:
                self._client = self._open(pairs)
            if not self._client.accepts(file.pair):
                return f"the peer does not accept {UID(file.pair[0]).name} in {UID(file.pair[1]).name}"
            try:
                status, comment = self._client.store(file.path, file.offset, file.pair, file.sop_instance_uid)
            except AssociationLost as lost:
                reason = str(lost)
            except OSError as error:
                reason = f"cannot be read ({error.strerror})"
            else:
                taken = status == 0 or status >> 12 == 0xB      # success or a warning (PS3.4 B.2.3)
                return "" if taken else f"status {status:04X} {comment}".rstrip()
            self._client.close()
            self._client = None
        return reason

    def release(self) -> None:
        if self._client is not None:
            self._client.release()
            self._client = None


def send_folder(
    folder: Path,
    host: str,
    port: int,
    called_ae: str,
    calling_ae: str,
    progress: Callable[[int, int], None] | None = None,
    timeout_s: float = 60.0,
) -> SendResult:
    """Send every DICOM file in `folder` and below (or one file); return what became of each.

    Parameters
    ----------
    progress : callable (done, total), optional
        Called after each file.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    """
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: no such folder")
    result, files = SendResult(), []
    for path in [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            files.append(inspect(path))
        except NotSendable as error:
            result.unreadable.append((path, str(error)))
    sender, done, failure = _Sender(Peer(host, port, called_ae, calling_ae), timeout_s), 0, ""
    for pairs, batch in batches(files):
        for file in batch:
            if not failure:
                try:
                    reason = sender.store(pairs, file)
                except (AssociationRejected, AssociationLost) as error:
                    reason = failure = str(error)   # the peer is not there: nor will it be for the next file
            if failure or reason:
                result.refused.append((file.path, failure or reason))
            else:
                result.acknowledged += 1
            done += 1
            if progress is not None:
                progress(done, len(files))
        sender.release()
    return result
