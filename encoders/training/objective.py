"""The sum of losses that an experiment names, for one batch of images and reports."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from encoders.base import ABNORMAL_COLUMNS
from encoders.towers.model import MultimodalModel
from encoders.towers.subspace import IMAGE
from encoders.training.experiment import LossSection
from encoders.training.losses.coupling import masked_bce, unit_distance
from encoders.training.losses.jaccard import jaccard, weighted_contrastive
from encoders.training.losses.smooth_ap import smooth_graded_ap
from encoders.training.losses.triplet import semi_hard_triplet

#: Share of a batch's mean that enters the running mean of normal features.
MOMENTUM = 0.05


@dataclass(frozen=True, slots=True)
class Batch:
    """Images with their labels, and reports with theirs; they need not belong together.

    Attributes
    ----------
    images : Tensor float32 (n, 1, s, s), or (n, channels) where they are features of a frozen tower already; n may be 0
    own_text : Tensor of int64 (n,)
        Row of `prepared` that is an image's own report, -1 without.
    frontal, source : (n,)
    labels (n, 14), auxiliary (n, columns): NaN unknown; text_labels, text_auxiliary: the same a row a report
    """

    images: Tensor
    labels: Tensor
    auxiliary: dict[str, Tensor]
    frontal: Tensor
    source: Tensor
    own_text: Tensor
    prepared: Tensor
    text_labels: Tensor
    text_auxiliary: dict[str, Tensor]


def _overlap(a: Tensor, b: Tensor, more_a: dict[str, Tensor], more_b: dict[str, Tensor]) -> Tensor:
    """Return the mean Jaccard overlap over the label sets that both sides know."""
    total = torch.zeros(len(a), len(b), device=a.device)
    count = torch.zeros_like(total)
    for left, right in [(a[:, 1:], b[:, 1:]), *[(more_a[name], more_b[name]) for name in more_a]]:
        if left.shape[1] == 0:
            continue
        known = (~torch.isnan(left).all(1)).float().unsqueeze(1) * (~torch.isnan(right).all(1)).float().unsqueeze(0)
        total += jaccard(left, right) * known
        count += known
    return total / count.clamp_min(1)


def _crossmodal(cosines: Tensor, own_text: Tensor, temperature: float) -> Tensor:
    """Return InfoNCE of the images that have a report, against all reports, and back (van den Oord et al., 2018)."""
    rows = torch.nonzero(own_text >= 0).squeeze(1)
    if len(rows) < 2:
        return cosines.sum() * 0.0
    wanted = own_text[rows]
    logits = cosines[rows] / temperature
    forward = functional.cross_entropy(logits, wanted)
    back = logits[:, wanted].T  # (reports of the batch, images)
    same_text = (wanted.unsqueeze(0) == wanted.unsqueeze(1)).float()
    backward = -(back.log_softmax(1) * same_text).sum(1).div(same_text.sum(1)).mean()
    return (forward + backward) / 2


def _descriptor(model: MultimodalModel, features: Tensor, batch: Batch, temperature: float) -> Tensor:
    """Return the contrastive loss of descriptors seen from the mean of the normal ones.

    Seen from there, normal studies lie in all directions and abnormal ones in that of their findings. Normal studies
    are only ever negatives.
    """
    rooted = model.descriptor(features)
    findings = batch.labels[:, ABNORMAL_COLUMNS]
    sick = findings.nan_to_num(0).sum(1) > 0
    normal = ~torch.isnan(batch.labels).all(1) & ~sick
    if model.training and bool(normal.any()):
        mean = rooted[normal].detach().mean(0)
        started = bool(model.normal.abs().sum() > 0)
        model.normal.copy_(model.normal.lerp(mean, MOMENTUM) if started else mean)
    unit = functional.normalize(rooted - model.normal.clone(), dim=1)
    shared = jaccard(findings, findings) * sick.float().unsqueeze(1)
    apart = ~torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    allowed = (batch.source.unsqueeze(0) == batch.source.unsqueeze(1)) & apart
    return weighted_contrastive(unit @ unit.T, shared, allowed, temperature)


def losses(model: MultimodalModel, batch: Batch, weights: LossSection) -> dict[str, Tensor]:
    """Return each loss with its weight already on it; their sum is what is minimised."""
    if not len(batch.images):                                       # reports alone
        features = batch.images.new_zeros(0, model.image_tower.channels)
    else:
        features = batch.images if batch.images.ndim == 2 else model.image_features(batch.images)
    image = model.subspace(features, IMAGE)
    text = model.embed_prepared(batch.prepared) if len(batch.prepared) and weights.reports else image[:0]
    space = model.subspace
    result: dict[str, Tensor] = {}
    supervised = [(image, batch.labels, batch.auxiliary), (text, batch.text_labels, batch.text_auxiliary)]
    for modality, (embedding, labels, auxiliary) in zip(("image", "text"), supervised, strict=True):
        if len(embedding) == 0:
            continue
        logits = space.predict(embedding, "findings")
        sdml = weights.form == "sdml"
        form = unit_distance(logits, labels) if sdml else masked_bce(logits, labels, weights.smoothing)
        share = weights.reports if modality == "text" else 1.0
        result[f"findings_{modality}"] = weights.findings * share * form
        for name, target in auxiliary.items() if weights.auxiliary else ():
            predicted = space.predict(embedding, name)
            result[f"{name}_{modality}"] = weights.auxiliary * masked_bce(predicted, target, weights.smoothing)
    if not len(image):
        return result
    if weights.view:
        view = masked_bce(space.predict(image, "view").squeeze(1), batch.frontal)
        result["view"] = weights.view * view
    for name, layer in model.direct.items() if weights.direct else ():
        wanted = batch.labels if name == "findings" else batch.auxiliary.get(name)
        if wanted is not None:
            said = layer(model.dropout(features))
            result[f"direct_{name}"] = weights.direct * masked_bce(said, wanted, weights.smoothing)
    if weights.descriptor:
        result["descriptor"] = weights.descriptor * _descriptor(model, features, batch, weights.temperature)
    if weights.triplet:
        result["triplet"] = weights.triplet * semi_hard_triplet(features, batch.labels, weights.margin)
    unit = functional.normalize(image, dim=1)
    if weights.contrastive or weights.smooth_ap:
        overlap = _overlap(batch.labels, batch.labels, batch.auxiliary, batch.auxiliary)
        allowed = (batch.source.unsqueeze(0) == batch.source.unsqueeze(1)) & ~torch.eye(
            len(unit), dtype=torch.bool, device=unit.device
        )
        cosines = unit @ unit.T
        if weights.contrastive:
            value = weighted_contrastive(cosines, overlap, allowed, weights.temperature)
            result["contrastive"] = weights.contrastive * value
        if weights.smooth_ap:
            result["smooth_ap"] = weights.smooth_ap * smooth_graded_ap(cosines, overlap, allowed)
    if len(text) and (weights.crossmodal or weights.graded_crossmodal):
        cosines = unit @ functional.normalize(text, dim=1).T
        if weights.crossmodal:
            result["crossmodal"] = weights.crossmodal * _crossmodal(cosines, batch.own_text, weights.temperature)
        if weights.graded_crossmodal:
            overlap = _overlap(batch.labels, batch.text_labels, batch.auxiliary, batch.text_auxiliary)
            anything = torch.ones_like(overlap, dtype=torch.bool)
            value = weighted_contrastive(cosines, overlap, anything, weights.temperature)
            result["graded_crossmodal"] = weights.graded_crossmodal * value
    return result


class Objective(nn.Module):
    """A model's losses as one forward, which is what DistributedDataParallel wraps."""

    def __init__(self, model: MultimodalModel, weights: LossSection) -> None:
        super().__init__()
        self.model, self.weights = model, weights

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return what `losses` does."""
        return losses(self.model, batch, self.weights)
