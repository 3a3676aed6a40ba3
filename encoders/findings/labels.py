"""Labels of a report: its mentions brought together, one value for each of the 14 observations."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from encoders.base import ABNORMAL_FINDINGS, FINDING_NAMES, EncodersError, Float32, ReportText
from encoders.findings.mentions import mentions
from encoders.findings.scopes import State
from encoders.findings.text import has_words

#: Of several mentions the strongest claim counts (CheXpert: positive over uncertain over negative).
_STRENGTH = {State.POSITIVE: 2, State.UNCERTAIN: 1, State.NEGATIVE: 0}


class LabelInputError(EncodersError):
    """The CSV of reports cannot be labelled; the message says which column is missing."""


def label(findings: str, impression: str) -> dict[str, float | None]:
    """Return the 14 observations of a report: 1.0 positive, 0.0 negative, -1.0 uncertain, None not mentioned.

    "No Finding" is 1.0 when the report says something and no other observation than Support Devices is positive or
    uncertain, else None, as CheXpert's labeler has it.

    Parameters
    ----------
    findings, impression : str
        The report's two sections; either may be empty.

    References
    ----------
    Irvin et al., AAAI 2019 (CheXpert).
    """
    states: dict[str, State] = {}
    for mention in mentions(findings, impression):
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


def label_csv(in_path: str | Path, out_path: str | Path) -> int:
    """Label a CSV of reports; return how many.

    Parameters
    ----------
    in_path : path
        Columns ``study_id``, ``findings``, ``impression`` (others are passed over); one report a row.
    out_path : path
        Gets ``study_id`` and one column for each of FINDING_NAMES: 1, 0, -1 or empty.

    Raises
    ------
    LabelInputError
        If a column is missing or the file is no CSV in UTF-8. Nothing is written then.
    """
    target = Path(out_path)
    part = target.with_name(target.name + ".part")
    try:
        with Path(in_path).open(newline="", encoding="utf-8-sig") as source:
            reader = csv.DictReader(source)
            missing = {"study_id", "findings", "impression"} - set(reader.fieldnames or ())
            if missing:
                names = ", ".join(sorted(missing))
                raise LabelInputError(f"{in_path}: no column {names}; name them in its first line")
            with part.open("w", newline="", encoding="utf-8") as sink:
                count = _write(reader, sink)
        part.replace(target)
    except UnicodeDecodeError as error:
        raise LabelInputError(f"{in_path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except csv.Error as error:
        raise LabelInputError(f"{in_path}: not a readable CSV ({error}); quote fields that hold line breaks") from error
    finally:
        part.unlink(missing_ok=True)
    return count


def _write(reader: Iterable[dict[str, str | None]], sink: TextIO) -> int:
    writer = csv.writer(sink)
    writer.writerow(["study_id", *FINDING_NAMES])
    count = 0
    for row in reader:
        labels = label(row["findings"] or "", row["impression"] or "")
        writer.writerow([row["study_id"], *("" if value is None else int(value) for value in labels.values())])
        count += 1
    return count
