"""The tensors of a weights file: matrices in half precision, or the large ones in 8 bits with a scale for each row.

A row's values are multiples of its largest one over 127, so that none is off by more than half of that step. In a
convolutional tower the last stages hold nine tenths of the weights, and their errors meet no further layers: in 8 bits
they leave an image's vector within .999 of what it was, where the small early layers would turn it by .96 (cosines,
shipped model). Vectors (biases, running statistics) stay float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save
from torch import Tensor

Precision = Literal["float16", "int8"]

#: Matrices of fewer values stay in half precision.
LARGE = 100_000

#: Ending of the tensor that holds the scales of another one's rows.
SCALES = ":scales"


def _rounded(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return int8 of the same shape, and float32 (rows,)."""
    rows = values.float().flatten(1)
    scales = rows.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / 127
    steps = (rows / scales.unsqueeze(1)).round().to(torch.int8)
    return steps.reshape(values.shape), scales


def write_tensors(tensors: Mapping[str, Tensor], file: Path, precision: Precision) -> None:
    """Write tensors; matrices and convolutions in the precision, vectors as float32."""
    kept: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if value.ndim < 2:
            kept[name] = value.float()
        elif precision == "int8" and value.numel() >= LARGE:
            kept[name], kept[name + SCALES] = _rounded(value)
        else:
            kept[name] = value.half()
    file.write_bytes(save({name: value.contiguous() for name, value in kept.items()}))  # save_file ignores the umask


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Return tensors as float32, whichever precision they were written in."""
    kept = load_file(file)
    scales = {name.removesuffix(SCALES): kept.pop(name) for name in [*kept] if name.endswith(SCALES)}
    result = {name: value.float() for name, value in kept.items()}
    for name, steps in scales.items():
        result[name] *= steps.reshape(-1, *[1] * (result[name].ndim - 1))
    return result
