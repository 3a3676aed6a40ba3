"""Baselines that must be trained: on a manifest's `train` rows where that is honest, left out with why elsewhere."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoders.base import EncodersError, Float32
from encoders.evaluation.systems import System
from encoders.evaluation.trained import Row, Rows, planned, system_of
from encoders.training.arrays import build_arrays
from encoders.training.build import STATE_FILE
from encoders.training.experiment import Experiment, checked_toml
from encoders.training.manifest import ManifestError, Sample, read_manifest
from encoders.training.run_files import LAST_FILE
from encoders.training.selection import select
from encoders.training.trainer import CACHE_FOLDER, train

TABLE = Path(__file__).parents[1] / "training" / "experiments" / "ablation" / "baselines.toml"
#: In a run's folder: a digest of its experiment and of what it was trained on.
PLAN_FILE = "plan.txt"
#: With fewer coded images a baseline would be beaten by anything.
LEAST_IMAGES = 100

#: (what, done, of, note)
Progress = Callable[[str, int, int, str], None]
Run = tuple[Experiment, Path]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What is not among the systems, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Which baselines are trained, on what, and where.

    Attributes
    ----------
    manifest : Path
    folder : Path
        Of the runs, and of decoded images: guard it as the manifest's.
    rows : tuple of (Row, its runs)
    """

    manifest: Path
    folder: Path
    rows: tuple[tuple[Row, tuple[Run, ...]], ...]

    @property
    def runs(self) -> int:
        """Return how many there are."""
        return sum(len(runs) for _, runs in self.rows)


def plan(table_file: Path, manifest: Path, folder: Path) -> Plan:
    """Return the runs of a table's rows on a manifest.

    Raises
    ------
    ExperimentError
        If the table or an experiment of it cannot be used: file, key, what is expected.
    """
    table = checked_toml(table_file, Rows.model_validate)
    rows = [(row, tuple(planned(row, table, table_file.parent, manifest, folder))) for row in table.rows]
    return Plan(manifest, folder, tuple(rows))


def refusal(training: Sequence[Sample], judged: Sequence[Sample]) -> str:
    """Return why nothing can honestly be trained on the manifest's `train` rows, "" if it can."""
    if not training:
        return "the manifest has no train rows; cxrfind manifest --dataset csv makes one with splits"
    patients = {(sample.dataset, sample.patient_id) for sample in judged}
    shared = sum((sample.dataset, sample.patient_id) in patients for sample in training)
    if shared:
        return f"{shared} of the {len(training)} train rows are of patients who are judged; choose others with --split"
    coded = sum(sample.image_path is not None and not np.isnan(sample.labels).all() for sample in training)
    if coded < LEAST_IMAGES:
        return f"{coded} images of train rows name findings (column chexpert), and {LEAST_IMAGES} are needed"
    return ""


def _unfair(row: Row, experiment: Experiment, training: Sequence[Sample], judged: Sequence[Sample]) -> str:
    """Return why a row cannot be judged, "" if it can."""
    chooses = experiment.train.keep == "best" or experiment.train.patience > 0
    if chooses and any(sample.split == "val" for sample in judged):
        return 'it would choose its epoch on the judged images; set [train] keep = "last" and patience = 0'
    with_text = row.shown and row.vectors == "embeddings" and experiment.loss.reports > 0
    if with_text and not any(sample.has_report for sample in training):
        return "no train row has a report"
    return ""


def _digest(experiment: Experiment) -> str:
    """Return what a run was trained on, in short: its experiment, and the manifest's rows."""
    told = experiment.model_dump_json(exclude={"data": {"manifest"}})
    rows = [repr(sample) for split in ("train", "val") for sample in select(experiment, split)]
    return hashlib.sha256("\n".join([told, *rows]).encode()).hexdigest()


def _within(progress: Progress, done: int, of: int, name: str) -> Progress:
    """Return the progress of one run as a note on that of all."""
    return lambda what, at, last, note: progress("train baselines", done, of, f"{name}: {what} {at}/{last} {note}")


def _trained(experiment: Experiment, target: Path, anew: bool, progress: Progress) -> bool:
    """Train a run to its end unless it is there; return whether anything was trained."""
    told, digest = target / PLAN_FILE, _digest(experiment)
    same = not anew and told.is_file() and told.read_text(encoding="utf-8") == digest
    if same and (target / STATE_FILE).is_file() and not (target / LAST_FILE).exists():
        return False
    if not same:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        told.write_text(digest, encoding="utf-8")
    train(experiment, target, same, progress)
    (target / LAST_FILE).unlink()                                   # done: nothing to go on from, half of the disk
    return True


def _spread(arrays: Sequence[Float32], rows: NDArray[np.intp], n: int) -> tuple[Float32, ...]:
    """Return arrays of some rows as arrays of all n, NaN elsewhere."""
    wide = []
    for array in arrays:
        whole = np.full((n, array.shape[1]), np.nan, np.float32)
        whole[rows] = array
        wide.append(whole)
    return tuple(wide)


def _judged(row: Row, runs: Sequence[Run], samples: Sequence[Sample], rows: NDArray[np.intp], cache: Path) -> System:
    experiment = runs[0][0]
    held_out = build_arrays([samples[i] for i in rows], (), experiment.image.preprocessing.sizes, cache)
    system = system_of(row, [folder for _, folder in runs], held_out, cache)
    images = sum(sample.image_path is not None for sample in select(experiment, "train"))
    seeds = f"mean of {len(runs)} seeds" if len(runs) > 1 else "one seed"
    note = f"{row.note + '; ' if row.note else ''}trained on {images} images, {seeds}"
    vectors, reports, findings = (
        _spread(arrays, rows, len(samples)) for arrays in (system.runs, system.reports, system.findings)
    )
    return replace(system, note=note, runs=vectors, reports=reports, findings=findings)


def trained_systems(
    planning: Plan, samples: Sequence[Sample], rows: NDArray[np.intp], progress: Progress
) -> tuple[list[System], list[LeftOut]]:
    """Return the table's systems, trained where they are not yet, and those that are left out.

    Parameters
    ----------
    samples, rows
        What is judged, and which of it could be read. Nothing of these patients enters a training.
    """
    training = read_manifest(planning.manifest, "train")
    why = refusal(training, samples)
    if why:
        return [], [LeftOut(row.name, why) for row, _ in planning.rows if row.shown]
    planning.folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # patients' images, too
    cache = planning.folder / CACHE_FOLDER
    systems, left_out, done, anew = [], [], 0, False
    for row, runs in planning.rows:
        try:
            why = _unfair(row, runs[0][0], training, samples)
            if why:
                raise ManifestError(why)
            for experiment, target in runs:

                anew |= _trained(experiment, target, anew, _within(progress, done, planning.runs, target.name))
                done += 1
            if row.shown:
                progress("train baselines", done, planning.runs, f"encode {row.name}")
                systems.append(_judged(row, runs, samples, rows, cache))
        except EncodersError as error:
            left_out.append(LeftOut(row.name or Path(row.experiment).stem, str(error)))
    progress("train baselines", planning.runs, planning.runs, "")
    return systems, left_out
