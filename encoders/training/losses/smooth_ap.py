"""Smooth average precision with graded relevance."""

from __future__ import annotations

import torch
from torch import Tensor


def smooth_graded_ap(cosines: Tensor, relevance: Tensor, allowed: Tensor, temperature: float = 0.02) -> Tensor:
    """Return 1 − mean smooth AP, rank_k = 1 + Σ_j σ((s_j − s_k)/τ), weighted by relevance.

    Brown et al., "Smooth-AP", ECCV 2020; hierarchical form of Ramzi et al., ECCV 2022.
    """
    relevance = relevance * allowed
    difference = (cosines.unsqueeze(1) - cosines.unsqueeze(2)) / temperature  # (n, k, j): s_j - s_k
    above = torch.sigmoid(difference) * allowed.unsqueeze(1)
    above = above - torch.diag_embed(torch.diagonal(above, dim1=1, dim2=2))  # a row does not outrank itself
    rank = 1 + above.sum(2)
    smaller = torch.minimum(relevance.unsqueeze(1), relevance.unsqueeze(2))  # min(rel_k, rel_j)
    gained = relevance + (above * smaller).sum(2)
    total = relevance.sum(1)
    rows = total > 0
    if not bool(rows.any()):
        return cosines.sum() * 0.0
    precision = ((gained / rank) * (relevance > 0)).sum(1) / total.clamp_min(1e-6)
    return 1 - precision[rows].clamp(max=1).mean()
