"""``cxrfind query --explain``: why the best match was found, as a picture and in words."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from daemon.config import Config
from daemon.finder.similarity import Match, Similarity
from encoders.base import ABNORMAL_FINDINGS, FINDING_NAMES, Basis, Float32
from storage.base import StudyRecord
from storage.renditions import Renditions

#: A study without a report has the findings that the model gives at least this probability.
LEAST_PROBABILITY = 0.2
_SIDE, _MARGIN, _LINE, _LETTERS = 512, 8, 22, 116


def findings_of(study: StudyRecord | None, probabilities: Float32) -> dict[str, str]:
    """Return abnormal finding -> who says so: the study's report, or where it has none, the model.

    Parameters
    ----------
    study : StudyRecord or None
        None: an image that is not in the Catalogue.
    probabilities : float32 (14,)
        The model's, of the image.
    """
    if study is not None and study.report is not None:
        return {name: "by report" for name in ABNORMAL_FINDINGS if name in study.findings_present}
    said = dict(zip(FINDING_NAMES, probabilities.tolist(), strict=True))
    return {
        name: f"by the model, {said[name]:.2f}" for name in ABNORMAL_FINDINGS if said[name] >= LEAST_PROBABILITY
    }


def _in_words(match: Match, cosine: float, example: dict[str, str], other: dict[str, str]) -> list[str]:
    """Return what the pictures are, line by line."""
    shared = [f"{name} (example {example[name]}; match {other[name]})" for name in example if name in other]
    by = "" if match.basis is Basis.IMAGE else "; the pictures show only what the two images have in common"
    lines = [
        f"#{match.rank}, score {match.score:.2f}, ranked by {match.basis.value} with cosine {match.cosine:.3f}{by}",
        f"images' cosine {cosine:.3f}; findings of both: {', '.join(shared) or 'none'}",
    ]
    if any("model" in said for said in (*example.values(), *other.values())) or not (example and other):
        lines.append(f"by the model: probability of at least {LEAST_PROBABILITY:.2f}, where a study has no report")
    return lines


def _sheet(tiles: Sequence[tuple[str, Image.Image]], words: Sequence[str]) -> Image.Image:
    """Return titled pictures side by side, and under them the words."""
    lines = [line for sentence in words for line in textwrap.wrap(sentence, _LETTERS)]
    height = _MARGIN + _LINE + _SIDE + _MARGIN + _LINE * len(lines) + _MARGIN
    sheet = Image.new("RGB", (2 * _SIDE + 3 * _MARGIN, height), (24, 24, 24))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for number, (title, picture) in enumerate(tiles):
        left = _MARGIN + number * (_SIDE + _MARGIN)
        tile = ImageOps.contain(picture, (_SIDE, _SIDE))
        draw.text((left, _MARGIN), title, fill=(230, 230, 230), font=font)
        sheet.paste(tile, (left + (_SIDE - tile.width) // 2, _MARGIN + _LINE + (_SIDE - tile.height) // 2))
    for number, line in enumerate(lines):
        top = 2 * _MARGIN + _LINE + _SIDE + number * _LINE
        draw.text((_MARGIN, top), line, fill=(230, 230, 230), font=font)
    return sheet


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

    The cosine explained is that of the two images, also where the match was ranked by REPORT or JOINT, or the example
    is the mean of a study's images; the words say both.

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
    study: StudyRecord | None = None
    renditions = Renditions(config.storage.directory / "renditions")
    if pixels is None:
        uid = similarity.catalogue.study_of(example_uid)
        assert uid is not None                      # it was just searched by
        pixels = _rendition(similarity, renditions, uid, example_uid if example_uid != uid else "")
        study = similarity.catalogue.studies([uid])[uid]
    best = matches[0]
    other = _rendition(similarity, renditions, best.study_instance_uid, best.sop_instance_uid)
    found = explain(encoder, pixels, other)
    words = _in_words(
        best, found.cosine, findings_of(study, found.probabilities_a), findings_of(best.study, found.probabilities_b)
    )
    pictures = [
        (title, overlay(np.asarray(image, dtype=np.float32), heat))
        for title, image, heat in (("example", pixels, found.heat_a), (f"match #{best.rank}", other, found.heat_b))
    ]
    _sheet(pictures, words).save(path, format="PNG")
    for line in words:
        click.echo(line, err=True)
    click.echo(f"explanation: {path}", err=True)
