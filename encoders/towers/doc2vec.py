"""A Doc2Vec-like tower: a document is the mean of its word vectors, learnt by predicting words from it.

The paper feeds 300-d Doc2Vec (Le & Mikolov, ICML 2014). Doc2VecC (Chen, ICLR 2017) keeps its training by negative
sampling but makes a document's vector the mean of its word vectors, so that a new report needs no gradient steps and
always gets the same vector.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from encoders.towers.words import words


class Doc2VecTower:
    """Mean of learnt word vectors, unit rows scaled to √width."""

    name = "doc2vec"

    def __init__(self, width: int = 300, min_count: int = 3, epochs: int = 20, negatives: int = 5) -> None:
        self.width, self.min_count, self.epochs, self.negatives = width, min_count, epochs, negatives
        self.module: nn.Module = nn.Identity()
        self._row: dict[str, int] = {}
        self._vectors = torch.zeros(0, width)

    def _ids(self, text: str) -> list[int]:
        return [self._row[word] for sentence in words(text) for word in sentence if word in self._row]

    def fit(self, texts: Sequence[str], seed: int) -> None:
        """Learn word vectors: each word of a document against words drawn by frequency^0.75."""
        distinct = sorted(set(texts))
        counts = Counter(word for text in distinct for sentence in words(text) for word in sentence)
        kept = sorted(word for word, n in counts.items() if n >= self.min_count)
        self._row = {word: row for row, word in enumerate(kept)}
        documents = [ids for text in distinct if len(ids := self._ids(text)) > 1]
        generator = np.random.default_rng(seed)
        torch.manual_seed(seed)
        noise = np.array([counts[word] for word in kept], float) ** 0.75
        noise /= noise.sum()
        inner = nn.EmbeddingBag(len(kept), self.width, mode="mean")
        outer = nn.Embedding(len(kept), self.width)
        nn.init.uniform_(inner.weight, -0.5 / self.width, 0.5 / self.width)
        nn.init.zeros_(outer.weight)
        optimiser = torch.optim.Adam([*inner.parameters(), *outer.parameters()], 0.01)
        for _ in range(self.epochs):
            order = generator.permutation(len(documents))
            for start in range(0, len(order), 64):
                batch = [documents[i] for i in order[start : start + 64]]
                bags = [generator.choice(ids, max(1, len(ids) // 2), replace=False) for ids in batch]
                offsets = np.cumsum([0, *[len(bag) for bag in bags[:-1]]])
                vector = inner(torch.from_numpy(np.concatenate(bags)), torch.from_numpy(offsets))
                target = torch.from_numpy(np.stack([generator.choice(ids, 8) for ids in batch]))
                other = torch.from_numpy(generator.choice(len(kept), (len(batch), 8 * self.negatives), p=noise))
                positive = torch.einsum("bd,bkd->bk", vector, outer(target))
                negative = torch.einsum("bd,bkd->bk", vector, outer(other))
                gained = functional.logsigmoid(positive).mean()
                loss = -(gained + self.negatives * functional.logsigmoid(-negative).mean())
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        self._vectors = inner.weight.detach().clone()

    def prepare(self, texts: Sequence[str]) -> Tensor:
        """Return float32 (n, width); a text without a known word gives zeros."""
        rows = [self._vectors[ids].mean(0) if (ids := self._ids(text)) else torch.zeros(self.width) for text in texts]
        unit: Tensor = functional.normalize(torch.stack(rows), dim=1)
        return unit * float(np.sqrt(self.width))

    def card(self) -> dict[str, Any]:
        """Return the words in row order."""
        return {
            "width": self.width,
            "min_count": self.min_count,
            "epochs": self.epochs,
            "negatives": self.negatives,
            "words": list(self._row),
        }

    def tensors(self) -> dict[str, Tensor]:
        """Return the word vectors."""
        return {"vectors": self._vectors}

    def restore(self, card: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Take words and vectors from a checkpoint."""
        self._row = {word: row for row, word in enumerate(card["words"])}
        self._vectors = tensors["vectors"].float()
