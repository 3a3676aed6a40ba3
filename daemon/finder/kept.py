"""What answers show of studies, encoded once and kept in memory, level with the Catalogue whenever it is used."""

from __future__ import annotations

import struct
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
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
_ROW_BYTES, _LONGEST_HEAD = 64, 1022
_LENGTH_BYTES = 2
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


@dataclass(frozen=True, slots=True)
class Heads:
    """Heads of answers, each at the end of a row of bytes.

    Attributes
    ----------
    rows : ndarray of uint8 (n, width)
    lengths : list of int
        0: there is none.
    """

    rows: NDArray[np.uint8]
    lengths: list[int]

    @classmethod
    def of(cls, heads: Sequence[bytes]) -> Heads:
        """Return heads in rows as wide as the longest of them."""
        width = max(map(len, heads), default=0)
        rows = np.frombuffer(b"".join([head.rjust(width, b"\0") for head in heads]), dtype=np.uint8)
        return cls(rows.reshape(len(heads), width), list(map(len, heads)))

    @classmethod
    def joined(cls, parts: Sequence[Heads]) -> Heads:
        """Return the heads of all parts."""
        return parts[0] if len(parts) == 1 else cls.of([head for part in parts for head in part])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, place: int) -> bytes:
        return self.rows[place, self.rows.shape[1] - self.lengths[place] :].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        return map(self.__getitem__, range(len(self)))

    def take(self, places: slice | Int64) -> Heads:
        """Return those at some places."""
        lengths = self.lengths
        return Heads(
            self.rows[places],
            lengths[places] if isinstance(places, slice) else [lengths[place] for place in places.tolist()],
        )


class _HeadsMade:
    """Heads of one layout by number of the study, each in a row of its own.

    Rows are fetched together: the memory is asked for all of them at once, and one after another each would wait.
    """

    def __init__(self) -> None:
        self.count = 0                              # of studies that have been looked at
        #: In each a length in two bytes (0: none), and at its end the head.
        self._rows = np.zeros((0, _ROW_BYTES), dtype=np.uint8)
        self._changing = threading.Lock()           # no row is read while it is written

    def add(self, heads: Sequence[bytes]) -> None:
        """Add heads of the next studies, empty ones of those that have none."""
        longest = min(max(map(len, heads)), _LONGEST_HEAD) + _LENGTH_BYTES
        rows, missing = self._rows, -(-longest // _ROW_BYTES) * _ROW_BYTES - self._rows.shape[1]
        if missing > 0:
            wider = np.zeros((len(rows), rows.shape[1] + missing), dtype=np.uint8)
            wider[: self.count, :_LENGTH_BYTES] = rows[: self.count, :_LENGTH_BYTES]
            wider[: self.count, _LENGTH_BYTES + missing :] = rows[: self.count, _LENGTH_BYTES:]
            rows = wider
        rows = np.asarray(grown(rows, self.count + len(heads)))
        for number, head in enumerate(heads, self.count):
            _write(rows[number], head)
        with self._changing:
            self._rows, self.count = rows, self.count + len(heads)

    def put(self, number: int, head: bytes) -> None:
        """Put a head in place of the one before."""
        with self._changing:
            _write(self._rows[number], head)

    def of(self, studies: Int64) -> Heads:
        """Return the heads of studies, as far as they are made."""
        with self._changing:
            try:
                rows = self._rows.take(studies, axis=0)
            except IndexError:                      # a study that came just now
                return Heads.of([b""] * len(studies))
        return Heads(rows, rows.view("<u2")[:, 0].tolist())


def _write(row: NDArray[np.uint8], head: bytes) -> None:
    size = len(head) if len(head) + _LENGTH_BYTES <= len(row) else 0
    row[:_LENGTH_BYTES] = size & 0xFF, size >> 8
    row[len(row) - size :] = np.frombuffer(head, dtype=np.uint8, count=size)


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
        self._count = 0
        self._sequence = -1
        self._loaded_to: str | None = ""            # None: all are here
        self._kept: list[bytes | None] = []         # by number; empty: not all of it is plain
        self._patients = np.zeros(0, dtype=np.int64)
        self._heads: dict[Layout, _HeadsMade] = {}
        self._asked: dict[Layout, int] = {}

    def __len__(self) -> int:
        return self._count

    @property
    def layouts(self) -> int:
        """Of how many layouts the heads of all studies are made."""
        return sum(heads.count == len(self._kept) for heads in list(self._heads.values()))

    # ------------------------------------------------------------------------------------ asking

    def heads(self, layout: Layout, studies: Int64) -> Heads:
        """Return heads of answers; none of a study whose record has to be asked for, or that shows nothing."""
        self._asked[layout] = self._asked.get(layout, 0) + 1        # one lost between two threads does no harm
        made = self._heads.get(layout)
        heads = made.of(studies) if made is not None else Heads.of([b""] * len(studies))
        if 0 in heads.lengths:
            numbers = enumerate(studies.tolist())
            heads = Heads.of([heads[place] or self._head(layout, number) for place, number in numbers])
        return heads

    def _head(self, layout: Layout, number: int) -> bytes:
        kept = self._kept[number] if number < len(self._kept) else None
        return layout.head(kept) if kept else b""

    def patients(self, studies: Int64) -> Int64:
        """Return `patient_number` of each study that has a head, and any number of others."""
        patients = self._patients
        return patients.take(studies, mode="clip") if len(patients) else np.zeros(len(studies), dtype=np.int64)

    def patient_of(self, number: int) -> int | None:
        """Return the `patient_number` of a study, None of one that is not kept."""
        is_kept = number < len(self._kept) and self._kept[number] is not None
        return int(self._patients[number]) if is_kept else None

    # ------------------------------------------------------------------------------------ following

    def load_some(self) -> bool:
        """Take in some more studies, then make some more heads; return whether all studies that fit are here."""
        with self._changing:
            if self._loaded_to is None or self._count >= self._limit:
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
            changes = self._catalogue.studies_changed(self._sequence)
            if changes.erased or changes.sequence < self._sequence:     # which, nobody knows: begin again
                self._kept, self._heads, self._count = [], {}, 0
                self._sequence, self._loaded_to = -1, ""
                return
            for uid in changes.hidden:
                number = self.numbers.get(uid)
                if number is not None and number < len(self._kept) and self._kept[number] is not None:
                    self._set(number, None)
                    self._count -= 1
            self._put(changes.shown)
            self._sequence = changes.sequence

    def _put(self, records: Collection[StudyRecord]) -> None:
        numbers = self.numbers.of([record.study_instance_uid for record in records])
        missing = max(numbers, default=-1) + 1 - len(self._kept)
        if missing > 0:
            self._patients = np.asarray(grown(self._patients, len(self._kept) + missing))
            self._kept += [None] * missing
        for number, record in zip(numbers, records, strict=True):
            is_new = self._kept[number] is None
            if not is_new or self._count < self._limit:
                self._count += is_new
                self._patients[number] = patient_number(record.patient_key)
                self._set(number, kept_of(record))

    def _set(self, number: int, kept: bytes | None) -> None:
        self._kept[number] = kept
        for layout, heads in self._heads.items():
            if number < heads.count:
                heads.put(number, layout.head(kept) if kept else b"")

    # ------------------------------------------------------------------------------------ heads made beforehand

    def _choose_layouts(self) -> None:
        asked = dict(self._asked)
        if sum(asked.values()) >= _LAST_QUERIES:
            self._asked = asked = {layout: times // 2 for layout, times in asked.items() if times > 1}
            wanted = sorted(asked, key=lambda layout: asked[layout], reverse=True)[:_LAYOUTS]
            self._heads = {layout: heads for layout, heads in self._heads.items() if layout in wanted}
        often = [layout for layout, times in asked.items() if times >= _OFTEN and layout not in self._heads]
        for layout in often[: _LAYOUTS - len(self._heads)]:
            self._heads[layout] = _HeadsMade()

    def _make_heads(self) -> None:
        for layout, heads in self._heads.items():
            some = self._kept[heads.count : heads.count + _HEADS]
            if some:
                heads.add([layout.head(kept) if kept else b"" for kept in some])
                return


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


__all__ = ["KEPT_TAGS", "PLACES", "Heads", "KeptStudies", "Layout", "kept_of", "patient_number"]
