"""The files of a run's folder beside its best model: the place to resume from, and the curves."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

LAST_FILE, CURVES_FILE = "last.pt", "curves.csv"


def write_state(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file of torch's at once or not at all."""
    part = path.with_name(f"{path.name}.part")
    torch.save(content, part)
    os.replace(part, path)


def read_last(folder: Path) -> dict[str, Any] | None:
    """Return the place where the run in a folder stopped, its tensors on the CPU; None without one."""
    path = folder / LAST_FILE
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Return the state of torch's generators: of the CPU and, if the run is on one, of the graphics card."""
    cuda = {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
    return {"cpu": torch.get_rng_state(), **cuda}


def set_random_state(state: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Let torch's generators go on from a state."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def add_line(path: Path, row: Mapping[str, Any]) -> None:
    """Add a line to a table; columns that it has more, or fewer, stay empty elsewhere."""
    rows: list[Mapping[str, Any]] = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    rows.append(row)
    part = path.with_name(f"{path.name}.part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for each in rows for name in each)))
        writer.writeheader()
        writer.writerows(rows)
    os.replace(part, path)
