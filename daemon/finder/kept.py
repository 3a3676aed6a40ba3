"""What answers show of studies, encoded once and kept in memory, level with the Catalogue whenever it is used."""

from __future__ import annotations

import struct
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import tag_for_keyword

from daemon.finder.wire import Element, Syntax, name_of, needs_utf_8, vr_of, write_element
from storage.base import Catalogue, Int64, StudyRecord
from storage.index.table import grown
from storage.numbers import Numbers

#: Keys of a study that viewers ask for; a request for any other is answered from the Catalogue.
_KEYWORDS = (
    "StudyDate", "StudyTime", "AccessionNumber", "ModalitiesInStudy", "SOPClassesInStudy", "ReferringPhysicianName",
    "StudyDescription", "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex",
    "PatientAge", "StudyInstanceUID", "StudyID", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances",
)  # fmt: skip
KEPT_TAGS: tuple[int, ...] = tuple(sorted(int(tag_for_keyword(keyword) or 0) for keyword in _KEYWORDS))
#: Where among the elements that are kept of a study that of a tag is.
PLACES: Mapping[int, int] = {tag: place for place, tag in enumerate(KEPT_TAGS)}

_IMPLICIT = Syntax()
_LENGTH = struct.Struct("<L")
#: Name, VR and empty element.
_COLUMNS = tuple((name_of(tag), vr_of(tag), write_element(tag, {"vr": vr_of(tag)}, _IMPLICIT)) for tag in KEPT_TAGS)
#: Stands between two elements, and in none of them: values are ASCII, lengths even and below 1024.
_BETWEEN = b"\xff"
#: Longer values are answered from the Catalogue.
_LONGEST_BYTES = 1024
#: Studies read in one go: some 50 ms in which the queries' threads get the GIL by turns.
_PAGE = 1000
#: Heads made in one go, some 25 ms in which the queries' threads get the GIL by turns.
_HEADS = 4096
#: Rows of heads are so many bytes wide or a multiple of it: whole cache lines. Longer heads are made when asked for.
_ROW_BYTES, _LONGEST_HEAD = 64, 510
_LENGTH_BYTES, _LENGTH_TYPE = 2, np.dtype("<u2")
#: Heads are made beforehand of so many layouts at most, those asked for most among the last queries (so many count,
#: those before them half as much), and so often.
_LAYOUTS, _LAST_QUERIES, _OFTEN = 4, 1024, 8


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The standard part of an answer, its head: elements of the study, and what stands between them.

    Equal only to itself: one that comes again should be the same object.

    Attributes
    ----------
    parts : tuple of bytes or int
        What is the same in all answers, and places of elements (PLACES).
    implicit_vr : bool
        Else explicit; little endian.
    """

    parts: tuple[bytes | int, ...]
    implicit_vr: bool

    def head(self, kept: bytes) -> bytes:
        """Return what an answer tells of a study, from what is kept of it."""
        elements = kept.split(_BETWEEN)
        if not self.implicit_vr:
            elements = [_explicit(element, column[1]) for element, column in zip(elements, _COLUMNS, strict=True)]
        return b"".join([part if isinstance(part, bytes) else elements[part] for part in self.parts])


class _Heads:
    """Heads of one layout by slot of the study, each in a row of its own.

    Rows are fetched together: the memory is asked for all of them at once, and one after another each would wait.
    """

    def __init__(self) -> None:
        self.count = 0                              # of slots that have been looked at
        self._rows = np.zeros((0, _ROW_BYTES), dtype=np.uint8)      # a length in two bytes (0: none), and the head
        self._changing = threading.Lock()           # no row is read while it is written

    def add(self, heads: Sequence[bytes]) -> None:
        """Add heads of the next slots, empty ones of those that have none; one longer than a row may be is none."""
        longest = max((len(head) for head in heads if len(head) <= _LONGEST_HEAD), default=0) + _LENGTH_BYTES
        width = max(self._rows.shape[1], -(-longest // _ROW_BYTES) * _ROW_BYTES)
        new = np.zeros((len(heads), width), dtype=np.uint8)
        for row, head in zip(new, heads, strict=True):
            _write(row, head)
        rows, end = self._rows, self.count + len(heads)
        if width > rows.shape[1]:
            rows = np.zeros((len(rows), width), dtype=np.uint8)
            rows[: self.count, : self._rows.shape[1]] = self._rows[: self.count]
        rows = np.asarray(grown(rows, end))
        with self._changing:
            rows[self.count : end] = new
            self._rows, self.count = rows, end

    def put(self, slot: int, head: bytes) -> None:
        """Put a head in place of the one before."""
        with self._changing:
            _write(self._rows[slot], head)

    def of(self, slots: NDArray[np.int32]) -> list[bytes]:
        """Return the heads of slots, empty where there is none or none yet."""
        with self._changing:
            try:
                rows = self._rows.take(slots, axis=0)
            except IndexError:                      # of a study that came just now
                return [b""] * len(slots)
        lengths, width, data = rows.view(_LENGTH_TYPE)[:, 0].tolist(), rows.shape[1], rows.tobytes()
        begins = range(_LENGTH_BYTES, len(data), width)
        return [data[begin : begin + length] for begin, length in zip(begins, lengths, strict=True)]


def _write(row: NDArray[np.uint8], head: bytes) -> None:
    size = len(head) if len(head) + _LENGTH_BYTES <= len(row) else 0
    row[: size + _LENGTH_BYTES] = np.frombuffer(size.to_bytes(_LENGTH_BYTES, "little") + head[:size], dtype=np.uint8)


class _Studies:
    """What is kept, by slots, which are given from 1 on and not taken back; replaced as a whole after an erasure."""

    def __init__(self) -> None:
        self.slots = np.zeros(0, dtype=np.int32)    # by number of the study; 0: not kept
        self.kept = [b""]                           # by slot; empty: not all of it is plain, or it shows nothing
        self.patients = np.zeros(1, dtype=np.int64)
        self.heads: dict[Layout, _Heads] = {}

    def slot_of(self, number: int) -> int:
        """Return the slot of a study."""
        slots = self.slots
        return int(slots[number]) if number < len(slots) else 0

    def put(self, number: int, kept: bytes, patient: int) -> None:
        """Keep a study, or what is known of it now."""
        slot = self.slot_of(number)
        if not slot:
            slot = len(self.kept)
            self.kept.append(kept)
            self.patients = np.asarray(grown(self.patients, slot + 1))
            self.slots = np.asarray(grown(self.slots, number + 1))
        self.kept[slot], self.patients[slot] = kept, patient
        for layout, heads in self.heads.items():
            if slot < heads.count:
                heads.put(slot, layout.head(kept) if kept else b"")
        self.slots[number] = slot                   # last: whoever finds the slot finds what is in it


class KeptStudies:
    """Studies by number; whole once `load_some` has returned True, before that and beyond `limit` only in part.

    Some 600 bytes a study, and 250 or more for each layout that is asked for again and again: what its answers tell of
    a study then lies together. One thread loads; any may ask.

    Parameters
    ----------
    numbers : Numbers
        Of StudyInstanceUIDs, those of the indexes.
    limit : int
        So many studies at most; 0: none.
    """

    def __init__(self, catalogue: Catalogue, numbers: Numbers, limit: int) -> None:
        """Make an empty store."""
        self.numbers = numbers
        self._catalogue, self._limit = catalogue, limit
        self._changing = threading.Lock()
        self._sequence = -1
        self._loaded_to: str | None = ""            # None: all are here
        self._studies = _Studies()
        self._asked: dict[Layout, int] = {}

    def __len__(self) -> int:
        return len(self._studies.kept) - 1

    @property
    def layouts(self) -> int:
        """Of how many layouts the heads of all studies that are kept were made."""
        studies = self._studies
        return sum(heads.count == len(studies.kept) for heads in list(studies.heads.values())) if len(self) else 0

    # ------------------------------------------------------------------------------------ asking

    def heads(self, layout: Layout, numbers: Int64) -> tuple[list[bytes], Int64]:
        """Return heads of answers, and `patient_number` of the studies.

        An empty head: the study's record has to be asked for, it may show nothing, and the patient's number is any.
        """
        self._asked[layout] = self._asked.get(layout, 0) + 1        # one lost between two threads does no harm
        studies = self._studies                     # once: after an erasure there are others
        try:
            slots = studies.slots.take(numbers)
        except IndexError:                          # a study that came just now
            slots = np.asarray([studies.slot_of(number) for number in numbers.tolist()], dtype=np.int32)
        made = studies.heads.get(layout)
        heads = made.of(slots) if made is not None else [b""] * len(slots)
        if not all(heads):
            every = zip(heads, slots.tolist(), strict=True)
            heads = [head or (layout.head(kept) if (kept := studies.kept[slot]) else b"") for head, slot in every]
        return heads, studies.patients.take(slots)

    def patient_of(self, number: int) -> int | None:
        """Return the `patient_number` of a study, None of one that is not kept."""
        studies = self._studies
        slot = studies.slot_of(number)
        return int(studies.patients[slot]) if slot else None

    # ------------------------------------------------------------------------------------ following

    def load_some(self) -> bool:
        """Take in some more studies, then make some more heads; return whether all studies that fit are here."""
        with self._changing:
            if self._loaded_to is None or len(self) >= self._limit:
                self._choose_layouts()
                self._make_heads()
                return True
            if self._sequence < 0:
                self._sequence = self._catalogue.sequence()
            page = self._catalogue.studies_from(self._loaded_to, _PAGE)
            self._put(page)
            self._loaded_to = page[-1].study_instance_uid if len(page) == _PAGE else None
            return self._loaded_to is None

    def level(self) -> None:
        """Apply what has changed in the Catalogue; until then `heads` may tell of what is no more."""
        if self._sequence < 0 or self._catalogue.sequence() == self._sequence:
            return
        with self._changing:
            if self._sequence < 0:                  # another thread has seen the erasure that we saw
                return
            changes = self._catalogue.studies_changed(self._sequence)
            if changes.erased or changes.sequence < self._sequence:     # which, nobody knows: begin again
                self._studies = _Studies()
                self._sequence, self._loaded_to = -1, ""
                return
            for uid in changes.hidden:
                number = self.numbers.get(uid)
                if number is not None and self._studies.slot_of(number):
                    self._studies.put(number, b"", 0)
            self._put(changes.shown)
            self._sequence = changes.sequence

    def _put(self, records: Collection[StudyRecord]) -> None:
        numbers = self.numbers.of([record.study_instance_uid for record in records])
        for number, record in zip(numbers, records, strict=True):
            if self._studies.slot_of(number) or len(self) < self._limit:
                self._studies.put(number, kept_of(record), patient_number(record.patient_key))

    # ------------------------------------------------------------------------------------ heads made beforehand

    def _choose_layouts(self) -> None:
        asked, chosen = dict(self._asked), self._studies.heads
        if sum(asked.values()) >= _LAST_QUERIES:
            self._asked = asked = {layout: times // 2 for layout, times in asked.items() if times > 1}
            wanted = sorted(asked, key=asked.__getitem__, reverse=True)[:_LAYOUTS]
            self._studies.heads = chosen = {layout: heads for layout, heads in chosen.items() if layout in wanted}
        often = [layout for layout, times in asked.items() if times >= _OFTEN and layout not in chosen]
        for layout in sorted(often, key=asked.__getitem__, reverse=True)[: _LAYOUTS - len(chosen)]:
            chosen[layout] = _Heads()

    def _make_heads(self) -> None:
        left = _HEADS
        for layout, heads in self._studies.heads.items():
            some = self._studies.kept[heads.count : heads.count + left]
            if some:
                heads.add([layout.head(kept) if kept else b"" for kept in some])
                left -= len(some)


def patient_number(patient_key: str) -> int:
    """Return a number of 64 bits that no two patients of an archive share but by a chance of one in 10^7; 0: unknown.
    """
    return hash(patient_key) if patient_key else 0


def kept_of(record: StudyRecord) -> bytes:
    """Return the elements that are kept of a study, implicit VR; nothing where one is not plain.

    That is: not ASCII, of another VR than the dictionary's, or long.
    """
    elements = []
    for name, vr, empty in _COLUMNS:
        known = record.attributes.get(name)
        if not known:
            elements.append(empty)
            continue
        data, is_ascii = _encoded(empty, known)
        if not is_ascii or known["vr"] != vr or len(data) >= _LONGEST_BYTES:
            return b""
        elements.append(data)
    return _BETWEEN.join(elements)


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


def _explicit(element: bytes, vr: str) -> bytes:
    """Return a kept element in explicit VR little endian."""
    return element[:4] + vr.encode() + element[4:6] + element[8:]


__all__ = ["KEPT_TAGS", "PLACES", "KeptStudies", "Layout", "kept_of", "patient_number"]
