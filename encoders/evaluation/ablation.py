"""A table of experiments: each trained with several seeds, all judged alike on the same validation images.

``python -m encoders.evaluation.ablation --manifest studies.csv --output runs/``: runs go on where they stopped, and
runs that are done are only judged again. With ``--earlier ablations.json --checkpoint folder`` only the checkpoint is
judged, beside the figures of before.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from encoders.base import FINDING_NAMES, Float32
from encoders.evaluation.ablation_figures import Judged, judge
from encoders.evaluation.ablation_page import markdown, tables
from encoders.evaluation.page import plain
from encoders.evaluation.pools import Pool, pools, text_of
from encoders.evaluation.retrieval import LEAST_QUERIES
from encoders.evaluation.systems import RANDOM, System, checkpoint_system, random_system, tfidf_system
from encoders.evaluation.trained import Part, Rows, planned, system_of
from encoders.training.arrays import Arrays, build_arrays
from encoders.training.experiment import ExperimentError, checked_toml
from encoders.training.manifest import Sample
from encoders.training.run_files import CURVES_FILE
from encoders.training.selection import select
from encoders.training.trainer import CACHE_FOLDER, train

TABLE = Path(__file__).parents[1] / "training" / "experiments" / "ablation" / "table.toml"
JSON_FILE, PAGE_FILE = "ablations.json", "ABLATIONS.md"
EXCHANGED = "images exchanged in validation"
SHIPPED = "shipped model"
CHANCE_SEEDS = 20


class Column(Part):
    """One figure of one source."""

    title: str
    source: str
    figure: str


class Table(Rows):
    """What is trained and what is shown."""

    notes: tuple[str, ...] = ()
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class Results:
    """What the page is written from."""

    table: Table
    judged: dict[str, Judged] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def load_table(path: Path) -> Table:
    """Return the rows and columns of a TOML file.

    Raises
    ------
    ExperimentError
        One line per fault: file, key, what is expected.
    """
    table = checked_toml(path, Table.model_validate)
    names = [row.name for row in table.rows if row.shown]
    for row in table.rows:
        if row.against and row.against not in names:
            raise ExperimentError(f"{path}: the row {row.name!r} is against {row.against!r}, which is no shown row")
    return table


def seconds_of(folders: Sequence[Path]) -> float:
    """Return the seconds that a training took by its curves, the mean over the runs."""
    total = 0.0
    for folder in folders:
        with (folder / CURVES_FILE).open(newline="", encoding="utf-8") as file:
            total += sum(float(row["seconds"]) for row in csv.DictReader(file))
    return total / len(folders)


def chance(rows: int) -> System:
    """Return random images, reports and findings."""
    drawn = random_system(rows, CHANCE_SEEDS).runs
    generator = np.random.default_rng(5)

    def normal(columns: int) -> Float32:
        return generator.normal(size=(rows, columns)).astype(np.float32)

    reports, findings = zip(*[(normal(run.shape[1]), normal(len(FINDING_NAMES))) for run in drawn], strict=True)
    return System(RANDOM, "", drawn, reports, findings)


def exchanged_in(system: System, every: Sequence[Pool]) -> System:
    """Return a control that must fall to chance: vectors and findings, each given to another image of its pool."""
    orders = []
    for seed, run in enumerate(system.runs):
        order = np.arange(len(run))
        for pool in every:
            order[pool.rows] = np.random.default_rng([seed, 2]).permutation(pool.rows)
        orders.append(order)
    runs, findings = (
        tuple(array[order] for array, order in zip(arrays, orders, strict=False))
        for arrays in (system.runs, system.findings)
    )
    return System(EXCHANGED, "", runs, system.reports, findings)


def judged_pools(samples: Sequence[Sample], table: Table) -> list[Pool]:
    """Return the pools of the table's columns, out of a split's images."""
    return [
        pool
        for pool in pools(samples, range(len(samples)))
        if any(pool.source == column.source for column in table.columns)
        and np.nansum(pool.abnormal) >= LEAST_QUERIES
    ]


def shipped_system(checkpoint: Path, samples: Sequence[Sample]) -> System:
    """Return what a checkpoint says of the images."""
    from encoders.common_subspace import CommonSubspaceEncoder

    return checkpoint_system(SHIPPED, [CommonSubspaceEncoder.load(checkpoint, "cpu", 1)], samples)[0]


def replaced(earlier: dict[str, Any], table: Table, folder: Path, manifest: Path, checkpoint: Path) -> dict[str, Any]:
    """Return earlier figures with the checkpoint's row judged anew; nothing is trained.

    Raises
    ------
    ExperimentError
        If the figures are not those of the table's columns.
    """
    if earlier.get("columns") != [column.model_dump() for column in table.columns]:
        raise ExperimentError("the earlier figures are of another table; run the table without --earlier")
    experiment, _ = next(planned(table.rows[0], table, folder, manifest, Path()))
    samples = [sample for sample in select(experiment, "val") if sample.image_path is not None]
    judged = judge(shipped_system(checkpoint, samples), judged_pools(samples, table))
    row = tables(Results(table, {SHIPPED: judged}))["rows"]
    kept = [each for each in earlier["rows"] if each["name"] != SHIPPED]
    return {**earlier, "notes": list(table.notes), "rows": kept + row}


def run(
    table: Table, folder: Path, manifest: Path, output: Path, shipped: Path | None = None, *, quiet: bool = False
) -> Results:
    """Train what is not trained yet, judge every row, and return the figures."""
    results = Results(table)
    systems: dict[str, System] = {}
    held_out: Arrays | None = None
    for row in table.rows:
        folders = []
        for experiment, target in planned(row, table, folder, manifest, output):
            if not quiet:
                click.echo(f"{time.strftime('%H:%M:%S')} {target.name}", err=True)
            train(experiment, target, resume=True)
            folders.append(target)
            if held_out is None:
                held_out = build_arrays(
                    select(experiment, "val"), (), (experiment.image.size,), output / CACHE_FOLDER, seed=experiment.seed
                )
        if row.shown and held_out is not None:
            systems[row.name] = system_of(row, folders, held_out, output / CACHE_FOLDER)
            results.seconds[row.name] = seconds_of(folders)
    if held_out is None:
        raise ExperimentError("the table has no rows")
    samples = held_out.samples
    chosen = judged_pools(samples, table)
    control = exchanged_in(systems[list(systems)[-1]], chosen)
    systems = {RANDOM: chance(len(samples)), EXCHANGED: control, **systems}
    words = tfidf_system([text_of(sample) for sample in samples])
    if words is not None:
        systems[words.name] = words
    if shipped is not None:
        systems[SHIPPED] = shipped_system(shipped, samples)
    for name, system in systems.items():
        results.judged[name] = judge(system, chosen)
    return results


@click.command()
@click.option("--manifest", required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--output", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of the runs.")
@click.option("--table", "table_file", default=TABLE, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--checkpoint", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="A checkpoint to judge beside them.")
@click.option("--earlier", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="Figures (ablations.json) to keep: only the checkpoint is judged, nothing is trained.")
@click.option("--page", type=click.Path(path_type=Path, dir_okay=False), help="Write the Markdown here instead.")
def main(
    manifest: Path, output: Path, table_file: Path, checkpoint: Path | None, earlier: Path | None, page: Path | None
) -> None:
    """Train and judge the rows of a table; write ablations.json and ABLATIONS.md into the output folder."""
    table = load_table(table_file)
    if earlier is None:
        values: dict[str, Any] = plain(tables(run(table, table_file.parent, manifest, output, checkpoint)))
    elif checkpoint is None:
        raise click.UsageError("--earlier keeps the trained rows; name the checkpoint to judge beside them, too")
    else:
        kept = json.loads(earlier.read_text(encoding="utf-8"))
        values = plain(replaced(kept, table, table_file.parent, manifest, checkpoint))
    output.mkdir(parents=True, exist_ok=True)
    (output / JSON_FILE).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    (page or output / PAGE_FILE).write_text(markdown(values), encoding="utf-8")


if __name__ == "__main__":
    main()
