"""Labels of a report: its mentions brought together, one value for each of the 14 observations."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from encoders.base import ABNORMAL_FINDINGS, FINDING_NAMES, EncodersError, Float32, ReportText
from encoders.findings.language import in_another_language
from encoders.findings.mentions import mentions
from encoders.findings.scopes import State
from encoders.findings.text import has_words

#: Of several mentions the strongest claim counts (CheXpert: positive over uncertain over negative).
_STRENGTH = {State.POSITIVE: 2, State.UNCERTAIN: 1, State.NEGATIVE: 0}


_COLUMNS = ("study_id", "findings", "impression")
#: Characters; no report is longer, and a quote that nobody closed is found before it has swallowed the file.
_LONGEST_FIELD = 1_000_000
#: A line in a field that looks like a row of a CSV: an identifier with a digit and no blank around its comma.
_ROW_IN_FIELD = re.compile(r"\n[^\s,]*\d[^\s,]*,(?! )[^\n]*")


class LabelInputError(EncodersError):
    """The CSV of reports cannot be labelled; the message says where and what to do."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """How many reports of a CSV were labelled, and how many of them left empty because they are not in English."""

    reports: int
    not_english: int


def label(findings: str, impression: str) -> dict[str, float | None]:
    """Return the 14 observations of a report: 1.0 positive, 0.0 negative, -1.0 uncertain, None not mentioned.

    "No Finding" is 1.0 when the report says something and no other observation than Support Devices is positive or
    uncertain, else None, as CheXpert's labeler has it. All are None of a report that is not in English.

    Parameters
    ----------
    findings, impression : str
        The report's two sections; either may be empty.

    References
    ----------
    Irvin et al., AAAI 2019 (CheXpert).
    """
    found = mentions(findings, impression)
    if in_another_language(f"{findings} {impression}", len(found)):
        return dict.fromkeys(FINDING_NAMES)
    states: dict[str, State] = {}
    for mention in found:
        known = states.get(mention.finding)
        if known is None or _STRENGTH[mention.state] > _STRENGTH[known]:
            states[mention.finding] = mention.state
    labels: dict[str, float | None] = {name: states.get(name, State.NONE).value for name in FINDING_NAMES}
    abnormal = any(labels[name] in (1.0, -1.0) for name in ABNORMAL_FINDINGS)
    labels["No Finding"] = 1.0 if not abnormal and has_words(f"{findings} {impression}") else None
    return labels


def label_array(reports: Sequence[ReportText]) -> Float32:
    """Return the labels of n reports, float32 (n, 14) in the order of FINDING_NAMES: 1, 0, -1, NaN not mentioned."""
    rows = np.full((len(reports), len(FINDING_NAMES)), np.nan, dtype=np.float32)
    for row, report in zip(rows, reports, strict=True):
        for column, value in enumerate(label(report.findings, report.impression).values()):
            if value is not None:
                row[column] = value
    return rows


def label_csv(in_path: str | Path, out_path: str | Path) -> Labelled:
    """Label a CSV of reports; return how many.

    Parameters
    ----------
    in_path : path
        Columns ``study_id``, ``findings``, ``impression`` (in any case and order, others are passed over); one report a
        row.
    out_path : path
        Gets ``study_id`` and one column for each of FINDING_NAMES: 1, 0, -1 or empty.

    Raises
    ------
    LabelInputError
        If a column is missing or doubled, a row has more or fewer fields than the header, a quote is not closed, the
        file is no CSV in UTF-8, or `out_path` is the file of the reports. Nothing is written then.
    """
    target = Path(out_path)
    if target.exists() and target.samefile(in_path):
        raise LabelInputError(f"{out_path}: holds the reports and would be lost; name another file for the labels")
    part = target.with_name(target.name + ".part")
    try:
        with Path(in_path).open(newline="", encoding="utf-8-sig") as source:
            rows = _reports(source, in_path)
            with part.open("w", newline="", encoding="utf-8") as sink:
                labelled = _write(rows, sink)
        part.replace(target)
    except UnicodeDecodeError as error:
        raise LabelInputError(f"{in_path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    finally:
        part.unlink(missing_ok=True)
    return labelled


def _reports(source: TextIO, in_path: str | Path) -> Iterator[tuple[str, str, str]]:
    """Yield study_id, findings, impression of every row of a CSV."""
    csv.field_size_limit(_LONGEST_FIELD)                            # of the process: whoever reads a CSV says its own
    reader = csv.reader(source, strict=True)
    line, header, places = 1, list[str](), list[int]()
    try:
        for row in reader:
            if row and not header:
                header, places = row, _places(row, in_path)
            elif row:
                _check(row, len(header), f"{in_path}, line {line}")
                study_id, findings, impression = (row[place] for place in places)
                yield study_id, findings, impression
            line = reader.line_num + 1
    except csv.Error as error:
        raise LabelInputError(
            f"{in_path}: the row that begins in line {line} cannot be read ({error}); put quotes around a field that "
            'holds line breaks, close them, and double those inside ("")'
        ) from error
    if not header:
        _places(header, in_path)


def _places(header: list[str], in_path: str | Path) -> list[int]:
    """Return where study_id, findings and impression stand in a row."""
    names = [name.strip().lower() for name in header]
    missing = ", ".join(name for name in _COLUMNS if name not in names)
    if missing:
        raise LabelInputError(f"{in_path}: no column {missing}; name them in its first line, separated by commas")
    doubled = ", ".join(name for name in _COLUMNS if names.count(name) > 1)
    if doubled:
        raise LabelInputError(f"{in_path}: more than one column {doubled}; keep one of each")
    return [names.index(name) for name in _COLUMNS]


def _check(row: list[str], columns: int, where: str) -> None:
    if len(row) != columns:
        raise LabelInputError(
            f"{where}: {len(row)} fields, but the first line names {columns}; put quotes around texts that hold commas"
        )
    for field in row:
        for line in _ROW_IN_FIELD.findall(field):
            if line.count(",") >= columns - 1:
                raise LabelInputError(f"{where}: a field holds what looks like the next row; close the quote before it")


def _write(reports: Iterator[tuple[str, str, str]], sink: TextIO) -> Labelled:
    writer = csv.writer(sink)
    writer.writerow(["study_id", *FINDING_NAMES])
    count = not_english = 0
    for study_id, findings, impression in reports:
        labels = label(findings, impression)
        writer.writerow([study_id, *("" if value is None else int(value) for value in labels.values())])
        count += 1
        not_english += all(value is None for value in labels.values()) and has_words(f"{findings} {impression}")
    return Labelled(count, not_english)
