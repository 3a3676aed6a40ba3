"""The command ``cxrfind``. Each command imports what it needs when it runs: --help must not wait for torch."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from daemon import __version__, cli_training
from daemon.cli_options import Peer, config_option
from daemon.config import ConfigError, load

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


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
    os.umask(os.umask(0o077) | 0o007)               # what is kept of patients is nobody else's to read
    if role:
        if role != "listener":                      # before numpy is imported: threads of OpenBLAS that wait spin
            os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        from daemon import roles

        sys.exit(roles.run_role(role, config, index))
    from daemon import supervisor

    sys.exit(supervisor.run(config, config_path))


@cli.command()
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False), default=Path("cxrfind.toml"))
@click.option("--directory", type=click.Path(path_type=Path, file_okay=False),
              help="Where the service keeps everything; default: cxrfind-data in the folder that it is started in.")
def init(path: Path, directory: Path | None) -> None:
    """Write a commented configuration to PATH (cxrfind.toml)."""
    from daemon.example_config import example_config

    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(example_config(directory))
    except FileExistsError:
        raise click.ClickException(f"{path} is there already; name another file or move it away") from None
    click.echo(f"{path} written; edit it, then: cxrfind check-config --config {path}")


@cli.command("check-config")
@config_option
def check_config(config_path: Path | None) -> None:
    """Say whether the configuration can be used, and every fault with its line and cure."""
    from daemon.checks import check, check_parts

    config = load(config_path)
    faults = check(config) + check_parts(config)
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
              help="Write the regions that make the images of example and best match alike as PNG, with the findings "
                   "of both: by report, else by the model.")
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


for _command in cli_training.COMMANDS:
    cli.add_command(_command)


def main() -> None:
    """Run the command; a fault that a person can mend is one sentence, not a traceback."""
    from encoders.base import EncodersError
    from storage.base import StorageError

    try:
        cli.main(prog_name="cxrfind", standalone_mode=True)
    except (ConfigError, EncodersError, StorageError) as error:
        click.echo(f"cxrfind: {error}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except OSError as error:
        if error.filename is None:                  # of no file: a fault of ours
            raise
        denied = isinstance(error, PermissionError)
        cure = "run this as the user that it belongs to" if denied else "mend that or name another one"
        click.echo(f"cxrfind: {error.filename}: {(error.strerror or 'cannot be used').lower()}; {cure}", err=True)
        sys.exit(1)
