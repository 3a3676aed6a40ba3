"""The labels measured against human codes: ``python -m encoders.findings.measure --csv studies.csv --split val``."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from encoders.base import FINDING_NAMES
from encoders.findings.labels import label


@dataclass(frozen=True, slots=True)
class Score:
    """Agreement on one finding: true positives, false positives, false negatives."""

    finding: str
    hits: int
    false_alarms: int
    misses: int

    @property
    def precision(self) -> float:
        return self.hits / max(1, self.hits + self.false_alarms)

    @property
    def recall(self) -> float:
        return self.hits / max(1, self.hits + self.misses)

    @property
    def f1(self) -> float:
        return 2 * self.hits / max(1, 2 * self.hits + self.false_alarms + self.misses)


def coded_studies(path: str | Path, split: str | None = None, dataset: str = "iu-xray-openi") -> list[dict[str, str]]:
    """Return one row for each coded study of `dataset`: the studies without any code were never indexed by a human.

    Parameters
    ----------
    path : path
        CSV with columns ``dataset``, ``study_id``, ``split``, ``findings``, ``impression`` and ``chexpert`` (the coded
        findings, separated by ``;``), one row an image.
    """
    studies: dict[str, dict[str, str]] = {}
    with Path(path).open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if row["dataset"] == dataset and row["chexpert"] and split in (None, row["split"]):
                studies.setdefault(row["study_id"], row)
    return list(studies.values())


def scores(studies: Iterable[Mapping[str, str]], uncertain_is_positive: bool = False) -> list[Score]:
    """Return the agreement on each of the 13 findings; uncertain counts as negative (U-Zero) unless told otherwise."""
    claims = (1.0, -1.0) if uncertain_is_positive else (1.0,)
    counts = {name: [0, 0, 0] for name in FINDING_NAMES[1:]}
    for study in studies:
        coded = {name.strip() for name in study["chexpert"].split(";")}
        labels = label(study["findings"], study["impression"])
        for name, count in counts.items():
            claimed = labels[name] in claims
            if claimed and name in coded:
                count[0] += 1
            elif claimed:
                count[1] += 1
            elif name in coded:
                count[2] += 1
    return [Score(name, *count) for name, count in counts.items()]


def macro_f1(rows: Iterable[Score]) -> float:
    """Return the mean F1 over the findings."""
    values = [row.f1 for row in rows]
    return sum(values) / len(values)


def main(arguments: list[str] | None = None) -> int:
    """Print the table of one split."""
    parser = argparse.ArgumentParser(description="Score the report labeler against human codes.")
    parser.add_argument("--csv", required=True, help="studies.csv with a column chexpert")
    parser.add_argument("--split", choices=("train", "val"), help="default: both")
    parser.add_argument("--dataset", default="iu-xray-openi")
    parser.add_argument("--uncertain", choices=("negative", "positive"), default="negative", help="what -1 counts as")
    options = parser.parse_args(arguments)
    studies = coded_studies(options.csv, options.split, options.dataset)
    rows = scores(studies, options.uncertain == "positive")
    out = sys.stdout
    out.write(f"{len(studies)} studies, uncertain counts as {options.uncertain}\n")
    out.write(f"{'finding':<27}{'coded':>6}{'TP':>5}{'FP':>5}{'FN':>5}{'prec':>7}{'rec':>7}{'F1':>7}\n")
    for row in rows:
        out.write(
            f"{row.finding:<27}{row.hits + row.misses:>6}{row.hits:>5}{row.false_alarms:>5}{row.misses:>5}"
            f"{row.precision:>7.2f}{row.recall:>7.2f}{row.f1:>7.3f}\n"
        )
    out.write(f"{'macro over 13':<44}{'':>18}{macro_f1(rows):>7.3f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
