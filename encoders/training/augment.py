"""Mild changes that leave a radiograph's findings as they are; left stays left: no mirror images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from encoders.preprocess import Preprocessing, places, sheet_shape


def augment(images: Tensor, size: int, strength: float, generator: torch.Generator) -> Tensor:
    """Return float32 (n, 1, size, size) in 0..1 of uint8 (n, c, c), resampled in one step.

    Rotation ±8°, scale ±10 %, shear and shift ±5 %, gamma ±25 %, a little noise, each times `strength`.
    """
    pixels = images.unsqueeze(1).float() / 255
    n = len(pixels)

    def uniform(limit: float) -> Tensor:
        return (torch.rand(n, generator=generator) * 2 - 1) * limit * strength

    angle, across, down = uniform(math.radians(8)), torch.exp(uniform(0.10)), torch.exp(uniform(0.10))
    shear = uniform(0.05)
    cos, sin = torch.cos(angle), torch.sin(angle)
    affine = torch.stack(
        [
            torch.stack([cos * across, -sin * across + shear, uniform(0.05)], 1),
            torch.stack([sin * down, cos * down, uniform(0.05)], 1),
        ],
        1,
    )
    grid = functional.affine_grid(affine, [n, 1, size, size], align_corners=False)
    moved = functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    gamma = torch.exp(uniform(0.25)).view(-1, 1, 1, 1)
    noise = torch.randn(moved.shape, generator=generator) * (0.01 * strength * torch.rand(n, generator=generator)).view(
        -1, 1, 1, 1
    )
    return (moved.clamp(0, 1) ** gamma + noise).clamp(0, 1)


def _resized(pixels: Tensor, size: int) -> Tensor:
    if pixels.shape[-1] == size:
        return pixels
    return functional.interpolate(pixels, (size, size), mode="bilinear", antialias=True, align_corners=False)


def plain(images: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return sheets, float32 (n, 1, rows, columns) in 0..1, of uint8 sheets or of uint8 squares (n, c, c), resized."""
    pixels = images.unsqueeze(1).float() / 255
    return pixels if pixels.shape[2:] == sheet_shape(sizes) else sheets(pixels, sizes)


def sheets(squares: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return sheets (n, 1, rows, columns) of images (n, 1, c, c)."""
    if len(sizes) == 1:
        return _resized(squares, sizes[0])
    result = squares.new_zeros(len(squares), 1, *sheet_shape(sizes))
    for size, (rows, columns) in places(sizes).items():
        result[:, :, rows, columns] = _resized(squares, size)
    return result


def standardised(pixels: Tensor, constants: Preprocessing) -> Tensor:
    """Return what encoders.preprocess.standardise returns, for tensors (n, 1, rows, columns)."""
    if not constants.others:
        return _standardised(pixels, constants)
    result = torch.zeros_like(pixels)
    for rows, columns in places(constants.sizes).values():
        result[:, :, rows, columns] = _standardised(pixels[:, :, rows, columns], constants)
    return result


def _standardised(pixels: Tensor, constants: Preprocessing) -> Tensor:
    mean = pixels.mean((2, 3), keepdim=True)
    spread = pixels.std((2, 3), keepdim=True, correction=0).clamp_min(1e-3)
    return ((pixels - mean) / spread).clamp(-constants.limit, constants.limit) * constants.spread
