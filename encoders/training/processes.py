"""The processes of torchrun that train one model: this one's place among them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

T = TypeVar("T")

#: They wait so long for each other: the first decodes the images of all.
PATIENCE = timedelta(days=2)


class Processes:
    """This process among those of torchrun (RANK, WORLD_SIZE), or the only one.

    Attributes
    ----------
    rank, world : int
    device : torch.device
        Where this process trains; of several on graphics cards each has its own.
    """

    def __init__(self, device: str) -> None:
        self.rank, self.world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self.device = torch.device(device)
        if self.world > 1:
            on_gpu = self.device.type == "cuda"
            if on_gpu:
                self.device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
                torch.cuda.set_device(self.device)
            distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """Let the first process through the block before the others."""
        if self.rank:
            distributed.barrier()
        yield
        if self.world > 1 and not self.rank:
            distributed.barrier()

    def of_first(self, value: T) -> T:
        """Return what the first process has."""
        told = [value]
        if self.world > 1:
            distributed.broadcast_object_list(told, 0)
        return told[0]
