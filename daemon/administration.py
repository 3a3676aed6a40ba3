"""What an administrator does with the objects themselves."""

from __future__ import annotations

import json

import click

from daemon.config import Config
from storage.catalogue import SqlCatalogue, open_catalogue
from storage.renditions import Renditions
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


def _catalogue(config: Config) -> SqlCatalogue:
    database = config.storage.directory / "catalogue.db"
    if not config.catalogue.url and not database.exists():
        raise click.ClickException(f"{database} does not exist: nothing was indexed yet, or another directory is meant")
    return open_catalogue(config.catalogue.url or database)


def forget(config: Config, study_instance_uid: str) -> None:
    """Erase a study: originals, journal, renditions, catalogue; the finder drops it within a second.

    Originals go first, so that the command can be given again when it was interrupted.
    """
    catalogue = _catalogue(config)
    instances = catalogue.instances_of({"STUDY": [study_instance_uid]})
    if not instances:
        raise click.ClickException(f"no study {study_instance_uid} here")
    Spool(config.storage.directory / "spool").forget(sop for _, sop, _ in instances)
    renditions = Renditions(config.storage.directory / "renditions")
    for key in catalogue.forget(study_instance_uid):
        renditions.delete(key)
    click.echo(f"{len(instances)} objects of the study erased")


def merge_patient(config: Config, prior_id: str, patient_id: str, prior_issuer: str, issuer: str) -> None:
    """Move a patient's studies to another Patient ID."""
    moved = _catalogue(config).merge_patient(prior_id, prior_issuer, patient_id, issuer)
    click.echo(f"{len(moved)} studies moved; later ones under the prior identifier follow")
