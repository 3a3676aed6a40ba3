"""The commands of ML teams: data sets, training, checkpoints, evaluation, vectors and labels of a CSV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from daemon.cli_options import config_option
from daemon.config import load


@click.command()
@config_option
@click.option("--manifest", required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="CSV with study_id,image_path,findings,impression; image_path relative to the CSV.")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The .npz file to write.")
@click.option("--checkpoint", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="Folder of a checkpoint; default: the configured or shipped one.")
@click.option("--batch-size", default=32, show_default=True, type=click.IntRange(1), help="Images encoded at once.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def encode(config_path: Path | None, **options: Any) -> None:
    """Encode the images (JPEG, PNG, DICOM) and report texts of a CSV.

    Writes study_id, image (n, dim), report (n, dim), image_findings (n, 14 probabilities), report_findings
    (n, 14 of 1, 0, -1 uncertain, NaN) and finding_names; NaN rows where a part is absent.
    """
    from daemon import models

    models.encode(load(config_path), **options)


@click.command()
@click.option("--csv", "source", required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="CSV with study_id,findings,impression.")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The CSV file to write.")
def label(source: Path, out: Path) -> None:
    """Find the 14 CheXpert observations in report texts: 1, 0, -1 uncertain, empty not mentioned."""
    from encoders.findings import label_csv

    labelled = label_csv(source, out)
    click.echo(f"{labelled.reports} reports labelled: {out}")
    if labelled.not_english:
        click.echo(f"{labelled.not_english} of them left empty: not in English")


@click.command()
@config_option
@click.option("--dataset", required=True,
              help="Which layout: mimic-cxr-jpg, iu-xray, chexpert, dicom-folder, csv, ...; catalogue: the site's own.")
@click.option("--root", type=click.Path(path_type=Path, exists=True),
              help="The data set's own folder; of csv the file, with study_id,image_path and what else there is.")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The CSV file to write.")
@click.option("--seed", default=0, show_default=True, help="Of the split, where the data set gives none.")
def manifest(config_path: Path | None, dataset: str, root: Path | None, out: Path, seed: int) -> None:
    """Write a data set or the catalogue as the CSV manifest that train and evaluate read.

    Without a split of its own it is split by patient, identical report texts in one split. A CSV's labels are read from
    its reports where the column chexpert is empty. Of the catalogue the images
    are written, too, beside the CSV: patients' images and reports.
    """
    from daemon import training

    training.manifest(load(config_path), dataset, root, out, seed)


@click.command()
@click.option("--config", "experiment", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="TOML file of the experiment; not needed with --from-catalogue.")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False),
              help="Folder of the run and of the checkpoint.")
@click.option("--resume", is_flag=True, help="Go on where the run in this folder stopped.")
@click.option("--from-catalogue", is_flag=True,
              help="Train on the site's own images and reports; --out then holds patients' images.")
@click.option("--service-config", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              envvar="CXRFIND_CONFIG", help="The running service's TOML file, for --from-catalogue.")
@click.option("--no-export", is_flag=True, help="Keep the run only; make no checkpoint folder.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def train(
    experiment: Path | None, out: Path, resume: bool, from_catalogue: bool, service_config: Path | None,
    no_export: bool, quiet: bool,
) -> None:
    """Train a model as an experiment file says, and export it as a checkpoint that the service can load.

    Several GPUs or machines: torchrun --nproc-per-node 4 -m daemon train ...
    """
    from daemon import training

    if experiment is None and not from_catalogue:
        raise click.UsageError("name the experiment's file: --config experiment.toml, or train --from-catalogue")
    training.train(experiment, out, resume, not no_export, quiet, load(service_config) if from_catalogue else None)


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN[:last][=SHARE]...")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of the new run.")
@click.option("--size", type=click.IntRange(32), help="Side of its input in pixels; default: that of the first run.")
def average(runs: tuple[str, ...], out: Path, size: int | None) -> None:
    """Average the weights of runs that go back to the same first run, and keep the result as a run.

    RUN is a folder of cxrfind train; RUN:last takes its last epoch, not its best one; shares are 1 where none is given.
    """
    from daemon import training

    training.average(runs, out, size)


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN...")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of the new run.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def stack(runs: tuple[str, ...], out: Path, quiet: bool) -> None:
    """Put the image towers of models side by side in one run: an ensemble that is one model.

    RUN is a folder of cxrfind train, average or stack, or a checkpoint's; the first one's subspace and text tower stay,
    and the result predicts the mean of their findings, fitted on the training images of the first run among them.
    """
    from daemon import training

    training.stack(runs, out, quiet)


@click.command()
@click.option("--run", "run_folder", required=True, type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="Folder of cxrfind train or cxrfind average.")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False),
              help="Folder of the checkpoint.")
@click.option("--name", help="What the model is called; default: as the options or the experiment say.")
@click.option("--options", "options_file", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="TOML file: per_source, report_weight, ..., [projection], [card] (encoders.training.export).")
@click.option("--manifest", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="The data, if it no longer lies where the run found it.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def export(
    run_folder: Path, out: Path, name: str | None, options_file: Path | None, manifest: Path | None, quiet: bool
) -> None:
    """Make a checkpoint of a run: projection, calibration, gate, weights and card.

    Projection and gate are fitted on the training split, calibrations on the validation split.
    """
    from daemon import training

    training.export(run_folder, out, name, options_file, manifest, quiet)


def _checkpoints(
    _context: click.Context, _option: click.Parameter, given: tuple[str, ...]
) -> list[tuple[str, list[Path]]]:
    """Return name ("": as its folder) and folders of each ``FOLDER`` or ``NAME=FOLDER,FOLDER,...``."""
    result = []
    for each in given:
        name, folders = "", [Path(each)]
        if not folders[0].is_dir():                                 # a path may have = or , in it
            name, _, several = each.rpartition("=")
            folders = [Path(folder) for folder in several.split(",")]
        for folder in folders:
            if not folder.is_dir():
                raise click.BadParameter(f"{str(folder)!r} is no folder; name a checkpoint's, or NAME=FOLDER,FOLDER")
        result.append((name, folders))
    return result


@click.command()
@config_option
@click.option("--manifest", required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="CSV of images with findings (column chexpert), and reports where there are any.")
@click.option("--split", help="Only rows of this split, for instance val.")
@click.option("--checkpoint", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="Folder of the checkpoint to judge; default: the configured or shipped one.")
@click.option("--against", multiple=True, callback=_checkpoints, metavar="[NAME=]FOLDER[,FOLDER...]",
              help="Another checkpoint in the same tables, or several as the seeds of one system, whose figures are "
              "the means of theirs; may be repeated.")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False),
              help="Folder that gets results.json and report.html.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1), help="How often chance is drawn.")
@click.option("--limit", default=2000, show_default=True, type=click.IntRange(0),
              help="At most this many studies of each source; 0: all.")
@click.option("--baselines", default="all", show_default=True, type=click.Choice(["all", "quick", "none"]),
              help="quick: raw pixels, frozen ImageNet features, findings only, TF-IDF of the reports. all: also those "
              "that are trained, on the manifest's train rows, in OUT/baselines (35 minutes of one core for "
              "13,000 images; goes on where it stopped): unimodal classifier, Image-MMDL, MMDL, + deep descriptors, + "
              "ranking loss.")
@click.option("--trained", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="TABLE.toml",
              help="Your own table of baselines to train, in the place of "
              "encoders/training/experiments/ablation/baselines.toml.")
@click.option("--sheets/--no-sheets", default=True, show_default=True,
              help="Contact sheets of queries with their matches: pictures of the images in the page.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def evaluate(config_path: Path | None, **options: Any) -> None:
    """Measure retrieval, findings and calibration of a checkpoint, beside baselines and chance.

    Writes results.json and report.html, a page that needs no other file. It holds small pictures of the images, unless
    --no-sheets makes one that may be passed on. OUT/baselines holds the decoded images that baselines are trained on.

    Of a patient who is judged nothing enters a training: where the manifest has no train rows of others, the trained
    baselines are left out, and results.json and the page say why.
    """
    from daemon import training

    training.evaluate(load(config_path), **options)


COMMANDS = (encode, label, manifest, train, average, stack, export, evaluate)
