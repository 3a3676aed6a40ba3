"""What a weights file keeps of a model's tensors."""

import os

import pytest
import torch

from encoders.tensors import LARGE, read_tensors, write_tensors


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    return {
        "convolution": torch.randn(400, 256, 1, 1) * torch.logspace(-4, 2, 400).reshape(400, 1, 1, 1),
        "zeros": torch.zeros(1000, 100),
        "small": torch.randn(20, 30),
        "bias": torch.randn(5),
    }


def test_eight_bits_are_off_by_half_a_step_of_their_row_at_most(tmp_path, tensors):
    write_tensors(tensors, tmp_path / "w", "int8")
    found = read_tensors(tmp_path / "w")
    assert found.keys() == tensors.keys()
    for name in ("convolution", "zeros"):
        rows, kept = tensors[name].flatten(1), found[name].flatten(1)
        assert found[name].shape == tensors[name].shape
        assert ((rows - kept).abs() <= rows.abs().amax(1, keepdim=True) * (0.5001 / 127)).all()
        assert tensors[name].numel() >= LARGE
    assert torch.equal(found["small"], tensors["small"].half().float())
    assert torch.equal(found["bias"], tensors["bias"])


def test_half_precision_is_what_it_says(tmp_path, tensors):
    write_tensors(tensors, tmp_path / "w", "float16")
    found = read_tensors(tmp_path / "w")
    assert torch.equal(found["convolution"], tensors["convolution"].half().float())
    assert torch.equal(found["bias"], tensors["bias"])


def test_eight_bits_halve_the_file(tmp_path, tensors):
    for precision in ("float16", "int8"):
        write_tensors(tensors, tmp_path / precision, precision)
    assert (tmp_path / "int8").stat().st_size < 0.55 * (tmp_path / "float16").stat().st_size


def test_a_weights_file_may_be_read_by_whom_the_umask_lets_read(tmp_path, tensors):
    before = os.umask(0o027)
    try:
        write_tensors(tensors, tmp_path / "w", "int8")
    finally:
        os.umask(before)
    assert (tmp_path / "w").stat().st_mode & 0o777 == 0o640
