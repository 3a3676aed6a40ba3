"""``cxrfind query --explain``: why the best match was found, as a picture and in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageOps

from daemon.config import Config
from daemon.finder.similarity import Match, Similarity
from encoders.base import Float32
from storage.renditions import Renditions

_SIDE, _MARGIN = 512, 8


def _rendition(similarity: Similarity, renditions: Renditions, study: str, sop: str) -> Float32:
    catalogue = similarity.catalogue
    key = (catalogue.rendition_of(study, sop) if sop else None) or catalogue.rendition_of(study)
    if key is None:
        raise click.ClickException("--explain compares two images; one of the two studies has none")
    return renditions.load_unit(key)


def write_explanation(
    path: Path,
    config: Config,
    similarity: Similarity,
    pixels: Float32 | None,
    example_uid: str,
    matches: Sequence[Match],
) -> None:
    """Write example and best match side by side, coloured where they are alike; print the findings that they share.

    Parameters
    ----------
    pixels : float32 (rows, columns) 0..1 or None
        The example's image when it is not in the Catalogue.
    example_uid : str
        Study, series or SOP Instance UID of an example in the Catalogue.
    """
    from encoders.common_subspace import CommonSubspaceEncoder
    from encoders.explanation import explain, overlay

    encoder = similarity.encoder
    if not isinstance(encoder, CommonSubspaceEncoder):
        raise click.ClickException("--explain needs the common-subspace encoder; see [encoder] type")
    if not matches:
        raise click.ClickException("--explain: nothing was found")
    renditions = Renditions(config.storage.directory / "renditions")
    if pixels is None:
        study = similarity.catalogue.study_of(example_uid) if example_uid else None
        if study is None:
            raise click.ClickException("--explain compares two images: give --study or --file")
        pixels = _rendition(similarity, renditions, study, example_uid if example_uid != study else "")
    best = matches[0]
    other = _rendition(similarity, renditions, best.study_instance_uid, best.sop_instance_uid)
    found = explain(encoder, pixels, other)
    sheet = Image.new("RGB", (2 * _SIDE + 3 * _MARGIN, _SIDE + 2 * _MARGIN), (24, 24, 24))
    for number, (image, heat) in enumerate(((pixels, found.heat_a), (other, found.heat_b))):
        tile = ImageOps.contain(overlay(np.asarray(image, dtype=np.float32), heat), (_SIDE, _SIDE))
        left = _MARGIN + number * (_SIDE + _MARGIN) + (_SIDE - tile.width) // 2
        sheet.paste(tile, (left, _MARGIN + (_SIDE - tile.height) // 2))
    sheet.save(path, format="PNG")
    shared = ", ".join(f"{each.name} ({each.probability_a:.2f}, {each.probability_b:.2f})" for each in found.shared)
    click.echo(f"images' cosine {found.cosine:.3f}; findings of both: {shared or 'none'}", err=True)
    click.echo(f"explanation: {path}", err=True)
