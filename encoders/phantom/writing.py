"""Synthetic studies into a folder, in one transfer syntax or all of them in turn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from encoders.base import EncodersError
from encoders.phantom.codecs import SYNTAXES, Syntax, syntax_named
from encoders.phantom.dicom import Format, study_datasets
from encoders.phantom.study import DETECTORS, SyntheticStudy, simulate

MIXED = "mixed"
_DEPTHS = (12, 14, 10, 12, 16, 12, 8)
_SENSES = ("MONOCHROME2", "MONOCHROME2", "MONOCHROME1", "MONOCHROME2", "MONOCHROME2")
SMALLEST = 64


class UnusableFormat(EncodersError):
    """A size, depth or sense was asked for that the simulator cannot make."""


def choose_format(study: SyntheticStudy, *, transfer_syntax: str = MIXED, size: tuple[int, int] | None = None,
                  bits: int | None = None, photometric: str | None = None) -> Format:
    """Return how a study is stored: what is asked for, and the rest in turn.

    Raises
    ------
    UnknownTransferSyntax, UnusableFormat
        With what can be asked for.
    """
    if size is not None and min(size) < SMALLEST:
        raise UnusableFormat(f"a picture of {size[0]} x {size[1]} is too small; take at least {SMALLEST} x {SMALLEST}")
    if bits is not None and bits not in _DEPTHS:
        depths = ", ".join(map(str, sorted(set(_DEPTHS))))
        raise UnusableFormat(f"{bits} bits stored cannot be made; take one of {depths}")
    if photometric is not None and photometric not in _SENSES:
        raise UnusableFormat(f"photometric {photometric!r} cannot be made; take MONOCHROME1 or MONOCHROME2")
    rng = np.random.default_rng([study.seed, study.number, 0])
    rows, columns = size or DETECTORS[int(rng.integers(len(DETECTORS)))]
    return Format(rows, columns, _syntax(study, transfer_syntax), bits or _DEPTHS[study.number % len(_DEPTHS)],
                  photometric or _SENSES[study.number % len(_SENSES)], "DX" if rng.random() < 0.7 else "CR")


def _syntax(study: SyntheticStudy, name: str) -> Syntax:
    """Return the syntax asked for; `mixed` takes every one in each run of as many studies, shuffled by the seed."""
    if name != MIXED:
        return syntax_named(name)
    names = np.random.default_rng([study.seed, 31]).permutation(list(SYNTAXES))
    return SYNTAXES[str(names[study.number % len(names)])]


def write_study(study: SyntheticStudy, folder: Path, *, transfer_syntax: str = MIXED,
                size: tuple[int, int] | None = None, bits: int | None = None, photometric: str | None = None,
                report: bool = True) -> list[Path]:
    """Write a study's objects below `folder`/<number>/ and return their paths, the report last.

    Parameters
    ----------
    transfer_syntax : str
        ``mixed``, a name of `codecs.SYNTAXES` or a UID; a report under a compressed syntax is explicit little endian.
    size : tuple of int, optional
        Rows and columns; by default those of a real detector.
    bits : int, optional
        Bits Stored: 8, 10, 12, 14 or 16; syntaxes that know fewer depths take their nearest.
    report : bool
        False leaves the SR out.
    """
    form = choose_format(study, transfer_syntax=transfer_syntax, size=size, bits=bits, photometric=photometric)
    place = folder / f"{study.number:05d}"
    place.mkdir(parents=True, exist_ok=True)
    paths = []
    for ds in study_datasets(study, form):
        if ds.Modality == "SR" and not report:
            continue
        path = place / f"{ds.Modality}{ds.SeriesNumber}.dcm"
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def write_studies(out: Path, studies: int, seed: int, *, size: tuple[int, int] | None = None,
                  transfer_syntax: str = MIXED, bits: int | None = None, photometric: str | None = None,
                  lateral_share: float = 0.3, abnormal_share: float = 0.5, report: bool = True,
                  progress: Callable[[int], None] | None = None) -> list[Path]:
    """Write `studies` studies below `out` and return every path; `progress` is told how many studies are done."""
    paths: list[Path] = []
    for study in simulate(studies, seed, abnormal_share=abnormal_share, lateral_share=lateral_share):
        paths += write_study(study, out, transfer_syntax=transfer_syntax, size=size, bits=bits, photometric=photometric,
                             report=report)
        if progress is not None:
            progress(study.number + 1)
    return paths
