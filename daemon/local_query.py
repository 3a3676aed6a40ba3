"""``cxrfind query``: the same search as over C-FIND, in this process, on the local catalogue and index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from daemon import logs
from daemon.config import Config, LogSection
from daemon.explaining import write_explanation
from daemon.finder import open_similarity
from daemon.finder.errors import FinderError
from daemon.finder.examples import SimilarityQuery
from daemon.finder.pictures import write_picture
from daemon.finder.similarity import Answer, Match
from encoders.base import FINDING_NAMES, Basis, Float32
from encoders.encode_manifest import read_image
from storage.renditions import Renditions


def _unknown_findings(findings: tuple[str, ...]) -> None:
    wrong = [name for name in findings if name not in FINDING_NAMES]
    if wrong:
        raise click.UsageError(f"--finding {wrong[0]!r} is none of: {', '.join(FINDING_NAMES)}")


def _row(match: Match) -> dict[str, Any]:
    report = match.study.report
    return {
        "rank": match.rank,
        "score": round(match.score, 4),
        "cosine": round(match.cosine, 4),
        "basis": match.basis.value,
        "study_instance_uid": match.study_instance_uid,
        "sop_instance_uid": match.sop_instance_uid,
        "findings": list(match.study.findings_present),
        "report": " ".join((report.impression or report.findings or report.text).split()) if report else "",
    }


def _print(answer: Answer, console: Console) -> None:
    table = Table()
    for name in ("#", "score", "basis", "study", "findings", "report"):
        table.add_column(name, justify="right" if name in ("#", "score") else "left", overflow="fold")
    for match in answer.matches:
        row = _row(match)
        table.add_row(str(row["rank"]), f"{row['score']:.2f}", row["basis"], row["study_instance_uid"],
                      ", ".join(row["findings"]) or "-", row["report"][:120])
    console.print(table)
    console.print(f"model {answer.model_id}" + "".join(f", {flag}" for flag in answer.flags))


def run(
    config: Config,
    uids: tuple[str, ...],
    file: Path | None,
    text: str,
    k: int,
    basis: str | None,
    findings: tuple[str, ...],
    same_patient: bool,
    as_json: bool,
    picture: Path | None,
    explain: Path | None = None,
) -> None:
    """Print the matches as a table or JSON, and write a picture and an explanation if asked."""
    if not (uids or file or text):
        raise click.UsageError("give an example or a text: --study UID, --file x.dcm, or --text \"pleural effusion\"")
    if explain and not (uids or file):
        raise click.UsageError("--explain compares two images, and a text is none: give --study or --file")
    _unknown_findings(findings)
    logs.configure(LogSection(level="warning"), "query")
    try:
        similarity = open_similarity(config, model=bool(text or file or explain))
        similarity.maximum_results = max(k, similarity.maximum_results)
        pixels: Float32 | None = None
        vectors: dict[Basis, Float32] = {}
        if file:
            assert similarity.encoder is not None
            pixels = read_image(file, max(similarity.encoder.image_size, config.storage.rendition_short_side))
            vectors[Basis.IMAGE] = similarity.encoder.encode_images([pixels]).embeddings
        answer = similarity.answer(
            SimilarityQuery(
                uids=uids, text=text, basis=Basis(basis) if basis else None, max_results=k,
                exclude_same_patient=not same_patient, findings=findings, vectors=vectors,
            )
        )
    except FinderError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps([_row(match) for match in answer.matches], indent=2))
    else:
        _print(answer, Console())
    if picture:
        image = Image.fromarray((pixels * 255).astype(np.uint8)) if pixels is not None else None
        rows = [(match.rank, match.score, match.study_instance_uid, match.sop_instance_uid) for match in answer.matches]
        write_picture(picture, similarity.catalogue, Renditions(config.storage.directory / "renditions"),
                      uids[0] if uids else "", rows, query_image=image)
        click.echo(f"picture: {picture}", err=True)
    if explain:
        write_explanation(explain, config, similarity, pixels, uids[0] if uids else "", answer.matches)
