"""Cells leave out what lies far from the query, and look again where that may have been too much."""

import numpy as np
import pytest

from storage.base import StorageError
from storage.index import cells as module
from storage.index import hnsw
from storage.index import sketch as sketch_module
from storage.index.cells import CELLS, Cells
from storage.index.hnsw import HnswIndex
from storage.index.sketch import FITTED_TO, Sketch

DIM, COUNT = 64, 12_000


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def on_a_surface(count, seed=0, dimensions=6):
    surface, rng = np.random.default_rng(99), np.random.default_rng(seed)
    inner, outer = surface.normal(size=(dimensions, 40)) / 2, surface.normal(size=(40, DIM))
    rows = np.tanh(rng.normal(size=(count, dimensions)) @ inner + surface.normal(size=40)) @ outer
    return unit(rows + surface.normal(size=DIM) * 3 + 0.3 * rng.normal(size=(count, DIM)))


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Have small indexes cells, and small filters look at them."""
    monkeypatch.setattr(sketch_module, "FITTED_FROM", FITTED_TO)
    monkeypatch.setattr(module, "FITTED_FROM", 8192)
    monkeypatch.setattr(sketch_module, "CELLS_FROM", 3000)
    monkeypatch.setattr(hnsw, "CELLS_FROM", 3000)


@pytest.fixture
def looked_at(monkeypatch):
    """Return how many rows each look at sketches took, in turn."""
    counts, scan_some = [], Sketch._scan_some

    def counted(self, codes, query, code, rows, k):
        counts.append(len(rows))
        return scan_some(self, codes, query, code, rows, k)

    monkeypatch.setattr(Sketch, "_scan_some", counted)
    return counts


def test_a_quarter_of_the_rows_is_looked_at_and_the_nearest_are_among_them(looked_at, sketched):
    rows, queries = on_a_surface(COUNT), on_a_surface(40, seed=1)
    codes, sketch = sketched(rows)
    some = np.flatnonzero(np.random.default_rng(2).random(COUNT) < 0.6)
    found = 0
    for query in queries:
        near, cosines, _ = sketch.scan(codes, query, some, 10)
        assert np.array_equal(cosines, codes.scan(query, near)[0])
        found += len(set(some[np.argsort(-(rows[some] @ query))[:10]].tolist()) & set(near.tolist()))
    assert found >= 0.99 * 10 * len(queries)
    assert np.median(looked_at) < 0.3 * len(some)


def test_what_is_far_from_the_query_is_looked_for_in_all_cells(looked_at, sketched):
    rows, queries = on_a_surface(COUNT), on_a_surface(20, seed=1)
    codes, sketch = sketched(rows)
    found = 0
    for query in queries:
        cosines = rows @ query
        far = np.flatnonzero(cosines < np.quantile(cosines, 0.4))
        near, _, _ = sketch.scan(codes, query, far, 10)
        found += len(set(far[np.argsort(-cosines[far])[:10]].tolist()) & set(near.tolist()))
    assert found >= 0.99 * 10 * len(queries)
    assert max(looked_at) > 0.4 * 0.9 * COUNT


def test_vectors_without_neighbourhoods_are_all_looked_at(sketched):
    rows = unit(np.random.default_rng(0).normal(size=(COUNT, DIM)))
    codes, sketch = sketched(rows)
    every, found = np.arange(COUNT), 0
    for query in unit(np.random.default_rng(1).normal(size=(20, DIM))):
        near, _, _ = sketch.scan(codes, query, every, 10)
        found += len(set(np.argsort(-(rows @ query))[:10].tolist()) & set(near.tolist()))
    assert found >= 0.98 * 10 * 20


def test_each_row_lies_in_the_cell_that_is_reached_first_from_it(sketched):
    _, sketch = sketched(on_a_surface(COUNT))
    rows, cells = sketch._rows[:COUNT], sketch._cells
    for row in range(0, COUNT, 500):
        reached = cells.reached(rows[row])
        assert reached[cells.of(np.asarray([row]))[0]] == reached.min()
        assert reached.max() == 1


def test_rows_that_are_all_the_same_have_cells_too():
    cells = Cells(8)
    cells.follow(np.ones((9000, 8), dtype=np.int8))
    assert cells.count == 9000
    assert cells.reached(np.ones(8, dtype=np.int8))[cells.of(np.arange(9000))].max() == 1


def test_few_rows_have_no_cells(sketched):
    _, sketch = sketched(on_a_surface(8191))
    assert not sketch.has_cells


def test_cells_are_as_they_were_when_read_again_and_made_where_a_snapshot_has_none(tmp_path, sketched):
    codes, sketch = sketched(on_a_surface(COUNT))
    sketch.save(tmp_path)
    again = Sketch.load(tmp_path, codes)
    assert np.array_equal(again._cells.of(np.arange(COUNT)), sketch._cells.of(np.arange(COUNT)))
    for name in ("cells.npy", "centres.npy"):
        (tmp_path / name).unlink()                                  # as an earlier version wrote it
    assert Sketch.load(tmp_path, codes)._cells.count == COUNT
    codes.append(on_a_surface(300, seed=2))
    again.follow(codes)
    assert again._cells.count == COUNT + 300


def test_cells_of_other_rows_are_refused(tmp_path, sketched):
    _, sketch = sketched(on_a_surface(COUNT))
    sketch._cells.save(tmp_path)
    with pytest.raises(StorageError, match="rebuild"):
        Cells.load(tmp_path, sketch._rows[:9000])
    np.save(tmp_path / "cells.npy", np.full(COUNT, CELLS, dtype=np.uint16))
    with pytest.raises(StorageError, match="rebuild"):
        Cells.load(tmp_path, sketch._rows[:COUNT])


def test_a_filter_finds_what_came_after_the_cells_were_fitted_and_after_a_rebuild(tmp_path):
    rows = on_a_surface(COUNT)
    index = HnswIndex(DIM, threads=1, m=4, ef_construction=10)
    index.add(np.arange(9000), rows[:9000])
    index.save(tmp_path)
    index = HnswIndex.load(tmp_path, DIM, m=4, ef_construction=10)
    index.add(np.arange(9000, COUNT), rows[9000:])
    wanted, allowed = range(8950, COUNT, 150), np.arange(6000, COUNT)
    assert [index.search(rows[label], 1, allowed)[0].label for label in wanted] == list(wanted)
    index.remove(range(2500))
    assert index._sketch._cells.count == index._codes.count == COUNT - 2500
    assert [index.search(rows[label], 1, allowed)[0].label for label in wanted] == list(wanted)
