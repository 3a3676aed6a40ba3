"""The commands of ML teams: ``manifest``, ``train``, ``average``, ``stack``, ``export`` and ``evaluate``."""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from daemon.catalogue_manifest import CATALOGUE_DATASET, catalogue_manifest
from daemon.config import Config
from daemon.encoder import configured_encoder
from encoders.base import EncodersError
from encoders.datasets import DATASETS, split_by_patient, write_manifest

MANIFEST_FILE = "studies.csv"
RUN_FOLDER, CHECKPOINT_FOLDER, BASELINES_FOLDER = "run", "checkpoint", "baselines"

#: What a site's own model is trained with when no experiment is named.
SITE_EXPERIMENT = {
    "name": "site",
    "data": {"manifest": MANIFEST_FILE, "abnormal_weight": 1.3},
    "subspace": {"dropout": 0.1},
    "loss": {"view": 0.1, "contrastive": 0.1, "crossmodal": 0.1, "graded_crossmodal": 0.1},
    "train": {"epochs": 12, "batch": 32, "learning_rate": 5e-4, "tower_rate": 5e-4, "ema": 0.995, "patience": 4},
}


class Bars(Protocol):
    """Move the bar of what is being done."""

    def __call__(self, what: str, done: int, of: int, note: str = "", /) -> None: ...


@contextmanager
def _bars(quiet: bool) -> Iterator[Bars]:
    """Yield (what, done, of, note): one bar for each thing that is done, on standard error."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
               TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as progress:
        tasks = {}

        def move(what: str, done: int, of: int, note: str = "", /) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=of, note=note)
            progress.update(tasks[what], completed=done, total=of, note=note)

        yield move


# ---------------------------------------------------------------------------------------------- manifest


def manifest(config: Config, dataset: str, root: Path | None, out: Path, seed: int) -> None:
    """Write a data set as a CSV manifest, split by patient where it gives no split itself."""
    if dataset == CATALOGUE_DATASET:
        click.echo(f"the catalogue: {catalogue_manifest(config, out, seed)}")
        return
    if dataset not in DATASETS:
        raise click.UsageError(f"there is no data set {dataset!r}; known: {', '.join([*DATASETS, CATALOGUE_DATASET])}")
    if root is None:
        raise click.UsageError(f"where does {dataset} lie? --root FOLDER (of csv: the file)")
    count = write_manifest(split_by_patient(DATASETS[dataset](root), seed), out)
    click.echo(f"{count} images of {dataset}: {out}")


def _site_manifest(config: Config, folder: Path, seed: int, resume: bool) -> Path:
    """Return the Catalogue's manifest, kept as it is when a run goes on."""
    path = folder / MANIFEST_FILE
    if resume and path.exists():
        return path
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise click.UsageError(
            "torchrun with --from-catalogue: write the manifest first (cxrfind manifest --dataset catalogue --out "
            f"{path}), then add --resume"
        )
    return catalogue_manifest(config, path, seed)


# ---------------------------------------------------------------------------------------------- train


def train(
    experiment_file: Path | None,
    out: Path,
    resume: bool,
    with_export: bool,
    quiet: bool,
    site: Config | None = None,
) -> None:
    """Run an experiment into ``out/run`` and export its best model into ``out/checkpoint``.

    Under torchrun (RANK, WORLD_SIZE) every process trains its share; the first one writes and exports.

    Parameters
    ----------
    experiment_file : Path or None
        None: SITE_EXPERIMENT.
    site : Config or None
        Train on the Catalogue of this configuration instead of the experiment's manifest.
    """
    from encoders.training import trainer
    from encoders.training.experiment import Experiment, load_experiment
    from encoders.training.run_files import CURVES_FILE

    first = int(os.environ.get("RANK", "0")) == 0
    experiment = load_experiment(experiment_file) if experiment_file else Experiment.model_validate(SITE_EXPERIMENT)
    out.mkdir(parents=True, exist_ok=True)
    path = experiment.data.manifest
    if site is not None:
        path = _site_manifest(site, out / "catalogue", experiment.seed, resume)
        (out / trainer.CACHE_FOLDER).mkdir(mode=0o700, exist_ok=True)   # patients' images, too
    elif experiment_file and not path.exists():
        path = experiment_file.parent / path                        # beside the experiment
    data = experiment.data.model_copy(update={"manifest": path})
    experiment = experiment.model_copy(update={"data": data})
    with _bars(quiet or not first) as move:
        best = trainer.train(experiment, out / RUN_FOLDER, resume, move)
    if not first:
        return
    click.echo(f"best model: {best}; curves: {best.parent / CURVES_FILE}")
    if with_export:
        export(out / RUN_FOLDER, out / CHECKPOINT_FOLDER, experiment.name, quiet=quiet)


def average(runs: Sequence[str], out: Path, size: int | None) -> None:
    """Write the mean of runs, given as ``folder``, ``folder:last`` or either with ``=share``, as a run of its own."""
    from encoders.training.soup import average_runs

    shares: dict[str, float] = {}
    for each in runs:
        name, _, share = each.rpartition("=") if "=" in each else (each, "", "1")
        try:
            shares[name] = float(share)
        except ValueError:
            shares[name] = -1.0
        if not 0 < shares[name] < math.inf:
            raise click.UsageError(f"{each!r}: the share is a number above 0, for instance runs/finish:last=0.5")
    click.echo(f"mean of {len(shares)} runs: {average_runs(shares, Path(), str(out), size)}")


def stack(runs: Sequence[str], out: Path, quiet: bool) -> None:
    """Write a run with the image towers of other runs or checkpoints side by side."""
    from encoders.checkpoint import CARD_FILE
    from encoders.training.build import find_run
    from encoders.training.stack import stack_runs

    folders = [Path(run) if (Path(run) / CARD_FILE).exists() else find_run(run, Path()) for run in runs]
    with _bars(quiet) as move:
        made = stack_runs(folders, out, progress=lambda what, done, of: move(what, done, of, ""))
    click.echo(f"{len(folders)} models side by side: {made}")


def export(
    run: Path,
    out: Path,
    name: str | None = None,
    options_file: Path | None = None,
    manifest: Path | None = None,
    quiet: bool = False,
) -> None:
    """Make a checkpoint of a run; text and scores are fitted on its first data set with pairs, or as options say."""
    from encoders.checkpoint import read_card
    from encoders.training.build import find_run, load_run
    from encoders.training.export import ExportOptions, read_options
    from encoders.training.export import export as make_checkpoint
    from encoders.training.manifest import read_manifest
    from encoders.training.project import ProjectionOptions

    folder = find_run(str(run), run.parent)
    experiment = load_run(folder).experiment
    options = read_options(options_file) if options_file else ExportOptions(name=experiment.name)
    projection = options.projection
    samples = read_manifest(manifest or experiment.data.manifest, "val")
    if not any(sample.has_report for sample in samples):
        raise EncodersError("no report in the val split, so scores cannot be calibrated; train with --no-export")
    if not any(sample.image_path for sample in samples):
        raise EncodersError(
            "no image in the val split, so nothing can be compared with its reports; train with --no-export, and let a "
            "run on images go on from this one (train.initial)"
        )
    unset = projection.paired == ProjectionOptions().paired
    with_pairs = sorted({sample.dataset for sample in samples if sample.has_report and sample.image_path})
    if unset and not any(dataset.startswith(projection.paired) for dataset in with_pairs):
        projection = replace(projection, paired=with_pairs[0] if with_pairs else "")
    more = {"command": _portable(sys.argv[1:]), **options.card}
    options = replace(options, name=name or options.name, projection=projection, card=more)
    with _bars(quiet) as move:
        made = make_checkpoint(folder, out, options, manifest, lambda what, done, of: move(what, done, of, ""))
    click.echo(f"checkpoint: {made}")
    card = read_card(made)
    if card["paired_by"] == "findings":
        click.echo("no image has a report of its own: reports and images find one another by their findings alone")
    if not card["views"]:
        cure = "more epochs or images may teach it" if experiment.loss.view else "[loss] view = 0.1 teaches it"
        click.echo(f"it does not tell frontal from lateral images and treats them alike; {cure}")


def _portable(arguments: Sequence[str]) -> str:
    """Return a command line without the folders of this machine: of an absolute path only its last part."""
    return shlex.join(Path(each).name if Path(each).is_absolute() else each for each in arguments)


# ---------------------------------------------------------------------------------------------- evaluate


def evaluate(
    config: Config,
    manifest: Path,
    split: str | None,
    checkpoint: Path | None,
    against: Sequence[tuple[str, Sequence[Path]]],
    out: Path,
    seeds: int,
    limit: int,
    baselines: str,
    trained: Path | None,
    sheets: bool,
    quiet: bool,
) -> None:
    """Write results.json and report.html of a checkpoint, other checkpoints, baselines and chance."""
    from encoders.evaluation import EvaluationOptions, plan, write_page
    from encoders.evaluation import evaluate as measure
    from encoders.evaluation.baselines import TABLE
    from encoders.evaluation.systems import checkpoint_name, unique_name

    if trained is not None and baselines != "all":
        raise click.UsageError("--trained names what --baselines all trains; leave one of the two away")
    encoders = {checkpoint_name(checkpoint): [configured_encoder(config, checkpoint)]}
    for name, folders in against:
        unique = unique_name(name or checkpoint_name(folders[0]), list(encoders))
        encoders[unique] = [configured_encoder(config, folder) for folder in folders]
    planned = plan(trained or TABLE, manifest, out / BASELINES_FOLDER) if baselines == "all" else None
    options = EvaluationOptions(split, seeds, limit, baselines != "none", planned)
    with _bars(quiet) as move:
        evaluation = measure(manifest, encoders, options, move)
    page = write_page(evaluation, out, sheets=sheets)
    for pool in evaluation.results["pools"]:
        click.echo(_in_short(pool, evaluation.results))
    for each in evaluation.results["left_out"]:
        click.echo(f"left out: {each['name']}: {each['reason']}")
    click.echo(f"report: {page}")


def _interval(cell: Mapping[str, Any]) -> str:
    return f"{cell['mean']:.3f} ({cell['low']:.3f} to {cell['high']:.3f})"


def _gain(cell: Mapping[str, Any], reference: str) -> str:
    """Return ``, REFERENCE minus it +.012 (...)``; nothing for the reference itself."""
    if "reference_minus_this" not in cell:
        return ""
    mean, low, high = cell["reference_minus_this"]
    return f", {reference} minus it {mean:+.3f} ({low:+.3f} to {high:+.3f})"


def _in_short(pool: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """Return a pool's main figures of the checkpoints, each with chance, and NDCG@10 of all that stands beside them."""
    retrieval, reference, chance = pool["retrieval"], results["reference"], results["chance"]
    mine, drawn = (retrieval["B"]["ndcg@10"][system] for system in (reference, chance))
    lines = [
        f"{pool['source']}, {pool['view']}: NDCG@10 {_interval(mine)}, chance {drawn['mean']:.3f}, "
        f"{mine['queries']} queries"
    ]
    beside = {name: cell["mean"] for name, cell in retrieval["B"]["ndcg@10"].items() if name not in (reference, chance)}
    lines.append("beside it: " + ", ".join(f"{name} {mean:.3f}" for name, mean in beside.items()))
    for title, table, figure in (("by headings", "headings", "ndcg@10"), ("protocol A mAP@10", "A", "map@10")):
        if figure in retrieval[table]:
            own, random = (retrieval[table][figure][system]["mean"] for system in (reference, chance))
            lines.append(f"{title} {own:.3f}, chance {random:.3f}")
    for name in (name for name in results["checkpoints"] if name in pool["cross_modal"]):
        both = pool["cross_modal"][name]
        told = "" if name == reference else f"{name} "
        for direction in ("image_to_report", "report_to_image"):
            for figure in ("r@1", "r@5", "r@10", "ndcg@10"):
                if (cell := both[direction].get(figure)) is not None:
                    lines.append(
                        f"{direction.replace('_', ' ')} {figure.upper()} {told}{_interval(cell)}, chance "
                        f"{cell['chance']:.3f}{_gain(cell, reference)}"
                    )
    for name in (name for name in results["checkpoints"] if name in pool["mean_auc"]):
        own = pool["mean_auc"][name]
        told = "" if name == reference else f"{name} "
        lines.append(f"mean AUC {told}{_interval(own)}, chance 0.500{_gain(own, reference)}")
    return "\n  ".join(lines)
