"""A CSV of studies in, arrays of vectors and findings out: how an ML team, or a judge, gets at the model's answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from encoders.base import FINDING_NAMES, Encoder, Float32, ReportText, UnreadableInstance
from encoders.pictures import deep_pixels
from encoders.training.manifest import Sample

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class EncodedManifest:
    """The answer, row by row; `faults` says which images could not be read (their rows are NaN)."""

    arrays: dict[str, np.ndarray]
    faults: tuple[str, ...]


def read_image(path: Path, short_side: int) -> Float32:
    """Return the pixels of a JPEG, PNG or DICOM file: float32 (rows, columns), 0..1, larger is brighter.

    Raises
    ------
    UnreadableInstance
        If the file is absent, damaged, or a DICOM object that is no radiograph.
    """
    try:
        pixels = deep_pixels(path, short_side)
        if pixels is not None:
            return pixels
        with Image.open(path) as image:
            return np.asarray(image.convert("L"), dtype=np.float32) / 255.0
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError) as error:
        raise UnreadableInstance(f"cannot be read as JPEG, PNG or DICOM ({type(error).__name__})") from error


def _batches(rows: Sequence[int], size: int) -> Iterator[list[int]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, size)):
        yield batch


def encode_manifest(
    rows: Sequence[Sample],
    encoder: Encoder,
    batch_size: int = 32,
    short_side: int = 512,
    progress: Progress | None = None,
) -> EncodedManifest:
    """Encode every row's image and report.

    Parameters
    ----------
    short_side : int
        Pixels that DICOM images are read with at least: the service's, so that the vectors are the same.

    Returns
    -------
    EncodedManifest
        With the arrays ``study_id`` (n,) str, ``image`` and ``report`` (n, dim) float32 unit rows (NaN where absent),
        ``image_findings`` (n, 14) probabilities 0..1, ``report_findings`` (n, 14) of 1, 0, -1 (uncertain) and NaN,
        and ``finding_names`` (14,) str.
    """
    n = len(rows)
    image = np.full((n, encoder.dim), np.nan, np.float32)
    report = np.full((n, encoder.dim), np.nan, np.float32)
    image_findings = np.full((n, len(FINDING_NAMES)), np.nan, np.float32)
    report_findings = np.full((n, len(FINDING_NAMES)), np.nan, np.float32)
    faults: list[str] = []

    def load(row: int) -> Float32 | str:
        path = rows[row].image_path
        assert path is not None
        try:
            return read_image(path, max(encoder.image_size, short_side))
        except UnreadableInstance as error:
            return f"row {row + 2}: {path.name}: {error}"

    texts: dict[ReportText, list[int]] = {}
    for number, row in enumerate(rows):
        if row.has_report:
            texts.setdefault(ReportText(row.findings.strip(), row.impression.strip()), []).append(number)
    with_image = [number for number, row in enumerate(rows) if row.image_path is not None]
    total, done = len(with_image) + len(texts), 0
    with ThreadPoolExecutor(max_workers=2) as pool:
        batches = list(_batches(with_image, batch_size))
        ahead = [pool.submit(load, number) for batch in batches[:1] for number in batch]
        for position, batch in enumerate(batches):
            loaded = [future.result() for future in ahead]
            following = batches[position + 1 : position + 2]
            ahead = [pool.submit(load, number) for coming in following for number in coming]
            faults += [fault for fault in loaded if isinstance(fault, str)]
            good = [number for number, pixels in zip(batch, loaded, strict=True) if not isinstance(pixels, str)]
            if good:
                encoded = encoder.encode_images([pixels for pixels in loaded if not isinstance(pixels, str)])
                image[good], image_findings[good] = encoded.embeddings, encoded.findings
            done += len(batch)
            if progress:
                progress(done, total)
    unique = list(texts)
    for batch in _batches(range(len(unique)), batch_size):
        answer = encoder.encode_reports([unique[number] for number in batch])
        for number, embedding, findings in zip(batch, answer.embeddings, answer.findings, strict=True):
            report[texts[unique[number]]] = embedding
            report_findings[texts[unique[number]]] = findings
        done += len(batch)
        if progress:
            progress(done, total)
    arrays = {
        "study_id": np.array([row.study_id for row in rows], dtype=np.str_),
        "image": image,
        "report": report,
        "image_findings": image_findings,
        "report_findings": report_findings,
        "finding_names": np.array(FINDING_NAMES, dtype=np.str_),
    }
    return EncodedManifest(arrays, tuple(faults))
