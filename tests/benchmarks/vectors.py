"""Vectors for benchmarks: points of a curved surface of few dimensions in 512, as a model's embeddings are, with noise.

`manifold` has 16 dimensions in 200 clusters of unequal size; `hard` has 32 and three times the noise. `white` is made
as the shipped model's vectors are (encoders.towers.projection): 12 roots of findings' probabilities, and 24 dimensions
of appearance, whitened in 500. Levina and Bickel's estimate of the dimension from 20 neighbours (NIPS 2004) is in every
report beside the figures.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

DIM = 512
KINDS = {"manifold": (16, 0.1), "hard": (32, 0.3), "white": (24, 0.3)}
_FINDINGS, _WEIGHT, _MOST = 12, 0.65, 0.97
_HIDDEN = 256
_CLUSTERS = 200
_BLOCK = 50_000


def make(count: int, seed: int, kind: str = "manifold") -> Float32:
    """Return unit vectors, float32 (count, 512); more of one seed begin with those of fewer."""
    if kind == "white":
        return _white(count, seed)
    dimensions, noise = KINDS[kind]
    surface = np.random.default_rng(seed)
    inner = surface.normal(size=(dimensions, _HIDDEN)).astype(np.float32) * np.float32(1.5 / dimensions**0.5)
    offset = surface.normal(size=_HIDDEN).astype(np.float32)
    outer = surface.normal(size=(_HIDDEN, DIM)).astype(np.float32) / np.float32(_HIDDEN**0.5)
    centres = surface.normal(size=(_CLUSTERS, dimensions)).astype(np.float32)
    shares = surface.dirichlet(np.full(_CLUSTERS, 0.5))
    vectors = np.empty((count, DIM), dtype=np.float32)
    for start in range(0, count, _BLOCK):
        which, points, off = (np.random.default_rng([seed, start, part]) for part in range(3))
        size = min(_BLOCK, count - start)
        place = centres[which.choice(_CLUSTERS, size=_BLOCK, p=shares)[:size]]
        place = place + points.standard_normal((size, dimensions), dtype=np.float32)
        rows = np.tanh(place @ inner + offset) @ outer
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        rows += lengths * np.float32(noise / DIM**0.5) * off.standard_normal((size, DIM), dtype=np.float32)
        vectors[start : start + size] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return vectors


def _findings(count: int, generator: np.random.Generator) -> Float32:
    """Return w √p of 12 findings, float32 (count, 12): of two studies in five one to three are likely."""
    logits = generator.normal(-4, 1, (count, _FINDINGS))
    likely = np.argsort(generator.random((count, _FINDINGS)), axis=1) < generator.integers(1, 4, (count, 1))
    logits += likely * (generator.random((count, 1)) < 0.4) * generator.normal(4, 1, (count, _FINDINGS))
    block = _WEIGHT * (1 / (1 + np.exp(-logits))) ** 0.5
    return (block * np.minimum(1, _MOST / np.linalg.norm(block, axis=1, keepdims=True))).astype(np.float32)


def _white(count: int, seed: int) -> Float32:
    dimensions, noise = KINDS["white"]
    rest, hidden = DIM - _FINDINGS, 4 * _HIDDEN
    surface = np.random.default_rng(seed)
    inner = surface.normal(size=(dimensions, hidden)).astype(np.float32) / np.float32(dimensions**0.5)
    offset = surface.normal(size=hidden).astype(np.float32)
    outer = surface.normal(size=(hidden, rest)).astype(np.float32)
    centres = surface.normal(size=(_CLUSTERS, dimensions)).astype(np.float32)
    shares = surface.dirichlet(np.full(_CLUSTERS, 0.5))

    def looks(generator: np.random.Generator, size: int) -> Float32:
        place = centres[generator.choice(_CLUSTERS, size=size, p=shares)]
        place = place + np.float32(0.7) * generator.standard_normal((size, dimensions), dtype=np.float32)
        return np.asarray(np.tanh(place @ inner + offset) @ outer, dtype=np.float32)

    seen = looks(np.random.default_rng([seed, 1, 1]), 20_000)
    centre = seen.mean(axis=0)
    variances, axes = np.linalg.eigh(np.cov(seen.T))
    whiten = (axes / np.maximum(variances, variances.max() * 1e-4) ** 0.5).astype(np.float32)
    vectors = np.empty((count, DIM), dtype=np.float32)
    for start in range(0, count, _BLOCK):
        size = min(_BLOCK, count - start)
        appearance = (looks(np.random.default_rng([seed, start, 2]), _BLOCK)[:size] - centre) @ whiten
        appearance += np.float32(noise) * np.random.default_rng([seed, start, 3]).standard_normal(
            (size, rest), dtype=np.float32
        )
        appearance /= np.linalg.norm(appearance, axis=1, keepdims=True)
        block = _findings(_BLOCK, np.random.default_rng([seed, start, 4]))[:size]
        left = np.sqrt(1 - (block**2).sum(axis=1, keepdims=True))
        vectors[start : start + size] = np.hstack([block, left * appearance])
    return vectors


def dimension(vectors: Float32, neighbours: int = 20, samples: int = 200) -> float:
    """Return the intrinsic dimension around samples of the vectors."""
    chosen = vectors[:: max(1, len(vectors) // samples)]
    squares = np.maximum(2 - 2 * (chosen @ vectors.T), 1e-12)
    near = np.sort(np.partition(squares, neighbours + 1, axis=1)[:, : neighbours + 1], axis=1)[:, 1:] ** 0.5
    return float(1 / np.mean(np.log(near[:, -1:] / near[:, :-1])))


def kth_cosines(vectors: Float32, queries: Float32, k: int = 10) -> Float32:
    """Return every query's k-th largest cosine, float32 (queries,)."""
    best = np.full((len(queries), k), -2, dtype=np.float32)
    for start in range(0, len(vectors), _BLOCK):
        cosines = queries @ vectors[start : start + _BLOCK].T
        best = np.partition(np.hstack([best, cosines]), -k, axis=1)[:, -k:]
    return best.min(axis=1)
