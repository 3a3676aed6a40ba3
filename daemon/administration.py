"""What an administrator does with the objects themselves."""

from __future__ import annotations

import json

import click

from daemon.config import Config
from storage.spool import Spool


def quarantine(config: Config, retry: bool, as_json: bool) -> None:
    """Print the objects in quarantine, or give them back to the workers."""
    folder = config.storage.directory / "spool"
    if not folder.exists():
        raise click.ClickException(f"{folder} does not exist: nothing was received yet, or another directory is meant")
    spool = Spool(folder)
    held = spool.quarantined()
    if retry:
        spool.retry([instance.spool_id for instance, _ in held])
        click.echo(f"{len(held)} objects given back to the workers")
        return
    rows = [
        {
            "spool_id": instance.spool_id,
            "sop_instance_uid": instance.sop_instance_uid,
            "sop_class_uid": instance.sop_class_uid,
            "transfer_syntax_uid": instance.transfer_syntax_uid,
            "calling_ae_title": instance.calling_ae_title,
            "received_at": instance.received_at.isoformat(timespec="seconds"),
            "reason": reason,
            "path": str(instance.path),
        }
        for instance, reason in held
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        click.echo(f"{row['received_at']}  {row['calling_ae_title']:16}  {row['sop_instance_uid']}")
        click.echo(f"    {row['reason']}\n    {row['path']}")
    click.echo(f"{len(rows)} objects in quarantine")
