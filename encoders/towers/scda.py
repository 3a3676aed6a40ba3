"""Deep descriptors: where the feature maps look, and the crop of it (SCDA).

References
----------
Wei, Luo, Wu, Zhou, "Selective Convolutional Descriptor Aggregation for Fine-Grained Image Retrieval", IEEE TIP 26(6),
2017; used as an extension of MMDL.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional


def attended_mask(aggregate: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return the largest connected component of what exceeds the mean of an aggregation map (rows, columns)."""
    components, count = ndimage.label(aggregate > aggregate.mean())
    if count == 0:
        return np.ones(aggregate.shape, dtype=bool)
    sizes = np.bincount(components.ravel())[1:]
    return np.asarray(components == 1 + int(sizes.argmax()), dtype=bool)


def attended_boxes(maps: Tensor) -> Tensor:
    """Return float32 (n, 4): top, left, bottom, right in 0..1 of the attended region of each of n feature maps."""
    boxes = []
    for aggregate in maps.detach().float().sum(1).cpu().numpy():  # A = sum over channels
        rows, columns = np.nonzero(attended_mask(aggregate))
        height, width = aggregate.shape
        boxes.append(
            [rows.min() / height, columns.min() / width, (rows.max() + 1) / height, (columns.max() + 1) / width]
        )
    return torch.tensor(np.array(boxes), dtype=torch.float32, device=maps.device)


def crop(images: Tensor, boxes: Tensor) -> Tensor:
    """Return each image's box, resized to the images' own size (bilinear)."""
    top, left, bottom, right = boxes.unbind(1)
    zero = torch.zeros_like(top)
    affine = torch.stack(
        [
            torch.stack([right - left, zero, left + right - 1], 1),
            torch.stack([zero, bottom - top, top + bottom - 1], 1),
        ],
        1,
    )
    grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
