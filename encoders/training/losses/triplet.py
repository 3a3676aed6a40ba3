"""The ranking-loss extension of MMDL: semi-hard triplets on the image features."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def semi_hard_triplet(features: Tensor, labels: Tensor, margin: float = 0.2) -> Tensor:
    """Return the triplet loss: a positive shares a finding with the anchor, a negative shares none.

    Semi-hard (Schroff et al., CVPR 2015): for each anchor and positive the hardest negative that is still farther than
    the positive; the farthest one where there is none. Two rows are no negative pair if one has a finding that is
    unknown (NaN) of the other; a row of which nothing is known takes no part.
    """
    rows = ~torch.isnan(labels).all(1)
    unit = functional.normalize(features[rows], dim=1)
    present, unknown = labels[rows].nan_to_num(0.0), torch.isnan(labels[rows]).to(labels.dtype)
    shared = (present @ present.T) > 0
    unsure = (present @ unknown.T + unknown @ present.T) > 0
    distance = 1 - unit @ unit.T
    positive = shared & ~torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    anchors, positives = torch.nonzero(positive, as_tuple=True)
    negative = ~(shared | unsure)[anchors]
    usable = negative.any(1)
    anchors, positives, negative = anchors[usable], positives[usable], negative[usable]
    if len(anchors) == 0:
        return features.sum() * 0.0
    to_positive = distance[anchors, positives]
    to_all = distance[anchors]
    farther = negative & (to_all > to_positive.unsqueeze(1))
    hardest = to_all.masked_fill(~farther, torch.inf).amin(1)
    farthest = to_all.masked_fill(~negative, -torch.inf).amax(1)
    to_negative = torch.where(farther.any(1), hardest, farthest)
    return functional.relu(to_positive - to_negative + margin).mean()
