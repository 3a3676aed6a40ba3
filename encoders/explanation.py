"""Why two images are alike: which regions of each make their vectors agree, and which findings the model sees in each.

The pooled feature vector of an image is the mean over the positions of its last feature map, so whatever the cosine
owes to the features divides among the positions. What lies behind the pooling (the common subspace, the findings'
probabilities, the projection) is not linear: an image's vector along the other's is followed on the straight way from a
normal study's features, the centre of all vectors, to the image's own, and the gradients on it are added up (integrated
gradients).
The contributions of all positions and what a normal study would have add up to the cosine itself.

References
----------
Stylianou, Souvenir, Pless, "Visualizing Deep Similarity Networks", WACV 2019 (similarity decomposed over positions).
Sundararajan, Taly, Yan, "Axiomatic Attribution for Deep Networks", ICML 2017 (integrated gradients).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from encoders.base import ABNORMAL_COLUMNS, Basis, Float32
from encoders.common_subspace import CommonSubspaceEncoder
from encoders.towers.projection import FLOOR, MOST_FINDINGS
from encoders.towers.scda import attended_boxes, crop
from encoders.towers.side_by_side import SideBySide
from encoders.towers.subspace import IMAGE

#: Steps of the integral; the contributions then add up to the cosine within about 0.01.
STEPS = 1024
#: Share of the overlay's colour where the heat is 1.
OPACITY = 0.55


@dataclass(frozen=True, slots=True)
class Attribution:
    """One image's part in a cosine.

    Attributes
    ----------
    contributions : ndarray of float32 (rows, cols)
        What each position of the feature map adds to the cosine; negative where it makes the images differ.
    normal : float
        What a normal study in this image's place adds; with all contributions it gives the cosine.
    cell : int
        Positions that one of the coarsest tower takes along a side; more than 1 where towers of several grids see side
        by side.
    """

    contributions: Float32
    normal: float
    cell: int = 1

    @property
    def heat(self) -> Float32:
        """Return float32 (rows, cols) 0..1: what adds more to the cosine than the mean position; 1 at the strongest.

        The borders of large cells among small ones mean nothing: each position is the mean of the `cell` around it.
        """
        half = self.cell // 2
        padded = np.pad(self.contributions, half, mode="edge")
        smooth = sliding_window_view(padded, (2 * half + 1, 2 * half + 1)).mean((2, 3))
        above = np.maximum(smooth - max(float(smooth.mean()), 0.0), 0)
        return np.asarray(above / max(float(above.max()), 1e-12), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why image a and image b are alike.

    Attributes
    ----------
    cosine : float
        Of the two images' vectors by Basis.IMAGE, whatever a match was ranked by.
    probabilities_a, probabilities_b : ndarray of float32 (14,)
        The model's calibrated probability of each of FINDING_NAMES.
    """

    cosine: float
    a: Attribution
    b: Attribution
    probabilities_a: Float32
    probabilities_b: Float32

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
    cell: int                                                       # see Attribution

    @property
    def pooled(self) -> Tensor:
        """Return (channels,)."""
        means = self.maps.mean((2, 3))
        return (means * torch.tensor(self.weights, device=means.device).unsqueeze(1)).sum(0)


_WHOLE = (0.0, 0.0, 1.0, 1.0)


def _coarsest(tower: SideBySide, sheet: Tensor) -> int:
    """Return the rows of the feature map of the member that has fewest."""
    squares = zip(tower.members, tower.squares(sheet.shape[2]), strict=True)
    return min(int(member(sheet[:, :, rows, columns]).shape[2]) for member, (rows, columns) in squares)


def _maps(encoder: CommonSubspaceEncoder, image: Float32) -> _Maps:
    model = encoder.model
    with torch.no_grad():
        inputs = torch.from_numpy(encoder._inputs([image])).unsqueeze(1).to(encoder._device)
        whole = model.image_tower(inputs).float()
        tower = model.image_tower
        cell = whole.shape[2] // _coarsest(tower, inputs) if isinstance(tower, SideBySide) else 1
        if model.attention == "none":
            return _Maps(whole, (_WHOLE,), (1.0,), cell)
        boxes = attended_boxes(whole)
        focused = model.image_tower(crop(inputs, boxes)).float()
    top, left, bottom, right = (float(value) for value in boxes[0])
    box = (top, left, bottom, right)
    if model.attention == "crop":
        return _Maps(focused, (box,), (1.0,), cell)
    return _Maps(torch.cat([whole, focused]), (_WHOLE, box), (0.5, 0.5), cell)


def _vectors(encoder: CommonSubspaceEncoder, features: Tensor) -> Tensor:
    """Return the unit vectors (n, dim) of pooled features (n, channels), as `encode_images` does, with gradients."""
    model, projection = encoder.model, encoder._projection
    embedding = model.subspace(features, IMAGE)
    lateral = torch.sigmoid(-model.subspace.predict(embedding, "view"))
    described = (features.clamp_min(0) + FLOOR) ** projection.root
    slots = torch.cat([described, functional.normalize(embedding, dim=1), lateral], 1)
    matrix, bias = (torch.from_numpy(part[IMAGE]).to(features.device) for part in (projection.matrix, projection.bias))
    appearance = functional.normalize(slots @ matrix + bias, dim=1)
    if not projection.findings_weight:
        return appearance
    slope, offset = (torch.from_numpy(part).to(features.device) for part in (encoder._slope, encoder._offset))
    probabilities = torch.sigmoid(model.findings(features, embedding) * slope + offset)[:, ABNORMAL_COLUMNS]
    block = projection.findings_weight[Basis.IMAGE.value] * probabilities.sqrt()
    length = block.norm(dim=1, keepdim=True)
    block = block * (MOST_FINDINGS / length).clamp_max(1)
    rest = (1 - length.clamp_max(MOST_FINDINGS) ** 2).sqrt()
    return torch.cat([block, rest * appearance], 1)


def _normal_features(encoder: CommonSubspaceEncoder) -> Tensor:
    """Return the mean pooled features (channels,) of normal images."""
    return torch.from_numpy(encoder._projection.normal).to(encoder._device)


def _mean_gradient(encoder: CommonSubspaceEncoder, start: Tensor, end: Tensor, direction: Tensor) -> Tensor:
    """Return the mean gradient (channels,) of the vectors along `direction` on the way from start to end."""
    places = (torch.arange(STEPS, device=end.device) + 0.5) / STEPS
    way = (start + places.unsqueeze(1) * (end - start)).requires_grad_(True)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad((_vectors(encoder, way) @ direction).sum(), way)
    return gradient.mean(0)


def _overlaps(cells: int, start: float, end: float, others: int) -> NDArray[np.float64]:
    """Return (cells, others): which share of each of `others` equal parts of start..end lies in each cell of 0..1."""
    edges = np.linspace(0, 1, cells + 1)
    parts = np.linspace(start, end, others + 1)
    low = np.maximum(edges[:-1, None], parts[None, :-1])
    high = np.minimum(edges[1:, None], parts[None, 1:])
    return np.asarray(np.clip(high - low, 0, None) / np.diff(parts), dtype=np.float64)


def _attribution(encoder: CommonSubspaceEncoder, seen: _Maps, other: Tensor) -> Attribution:
    """Return what each position of an image adds to the cosine of its vector and `other`, unit (dim,)."""
    normal = _normal_features(encoder)
    gradient = _mean_gradient(encoder, normal, seen.pooled, other)
    rows, cols = seen.maps.shape[2:]
    total = np.zeros((rows, cols))
    for maps, box, weight in zip(seen.maps, seen.boxes, seen.weights, strict=True):
        more = (maps - normal[:, None, None]) * gradient[:, None, None]
        part = more.sum(0).cpu().numpy() * weight / (rows * cols)
        top, left, bottom, right = box
        total += _overlaps(rows, top, bottom, rows) @ part @ _overlaps(cols, left, right, cols).T
    with torch.no_grad():
        normal_cosine = float(_vectors(encoder, normal.unsqueeze(0))[0] @ other)
    return Attribution(total.astype(np.float32), normal_cosine, seen.cell)


def explain(encoder: CommonSubspaceEncoder, image_a: Float32, image_b: Float32) -> Explanation:
    """Return why two images, float32 (rows, columns) 0..1 of any size, are alike to this model."""
    a, b = _maps(encoder, image_a), _maps(encoder, image_b)
    with torch.no_grad():
        own, other = (_vectors(encoder, seen.pooled.unsqueeze(0))[0] for seen in (a, b))
    findings = encoder.encode_images([image_a, image_b]).findings
    return Explanation(
        cosine=float(own @ other),
        a=_attribution(encoder, a, other),
        b=_attribution(encoder, b, own),
        probabilities_a=findings[0],
        probabilities_b=findings[1],
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
        (columns, rows), Image.Resampling.BILINEAR
    )
    strength = np.clip(np.asarray(spread, dtype=np.float32), 0, 1)[..., None]
    colour = np.concatenate([np.ones_like(strength), 0.85 * (1 - strength), np.zeros_like(strength)], axis=2)
    grey = np.repeat(np.clip(pixels, 0, 1)[..., None], 3, axis=2)
    mixed = grey * (1 - OPACITY * strength) + colour * OPACITY * strength
    return Image.fromarray((mixed * 255 + 0.5).astype(np.uint8), mode="RGB")
