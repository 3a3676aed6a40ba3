"""The commands that use a model without the service: ``encode`` (and, for ML teams, training and evaluation)."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from daemon.config import Config
from daemon.encoder import configured_encoder
from daemon.transfer import progress_bar
from encoders.encode_manifest import encode_manifest
from encoders.training.manifest import read_manifest


def encode(
    config: Config, manifest: Path, out: Path, checkpoint: Path | None, batch_size: int, quiet: bool
) -> None:
    """Encode a manifest into an .npz file; images that cannot be read are named and get NaN rows."""
    rows = read_manifest(manifest)
    encoder = configured_encoder(config, checkpoint)
    with progress_bar("encoding", quiet) as move:
        encoded = encode_manifest(rows, encoder, batch_size, config.storage.rendition_short_side, move)
    for fault in encoded.faults:
        click.echo(fault, err=True)
    if encoded.faults:
        click.echo(f"{len(encoded.faults)} images could not be read: their rows are NaN", err=True)
    with out.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **encoded.arrays)
    click.echo(f"{len(rows)} rows encoded by {encoder.model_id}: {out}", err=True)
