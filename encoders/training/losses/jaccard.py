"""Graded supervised contrastive loss: how much two studies share says how much they should attract each other."""

from __future__ import annotations

import torch
from torch import Tensor


def jaccard(a: Tensor, b: Tensor) -> Tensor:
    """Return (n, m) Jaccard overlap of label rows; 1 where both have none, 0 where either is unknown (NaN)."""
    known = (~torch.isnan(a).all(1)).float().unsqueeze(1) * (~torch.isnan(b).all(1)).float().unsqueeze(0)
    left, right = a.nan_to_num(0.0), b.nan_to_num(0.0)
    both = left @ right.T
    either = left.sum(1, keepdim=True) + right.sum(1).unsqueeze(0) - both
    return torch.where(either > 0, both / either.clamp_min(1e-6), torch.ones_like(both)) * known


def weighted_contrastive(cosines: Tensor, weights: Tensor, allowed: Tensor, temperature: float) -> Tensor:
    """Return the cross-entropy of softmax(cosines / temperature) against weights normalised over each row.

    Khosla et al., NeurIPS 2020, with graded instead of binary positives. `allowed` (n, m) says which pairs may be
    compared at all; a row without any weight takes no part.
    """
    weights = weights * allowed
    total = weights.sum(1)
    rows = total > 0
    if not bool(rows.any()):
        return cosines.sum() * 0.0
    logits = (cosines / temperature).masked_fill(~allowed, -1e4)
    log_probability = logits.log_softmax(1)
    return -(weights[rows] * log_probability[rows]).sum(1).div(total[rows]).mean()
