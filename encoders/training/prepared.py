"""Training reports, names of findings and headings as short reports, and hard negatives, ready for the text tower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from encoders.base import FINDING_NAMES
from encoders.findings import label
from encoders.towers.model import MultimodalModel
from encoders.training.arrays import Arrays, Vocabulary
from encoders.training.hard_negatives import contradicted, sides_swapped


@dataclass(frozen=True, slots=True)
class PreparedTexts:
    """Texts as the text tower takes them, with their labels; the first of them are the arrays' reports.

    Attributes
    ----------
    altered : ndarray of int64 (reports, 2)
        Rows of a report's hard negatives: contradicted, and with its sides swapped; -1 where there is none.
    """

    prepared: Tensor
    labels: Tensor
    auxiliary: dict[str, Tensor]
    altered: NDArray[np.int64]

    def with_altered(self, reports: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return rows of reports and of their hard negatives, the reports first."""
        altered = self.altered[reports].ravel()
        return np.concatenate([reports, altered[altered >= 0]])


def prepare_texts(
    model: MultimodalModel,
    arrays: Arrays,
    vocabularies: Sequence[Vocabulary],
    *,
    prompts: bool,
    hard_negatives: bool = False,
    seed: int = 0,
) -> PreparedTexts:
    """Return the arrays' reports and, if asked for, the names of all findings and headings, and hard negatives."""
    texts = list(arrays.texts)
    labels = [arrays.text_labels]
    auxiliary = {name: [values] for name, values in arrays.text_auxiliary.items()}
    if prompts:
        names = [(name.lower(), "findings", i, len(FINDING_NAMES)) for i, name in enumerate(FINDING_NAMES)]
        names += [(label, v.name, i, len(v.labels)) for v in vocabularies for i, label in enumerate(v.labels)]
        for name, kind, column, columns in names:
            texts.append(name.replace("_", " "))
            one = np.zeros((1, columns), np.float32)
            one[0, column] = 1
            labels.append(one if kind == "findings" else np.full((1, len(FINDING_NAMES)), np.nan, np.float32))
            for v in vocabularies:
                auxiliary[v.name].append(one if kind == v.name else np.full((1, len(v.labels)), np.nan, np.float32))
    altered = np.full((len(arrays.texts), 2), -1, np.int64)
    order = np.random.default_rng([seed, 4])
    for row, text in enumerate(arrays.texts if hard_negatives else ()):
        for column, other in enumerate((contradicted(text, order), sides_swapped(text))):
            if other is None:
                continue
            altered[row, column] = len(texts)
            texts.append(other)
            said = [float(value == 1) for value in label(other, "").values()]
            labels.append(np.array([said], np.float32) if column == 0 else arrays.text_labels[row : row + 1])
            for v in vocabularies:
                auxiliary[v.name].append(np.full((1, len(v.labels)), np.nan, np.float32))
    return PreparedTexts(
        model.text_tower.prepare(texts) if texts else torch.zeros(0, model.text_tower.width),
        torch.from_numpy(np.concatenate(labels)),
        {name: torch.from_numpy(np.concatenate(values)) for name, values in auxiliary.items()},
        altered,
    )
