"""One training in two processes of torchrun: real processes, gloo, a small experiment on phantoms."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from encoders.training.arrays import build_arrays
from encoders.training.build import STATE_FILE
from encoders.training.manifest import read_manifest
from encoders.training.run_files import CURVES_FILE, LAST_FILE
from encoders.training.sampling import epoch_order

#: What each process ends with; the second must take the first one's word for the validation, and its text tower.
_SCRIPT = """
import hashlib, json, os, sys
from pathlib import Path
import torch
from torch import distributed
from encoders.training import trainer
from encoders.training.experiment import load_experiment
out = Path(sys.argv[2])
if os.environ["RANK"] == "1":
    trainer.fit_text_tower = None
made = trainer.Trainer(load_experiment(Path(sys.argv[1])), out)
shown = [row for epoch in (0, 1) for row in made.batches._order(epoch).tolist()]
if made.rank:
    made.validate = lambda: 1 / 0
epochs = [epoch for epoch, _ in made.epochs()]
def digest(tensors):
    whole = hashlib.sha256()
    for tensor in tensors:
        whole.update(tensor.detach().numpy().tobytes())
    return whole.hexdigest()
told = {
    "epochs": epochs, "shown": shown, "steps": made.step, "best": made.best_epoch,
    "parameters": digest(made.model.parameters()),
}
(out / f"{made.rank}.json").write_text(json.dumps(told))
distributed.destroy_process_group()
"""


def torchrun(*arguments, cwd):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def experiment(tmp_path, small_experiment):
    """Return a file of three epochs in steps of two batches, which stop after the first that is no better."""
    small_experiment(tmp_path, 3)
    path = tmp_path / "tiny-3-True.toml"
    text = path.read_text().replace("threads = 1", "threads = 1\naccumulate = 2\npatience = 1")
    path.write_text(text, encoding="utf-8")
    return path


def test_processes_see_their_own_images_and_end_with_the_same_weights_after_the_same_epoch(tmp_path, experiment):
    (tmp_path / "both.py").write_text(_SCRIPT, encoding="utf-8")
    torchrun("both.py", str(experiment), str(tmp_path / "run"), cwd=tmp_path)
    first, second = (json.loads((tmp_path / "run" / f"{rank}.json").read_text()) for rank in (0, 1))
    assert not set(first.pop("shown")[:16]) & set(second.pop("shown")[:16])
    assert first == second
    assert first["steps"] > 0


def test_the_command_trains_in_two_processes_and_goes_on(tmp_path, experiment):
    command = ["-m", "daemon", "train", "--config", str(experiment), "--out", "out", "--no-export", "--quiet"]
    torchrun(*command, cwd=tmp_path)
    run = tmp_path / "out" / "run"
    assert (run / STATE_FILE).exists()
    assert (run / LAST_FILE).exists()
    with (run / CURVES_FILE).open(newline="", encoding="utf-8") as file:
        epochs = [row["epoch"] for row in csv.DictReader(file)]
    assert epochs[0] == "1"
    experiment.write_text(experiment.read_text().replace("epochs = 3", "epochs = 4").replace("patience = 1", ""))
    torchrun(*command, "--resume", cwd=tmp_path)
    with (run / CURVES_FILE).open(newline="", encoding="utf-8") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == [*epochs, *map(str, range(len(epochs) + 1, 5))]


@pytest.mark.parametrize("batch", [3, 4, 11, 40])
def test_all_processes_take_the_same_steps(tmp_path, manifest, batch):
    """Else one waits for ever for the gradients of the other."""
    arrays = build_arrays(read_manifest(manifest, "train"), (), (32,), tmp_path)
    for seed in range(6):
        weights = np.full(len(arrays.samples), 1.4)
        orders = [epoch_order(arrays, weights, batch, (seed, 0), rank=rank, world=3) for rank in range(3)]
        assert len({len(order) for order in orders}) == 1
