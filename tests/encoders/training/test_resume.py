"""A run that goes on is the run that never stopped; a fresh one in a used folder owes nothing to the old one."""

import csv
import hashlib
import json
import shutil
import subprocess
import sys

import pytest
import torch

from encoders.training.build import STATE_FILE
from encoders.training.run_files import CURVES_FILE, LAST_FILE
from encoders.training.trainer import Trainer, train

#: Only the number of a process's hash seed tells one run of it from the next.
_VOCABULARY = """
import hashlib
from encoders.phantom import draw
from encoders.towers.transformer import _vocabulary
texts = sorted({text for seed in range(40) for text in draw(seed, 32)[2:]})
print(hashlib.sha256(repr(sorted(_vocabulary(texts, 400).items())).encode()).hexdigest())
"""


def with_sections(experiment, **sections):
    changed = {name: getattr(experiment, name).model_copy(update=values) for name, values in sections.items()}
    return experiment.model_copy(update=changed)


def tensors(folder):
    saved = torch.load(folder / LAST_FILE, weights_only=True)
    return saved["model"] | {f"average.{name}": value for name, value in saved["average"].items()}


def curves(folder):
    with (folder / CURVES_FILE).open(newline="", encoding="utf-8") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.parametrize("tower", ["tfidf-svd", "transformer"])
def test_two_epochs_and_two_more_are_four(tmp_path, small_experiment, tower):
    experiment = small_experiment(tmp_path, 4)
    experiment = with_sections(experiment, subspace={"dropout": 0.3}, text={"tower": tower, "width": 16})
    train(experiment, tmp_path / "straight")
    train(with_sections(experiment, train={"stop_after": 2}), tmp_path / "halves")
    train(experiment, tmp_path / "halves", True)
    straight, halves = tensors(tmp_path / "straight"), tensors(tmp_path / "halves")
    assert straight.keys() == halves.keys()
    assert all(torch.equal(value, halves[name]) for name, value in straight.items())
    assert curves(tmp_path / "straight") == curves(tmp_path / "halves")


def test_every_process_finds_the_same_word_pieces():
    told = {
        subprocess.run([sys.executable, "-c", _VOCABULARY], capture_output=True, text=True, check=True).stdout
        for _ in range(3)
    }
    assert len(told) == 1


def test_a_run_goes_on_with_the_text_tower_that_it_began_with(tmp_path, manifest, small_experiment):
    folder = tmp_path / "set"
    shutil.copytree(manifest.parent, folder)
    path = folder / manifest.name
    experiment = with_sections(small_experiment(tmp_path, 2), data={"manifest": path})
    train(with_sections(experiment, train={"stop_after": 1}), tmp_path / "run")
    cards = [torch.load(tmp_path / "run" / STATE_FILE, weights_only=False)["text_card"]]
    path.write_text(path.read_text().replace("Heart", "Cor").replace("heart", "cor"))
    cards.append(Trainer(experiment, tmp_path / "run", resume=True).model.text_tower.card())
    cards.append(Trainer(experiment, tmp_path / "other").model.text_tower.card())
    digests = [hashlib.sha256(json.dumps(card).encode()).hexdigest() for card in cards]
    assert digests[0] == digests[1] != digests[2]


def test_a_fresh_run_in_a_used_folder_leaves_nothing_of_the_old_one_to_go_on_from(tmp_path, small_experiment):
    train(small_experiment(tmp_path, 1), tmp_path / "run")

    def interrupt(what, done, of, note):
        if what.startswith("epoch"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(small_experiment(tmp_path, 1), tmp_path / "run", False, interrupt)
    assert not [name for name in (LAST_FILE, STATE_FILE, CURVES_FILE) if (tmp_path / "run" / name).exists()]


def test_the_curves_of_a_run_that_goes_on_with_another_loss_keep_their_columns(tmp_path, small_experiment):
    experiment = small_experiment(tmp_path, 2)
    train(with_sections(experiment, train={"stop_after": 1}), tmp_path / "run")
    train(with_sections(experiment, loss={"view": 0.0, "contrastive": 0.1}), tmp_path / "run", True)
    first, second = curves(tmp_path / "run")
    assert first["loss.view"]
    assert not second["loss.view"]
    assert not first["loss.contrastive"]
    assert float(second["loss.contrastive"]) > 0
    assert [first["epoch"], second["epoch"]] == ["1", "2"]
