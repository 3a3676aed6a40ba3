"""Contact sheets: queries beside what the model found for them."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from encoders.base import ABNORMAL_FINDINGS, UnreadableInstance
from encoders.encode_manifest import read_image
from encoders.evaluation.evaluate import PoolResult
from encoders.evaluation.pools import Pool
from encoders.training import metrics

_TILE, _CAPTION, _MARGIN, _MATCHES = 150, 44, 6, 5
_PAPER, _INK, _QUERY = (250, 250, 248), (31, 41, 51), (31, 41, 51)
_SHARES, _DIFFERS = (46, 125, 50), (190, 60, 50)
_QUALITY = 72


@dataclass(frozen=True, slots=True)
class Sheet:
    """One query and its best matches, as a JPEG data URL."""

    kind: str
    caption: str
    picture: str


def _names(labels: np.ndarray) -> list[str]:
    return [name for name, value in zip(ABNORMAL_FINDINGS, labels, strict=True) if value > 0]


def _wrapped(names: list[str], width: int = 26) -> str:
    """Return names in at most two lines."""
    lines = [""]
    for name in names or ["no abnormal finding"]:
        added = f"{lines[-1]}, {name}" if lines[-1] else name
        if len(added) <= width:
            lines[-1] = added
        else:
            lines.append(name)
    lines = [line for line in lines if line]
    return "\n".join(lines[:2]) + (" …" if len(lines) > 2 else "")


def _tile(pool: Pool, row: int, border: tuple[int, int, int], title: str) -> Image.Image:
    tile = Image.new("RGB", (_TILE, _TILE + _CAPTION), _PAPER)
    draw = ImageDraw.Draw(tile)
    path = pool.samples[row].image_path
    try:
        assert path is not None
        pixels = read_image(path, _TILE)
        picture = Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8))
        shown = ImageOps.contain(picture, (_TILE - 6, _TILE - 6))
        tile.paste(shown, ((_TILE - shown.width) // 2, (_TILE - shown.height) // 2))
    except UnreadableInstance:
        draw.text((_TILE // 2, _TILE // 2), "not readable", fill=_INK, anchor="mm")
    draw.rectangle((0, 0, _TILE - 1, _TILE - 1), outline=border, width=3)
    draw.text((2, _TILE + 2), title, fill=border, font=ImageFont.load_default(12))
    draw.multiline_text(
        (2, _TILE + 17), _wrapped(_names(pool.abnormal[row])), fill=_INK, font=ImageFont.load_default(10), spacing=2
    )
    return tile


def _sheet(drawn: PoolResult, cosines: np.ndarray, query: int, kind: str) -> Sheet:
    pool = drawn.pool
    known = np.nan_to_num(pool.abnormal)
    best = np.argsort(-cosines[query], kind="stable")[:_MATCHES]
    best = best[np.isfinite(cosines[query][best])]
    tiles = [_tile(pool, query, _QUERY, "query")]
    for rank, row in enumerate(best, 1):
        shares = bool(known[query] @ known[row] > 0)
        title = f"#{rank}  cosine {cosines[query, row]:.2f}"
        tiles.append(_tile(pool, int(row), _SHARES if shares else _DIFFERS, title))
    sheet = Image.new(
        "RGB", ((_TILE + _MARGIN) * (1 + _MATCHES) + _MARGIN, _TILE + _CAPTION + 2 * _MARGIN), _PAPER
    )
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (_MARGIN + number * (_TILE + _MARGIN), _MARGIN))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=_QUALITY)
    url = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return Sheet(kind, f"NDCG@10 {drawn.lead[query]:.2f}", url)


def contact_sheets(drawn: PoolResult, each: int = 3, seed: int = 0) -> list[Sheet]:
    """Return queries that succeed, that find the right study late, and that fail; each kind drawn by `seed`.

    A hit: the first match shares an abnormal finding. A near miss: the first does not, one of the next four does. A
    failure: none of the first five does although the pool holds one.
    """
    pool = drawn.pool
    blank = np.flatnonzero(np.isnan(drawn.vectors).any(axis=1))
    cosines = metrics.cosine_ranking(np.nan_to_num(drawn.vectors), np.nan_to_num(drawn.vectors))
    cosines[pool.same_patient] = -np.inf
    cosines[:, blank] = -np.inf
    known = np.nan_to_num(pool.abnormal)
    kinds: dict[str, list[int]] = {"hit": [], "near miss": [], "failure": []}
    for query in np.flatnonzero(~np.isnan(drawn.lead)).tolist():
        best = np.argsort(-cosines[query], kind="stable")[:_MATCHES]
        shares = [bool(known[query] @ known[row] > 0) for row in best]
        kinds["hit" if shares[0] else "near miss" if any(shares) else "failure"].append(query)
    generator = np.random.default_rng(seed)
    return [
        _sheet(drawn, cosines, query, kind)
        for kind, queries in kinds.items()
        for query in generator.permutation(np.array(queries, dtype=int))[:each].tolist()
    ]
