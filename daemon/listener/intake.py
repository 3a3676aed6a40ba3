"""One object from its first byte to the spool: a PS3.10 file with the data set exactly as received."""

from __future__ import annotations

import struct
import threading
import time
from pathlib import Path

from blake3 import blake3

from daemon.command_set import StoreRequest
from daemon.config import StorageSection
from daemon.disk import disk_state
from daemon.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from daemon.listener.status import NoDataSet, NoSopInstance, NoSuchSopClass, OutOfResources
from encoders.readers import READERS
from storage.direct_file import Buffers, DirectFile
from storage.spool import Accepted, Spool

_MAXIMUM_UID_LENGTH = 256
_DEPTH_INTERVAL_S = 1.0


def file_meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, calling_ae_title: str) -> bytes:
    """Return preamble, prefix and file meta information (PS3.10 7.1)."""

    def element(number: int, vr: bytes, value: bytes, padding: bytes) -> bytes:
        value += padding * (len(value) % 2)
        if vr == b"OB":
            return struct.pack("<HH2sHL", 2, number, vr, 0, len(value)) + value
        return struct.pack("<HH2sH", 2, number, vr, len(value)) + value

    body = (
        element(0x0001, b"OB", b"\0\1", b"\0")
        + element(0x0002, b"UI", sop_class_uid.encode("ascii"), b"\0")
        + element(0x0003, b"UI", sop_instance_uid.encode("ascii"), b"\0")
        + element(0x0010, b"UI", transfer_syntax_uid.encode("ascii"), b"\0")
        + element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID.encode(), b"\0")
        + element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME.encode(), b" ")
        + element(0x0016, b"AE", calling_ae_title.encode("ascii", "replace"), b" ")
    )
    return b"\0" * 128 + b"DICM" + element(0x0000, b"UL", struct.pack("<L", len(body)), b"") + body


class Watermark:
    """Whether there is room for more: free disk, share of disk used, objects waiting (asked for each object)."""

    def __init__(self, section: StorageSection, spool: Spool) -> None:
        self._section, self._spool = section, spool
        self._lock = threading.Lock()
        self._depth, self._depth_at = 0, float("-inf")

    def check(self) -> None:
        """Raise OutOfResources when a limit is passed."""
        _, passed = disk_state(self._spool.directory, self._section)
        if passed:
            raise OutOfResources(f"disk nearly full: {passed}; try later")
        with self._lock:
            if time.monotonic() - self._depth_at > _DEPTH_INTERVAL_S:
                self._depth, self._depth_at = self._spool.depth(), time.monotonic()
            else:
                self._depth += 1                    # no more than these came since
            depth = self._depth
        if depth >= self._section.max_spool_depth:
            raise OutOfResources("too many objects waiting to be read; try later")


class Intake:
    """What every association of the listener shares."""

    def __init__(self, section: StorageSection, spool: Spool) -> None:
        self.spool = spool
        self.watermark = Watermark(section, spool)
        self._buffers = Buffers()

    def begin(
        self, request: StoreRequest, abstract_syntax: str, transfer_syntax_uid: str, calling_ae_title: str
    ) -> IncomingObject:
        """Return the file that the data set of a C-STORE goes to.

        Raises
        ------
        Refused, OSError
            When it cannot be taken, before any of it was written.
        """
        if not request.has_data_set:
            raise NoDataSet("C-STORE without data set")
        sop_class_uid = request.sop_class_uid or abstract_syntax
        if sop_class_uid != abstract_syntax and sop_class_uid not in READERS:
            raise NoSuchSopClass("SOP class of the command is not one of ours")
        if not request.sop_instance_uid or len(request.sop_instance_uid) > _MAXIMUM_UID_LENGTH:
            raise NoSopInstance("no usable Affected SOP Instance UID")
        self.watermark.check()
        return IncomingObject(
            self.spool, self._buffers, sop_class_uid, request.sop_instance_uid, transfer_syntax_uid, calling_ae_title
        )


class IncomingObject:
    """A file being received; `write` it, then `accept` or `discard` it."""

    def __init__(
        self,
        spool: Spool,
        buffers: Buffers,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        calling_ae_title: str,
    ) -> None:
        self._spool = spool
        self._sop_class_uid, self._sop_instance_uid = sop_class_uid, sop_instance_uid
        self._transfer_syntax_uid, self._calling_ae_title = transfer_syntax_uid, calling_ae_title
        self._digest = blake3()
        self.size_bytes = 0
        self._path: Path = spool.new_file()
        head = file_meta(sop_class_uid, sop_instance_uid, transfer_syntax_uid, calling_ae_title)
        self._file = DirectFile(self._path, buffers, head, self._digest.update)

    def room(self) -> memoryview:
        """Return where the next bytes of the data set go, at least one; valid until `advance`."""
        return self._file.room()

    def advance(self, count: int) -> None:
        """Count `count` bytes at the beginning of `room` as part of the data set."""
        self._file.advance(count)
        self.size_bytes += count

    def write(self, fragment: memoryview) -> None:
        """Append a fragment of the data set."""
        self._file.write(fragment)
        self.size_bytes += len(fragment)

    def accept(self) -> Accepted:
        """Hand the complete file to the spool; on return it is safe on disk."""
        self._file.close()
        return self._spool.accept(
            self._path,
            sop_class_uid=self._sop_class_uid,
            sop_instance_uid=self._sop_instance_uid,
            transfer_syntax_uid=self._transfer_syntax_uid,
            calling_ae_title=self._calling_ae_title,
            digest=self._digest.hexdigest(),
            size_bytes=self.size_bytes,
        )

    def discard(self) -> None:
        """Remove the file."""
        self._file.close(whole=False)
        self._path.unlink(missing_ok=True)
