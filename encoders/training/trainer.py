"""The training loop: seeded, resumable, stopped by validation, on one process or under torchrun."""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from encoders.checkpoint import CARD_FILE
from encoders.training import features
from encoders.training.arrays import Arrays, build_arrays, build_vocabulary, exchanged
from encoders.training.batches import Batches
from encoders.training.build import STATE_FILE, build_model, find_run, fit_text_tower, load_run
from encoders.training.experiment import Experiment
from encoders.training.manifest import ManifestError, Sample, read_manifest
from encoders.training.objective import Objective
from encoders.training.phantoms import phantom_samples
from encoders.training.prepared import prepare_texts
from encoders.training.validation import figures, run, summary

#: (what, done, of, note): called often, for a progress bar.
Progress = Callable[[str, int, int, str], None]

#: Seed of the first training phantom; demo and tests use small seeds.
FIRST_PHANTOM = 1_000_000

LAST_FILE, CURVES_FILE = "last.pt", "curves.csv"
#: The processes of torchrun wait so long for each other: the first decodes the images of all.
PATIENCE = timedelta(days=2)
#: Beside a run: decoded images, and features of frozen towers.
CACHE_FOLDER = "cache"


def select(experiment: Experiment, split: str) -> list[Sample]:
    """Return the samples that an experiment uses of one split."""
    data = experiment.data
    samples = [
        s
        for s in read_manifest(data.manifest, split)
        if (not data.datasets or any(s.dataset.startswith(prefix) for prefix in data.datasets))
        and (s.view in data.views or s.image_path is None)
    ]
    if not samples:
        raise ManifestError(f"{data.manifest}: no {split} rows of the data sets and views asked for; see [data]")
    if split == "train" and data.limit and len(samples) > data.limit:
        chosen = np.random.default_rng(experiment.seed).permutation(len(samples))[: data.limit]
        samples = [samples[i] for i in sorted(chosen)]
    return samples


def demand(experiment: Experiment, arrays: Arrays) -> None:
    """Raise ManifestError where an experiment would learn nothing from its training data."""
    path = experiment.data.manifest
    if not arrays.samples:
        raise ManifestError(
            f"{path}: no train row has an image; reports alone teach only beside images: add some (they need no report)"
        )
    known = any(not np.isnan(labels).all() for labels in (arrays.labels, arrays.text_labels))
    if experiment.loss.findings and not known:
        raise ManifestError(
            f"{path}: no train row names a finding in its column chexpert; fill it (No Finding where there is none) or "
            "set [loss] findings = 0 to learn from the other losses alone"
        )


class Trainer:
    """One experiment's model, optimiser and place in the schedule."""

    def __init__(self, experiment: Experiment, output: Path, progress: Progress | None = None) -> None:
        self.experiment, self.output = experiment, output
        self.progress = progress or (lambda *_: None)
        settings = experiment.train
        self.rank, self.world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self.device = torch.device(settings.device)
        if self.world > 1:
            on_gpu = self.device.type == "cuda"
            if on_gpu:
                self.device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
                torch.cuda.set_device(self.device)
            distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        output.mkdir(parents=True, exist_ok=True)
        samples = select(experiment, "train")
        self.vocabularies = tuple(build_vocabulary(rule, samples) for rule in experiment.data.auxiliary)
        start = experiment.image.weights
        if start is not None and not (start.is_file() or (start / CARD_FILE).is_file()):
            found = find_run(str(start), output.parent)
            image = experiment.image.model_copy(update={"weights": found / STATE_FILE})
            self.experiment = experiment = experiment.model_copy(update={"image": image})
        earlier = load_run(find_run(settings.initial, output.parent)) if settings.initial else None
        if earlier is not None:
            self.vocabularies = earlier.vocabularies
        self.constants = experiment.image.preprocessing
        with self._first_process_first():                           # the others read what it has decoded
            self.arrays, self.held_out = self._arrays(samples, output.parent / CACHE_FOLDER)
            demand(experiment, self.arrays)
            tower = earlier.model.text_tower if earlier else fit_text_tower(experiment, self.arrays.texts)
            self.model = build_model(experiment, tower, self.vocabularies)
            if earlier is not None:
                # An earlier run may lack the direct predictions.
                self.model.load_state_dict(earlier.model.state_dict(), strict=False)
            self.model.to(self.device)
            if features.always_the_same(self.model, experiment.image):
                self.arrays, self.held_out = (
                    features.with_features(
                        self.model, arrays, self.constants, output.parent / CACHE_FOLDER, self._decoding
                    )
                    for arrays in (self.arrays, self.held_out)
                )
        if experiment.data.exchanged:
            within = experiment.data.exchanged == "source"
            self.arrays = exchanged(self.arrays, experiment.seed, within_source=within)
        texts = prepare_texts(
            self.model,
            self.arrays,
            self.vocabularies,
            prompts=experiment.text.prompts and bool(self.arrays.texts),    # no report, no word of theirs is known
            hard_negatives=experiment.text.hard_negatives,
            seed=experiment.seed,
        )
        self.batches = Batches(experiment, self.arrays, texts, self.device, self.rank, self.world)
        self.objective: nn.Module = Objective(self.model, experiment.loss)
        if self.world > 1:                                          # not every batch has something for every layer
            devices = [self.device.index] if self.device.type == "cuda" else None
            self.objective = DistributedDataParallel(self.objective, devices, find_unused_parameters=True)
        self.optimiser = self._optimiser()
        self.average = self._copy() if settings.ema else None
        self.epoch, self.step, self.best, self.best_epoch = 0, 0, -math.inf, -1
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.autocast == "float16")

    def _decoding(self, what: str, done: int, of: int) -> None:
        self.progress(what, done, of, "")

    def _arrays(self, samples: list[Sample], cache: Path) -> tuple[Arrays, Arrays]:
        """Return what is trained on, simulated studies with it, and what is validated with."""
        experiment, data = self.experiment, self.experiment.data
        if data.phantoms:
            samples = samples + phantom_samples(
                data.phantoms, FIRST_PHANTOM, data.cache_size, cache / "phantoms", "train"
            )
        shown = build_arrays(
            samples, self.vocabularies, (data.cache_size,), cache,
            paired_fraction=data.paired_fraction, seed=experiment.seed, progress=self._decoding,
        )  # fmt: skip
        held_out = build_arrays(
            select(experiment, "val"), self.vocabularies, self.constants.sizes, cache, progress=self._decoding
        )
        return shown, held_out

    @contextmanager
    def _first_process_first(self) -> Iterator[None]:
        """Let the first process of torchrun through the block before the others."""
        if self.rank:
            distributed.barrier()
        yield
        if self.world > 1 and not self.rank:
            distributed.barrier()

    def _of_first_process(self, values: dict[str, float]) -> dict[str, float]:
        """Return what the first process of torchrun has."""
        told = [values]
        if self.world > 1:
            distributed.broadcast_object_list(told, 0)
        return told[0]

    def _optimiser(self) -> torch.optim.Optimizer:
        settings = self.experiment.train
        tower = [p for p in self.model.image_tower.parameters() if p.requires_grad]
        known = {id(p) for p in self.model.image_tower.parameters()}
        rest = [p for p in self.model.parameters() if id(p) not in known]
        groups: list[dict[str, Any]] = [{"params": rest, "lr": settings.learning_rate, "rate": settings.learning_rate}]
        if tower and settings.tower_rate > 0:
            groups.append({"params": tower, "lr": settings.tower_rate, "rate": settings.tower_rate})
        return torch.optim.AdamW(groups, betas=settings.betas, weight_decay=settings.weight_decay)

    def _copy(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.model.state_dict().items()}

    def _set_rates(self, total_steps: int) -> None:
        """Linear warm-up, then half a cosine down to a hundredth."""
        warm = max(1, round(self.experiment.train.warmup * total_steps))
        if self.step < warm:
            factor = (self.step + 1) / warm
        else:
            done = min(1.0, (self.step - warm) / max(1, total_steps - warm))
            factor = 0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2
        for group in self.optimiser.param_groups:
            group["lr"] = group["rate"] * factor

    def _update_average(self) -> None:
        if self.average is None:
            return
        decay = min(self.experiment.train.ema, (1 + self.step) / (10 + self.step))
        for name, value in self.model.state_dict().items():
            if value.dtype.is_floating_point:
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    def _until_all_have(self, last: bool) -> AbstractContextManager[None]:
        """Return a context in which gradients are added up, and exchanged only where it is the last of a step."""
        if last or not isinstance(self.objective, DistributedDataParallel):
            return nullcontext()
        return self.objective.no_sync()

    def run_epoch(self) -> dict[str, float]:
        """Train one epoch; return the mean of each loss."""
        settings = self.experiment.train
        steps = self.batches.steps(self.epoch)
        total = sum(self.batches.steps(epoch) for epoch in range(settings.epochs)) // settings.accumulate
        sums: dict[str, float] = {}
        self.model.train()
        autocast = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(settings.autocast)
        began = time.monotonic()
        for number, batch in enumerate(self.batches.each(self.epoch)):
            last = (number + 1) % settings.accumulate == 0
            with self._until_all_have(last):
                with torch.autocast(self.device.type, autocast or torch.bfloat16, enabled=autocast is not None):
                    parts = self.objective(batch)
                    loss = torch.stack(list(parts.values())).sum()
                self.scaler.scale(loss / settings.accumulate).backward()  # type: ignore[no-untyped-call]
            if last:
                self._set_rates(total)
                self.scaler.unscale_(self.optimiser)
                nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
                self.scaler.step(self.optimiser)
                self.scaler.update()
                self.optimiser.zero_grad(set_to_none=True)
                self.step += 1
                self._update_average()
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) / steps
            rate = (number + 1) * settings.batch / (time.monotonic() - began)
            self.progress(f"epoch {self.epoch + 1}/{settings.epochs}", number + 1, steps, f"{rate:.0f} images/s")
        return sums

    def validate(self) -> dict[str, float]:
        """Return the validation figures of the averaged weights (of the current ones without averaging)."""
        current = None
        if self.average is not None:
            current = self._copy()
            self.model.load_state_dict(self.average)
        values = figures(self.held_out, run(self.model, self.held_out, self.constants))
        if current is not None:
            self.model.load_state_dict(current)
        return values

    def _save(self, file: str, content: dict[str, Any]) -> None:
        part = self.output / f"{file}.part"
        torch.save(content, part)
        os.replace(part, self.output / file)

    def save(self, values: dict[str, float], improved: bool) -> None:
        """Write the place to resume from, and the best model if this is it; each file at once or not at all."""
        weights = self.average if self.average is not None else self.model.state_dict()
        if improved:
            tower = self.model.text_tower
            self._save(
                STATE_FILE,
                {
                    "experiment": self.experiment.model_dump(mode="json"),
                    "model": weights,
                    "figures": values,
                    "epoch": self.epoch,
                    "text_card": tower.card(),
                    "text_tensors": tower.tensors(),
                    "vocabularies": [(v.name, v.datasets, v.labels, v.uncoded) for v in self.vocabularies],
                },
            )
        self._save(
            LAST_FILE,
            {
                "model": self.model.state_dict(),
                "average": self.average,
                "optimiser": self.optimiser.state_dict(),
                "scaler": self.scaler.state_dict(),
                "epoch": self.epoch,
                "step": self.step,
                "best": self.best,
                "best_epoch": self.best_epoch,
            },
        )

    def restore(self) -> bool:
        """Go on where the last run in this folder stopped; return whether there was one."""
        path = self.output / LAST_FILE
        if not path.exists():
            return False
        saved = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(saved["model"])
        self.average = saved["average"]
        self.optimiser.load_state_dict(saved["optimiser"])
        self.scaler.load_state_dict(saved["scaler"])
        self.epoch, self.step = saved["epoch"], saved["step"]
        self.best, self.best_epoch = saved["best"], saved["best_epoch"]
        return True

    def log(self, sums: dict[str, float], values: dict[str, float], seconds: float) -> None:
        """Add a line to the curves."""
        path = self.output / CURVES_FILE
        row = {
            "epoch": self.epoch,
            "seconds": round(seconds, 1),
            **{f"loss.{name}": round(value, 5) for name, value in sums.items()},
            **{f"val.{name}": round(value, 5) for name, value in values.items()},
        }
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)

    def epochs(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Train until the last epoch or until validation stops improving; yield each epoch's figures."""
        settings = self.experiment.train
        while self.epoch < (settings.stop_after or settings.epochs):
            if settings.patience and self.epoch - self.best_epoch > settings.patience and self.best_epoch >= 0:
                return
            began = time.monotonic()
            sums = self.run_epoch()
            self.epoch += 1
            values = self._of_first_process({} if self.rank else self.validate())   # all stop after the same epoch
            # Too few to judge by: the last epoch is kept.
            improved = settings.keep == "last" or not values or summary(values) > self.best
            if improved:
                self.best, self.best_epoch = summary(values), self.epoch
            if self.rank == 0:
                self.save(values, improved)
                self.log(sums, values, time.monotonic() - began)
            yield self.epoch, values


def train(experiment: Experiment, output: Path, resume: bool = False, progress: Progress | None = None) -> Path:
    """Run an experiment; return the file of its best model.

    Raises
    ------
    ManifestError
        If there is nothing to train on or to validate with.
    """
    trainer = Trainer(experiment, output, progress)
    if not (resume and trainer.restore()) and not trainer.rank:
        (output / CURVES_FILE).unlink(missing_ok=True)
    for epoch, values in trainer.epochs():
        shown = "  ".join(f"{name} {value:.3f}" for name, value in values.items())
        trainer.progress(f"epoch {epoch}/{experiment.train.epochs}", 1, 1, shown)
    if trainer.world > 1:
        distributed.destroy_process_group()
    return output / STATE_FILE
