"""Which study and instance a label stands for, and which labels a study has: columns, not objects."""

from __future__ import annotations

from binascii import unhexlify
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from storage.base import EmbeddingRow, Int64, Kind, StorageError
from storage.index.table import grown
from storage.numbers import Numbers

_FILE = "owners.npz"
_KINDS = tuple(Kind)
_KIND_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}
_GONE = -1

Texts = NDArray[np.bytes_]


#: Half a byte for each character of a UID, none of them 0 (numpy takes zeros off the end), f where one is left over;
#: what no UID has becomes what no hexadecimal number has.
_PACK = bytes(b"123456789ab"[place] if (place := b"0123456789.".find(code)) >= 0 else 0 for code in range(256))
_UNPACK = str.maketrans("123456789ab", "0123456789.")
_NOT_PACKED = b"\xff"


def _packed(uid: str) -> bytes:
    """Return a UID in half of its bytes, or with one more where it is none; see `_unpacked`."""
    text = uid.encode()
    try:
        return unhexlify(text.translate(_PACK) + b"f" * (len(text) % 2))
    except ValueError:
        return _NOT_PACKED + text


def _unpacked(packed: bytes) -> str:
    if packed.startswith(_NOT_PACKED):
        return packed[1:].decode()
    return packed.hex().rstrip("f").translate(_UNPACK)


def _with_texts(column: Texts, start: int, texts: Sequence[bytes]) -> Texts:
    """Return a column of text with these from row `start` on; wider where one of them needs it."""
    new = np.asarray(texts, dtype=np.bytes_)
    if new.dtype.itemsize > column.dtype.itemsize:
        column = column.astype(new.dtype)
    column = np.asarray(grown(column, start + len(new)))
    column[start : start + len(new)] = new
    return column


class Owned(NamedTuple):
    """Whose labels are.

    Attributes
    ----------
    studies : ndarray of int64
        Numbers of the studies.
    places : ndarray of int64, or None
        Which of the labels asked for these are; None: all.
    """

    studies: Int64
    places: Int64 | None


class Owners:
    """Rows of (label, kind, study, SOP Instance UID) in ascending label order, about 70 bytes each, and eight for each
    number from the first label to the last.

    One thread changes it; others may ask meanwhile: a row is whole before it is counted, what is told of its study and
    its object before its label has a study, and arrays are replaced, not resized.

    Parameters
    ----------
    numbers : Numbers
        Of StudyInstanceUIDs, shared with whoever else keeps something of studies.
    """

    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers
        self._count = 0
        self._below = 0                                             # the number below the first label
        self._above = np.zeros(0, dtype=np.int32)                   # labels, less that
        self._kinds = np.zeros(0, dtype=np.int8)                    # _GONE: no longer here
        # by label less `_below`, 0 at both ends: what has none
        self._next_row = np.zeros(1, dtype=np.int32)                # 1 + row, of those that went, too
        self._next_study = np.zeros(1, dtype=np.int32)              # 1 + number of the study, of live ones
        self._before = np.zeros(0, dtype=np.int32)                  # the row before of the same study, or -1
        self._row_sop = np.zeros(0, dtype=np.int32)                 # place in `_sops`, or -1: a JOINT row has none
        self._sops: Texts = np.zeros(0, dtype="S1")                 # packed, as wide as the longest of them
        self._sop_count = 0
        self._last_row = np.zeros(0, dtype=np.int32)                # 1 + last row of a study, by number; 0: none
        self._held = np.zeros((1, len(_KINDS)), dtype=np.bool_)     # whether a study has live rows, by kind

    # ------------------------------------------------------------------------------------ changes

    def put(self, rows: Sequence[EmbeddingRow]) -> None:
        """Take rows in, ascending by label, all of them above those that are here."""
        studies = self._numbers.of([row.study_instance_uid for row in rows])
        known = max(studies, default=-1) + 1
        self._held = np.asarray(grown(self._held, known))           # first: `_number_of` looks at the other
        self._last_row = np.asarray(grown(self._last_row, known))
        start, end = self._count, self._count + len(rows)
        if rows:
            self._below = self._below if start else rows[0].label - 1
            above = rows[-1].label - self._below
            self._next_row = np.asarray(grown(self._next_row, above + 2))
            self._next_study = np.asarray(grown(self._next_study, above + 2))
        for name in ("_above", "_kinds", "_row_sop", "_before"):
            setattr(self, name, grown(getattr(self, name), end))
        sops = [_packed(row.sop_instance_uid) for row in rows if row.sop_instance_uid]
        self._sops = _with_texts(self._sops, self._sop_count, sops) if sops else self._sops
        for place, (number, row) in enumerate(zip(studies, rows, strict=True), start):
            kind, above = _KIND_NUMBERS[row.kind], row.label - self._below
            self._above[place] = above
            self._kinds[place] = kind
            self._before[place] = self._last_row[number] - 1
            self._row_sop[place] = self._sop_count if row.sop_instance_uid else -1
            self._sop_count += bool(row.sop_instance_uid)
            self._held[number, kind] = True
            self._next_row[above] = place + 1
            self._next_study[above] = number + 1                    # last: whoever finds it finds the others
            self._count = place + 1
            self._last_row[number] = place + 1

    def drop(self, label: int) -> None:
        """Take a label out that is here."""
        row, study = self._row_of(label), self._study_of(label)
        assert row is not None
        assert study is not None
        kind = self._kinds[row]
        self._kinds[row] = _GONE
        self._next_study[label - self._below] = 0
        row = int(self._last_row[study]) - 1
        while row >= 0 and self._kinds[row] != kind:
            row = int(self._before[row])
        self._held[study, kind] = row >= 0

    # ------------------------------------------------------------------------------------ lookups

    def _row_of(self, label: int) -> int | None:
        """Return the row of a label, also of one that went."""
        above = label - self._below
        next_row = int(self._next_row[above]) if 0 < above < len(self._next_row) else 0
        return next_row - 1 if next_row else None

    def _study_of(self, label: int) -> int | None:
        above = label - self._below
        next_study = int(self._next_study[above]) if 0 < above < len(self._next_study) else 0
        return next_study - 1 if next_study else None

    def _labels_of_rows(self, rows: Int64) -> Int64:
        return np.asarray(self._above[rows] + np.int64(self._below), dtype=np.int64)

    def kind_of(self, label: int) -> Kind | None:
        """Return what a label stands for, None if it is not here."""
        row = self._row_of(label)
        kind = _GONE if row is None else self._kinds[row]
        return None if kind == _GONE else _KINDS[kind]

    def owner(self, label: int) -> tuple[str, str] | None:
        """Return (StudyInstanceUID, SOPInstanceUID or "") of a label, None if it is not here."""
        study = self._study_of(label)
        return None if study is None else (self._numbers.texts[study], self.sop_instance_uid(label))

    def owners(self, labels: Int64, kind: Kind = Kind.JOINT, holds: bool | None = None) -> Owned:
        """Return whose labels are, of those that are here.

        Parameters
        ----------
        kind, holds
            None: of all labels; else only of those whose study has, or has not, a label of this kind.
        """
        # by take, which asks the memory for many at once: one after another each waits a tenth of a microsecond
        next_studies = self._next_study.take(labels - self._below, mode="clip")
        studies = np.subtract(next_studies, 1, dtype=np.int64)
        if holds is None:
            (places,) = next_studies.nonzero()
        else:
            held = self._held[studies, _KIND_NUMBERS[kind]]         # of the last study, where there is none
            (places,) = ((held == holds) & (next_studies > 0)).nonzero()
        return Owned(studies, None) if len(places) == len(labels) else Owned(studies.take(places), places)

    def sop_instance_uid(self, label: int) -> str:
        """Return the SOPInstanceUID of a label that is here or was a moment ago, "" of a JOINT one."""
        row = self._row_of(label)
        place = -1 if row is None else self._row_sop[row]
        return _unpacked(bytes(self._sops[place])) if place >= 0 else ""

    def _number_of(self, study_instance_uid: str) -> int | None:
        """Return the number of a study that has, or had, rows here."""
        number = self._numbers.get(study_instance_uid)
        return number if number is not None and number < len(self._last_row) else None

    def holds(self, kind: Kind, study_instance_uid: str) -> bool:
        """Return whether a study has a label of this kind."""
        number = self._number_of(study_instance_uid)
        return number is not None and bool(self._held[number, _KIND_NUMBERS[kind]])

    def labels_without(self, kind: Kind, has: Kind, lacks: Kind) -> Int64:
        """Return the labels of one kind, ascending, of studies that have a label of `has` and none of `lacks`."""
        count = self._count
        held = self._held                                           # once: it may be replaced by a longer one
        chosen = held[:, _KIND_NUMBERS[has]] & ~held[:, _KIND_NUMBERS[lacks]]
        studies = self._next_study[self._above[:count]] - 1         # -1 of rows that went, which have no kind
        rows = chosen[studies] & (self._kinds[:count] == _KIND_NUMBERS[kind])
        return self._labels_of_rows(np.flatnonzero(rows))

    def labels_of(self, kind: Kind, study_instance_uids: Collection[str]) -> Int64:
        """Return the labels of one kind that studies have, ascending."""
        found = [number for uid in study_instance_uids if (number := self._number_of(uid)) is not None]
        rows, parts = self._last_row[np.asarray(found, dtype=np.int64)] - 1, []
        while len(rows := rows[rows >= 0]):                         # once for each row that one study has
            parts.append(rows)
            rows = self._before[rows]
        if not parts:
            return np.zeros(0, dtype=np.int64)
        every = np.concatenate(parts)
        every = every[self._kinds[every] == _KIND_NUMBERS[kind]]
        return np.sort(self._labels_of_rows(every))

    def labels_of_study(self, study_instance_uid: str) -> dict[Kind, list[int]]:
        """Return the labels that a study has, ascending, by kind; no kind without any."""
        found: dict[Kind, list[int]] = {}
        number = self._number_of(study_instance_uid)
        row = -1 if number is None else self._last_row.item(number) - 1
        while row >= 0:                                             # from the last label to the first
            kind = self._kinds.item(row)                            # once: it may go any moment
            if kind != _GONE:
                found.setdefault(_KINDS[kind], []).insert(0, self._below + self._above.item(row))
            row = self._before.item(row)
        return found

    # ------------------------------------------------------------------------------------ files

    def save(self, folder: Path) -> None:
        """Write the live rows."""
        live = np.flatnonzero(self._kinds[: self._count] != _GONE)
        places = self._row_sop[live]
        named = places >= 0
        row_sop = np.where(named, np.cumsum(named) - 1, -1).astype(np.int32)
        numbers, row_study = np.unique(self._next_study[self._above[live]] - 1, return_inverse=True)
        studies = np.asarray([self._numbers.texts[number].encode() for number in numbers.tolist()], dtype=np.bytes_)
        np.savez(
            folder / _FILE, labels=self._labels_of_rows(live), kinds=self._kinds[live], row_study=row_study,
            row_sop=row_sop, packed_sops=self._sops[places[named]], studies=studies,
        )

    @classmethod
    def load(cls, folder: Path, numbers: Numbers) -> Owners:
        """Return what `save` wrote; StorageError when it contradicts itself."""
        owners = cls(numbers)
        with np.load(folder / _FILE, allow_pickle=False) as file:
            labels, owners._kinds, row_study = file["labels"], file["kinds"], file["row_study"]
            owners._row_sop, uids = file["row_sop"], file["studies"].tolist()
            if "packed_sops" in file:
                owners._sops = file["packed_sops"]
            else:                                                   # of a snapshot made before they were packed
                owners._sops = _with_texts(owners._sops, 0, [_packed(sop.decode()) for sop in file["sops"].tolist()])
        count, owners._sop_count = len(labels), len(owners._sops)
        if not count == len(owners._kinds) == len(row_study) == len(owners._row_sop) or (
            count
            and (
                row_study.max() >= len(uids)
                or row_study.min() < 0
                or owners._kinds.min() < 0
                or owners._kinds.max() >= len(_KINDS)
                or owners._row_sop.max() >= owners._sop_count
            )
        ):
            raise StorageError(f"{_FILE} contradicts itself")
        owners._count = count
        found = np.asarray(numbers.of([uid.decode() for uid in uids]), dtype=np.int32)
        studies = found[row_study]
        if count:
            owners._below = int(labels[0]) - 1
            owners._above = (labels - owners._below).astype(np.int32)
            room = int(owners._above[-1]) + 2
            owners._next_row, owners._next_study = np.zeros(room, dtype=np.int32), np.zeros(room, dtype=np.int32)
            owners._next_row[owners._above], owners._next_study[owners._above] = np.arange(1, count + 1), studies + 1
        known = int(found.max(initial=-1)) + 1
        owners._held = np.zeros((max(1, known), len(_KINDS)), dtype=np.bool_)
        owners._held[studies, owners._kinds] = True
        by_study = np.argsort(studies, kind="stable").astype(np.int32)
        again = np.flatnonzero(np.diff(studies[by_study]) == 0)
        owners._before = np.full(count, -1, dtype=np.int32)
        owners._before[by_study[again + 1]] = by_study[again]
        owners._last_row = np.zeros(known, dtype=np.int32)
        owners._last_row[studies[by_study]] = by_study + 1
        return owners
