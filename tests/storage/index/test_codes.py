"""8-bit codes: near enough to say who may be nearest."""

import numpy as np
import pytest

from storage.base import StorageError
from storage.index.codes import CodeRows, nearest


def unit_rows(count, seed=0, dim=64, spread=1.0):
    rows = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    rows[:, 0] += 10 * (1 - spread)                                 # a narrow cone is harder: all cosines are near 1
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(params=[1.0, 0.3])
def rows(request):
    return unit_rows(5000, spread=request.param)


def coded(rows):
    codes = CodeRows(rows.shape[1])
    for start in range(0, len(rows), 700):
        codes.append(rows[start : start + 700])
    return codes


def test_cosines_of_codes_are_within_what_they_say(rows):
    codes = coded(rows)
    for query in unit_rows(20, seed=1):
        cosines, blur = codes.scan(query)
        assert np.abs(cosines - rows @ query).max() < blur < 0.05


@pytest.mark.parametrize("share", [0.01, 0.25, 0.8])
def test_some_rows_are_scanned_as_all_are(rows, share):
    codes, query = coded(rows), unit_rows(1, seed=2)[0]
    some = np.flatnonzero(np.random.default_rng(3).random(len(rows)) < share)
    assert np.array_equal(codes.scan(query, some)[0], codes.scan(query)[0][some])


@pytest.mark.parametrize("k", [1, 10, 300])
def test_the_nearest_are_among_those_that_are_left(rows, k):
    codes = coded(rows)
    for query in unit_rows(30, seed=4):
        left = nearest(*codes.scan(query), k)
        assert set(np.argsort(-(rows @ query))[:k]) <= set(left.tolist())
        assert len(left) <= 4 * k + 256


def test_all_are_left_when_there_are_no_more_than_asked_for():
    assert nearest(np.zeros(3, dtype=np.float32), 0.1, 5).tolist() == [0, 1, 2]


def test_codes_of_another_dimension_are_refused(tmp_path):
    coded(unit_rows(10)).save(tmp_path)
    assert CodeRows.load(tmp_path, 64).count == 10
    with pytest.raises(StorageError, match="dim 65"):
        CodeRows.load(tmp_path, 65)


def test_the_first_addition_after_loading_copies_nothing(tmp_path):
    coded(unit_rows(1000)).save(tmp_path)
    codes = CodeRows.load(tmp_path, 64)
    held = codes._codes
    codes.append(unit_rows(100, seed=1))
    assert codes._codes is held
    whole = coded(np.vstack([unit_rows(1000), unit_rows(100, seed=1)]))
    assert np.array_equal(codes.decoded(slice(0, 1100)), whole.decoded(slice(0, 1100)))
