"""Average the weights of related runs: steadier than any one of them, at no cost when encoding.

References
----------
Wortsman et al., "Model soups", ICML 2022.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from encoders.training.build import STATE_FILE
from encoders.training.trainer import LAST_FILE


def _state(folder: Path, last: bool) -> dict[str, Any]:
    saved: dict[str, Any] = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=False)
    if last:
        end = torch.load(folder / LAST_FILE, map_location="cpu", weights_only=True)
        saved["model"], saved["epoch"] = end["average"] or end["model"], end["epoch"]
    return saved


def average_runs(shares: Mapping[str, float], folder: Path, output: str, size: int | None = None) -> Path:
    """Write a run that is the weighted mean of others; return its folder.

    Parameters
    ----------
    shares : mapping of str to float
        Names of runs below `folder` and their weights; ``name:last`` takes a run's last epoch, not its best one. All
        start from the same first run. The first one gives the experiment, and what the others lack.
    size : int or None
        Input size of the result; None for that of the first run.
    """
    states = [_state(folder / name.removesuffix(":last"), name.endswith(":last")) for name in shares]
    result = states[0]
    model = result["model"]
    for name, value in model.items():
        having = [
            (s["model"][name], share) for s, share in zip(states, shares.values(), strict=True) if name in s["model"]
        ]
        if value.dtype.is_floating_point and name != "normal":
            total = sum(share for _, share in having)
            model[name] = torch.stack([tensor * (share / total) for tensor, share in having]).sum(0)
    if size is not None:
        result["experiment"]["image"]["size"] = size
    target = folder / output
    target.mkdir(parents=True, exist_ok=True)
    part = target / f"{STATE_FILE}.part"
    torch.save(result, part)
    os.replace(part, target / STATE_FILE)
    return target
