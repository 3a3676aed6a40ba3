"""TF-IDF of words and word pairs, reduced by a truncated singular value decomposition (latent semantic analysis)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import svds
from torch import Tensor, nn

from encoders.base import Float32
from encoders.towers.words import grams


class TfidfSvdTower:
    """Sublinear TF-IDF over 1- and 2-grams with negation marked, SVD to `width`, unit rows scaled to √width."""

    name = "tfidf-svd"

    def __init__(self, width: int = 300, min_count: int = 3, max_grams: int = 6000) -> None:
        self.width, self.min_count, self.max_grams = width, min_count, max_grams
        self.module: nn.Module = nn.Identity()
        self._column: dict[str, int] = {}
        self._idf = np.zeros(0, np.float32)
        self._axes = np.zeros((0, width), np.float32)  # (grams, width)

    def _weights(self, texts: Sequence[str]) -> csr_matrix:
        rows: list[int] = []
        columns: list[int] = []
        values: list[float] = []
        for row, text in enumerate(texts):
            counts = Counter(self._column[gram] for gram in grams(text) if gram in self._column)
            weights = {column: (1 + np.log(n)) * self._idf[column] for column, n in counts.items()}
            norm = float(np.sqrt(sum(w * w for w in weights.values()))) or 1.0
            rows += [row] * len(weights)
            columns += list(weights)
            values += [float(w) / norm for w in weights.values()]
        return csr_matrix((values, (rows, columns)), shape=(len(texts), len(self._column)), dtype=np.float32)

    def fit(self, texts: Sequence[str], seed: int) -> None:
        """Learn the vocabulary and the axes from the distinct texts."""
        distinct = sorted(set(texts))
        counts = Counter(gram for text in distinct for gram in set(grams(text)))
        kept = sorted(counts, key=lambda gram: (-counts[gram], gram))[: self.max_grams]
        kept = sorted(gram for gram in kept if counts[gram] >= self.min_count)
        self._column = {gram: column for column, gram in enumerate(kept)}
        self._idf = np.array([np.log((1 + len(distinct)) / (1 + counts[gram])) + 1 for gram in kept], np.float32)
        self._axes = np.zeros((len(kept), self.width), np.float32)
        matrix = self._weights(distinct)
        rank = min(self.width, min(matrix.shape) - 1)
        if rank > 0:                                                # else too few texts: each gives zeros
            _, _, axes = svds(matrix, k=rank, random_state=seed)
            self._axes[:, :rank] = axes[::-1].T  # largest singular value first

    def prepare(self, texts: Sequence[str]) -> Tensor:
        """Return float32 (n, width); a text without a known gram gives zeros."""
        dense: Float32 = np.asarray(self._weights(texts) @ self._axes, dtype=np.float32)
        norm = np.linalg.norm(dense, axis=1, keepdims=True)
        return torch.from_numpy(dense / np.maximum(norm, 1e-6) * np.float32(np.sqrt(self.width)))

    def card(self) -> dict[str, Any]:
        """Return the vocabulary in column order."""
        return {
            "width": self.width,
            "min_count": self.min_count,
            "max_grams": self.max_grams,
            "grams": list(self._column),
        }

    def tensors(self) -> dict[str, Tensor]:
        """Return IDF and axes."""
        return {"idf": torch.from_numpy(self._idf), "axes": torch.from_numpy(self._axes)}

    def restore(self, card: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Take vocabulary, IDF and axes from a checkpoint."""
        self._column = {gram: column for column, gram in enumerate(card["grams"])}
        self._idf = tensors["idf"].float().numpy()
        self._axes = tensors["axes"].float().numpy()
