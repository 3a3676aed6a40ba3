"""The supervised loss of MMDL: every modality's embedding, through the shared P, against the findings."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def masked_bce(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the mean binary cross-entropy over the entries of `targets` that are not NaN (0 if there are none)."""
    known = ~torch.isnan(targets)
    if not bool(known.any()):
        return logits.sum() * 0.0
    wanted = targets[known] * (1 - 2 * smoothing) + smoothing
    return functional.binary_cross_entropy_with_logits(logits[known], wanted)


def unit_distance(logits: Tensor, targets: Tensor) -> Tensor:
    """Return mean ‖z − y‖₂ of unit vectors, the form in SDML (Hu et al., SIGIR 2019); NaN is left out of both."""
    known = ~torch.isnan(targets)
    rows = known.any(1)
    if not bool(rows.any()):
        return logits.sum() * 0.0
    said = logits.masked_fill(~known, 0.0)[rows]
    difference = functional.normalize(said, dim=1) - functional.normalize(targets[rows].nan_to_num(0.0), dim=1)
    distance: Tensor = torch.linalg.vector_norm(difference, dim=1).mean()
    return distance
