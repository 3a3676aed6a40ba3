"""The command ``cxrfind``. Each command imports what it needs when it runs: --help must not wait for torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from daemon import __version__
from daemon.config import ConfigError, load

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}

config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="CXRFIND_CONFIG",
    help="TOML file (cxrfind init writes one); also CXRFIND_CONFIG. Without it: defaults, loopback peers only.",
)


class Peer(click.ParamType[tuple[str, str, int]]):
    """``AE@host:port``."""

    name = "AE@host:port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str, int]:
        title, at, address = str(value).partition("@")
        host, colon, port = address.rpartition(":")
        if not (title and at and host and colon and port.isdigit() and 0 < int(port) < 65536 and len(title) <= 16):
            self.fail(f"{value!r} is not AE@host:port, for instance CXRFIND@127.0.0.1:11112", param, ctx)
        return title, host.strip("[]"), int(port)


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, prog_name="cxrfind")
def cli() -> None:
    """Find similar chest X-rays: C-STORE in, similarity C-FIND out. Research use, not a diagnostic device."""


@cli.command()
@config_option
@click.option("--role", type=click.Choice(["listener", "worker", "finder"]), help="Run this role alone, in front.")
@click.option("--index", default=0, hidden=True, help="Which of several processes of one role this is.")
def run(config_path: Path | None, role: str | None, index: int) -> None:
    """Serve: start listener, worker and finder and watch over them, until SIGTERM or Ctrl-C."""
    config = load(config_path)
    if role:
        from daemon import roles

        sys.exit(roles.run_role(role, config, index))
    from daemon import supervisor

    sys.exit(supervisor.run(config, config_path))


@cli.command()
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False), default=Path("cxrfind.toml"))
def init(path: Path) -> None:
    """Write a commented configuration to PATH (cxrfind.toml)."""
    from daemon.example_config import example_config

    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(example_config())
    except FileExistsError:
        raise click.ClickException(f"{path} is there already; name another file or move it away") from None
    click.echo(f"{path} written; edit it, then: cxrfind check-config --config {path}")


@cli.command("check-config")
@config_option
def check_config(config_path: Path | None) -> None:
    """Say whether the configuration can be used, and every fault with its line and cure."""
    from daemon.checks import check

    config = load(config_path)
    faults = check(config)
    for fault in faults:
        click.echo(fault, err=True)
    if faults:
        sys.exit(1)
    click.echo(f"{config_path or 'the default configuration'}: can be used")


@cli.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(config_path: Path | None, as_json: bool) -> None:
    """Say what runs, which model, and how much is searchable. Exit status 0 when ready, else 1."""
    from daemon import service_status

    facts = service_status.collect(load(config_path))
    click.echo(service_status.as_json(facts) if as_json else service_status.as_text(facts))
    sys.exit(0 if facts["ready"] else 1)


@cli.command()
@config_option
@click.option("--retry", is_flag=True, help="Give all of them back to the workers.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def quarantine(config_path: Path | None, retry: bool, as_json: bool) -> None:
    """List the objects that could not be read, with the reason; their files are kept."""
    from daemon import administration

    administration.quarantine(load(config_path), retry, as_json)


@cli.command()
@config_option
@click.option("--study", required=True, help="StudyInstanceUID.")
@click.confirmation_option(prompt="Erase this study, its originals and renditions?", help="Do not ask.")
def forget(config_path: Path | None, study: str) -> None:
    """Erase a study and everything kept of it; sent again, it is taken again."""
    from daemon import administration

    administration.forget(load(config_path), study)


@cli.command("merge-patient")
@config_option
@click.option("--from", "prior_id", required=True, help="Patient ID that is no longer valid.")
@click.option("--to", "patient_id", required=True, help="Patient ID that the studies belong to.")
@click.option("--from-issuer", "prior_issuer", default="", help="Issuer of the prior Patient ID.")
@click.option("--to-issuer", "issuer", default="", help="Issuer of the valid Patient ID.")
def merge_patient(config_path: Path | None, prior_id: str, patient_id: str, prior_issuer: str, issuer: str) -> None:
    """Move a patient's studies, also later ones, to another Patient ID."""
    from daemon import administration

    administration.merge_patient(load(config_path), prior_id, patient_id, prior_issuer, issuer)


@cli.command()
@config_option
@click.option("--study", "uids", multiple=True, help="Study, series or SOP Instance UID; may be repeated.")
@click.option("--file", "file", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="A DICOM, JPEG or PNG file as the example; it is not kept.")
@click.option("--text", default="", help="A finding, a sentence or a whole report.")
@click.option("--k", default=10, show_default=True, type=click.IntRange(1, 1000), help="At most this many matches.")
@click.option("--basis", type=click.Choice(["IMAGE", "REPORT", "JOINT"]), help="What is compared.")
@click.option("--finding", "findings", multiple=True, help="Only studies with this finding; may be repeated.")
@click.option("--same-patient", is_flag=True, help="Do not leave out studies of the example's patient.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.option("--picture", type=click.Path(path_type=Path, dir_okay=False), help="Write example and matches as PNG.")
@click.option("--explain", type=click.Path(path_type=Path, dir_okay=False),
              help="Write the regions that make example and best match alike as PNG, and say what they share.")
def query(config_path: Path | None, **options: Any) -> None:
    """Print the studies most similar to an example or a text, from the local catalogue and index."""
    from daemon import local_query

    local_query.run(load(config_path), **options)


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--to", "peer", type=Peer(), required=True, help="Where to, for instance CXRFIND@127.0.0.1:11112.")
@click.option("--calling", default="CXRFIND-SEND", show_default=True, help="Our own AE title.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def send(folder: Path, peer: tuple[str, str, int], calling: str, quiet: bool) -> None:
    """Send every DICOM file below FOLDER by C-STORE, each in its own transfer syntax.

    Goes on past refused files; exit status 0 when every readable object was acknowledged.
    """
    from daemon import transfer

    sys.exit(transfer.send(folder, peer, calling, quiet))


@cli.command()
@click.option("--studies", default=10, show_default=True, type=click.IntRange(1), help="How many studies.")
@click.option("--seed", default=0, show_default=True, help="Same seed, same bytes.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Write DICOM files into this folder.")
@click.option("--to", "peer", type=Peer(), help="Send them by C-STORE, for instance CXRFIND@127.0.0.1:11112.")
@click.option("--size", default="", help="ROWSxCOLUMNS, for instance 1024x1024; default: full size, varied.")
@click.option("--transfer-syntax", default="mixed", show_default=True, help="UID, or a name such as jpeg-ls, or mixed.")
@click.option("--bits", type=click.IntRange(8, 16), help="Bits stored; default: 8 to 16, varied.")
@click.option("--photometric", type=click.Choice(["MONOCHROME1", "MONOCHROME2"]), help="Default: both.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def simulate(**options: Any) -> None:
    """Make synthetic chest X-ray studies with reports as structured reports; nobody mistakes them for patients."""
    from daemon import transfer

    sys.exit(transfer.simulate(**options))


@cli.command()
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


@cli.command()
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


@cli.command()
@config_option
@click.option("--dataset", required=True,
              help="Which layout: mimic-cxr-jpg, iu-xray, chexpert, dicom-folder, ...; catalogue: the site's own.")
@click.option("--root", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="The data set's own folder.")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The CSV file to write.")
@click.option("--seed", default=0, show_default=True, help="Of the split, where the data set gives none.")
def manifest(config_path: Path | None, dataset: str, root: Path | None, out: Path, seed: int) -> None:
    """Write a data set or the catalogue as the CSV manifest that train and evaluate read.

    Without a split of its own it is split by patient, identical report texts in one split. Of the catalogue the images
    are written, too, beside the CSV: patients' images and reports.
    """
    from daemon import training

    training.manifest(load(config_path), dataset, root, out, seed)


@cli.command()
@config_option
@click.option("--manifest", required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="CSV of images with findings (column chexpert), and reports where there are any.")
@click.option("--split", help="Only rows of this split, for instance val.")
@click.option("--checkpoint", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="Folder of the checkpoint to judge; default: the configured or shipped one.")
@click.option("--against", multiple=True, type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="Another checkpoint in the same tables; may be repeated.")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False),
              help="Folder that gets results.json and report.html.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1), help="How often chance is drawn.")
@click.option("--limit", default=2000, show_default=True, type=click.IntRange(0),
              help="At most this many studies of each source; 0: all.")
@click.option("--baselines/--no-baselines", default=True, show_default=True,
              help="Frozen ImageNet features, raw pixels, findings only, TF-IDF of the reports.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def evaluate(config_path: Path | None, **options: Any) -> None:
    """Measure retrieval, findings and calibration of a checkpoint, beside baselines and chance.

    Writes results.json and report.html, a page that needs no other file and holds small pictures of the images.
    """
    from daemon import training

    training.evaluate(load(config_path), **options)


@cli.command()
@click.option("--csv", "source", required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="CSV with study_id,findings,impression.")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The CSV file to write.")
def label(source: Path, out: Path) -> None:
    """Find the 14 CheXpert observations in report texts: 1, 0, -1 uncertain, empty not mentioned."""
    from encoders.findings import label_csv

    click.echo(f"{label_csv(source, out)} reports labelled: {out}")


@cli.command()
@click.option("--dicom", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="Send the DICOM files of this folder instead of synthetic studies.")
@click.option("--studies", default=48, show_default=True, type=click.IntRange(4), help="How many synthetic studies.")
@click.option("--out", default=Path("demo"), show_default=True, type=click.Path(path_type=Path, file_okay=False),
              help="Folder of the demo; made anew.")
def demo(dicom: Path | None, studies: int, out: Path) -> None:
    """Run the real service on loopback, send it studies, ask three questions by C-FIND, and stop again."""
    from daemon import demo as demonstration

    sys.exit(demonstration.run(dicom, studies, out))


@cli.command()
def conformance() -> None:
    """Print the DICOM conformance statement (PS3.2), made from the tables that the service runs on."""
    from daemon.conformance import statement

    click.echo(statement(), nl=False)


def main() -> None:
    """Run the command; a fault that a person can mend is one sentence, not a traceback."""
    from encoders.base import EncodersError
    from storage.base import StorageError

    try:
        cli.main(prog_name="cxrfind", standalone_mode=True)
    except (ConfigError, EncodersError, StorageError) as error:
        click.echo(f"cxrfind: {error}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
