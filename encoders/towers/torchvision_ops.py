"""Make ``import torchvision`` work when its compiled operators cannot load.

PyPI's torchvision links CUDA; with a CPU build of torch its ``_C.so`` stays out, and the import ends with "operator
torchvision::nms does not exist". No model here calls these two operators: declaring them is enough.
"""

from __future__ import annotations

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def declare_missing_operators() -> None:
    """Declare torchvision's nms and qnms if no compiled library did; call before importing torchvision or timm."""
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", _SCHEMA)
