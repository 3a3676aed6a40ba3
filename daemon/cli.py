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
@click.option("--transfer-syntax", default="mixed", show_default=True, help="UID or keyword, or mixed.")
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
