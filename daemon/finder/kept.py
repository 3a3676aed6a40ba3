"""What answers show of studies, encoded once and kept in memory, level with the Catalogue whenever it is used."""

from __future__ import annotations

import struct
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from pydicom.datadict import tag_for_keyword

from daemon.finder.wire import Element, Syntax, name_of, needs_utf_8, vr_of, write_element
from storage.base import Catalogue, StudyRecord

#: Keys of a study that viewers ask for; a request for any other is answered from the Catalogue.
_KEYWORDS = (
    "StudyDate", "StudyTime", "AccessionNumber", "ModalitiesInStudy", "SOPClassesInStudy", "ReferringPhysicianName",
    "StudyDescription", "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex",
    "PatientAge", "StudyInstanceUID", "StudyID", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances",
)  # fmt: skip
KEPT_TAGS: tuple[int, ...] = tuple(sorted(int(tag_for_keyword(keyword) or 0) for keyword in _KEYWORDS))

#: A study: its patient key, whether all of it is ASCII and of the dictionary's VRs, then the elements of KEPT_TAGS in
#: implicit VR little endian. A plain tuple, which the garbage collector does not look at again.
Kept = tuple[Any, ...]
PATIENT_KEY, IS_PLAIN = 0, 1
#: Where in a `Kept` the element of a tag is.
PLACES: Mapping[int, int] = {tag: place for place, tag in enumerate(KEPT_TAGS, 2)}

_IMPLICIT = Syntax()
_LENGTH = struct.Struct("<L")
_EMPTY = tuple(write_element(tag, {"vr": vr_of(tag)}, _IMPLICIT) for tag in KEPT_TAGS)
#: Values that many studies have are held once; so many of them.
_SHARED = frozenset(KEPT_TAGS) - {0x00080030, 0x00080050, 0x00100010, 0x00100020, 0x0020000D, 0x00200010}
_SHARED_VALUES = 65_536
#: Name, VR, empty element, and whether its values are held once.
_COLUMNS = tuple(
    (name_of(tag), vr_of(tag), empty, tag in _SHARED) for tag, empty in zip(KEPT_TAGS, _EMPTY, strict=True)
)
#: Longer values are answered from the Catalogue.
_LONGEST_BYTES = 1024
#: Studies read in one go: some 50 ms in which the queries' threads get the GIL by turns.
_PAGE = 1000


class KeptStudies:
    """Studies by UID; whole once `load_some` has returned True, before that and beyond `limit` only in part.

    Some 700 bytes a study. One thread loads; any may ask.
    """

    def __init__(self, catalogue: Catalogue, limit: int) -> None:
        """Make an empty store of at most `limit` studies (0: keep none)."""
        self._catalogue, self._limit = catalogue, limit
        self._changing = threading.Lock()
        self._studies: dict[str, Kept] = {}
        self._shared: dict[bytes, bytes] = {}
        self._sequence = -1
        self._loaded_to: str | None = ""            # None: all are here
        self.get: Callable[[str], Kept | None] = self._studies.get

    def __len__(self) -> int:
        return len(self._studies)

    def load_some(self) -> bool:
        """Take in some more studies; return whether all that fit are here."""
        with self._changing:
            if self._loaded_to is None or len(self._studies) >= self._limit:
                return True
            if self._sequence < 0:
                self._sequence = self._catalogue.sequence()
            page = self._catalogue.studies_from(self._loaded_to, _PAGE)
            for record in page:
                self._put(record)
            self._loaded_to = page[-1].study_instance_uid if len(page) == _PAGE else None
            return self._loaded_to is None

    def level(self) -> None:
        """Apply what has changed in the Catalogue; until then `get` may tell of what is no more."""
        if self._sequence < 0 or self._catalogue.sequence() == self._sequence:
            return
        with self._changing:
            changes = self._catalogue.studies_changed(self._sequence)
            if changes.erased or changes.sequence < self._sequence:     # which, nobody knows: begin again
                self._studies.clear()
                self._shared.clear()
                self._sequence, self._loaded_to = -1, ""
                return
            for uid in changes.hidden:
                self._studies.pop(uid, None)
            for record in changes.shown:
                self._put(record)
            self._sequence = changes.sequence

    def _put(self, record: StudyRecord) -> None:
        uid = record.study_instance_uid
        if uid in self._studies or len(self._studies) < self._limit:
            self._studies[sys.intern(uid)] = kept_of(record, self._shared)     # the same object as the index has


def kept_of(record: StudyRecord, shared: dict[bytes, bytes]) -> Kept:
    """Return what is kept of a study; `shared` holds the values that many studies have."""
    elements, is_plain = list(_EMPTY), True
    for place, (name, vr, empty, is_shared) in enumerate(_COLUMNS):
        known = record.attributes.get(name)
        if not known:
            continue
        data, is_ascii = _encoded(empty, known)
        is_plain &= is_ascii and known["vr"] == vr and len(data) < _LONGEST_BYTES
        if is_shared:
            data = shared.setdefault(data, data) if len(shared) < _SHARED_VALUES else shared.get(data, data)
        elements[place] = data
    return (record.patient_key, is_plain, *elements)


def _encoded(empty: bytes, known: Element) -> tuple[bytes, bool]:
    """Return an element as `write_element` does, and whether it is ASCII; the usual single value without detours."""
    values = known.get("Value", ())
    if len(values) == 1:
        value = values[0]
        if isinstance(value, dict) and len(value) == 1:
            value = value.get("Alphabetic")
        if isinstance(value, str):
            data = value.encode()
            if len(data) % 2:
                data += b"\0" if known["vr"] == "UI" else b" "
            return empty[:4] + _LENGTH.pack(len(data)) + data, value.isascii()
    tag = int.from_bytes(empty[:2], "little") << 16 | int.from_bytes(empty[2:4], "little")
    return write_element(tag, known, _IMPLICIT), not needs_utf_8((known,))


def explicit(element: bytes, vr: bytes) -> bytes:
    """Return a kept element in explicit VR little endian."""
    return element[:4] + vr + element[4:6] + element[8:]


__all__ = ["IS_PLAIN", "PATIENT_KEY", "PLACES", "Kept", "KeptStudies", "explicit", "kept_of"]
