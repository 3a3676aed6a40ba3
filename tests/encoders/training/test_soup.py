"""Averages of runs: what is averaged, and which runs cannot be."""

import pytest
import torch

from encoders.training.build import STATE_FILE, RunError
from encoders.training.run_files import LAST_FILE
from encoders.training.soup import average_runs


@pytest.fixture
def run(tmp_path):
    """Return a function that writes a run whose weights are all one number."""

    def write(name, best, last=None, *, width=3, **more):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        tensors = {"w": torch.full((width,), float(best)), "steps": torch.tensor(7), **more}
        state = {"experiment": {"image": {"size": 160}}, "model": tensors, "epoch": 1}
        torch.save(state, folder / STATE_FILE)
        if last is not None:
            end = {"w": torch.full((width,), float(last)), "steps": torch.tensor(9)}
            torch.save({"average": None, "model": end, "epoch": 2}, folder / LAST_FILE)
        return str(folder)

    return write


def _weights(folder):
    return torch.load(folder / STATE_FILE, weights_only=False)["model"]


def test_shares_weigh_the_runs_best_or_last_epochs(run, tmp_path):
    run("a", 1, last=5)
    run("b", 2)
    result = _weights(average_runs({"a:last": 1, "b": 3}, tmp_path, "mean"))
    assert result["w"].tolist() == [2.75] * 3
    assert result["steps"] == 9


def test_paths_name_runs_in_other_folders(run, tmp_path):
    paths = [run("here/a/run", 1), run("there/b", 3)]
    folder = average_runs(dict.fromkeys(paths, 1.0), tmp_path / "nowhere", str(tmp_path / "mean"), size=96)
    assert folder == tmp_path / "mean"
    assert _weights(folder)["w"].tolist() == [2.0] * 3
    assert torch.load(folder / STATE_FILE, weights_only=False)["experiment"]["image"]["size"] == 96


def test_what_one_run_alone_has_is_kept_as_it_is(run, tmp_path):
    run("a", 1, direct=torch.tensor([4.0]))
    run("b", 3)
    assert _weights(average_runs({"a": 1, "b": 1}, tmp_path, "mean"))["direct"].tolist() == [4.0]


def test_runs_that_are_not_there_or_do_not_fit_are_named(run, tmp_path):
    run("a", 1)
    run("wide", 1, width=4)
    with pytest.raises(RunError, match="'gone'"):
        average_runs({"a": 1, "gone": 1}, tmp_path, "mean")
    with pytest.raises(RunError, match="no last epoch"):
        average_runs({"a:last": 1}, tmp_path, "mean")
    with pytest.raises(RunError, match=r"wide cannot be averaged with a: its w is \(4,\)"):
        average_runs({"a": 1, "wide": 1}, tmp_path, "mean")
