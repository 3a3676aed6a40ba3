"""Training reports, and the names of findings and headings as short reports, ready for the text tower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from encoders.base import FINDING_NAMES
from encoders.towers.model import MultimodalModel
from encoders.training.arrays import Arrays, Vocabulary


@dataclass(frozen=True, slots=True)
class PreparedTexts:
    """Texts as the text tower takes them, with their labels; the first `reports` of them are reports."""

    prepared: Tensor
    labels: Tensor
    auxiliary: dict[str, Tensor]
    reports: int


def prepare_texts(
    model: MultimodalModel, arrays: Arrays, vocabularies: Sequence[Vocabulary], prompts: bool
) -> PreparedTexts:
    """Return the arrays' reports and, with `prompts`, the names of all findings and headings."""
    texts = list(arrays.texts)
    labels = [arrays.text_labels]
    auxiliary = {name: [values] for name, values in arrays.text_auxiliary.items()}
    if prompts:
        names = [(name.lower(), "findings", i, len(FINDING_NAMES)) for i, name in enumerate(FINDING_NAMES)]
        names += [(label, v.name, i, len(v.labels)) for v in vocabularies for i, label in enumerate(v.labels)]
        for text, kind, column, columns in names:
            texts.append(text.replace("_", " "))
            row = np.zeros((1, columns), np.float32)
            row[0, column] = 1
            labels.append(row if kind == "findings" else np.full((1, len(FINDING_NAMES)), np.nan, np.float32))
            for v in vocabularies:
                auxiliary[v.name].append(row if kind == v.name else np.full((1, len(v.labels)), np.nan, np.float32))
    return PreparedTexts(
        model.text_tower.prepare(texts) if texts else torch.zeros(0, model.text_tower.width),
        torch.from_numpy(np.concatenate(labels)),
        {name: torch.from_numpy(np.concatenate(values)) for name, values in auxiliary.items()},
        len(arrays.texts),
    )
