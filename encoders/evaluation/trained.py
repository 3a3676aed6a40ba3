"""Systems that are trained: rows of a TOML table, each an experiment with its seeds, and what they say of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from encoders.evaluation.systems import System
from encoders.training.arrays import Arrays
from encoders.training.build import load_run
from encoders.training.experiment import Experiment, ExperimentError, load_experiment
from encoders.training.features import with_features
from encoders.training.validation import run as outputs_of


class Part(BaseModel):
    """A part of a table; a key that it does not know is a fault."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Row(Part):
    """An experiment, with which seeds, and what of it is compared."""

    experiment: str
    name: str = ""
    note: str = ""
    vectors: Literal["embeddings", "features"] = "embeddings"
    seeds: tuple[int, ...] = ()
    against: str = ""
    shown: bool = True
    passes: int = 1  # of the image tower, for each image


class Rows(Part):
    """What is trained, in this order; `every` is laid over each experiment."""

    seeds: tuple[int, ...]
    rows: tuple[Row, ...]
    every: dict[str, dict[str, Any]] = {}


def _of_its_seed(name: str, seed: int, table: Rows) -> str:
    """Return which run is meant by the name of a row: of several seeds, that of this one."""
    for row in table.rows:
        seeds = row.seeds or table.seeds
        if Path(row.experiment).stem == name and len(seeds) > 1:
            if seed not in seeds:
                raise ExperimentError(f"a run of seed {seed} builds on {name}, which has {seeds} only: add it there")
            return f"{name}-{seed}"
    return name


def planned(row: Row, table: Rows, folder: Path, manifest: Path, output: Path) -> Iterator[tuple[Experiment, Path]]:
    """Yield each seed's experiment and the folder of its run; a row of one seed has the experiment's own name.

    What goes on from another row's run, or has its tower, takes the run of its own seed.

    Raises
    ------
    ExperimentError
        If an experiment cannot be used, or a row that it builds on lacks its seed.
    """
    experiment = load_experiment(folder / row.experiment, table.every)
    data = experiment.data.model_copy(update={"manifest": manifest})
    image, settings = experiment.image, experiment.train
    seeds = row.seeds or table.seeds
    for seed in seeds:
        if experiment.image.weights:
            weights = Path(_of_its_seed(str(experiment.image.weights), seed, table))
            image = experiment.image.model_copy(update={"weights": weights})
        if experiment.train.initial:
            initial = _of_its_seed(experiment.train.initial, seed, table)
            settings = experiment.train.model_copy(update={"initial": initial})
        name = Path(row.experiment).stem + (f"-{seed}" if len(seeds) > 1 else "")
        own = {"seed": seed, "data": data, "image": image, "train": settings}
        yield experiment.model_copy(update=own), output / name


def system_of(row: Row, folders: Sequence[Path], held_out: Arrays, cache: Path) -> System:
    """Return the row's vectors, report vectors and finding probabilities of images; one array a run."""
    images, reports, findings = [], [], []
    for folder in folders:
        trained = load_run(folder)
        arrays = with_features(trained.model, held_out, trained.constants, cache)
        seen = outputs_of(trained.model, arrays, trained.constants)
        features = row.vectors == "features"
        images.append(seen.features if features else seen.embeddings)
        logits = seen.direct.get("findings") if features else seen.logits["findings"]
        if logits is not None:
            findings.append((1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32))
        if not features and trained.experiment.loss.reports > 0:
            found = np.full((len(arrays.samples), seen.text_embeddings.shape[1]), np.nan, np.float32)
            found[arrays.text >= 0] = seen.text_embeddings[arrays.text[arrays.text >= 0]]
            reports.append(found)
    return System(row.name, row.note, tuple(images), tuple(reports), tuple(findings))
