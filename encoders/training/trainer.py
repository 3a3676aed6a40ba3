"""The training loop: seeded, resumable, stopped by validation, on one process or under torchrun."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from encoders.checkpoint import CARD_FILE
from encoders.towers.text import TextTower
from encoders.training import features
from encoders.training.arrays import build_vocabulary, exchanged
from encoders.training.batches import Batches
from encoders.training.build import (
    STATE_FILE,
    Trained,
    build_model,
    find_run,
    fit_text_tower,
    load_run,
    restored_text_tower,
)
from encoders.training.experiment import Experiment
from encoders.training.objective import Objective
from encoders.training.prepared import prepare_texts
from encoders.training.processes import Processes
from encoders.training.run_files import (
    CURVES_FILE,
    LAST_FILE,
    add_line,
    random_state,
    read_last,
    set_random_state,
    write_state,
)
from encoders.training.selection import chosen_arrays, select
from encoders.training.validation import NOT_WATCHED, figures, run, summary, watched

#: (what, done, of, note): called often, for a progress bar.
Progress = Callable[[str, int, int, str], None]

#: Beside a run: decoded images, and features of frozen towers.
CACHE_FOLDER = "cache"


class Trainer:
    """One experiment's model, optimiser and place in the schedule.

    Parameters
    ----------
    resume : bool
        Go on where the last run in the folder `output` stopped, if there was one. Otherwise its files are removed.
    """

    def __init__(
        self, experiment: Experiment, output: Path, progress: Progress | None = None, *, resume: bool = False
    ) -> None:
        self.experiment, self.output = experiment, output
        self.progress = progress or (lambda *_: None)
        settings = experiment.train
        self.processes = Processes(settings.device)
        self.rank, self.world, self.device = self.processes.rank, self.processes.world, self.processes.device
        if settings.threads:
            torch.set_num_threads(settings.threads)
        output.mkdir(parents=True, exist_ok=True)
        samples = select(experiment, "train")
        saved = read_last(output) if resume else None
        if saved is None and not self.rank:
            for file in (LAST_FILE, CURVES_FILE):
                (output / file).unlink(missing_ok=True)
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
        with self.processes.first_before_others():              # the others read what it has decoded
            self.arrays, self.held_out = chosen_arrays(
                experiment, samples, self.vocabularies, output.parent / CACHE_FOLDER, self._decoding
            )
        tower = self._text_tower(saved, earlier)
        with self.processes.first_before_others():
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
        if saved is None and not self.rank:
            (output / STATE_FILE).unlink(missing_ok=True)           # only now: this one may have begun with it
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
        if saved is not None:
            self._restore(saved)

    def _decoding(self, what: str, done: int, of: int) -> None:
        self.progress(what, done, of, "")

    def _text_tower(self, saved: dict[str, Any] | None, earlier: Trained | None) -> TextTower:
        """Return the tower of the run that goes on, or of the earlier one, or a new one: in all processes the same."""
        if saved is not None and "text_card" in saved:
            return restored_text_tower(self.experiment, saved["text_card"], saved["text_tensors"])
        if earlier is not None:
            return earlier.model.text_tower
        fitted = None if self.rank else fit_text_tower(self.experiment, self.arrays.texts)
        told = self.processes.of_first((fitted.card(), fitted.tensors()) if fitted and self.world > 1 else None)
        if fitted is not None:
            return fitted
        assert told is not None
        return restored_text_tower(self.experiment, *told)

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
        together = settings.accumulate
        total = sum(math.ceil(self.batches.steps(epoch) / together) for epoch in range(settings.epochs))
        sums: dict[str, float] = {}
        self.model.train()
        autocast = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(settings.autocast)
        began = time.monotonic()
        for number, batch in enumerate(self.batches.each(self.epoch)):
            first = number - number % together                      # of the batches of this step
            last = number + 1 == min(first + together, steps)
            with self._until_all_have(last):
                with torch.autocast(self.device.type, autocast or torch.bfloat16, enabled=autocast is not None):
                    parts = self.objective(batch)
                    loss = torch.stack(list(parts.values())).sum()
                self.scaler.scale(loss / min(together, steps - first)).backward()  # type: ignore[no-untyped-call]
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

    def save(self, values: dict[str, float], improved: bool) -> None:
        """Write the place to resume from, and the best model if this is it; each file at once or not at all."""
        weights = self.average if self.average is not None else self.model.state_dict()
        tower = self.model.text_tower
        text = {"text_card": tower.card(), "text_tensors": tower.tensors()}
        if improved:
            write_state(
                self.output / STATE_FILE,
                {
                    "experiment": self.experiment.model_dump(mode="json"),
                    "model": weights,
                    "figures": values,
                    "epoch": self.epoch,
                    **text,
                    "vocabularies": [(v.name, v.datasets, v.labels, v.uncoded) for v in self.vocabularies],
                },
            )
        write_state(
            self.output / LAST_FILE,
            {
                "model": self.model.state_dict(),
                "average": self.average,
                "optimiser": self.optimiser.state_dict(),
                "scaler": self.scaler.state_dict(),
                "random": random_state(self.device),
                "epoch": self.epoch,
                "step": self.step,
                "best": self.best,
                "best_epoch": self.best_epoch,
                **text,
            },
        )

    def _restore(self, saved: dict[str, Any]) -> None:
        self.model.load_state_dict(saved["model"])
        if saved["average"] is not None:
            self.average = {name: value.to(self.device) for name, value in saved["average"].items()}
        self.optimiser.load_state_dict(saved["optimiser"])
        self.scaler.load_state_dict(saved["scaler"])
        self.epoch, self.step = saved["epoch"], saved["step"]
        self.best, self.best_epoch = saved["best"], saved["best_epoch"]
        if "random" in saved:                                       # not in those of earlier versions
            set_random_state(saved["random"], self.device)

    def log(self, sums: dict[str, float], values: dict[str, float], seconds: float) -> None:
        """Add a line to the curves."""
        row: dict[str, Any] = {
            "epoch": self.epoch,
            "seconds": round(seconds, 1),
            **{f"loss.{name}": round(value, 5) for name, value in sums.items()},
            **{f"val.{name}": round(value, 5) for name, value in values.items()},
        }
        if not values:
            row["val"] = "too few images"
        add_line(self.output / CURVES_FILE, row)

    def epochs(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Train until the last epoch or until validation stops improving; yield each epoch's figures."""
        settings = self.experiment.train
        while self.epoch < (settings.stop_after or settings.epochs):
            if settings.patience and self.best_epoch >= 0 and self.epoch - self.best_epoch >= settings.patience:
                return
            began = time.monotonic()
            sums = self.run_epoch()
            self.epoch += 1
            values = self.processes.of_first({} if self.rank else self.validate())   # all stop after the same epoch
            # Too few to judge by: the last epoch is kept.
            improved = not values or summary(values) > self.best
            if improved:
                self.best, self.best_epoch = summary(values), self.epoch
            if self.rank == 0:
                self.save(values, improved or settings.keep == "last")
                self.log(sums, values, time.monotonic() - began)
            yield self.epoch, values


def train(experiment: Experiment, output: Path, resume: bool = False, progress: Progress | None = None) -> Path:
    """Run an experiment; return the file of its best model.

    Raises
    ------
    ManifestError
        If there is nothing to train on or to validate with.
    """
    trainer = Trainer(experiment, output, progress, resume=resume)
    if not watched(trainer.held_out):
        trainer.progress("validation", 0, 1, NOT_WATCHED)
    for epoch, values in trainer.epochs():
        shown = "  ".join(f"{name} {value:.3f}" for name, value in values.items())
        trainer.progress(f"epoch {epoch}/{experiment.train.epochs}", 1, 1, shown)
    if trainer.world > 1:
        distributed.destroy_process_group()
    return output / STATE_FILE
