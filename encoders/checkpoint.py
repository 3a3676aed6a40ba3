"""A checkpoint is a folder: ``model.safetensors`` and ``card.json``. Reading the card needs no torch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from encoders.base import CheckpointError, ModelInfo

SHIPPED = Path(__file__).parent / "weights"
CARD_FILE, WEIGHTS_FILE = "card.json", "model.safetensors"

#: Layout of card and weights by the precision of the matrices: an older cxrfind could not read 8 bits.
FORMATS = {"float16": 3, "int8": 4}
#: The same two without findings in the vectors; still read.
EARLIER_FORMATS = (1, 2)

_NEEDED = ("format", "name", "architecture", "preprocessing", "finding_names", "dim", "calibration", "weights")


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def read_card(folder: Path) -> dict[str, Any]:
    """Return the card of a checkpoint folder.

    Raises
    ------
    CheckpointError
        If there is none, or it is not a card of this layout.
    """
    path = folder / CARD_FILE
    try:
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}); encoder.checkpoint must name a folder with {CARD_FILE} and "
            f"{WEIGHTS_FILE}, or be empty for the model shipped with cxrfind"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not valid JSON ({error}); restore the checkpoint from its source") from error
    missing = [key for key in _NEEDED if not isinstance(card, dict) or key not in card]
    if missing:
        raise CheckpointError(f"{path}: lacks {missing[0]!r}; it is not the card of a cxrfind checkpoint")
    if card["format"] not in (*EARLIER_FORMATS, *FORMATS.values()):
        known = f"1 to {max(FORMATS.values())}"
        raise CheckpointError(f"{path}: format {card['format']}, this cxrfind reads {known}; export the model again")
    return card


def verify_weights(folder: Path, card: Mapping[str, Any]) -> Path:
    """Return the weights file after comparing its sha256 with the card's.

    Raises
    ------
    CheckpointError
        If it is missing or is not the file that the card was written for.
    """
    path = folder / WEIGHTS_FILE
    try:
        found = sha256_of(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); restore it beside {CARD_FILE}") from error
    if found != card["weights"]["sha256"]:
        raise CheckpointError(
            f"{path}: sha256 {found[:12]}…, the card says {str(card['weights']['sha256'])[:12]}…; the file is damaged "
            "or belongs to another model: restore both files from one source"
        )
    return path


def model_info(checkpoint: Path | None = None) -> ModelInfo:
    """Return what is known of a checkpoint (None: the shipped one), its weights verified, without importing torch.

    Raises
    ------
    CheckpointError
        If it is missing or damaged.
    """
    folder = checkpoint or SHIPPED
    card = read_card(folder)
    verify_weights(folder, card)
    fingerprint = str(card["weights"]["sha256"])
    return ModelInfo(
        name=str(card["name"]),
        fingerprint=fingerprint,
        model_id=model_id(str(card["name"]), fingerprint),
        dim=int(card["dim"]),
        image_size=int(card["preprocessing"]["size"]),
        card=card,
        path=folder,
    )


def model_id(name: str, fingerprint: str) -> str:
    """Return xx13 ModelID: at most 64 characters (VR LO)."""
    return f"{name[:51]} {fingerprint[:12]}"


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Write a card with the sha256 and size of the weights file that lies beside it, all at once."""
    weights = folder / WEIGHTS_FILE
    card["weights"] = {"file": WEIGHTS_FILE, "sha256": sha256_of(weights), "bytes": weights.stat().st_size}
    part = folder / f"{CARD_FILE}.part"
    part.write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, folder / CARD_FILE)
