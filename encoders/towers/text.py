"""Text towers: a report to features; each can write itself into a checkpoint and come back from it.

One row of TEXT_TOWERS each. `module` holds what the trainer's gradient reaches (nothing for fixed features); `prepare`
makes its input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from encoders.base import ReportText
from encoders.towers.doc2vec import Doc2VecTower
from encoders.towers.image import TowerError
from encoders.towers.tfidf_svd import TfidfSvdTower
from encoders.towers.transformer import TransformerTower


class TextTower(Protocol):
    """What every text tower offers.

    Attributes
    ----------
    name : str
        Its row in TEXT_TOWERS.
    width : int
        Length of its feature vectors.
    module : nn.Module
        Maps prepared input (n, ...) to features (n, width); trained with the rest if it has parameters.
    """

    name: str
    width: int
    module: nn.Module

    def fit(self, texts: Sequence[str], seed: int) -> None:
        """Learn vocabulary and, where the tower has any, unsupervised weights."""

    def prepare(self, texts: Sequence[str]) -> Tensor:
        """Return the module's input, one row a text."""

    def card(self) -> dict[str, Any]:
        """Return what a checkpoint's card must say to build the tower again (JSON)."""

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint's weights must hold beside the module's own state."""

    def restore(self, card: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Become the tower that wrote `card` and `tensors`."""


TEXT_TOWERS: dict[str, Callable[..., TextTower]] = {
    "tfidf-svd": TfidfSvdTower,
    "doc2vec": Doc2VecTower,
    "transformer": TransformerTower,
}


def build_text_tower(name: str, **options: Any) -> TextTower:
    """Return an unfitted tower of a row of TEXT_TOWERS."""
    try:
        tower = TEXT_TOWERS[name]
    except KeyError:
        raise TowerError(f"there is no text tower {name!r}; known: {', '.join(TEXT_TOWERS)}") from None
    return tower(**options)


def report_text(report: ReportText) -> str:
    """Return Findings and Impression as the one text that every tower sees."""
    return f"{report.findings.strip()}\n{report.impression.strip()}".strip()


def features(tower: TextTower, texts: Sequence[str]) -> Tensor:
    """Return float32 (n, width) without gradient."""
    with torch.inference_mode():
        tower.module.eval()
        result: Tensor = tower.module(tower.prepare(texts))
        return result
