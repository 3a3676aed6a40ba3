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

from encoders.training.build import STATE_FILE, RunError, find_run
from encoders.training.run_files import LAST_FILE

LAST = ":last"


def _state(name: str, folder: Path) -> dict[str, Any]:
    found = find_run(name.removesuffix(LAST), folder)
    saved: dict[str, Any] = torch.load(found / STATE_FILE, map_location="cpu", weights_only=False)
    if name.endswith(LAST):
        if not (found / LAST_FILE).is_file():
            raise RunError(f"{found} has no {LAST_FILE}: an average has no last epoch; name it without {LAST}")
        end = torch.load(found / LAST_FILE, map_location="cpu", weights_only=True)
        saved["model"], saved["epoch"] = end["average"] or end["model"], end["epoch"]
    return saved


def average_runs(shares: Mapping[str, float], folder: Path, output: str, size: int | None = None) -> Path:
    """Write a run that is the weighted mean of others; return its folder.

    Parameters
    ----------
    shares : mapping of str to float
        Names of runs below `folder`, or paths, and their weights; ``name:last`` takes a run's last epoch, not its best
        one. All start from the same first run. The first one gives the experiment, and what the others lack.
    output : str
        Folder of the result, below `folder` or a path of its own.
    size : int or None
        Input size of the result; None for that of the first run.

    Raises
    ------
    RunError
        If a run is not there, or two of them are models of different shapes.
    """
    states = {name: _state(name, folder) for name in shares}
    result = next(iter(states.values()))
    model = result["model"]
    for key, value in model.items():
        having = {name: state["model"][key] for name, state in states.items() if key in state["model"]}
        for name, tensor in having.items():
            if tensor.shape != value.shape:
                raise RunError(
                    f"{name} cannot be averaged with {next(iter(shares))}: its {key} is {tuple(tensor.shape)}, not "
                    f"{tuple(value.shape)}; average runs of one model that start from the same run"
                )
        if value.dtype.is_floating_point and key != "normal":
            total = sum(shares[name] for name in having)
            model[key] = torch.stack([tensor * (shares[name] / total) for name, tensor in having.items()]).sum(0)
    if size is not None:
        result["experiment"]["image"]["size"] = size
    target = folder / output
    target.mkdir(parents=True, exist_ok=True)
    part = target / f"{STATE_FILE}.part"
    torch.save(result, part)
    os.replace(part, target / STATE_FILE)
    return target
