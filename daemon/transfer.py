"""The commands ``send`` and ``simulate``: C-STORE out, with a progress bar."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from daemon.send import send_folder

Peer = tuple[str, str, int]


@contextmanager
def progress_bar(title: str, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Yield a callable (done, total) that moves a bar on standard error."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as progress:
        task = progress.add_task(title, total=None)

        def move(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield move


def send(folder: Path, peer: Peer, calling: str, quiet: bool, title: str = "sending") -> int:
    """Send a folder; say what was refused or unreadable; return 0 when every readable object was acknowledged."""
    called, host, port = peer
    with progress_bar(title, quiet) as move:
        result = send_folder(folder, host, port, called, calling, move)
    for path, reason in result.unreadable:
        click.echo(f"not DICOM, left out: {path}: {reason}", err=True)
    for path, reason in result.refused:
        click.echo(f"refused: {path}: {reason}", err=True)
    click.echo(
        f"{result.acknowledged} acknowledged, {len(result.refused)} refused, {len(result.unreadable)} not readable",
        err=True,
    )
    return 1 if result.refused else 0


def simulate(
    studies: int,
    seed: int,
    out: Path | None,
    peer: Peer | None,
    size: str,
    transfer_syntax: str,
    bits: int | None,
    photometric: str | None,
    quiet: bool,
) -> int:
    """Write synthetic studies into a folder, or send them, or both."""
    from encoders.phantom import write_studies

    if out is None and peer is None:
        raise click.UsageError("say where to: --out FOLDER, or --to AE@host:port, or both")
    rows_columns: tuple[int, int] | None = None
    if size:
        rows, x, columns = size.lower().partition("x")
        if not (x and rows.isdigit() and columns.isdigit() and int(rows) >= 64 and int(columns) >= 64):
            raise click.UsageError(f"--size {size!r} is not ROWSxCOLUMNS, for instance 1024x1024")
        rows_columns = int(rows), int(columns)
    with tempfile.TemporaryDirectory(prefix="cxrfind-simulate-") as scratch:
        folder = out or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        with progress_bar("drawing", quiet) as move:
            paths = write_studies(
                folder, studies, seed, size=rows_columns, transfer_syntax=transfer_syntax, bits=bits,
                photometric=photometric, progress=lambda done: move(done, studies),
            )
        if out is not None:
            click.echo(f"{studies} synthetic studies, {len(paths)} objects: {out}", err=True)
        return send(folder, peer, "CXRFIND-SIM", quiet) if peer else 0
