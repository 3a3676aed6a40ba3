"""A picture of a query beside its best matches, from the renditions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from storage.base import Catalogue
from storage.renditions import RenditionDamaged, Renditions

#: Rank, score, StudyInstanceUID, best SOPInstanceUID ("": the study's first frontal image).
Row = tuple[int, float, str, str]

_TILE = 320
_CAPTION = 44
_MARGIN = 8
_MATCHES = 5


def write_picture(
    path: Path,
    catalogue: Catalogue,
    renditions: Renditions,
    query_uid: str,
    rows: Sequence[Row],
    *,
    query_image: Image.Image | None = None,
) -> None:
    """Write a PNG: the query, then its five best matches with rank and score.

    Parameters
    ----------
    query_uid : str
        Study, series or SOP Instance UID of the example; "" for a query by text or file.
    query_image : Image, optional
        Shown instead of the example's rendition (a file that is not in the Catalogue).
    """
    study = catalogue.study_of(query_uid) if query_uid else None
    image = query_image
    if image is None and study is not None:
        image = _rendition(catalogue, renditions, study, query_uid if query_uid != study else "")
    tiles = [_tile(image, "query")] if image is not None or query_uid else []
    for rank, score, match, best in rows[:_MATCHES]:
        tiles.append(_tile(_rendition(catalogue, renditions, match, best), f"#{rank}   {score:.2f}"))
    width = max(1, len(tiles)) * (_TILE + _MARGIN) + _MARGIN
    sheet = Image.new("L", (width, _TILE + _CAPTION + 2 * _MARGIN), 24)
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (_MARGIN + number * (_TILE + _MARGIN), _MARGIN))
    sheet.save(path, format="PNG")


def _rendition(catalogue: Catalogue, renditions: Renditions, study: str, sop: str) -> Image.Image | None:
    key = (catalogue.rendition_of(study, sop) if sop else None) or catalogue.rendition_of(study)
    if key is None:
        return None
    try:
        return Image.fromarray(renditions.load(key))
    except RenditionDamaged:                        # or removed meanwhile: the tile stays empty
        return None


def _tile(image: Image.Image | None, caption: str) -> Image.Image:
    tile = Image.new("L", (_TILE, _TILE + _CAPTION), 24)
    draw = ImageDraw.Draw(tile)
    if image is None:
        draw.text((_TILE // 2, _TILE // 2), "no image", fill=140, anchor="mm", font=ImageFont.load_default(18))
    else:
        shown = ImageOps.contain(image.convert("L"), (_TILE, _TILE))
        tile.paste(shown, ((_TILE - shown.width) // 2, (_TILE - shown.height) // 2))
    draw.text((_TILE // 2, _TILE + _CAPTION // 2), caption, fill=235, anchor="mm", font=ImageFont.load_default(22))
    return tile
