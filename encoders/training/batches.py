"""The batches of an experiment: which images an epoch shows, augmented, with labels, reports and hard negatives."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from encoders.training.arrays import Arrays
from encoders.training.augment import augment, plain, sheets, standardised
from encoders.training.experiment import Experiment
from encoders.training.objective import Batch
from encoders.training.prepared import PreparedTexts
from encoders.training.sampling import epoch_order, image_weights


class _Rows(Dataset[Tensor]):
    """Decoded images by row, for the data loader's processes."""

    def __init__(self, arrays: Arrays, order: np.ndarray) -> None:
        self.images, self.order = arrays.images, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(np.array(self.images[self.order[index]]))


class Batches:
    """What one process of a training is shown, epoch by epoch, the same at each run of the same seed.

    Parameters
    ----------
    arrays, texts : what is drawn from
    device : where the batches are wanted
    rank, world : int
        This process among those of torchrun; each is shown its share.
    """

    def __init__(
        self,
        experiment: Experiment,
        arrays: Arrays,
        texts: PreparedTexts,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.experiment, self.arrays, self.texts, self.device = experiment, arrays, texts, device
        self.rank, self.world = rank, world
        self.constants = experiment.image.preprocessing
        data = experiment.data
        self._weights = image_weights(arrays, data.weights, data.abnormal_weight, data.lateral_weight)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        settings = self.experiment.train
        return epoch_order(
            self.arrays,
            self._weights,
            settings.batch,
            (self.experiment.seed, epoch),
            pairs_only=epoch < settings.pairs_first_epochs,
            rank=self.rank,
            world=self.world,
        )

    def steps(self, epoch: int) -> int:
        """Return how many batches an epoch has; without any image, enough for each text to come once on average."""
        if not self.arrays.samples:
            return math.ceil(len(self.texts.prepared) / (self.experiment.text.extra_batch * self.world))
        return math.ceil(len(self._order(epoch)) / self.experiment.train.batch)

    def each(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch."""
        settings, seed = self.experiment.train, self.experiment.seed
        order = self._order(epoch)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch * 101 + self.rank)
        if not self.arrays.samples:
            nothing = torch.zeros(0, 0), np.zeros(0, np.int64)
            yield from (self.of(*nothing, generator) for _ in range(self.steps(epoch)))
            return
        start = 0
        for raw in DataLoader(_Rows(self.arrays, order), settings.batch, num_workers=settings.workers):
            yield self.of(raw, order[start : start + len(raw)], generator)
            start += len(raw)

    def of(self, raw: Tensor, rows: NDArray[np.int64], generator: torch.Generator) -> Batch:
        """Return the batch of some rows: uint8 sheets (n, rows, columns), or features of a frozen tower."""
        image, to = self.experiment.image, self.device
        if raw.ndim == 2:                                           # features of a frozen tower
            pictures = raw.to(to)
        else:
            sizes = self.constants.sizes
            changed = sheets(augment(raw, image.size, image.augment, generator), sizes) if image.augment else None
            pixels = plain(raw, sizes) if changed is None else changed
            pictures = standardised(pixels, self.constants).to(to, memory_format=torch.channels_last)
        own = self.arrays.text[rows]
        distinct = np.unique(own[own >= 0])
        extra = min(self.experiment.text.extra_batch, len(self.texts.prepared))
        drawn = torch.randperm(len(self.texts.prepared), generator=generator)[:extra].numpy()
        near = self.texts.with_altered(distinct)
        picked = torch.from_numpy(np.concatenate([near, np.setdiff1d(drawn, near)]).astype(np.int64))
        place = {int(text): index for index, text in enumerate(distinct)}
        index = torch.from_numpy(rows)
        return Batch(
            images=pictures,
            labels=torch.from_numpy(self.arrays.labels[rows]).to(to),
            auxiliary={name: torch.from_numpy(values[rows]).to(to) for name, values in self.arrays.auxiliary.items()},
            frontal=torch.from_numpy(self.arrays.frontal)[index].to(to),
            source=torch.from_numpy(self.arrays.source)[index].to(to),
            own_text=torch.tensor([place.get(int(text), -1) for text in own]).to(to),
            prepared=self.texts.prepared[picked].to(to),
            text_labels=self.texts.labels[picked].to(to),
            text_auxiliary={name: values[picked].to(to) for name, values in self.texts.auxiliary.items()},
        )
