"""Why two images are alike: which regions of each make their vectors agree, and the findings both seem to have.

The pooled feature vector of an image is the mean over the positions of its last feature map, so whatever the cosine
owes to the features divides among the positions. What lies behind the pooling (the common subspace, the projection) is
not linear: the cosine is followed along the straight way from "nothing seen" (all features 0) to the image's features,
and the gradients on it are added up (integrated gradients). Contributions and the cosine of "nothing seen" add up to
the cosine itself.

References
----------
Stylianou, Souvenir, Pless, "Visualizing Deep Similarity Networks", WACV 2019 (similarity decomposed over positions).
Sundararajan, Taly, Yan, "Axiomatic Attribution for Deep Networks", ICML 2017 (integrated gradients).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from encoders.base import ABNORMAL_FINDINGS, FINDING_NAMES, Float32
from encoders.common_subspace import CommonSubspaceEncoder
from encoders.towers.scda import attended_boxes, crop
from encoders.towers.subspace import IMAGE

#: Steps of the integral; with 64 the contributions add up to the cosine within about 0.001.
STEPS = 64
#: A finding is shared when both images have it with at least this probability.
LEAST_PROBABILITY = 0.2
#: Share of the overlay's colour where the heat is 1.
OPACITY = 0.55


@dataclass(frozen=True, slots=True)
class SharedFinding:
    """A finding that both images seem to have, with each one's calibrated probability."""

    name: str
    probability_a: float
    probability_b: float


@dataclass(frozen=True, slots=True)
class Attribution:
    """One image's part in a cosine.

    Attributes
    ----------
    contributions : ndarray of float32 (rows, cols)
        What each position of the feature map adds to the cosine; negative where it makes the images differ.
    unseen : float
        The cosine that the other image has with "nothing seen"; with all contributions it gives the cosine.
    """

    contributions: Float32
    unseen: float

    @property
    def heat(self) -> Float32:
        """Return what speaks for the similarity, float32 (rows, cols) 0..1, 1 at the strongest position."""
        positive = np.maximum(self.contributions, 0)
        return np.asarray(positive / max(float(positive.max()), 1e-12), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why image a and image b are alike."""

    cosine: float
    a: Attribution
    b: Attribution
    shared: tuple[SharedFinding, ...]

    @property
    def heat_a(self) -> Float32:
        """Return the regions of a, float32 (rows, cols) 0..1."""
        return self.a.heat

    @property
    def heat_b(self) -> Float32:
        """Return the regions of b, float32 (rows, cols) 0..1."""
        return self.b.heat


@dataclass(frozen=True, slots=True)
class _Maps:
    """Feature maps of one image whose mean over all positions, weighted, is its pooled feature vector."""

    maps: Tensor                                                    # (parts, channels, rows, cols)
    boxes: tuple[tuple[float, float, float, float], ...]            # top, left, bottom, right of each part, 0..1
    weights: tuple[float, ...]

    @property
    def pooled(self) -> Tensor:
        """Return (channels,)."""
        means = self.maps.mean((2, 3))
        return (means * torch.tensor(self.weights, device=means.device).unsqueeze(1)).sum(0)


_WHOLE = (0.0, 0.0, 1.0, 1.0)


def _maps(encoder: CommonSubspaceEncoder, image: Float32) -> _Maps:
    model = encoder._model
    with torch.no_grad():
        inputs = torch.from_numpy(encoder._inputs([image])).unsqueeze(1).to(encoder._device)
        whole = model.image_tower(inputs).float()
        if model.attention == "none":
            return _Maps(whole, (_WHOLE,), (1.0,))
        boxes = attended_boxes(whole)
        focused = model.image_tower(crop(inputs, boxes)).float()
    top, left, bottom, right = (float(value) for value in boxes[0])
    box = (top, left, bottom, right)
    if model.attention == "crop":
        return _Maps(focused, (box,), (1.0,))
    return _Maps(torch.cat([whole, focused]), (_WHOLE, box), (0.5, 0.5))


def _vectors(encoder: CommonSubspaceEncoder, features: Tensor) -> Tensor:
    """Return unit vectors (n, dim) of pooled features (n, channels), as `encode_images` does, with gradient."""
    space, projection = encoder._model.subspace, encoder._projection
    slots = [encoder._model.descriptor(features), functional.normalize(space(features, IMAGE), dim=1)]
    centre = torch.from_numpy(projection.centre[IMAGE]).to(features.device)
    matrix = torch.from_numpy(projection.matrix[IMAGE]).to(features.device)
    return functional.normalize((torch.cat(slots, 1) - centre) @ matrix, dim=1)


def _mean_gradient(encoder: CommonSubspaceEncoder, pooled: Tensor, other: Tensor) -> tuple[Tensor, float]:
    """Return the cosine's mean gradient on the way from 0 to `pooled` (channels,), and the cosine at 0."""
    places = (torch.arange(STEPS, device=pooled.device) + 0.5) / STEPS
    way = (places.unsqueeze(1) * pooled).requires_grad_(True)
    with torch.enable_grad():
        total = (_vectors(encoder, way) @ other).sum()
        (gradient,) = torch.autograd.grad(total, way)
    with torch.no_grad():
        unseen = float(_vectors(encoder, torch.zeros_like(pooled).unsqueeze(0))[0] @ other)
    return gradient.mean(0), unseen


def _overlaps(cells: int, start: float, end: float, others: int) -> NDArray[np.float64]:
    """Return (cells, others): which share of each of `others` equal parts of start..end lies in each cell of 0..1."""
    edges = np.linspace(0, 1, cells + 1)
    parts = np.linspace(start, end, others + 1)
    low = np.maximum(edges[:-1, None], parts[None, :-1])
    high = np.minimum(edges[1:, None], parts[None, 1:])
    return np.asarray(np.clip(high - low, 0, None) / np.diff(parts), dtype=np.float64)


def _attribution(encoder: CommonSubspaceEncoder, seen: _Maps, other: Tensor) -> Attribution:
    gradient, unseen = _mean_gradient(encoder, seen.pooled, other)
    rows, cols = seen.maps.shape[2:]
    total = np.zeros((rows, cols))
    for maps, box, weight in zip(seen.maps, seen.boxes, seen.weights, strict=True):
        part = (maps * gradient[:, None, None]).sum(0).cpu().numpy() * weight / (rows * cols)
        top, left, bottom, right = box
        total += _overlaps(rows, top, bottom, rows) @ part @ _overlaps(cols, left, right, cols).T
    return Attribution(total.astype(np.float32), unseen)


def shared_findings(
    probabilities_a: Float32, probabilities_b: Float32, least: float = LEAST_PROBABILITY
) -> tuple[SharedFinding, ...]:
    """Return the abnormal findings that both images have with at least this probability, the surest first."""
    pairs = [
        SharedFinding(name, float(probabilities_a[column]), float(probabilities_b[column]))
        for column, name in enumerate(FINDING_NAMES)
        if name in ABNORMAL_FINDINGS and min(probabilities_a[column], probabilities_b[column]) >= least
    ]
    return tuple(sorted(pairs, key=lambda pair: -min(pair.probability_a, pair.probability_b)))


def explain(encoder: CommonSubspaceEncoder, image_a: Float32, image_b: Float32) -> Explanation:
    """Return why two images, float32 (rows, columns) 0..1 of any size, are alike to this model."""
    a, b = _maps(encoder, image_a), _maps(encoder, image_b)
    with torch.no_grad():
        vectors = _vectors(encoder, torch.stack([a.pooled, b.pooled]))
    findings = encoder.encode_images([image_a, image_b]).findings
    return Explanation(
        cosine=float(vectors[0] @ vectors[1]),
        a=_attribution(encoder, a, vectors[1]),
        b=_attribution(encoder, b, vectors[0]),
        shared=shared_findings(findings[0], findings[1]),
    )


def overlay(pixels: Float32, heat: Float32) -> Image.Image:
    """Return the image in grey with the heat on it in colour, yellow to red; where the heat is 0 the image stays.

    Parameters
    ----------
    pixels : float32 (rows, columns) 0..1
    heat : float32 of any shape, 0..1
    """
    rows, columns = pixels.shape
    spread = Image.fromarray(np.ascontiguousarray(heat, dtype=np.float32)).resize(
        (columns, rows), Image.Resampling.BICUBIC
    )
    strength = np.clip(np.asarray(spread, dtype=np.float32), 0, 1)[..., None]
    colour = np.concatenate([np.ones_like(strength), 0.85 * (1 - strength), np.zeros_like(strength)], axis=2)
    grey = np.repeat(np.clip(pixels, 0, 1)[..., None], 3, axis=2)
    mixed = grey * (1 - OPACITY * strength) + colour * OPACITY * strength
    return Image.fromarray((mixed * 255 + 0.5).astype(np.uint8), mode="RGB")
