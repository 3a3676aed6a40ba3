"""The sketch leaves out whom nobody asked for, and nobody else."""

import numpy as np
import pytest

from storage.base import StorageError
from storage.index import sketch as module
from storage.index.hnsw import HnswIndex
from storage.index.sketch import FITTED_TO, Sketch

DIM = 128


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def on_a_surface(count, seed=0):
    """Return unit vectors of 10 dimensions in 128, bent, in a narrow cone, with noise."""
    surface, rng = np.random.default_rng(99), np.random.default_rng(seed)
    inner, outer = surface.normal(size=(10, 40)) / 3, surface.normal(size=(40, DIM))
    rows = np.tanh(rng.normal(size=(count, 10)) @ inner + surface.normal(size=40)) @ outer
    return unit(rows + surface.normal(size=DIM) * 3 + 0.3 * rng.normal(size=(count, DIM)))


def noise(count, seed=0):
    return unit(np.random.default_rng(seed).normal(size=(count, DIM)))


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Have small indexes a sketch."""
    monkeypatch.setattr(module, "FITTED_FROM", FITTED_TO)


@pytest.mark.parametrize("k", [1, 10, 63])
def test_few_are_left_where_vectors_have_few_dimensions_and_the_nearest_are_among_them(k, sketched):
    rows, queries = on_a_surface(12_000), on_a_surface(40, seed=1)
    codes, sketch = sketched(rows)
    some = np.flatnonzero(np.random.default_rng(2).random(len(rows)) < 0.6)
    left = found = 0
    for query in queries:
        near, cosines, _ = sketch.scan(codes, query, some, k)
        assert np.array_equal(cosines, codes.scan(query, near)[0])
        assert np.isin(near, some).all()
        left += len(near)
        found += len(set(some[np.argsort(-(rows[some] @ query))[:k]].tolist()) & set(near.tolist()))
    assert left / len(queries) < len(some) / 5
    assert found >= 0.995 * k * len(queries)


def test_what_lies_on_the_other_side_is_found_as_well(sketched):
    rows, queries = on_a_surface(12_000), on_a_surface(40, seed=1)
    codes, sketch = sketched(rows)
    found = 0
    for query in queries:
        cosines = rows @ query
        far = np.flatnonzero(cosines < np.quantile(cosines, 0.3))
        near, _, _ = sketch.scan(codes, query, far, 10)
        found += len(set(far[np.argsort(-cosines[far])[:10]].tolist()) & set(near.tolist()))
    assert found >= 0.99 * 10 * len(queries)


def test_of_noise_that_no_sketch_can_tell_apart_enough_codes_are_read(monkeypatch, sketched):
    monkeypatch.setattr(module, "_TELLING", 0)
    rows, queries = noise(12_000), noise(40, seed=1)
    codes, sketch = sketched(rows)
    found, every = 0, np.arange(len(rows))
    for query in queries:
        near, _, _ = sketch.scan(codes, query, every, 10)
        found += len(set(np.argsort(-(rows @ query))[:10].tolist()) & set(near.tolist()))
    assert found >= 0.98 * 10 * len(queries)


def test_a_query_of_another_kind_than_the_rows_is_answered(sketched):
    rows = on_a_surface(6000)
    rows[:, 100:] = 0                                               # the sketch knows nothing of these axes
    codes, sketch = sketched(unit(rows))
    for query in np.eye(DIM, dtype=np.float32)[[3, 120]]:
        _, cosines, blur = sketch.scan(codes, query, np.arange(len(rows)), 10)
        kth = np.sort(unit(rows) @ query)[-10]
        assert np.sort(cosines)[-10] >= kth - blur


def test_vectors_that_a_few_directions_do_not_tell_have_product_codes_instead(tmp_path, sketched):
    codes, sketch = sketched(np.concatenate([noise(DIM * 40), on_a_surface(200)]))
    sketch.save(tmp_path)
    again = Sketch.load(tmp_path, codes)
    codes.append(on_a_surface(5000))
    for each in (sketch, again):
        each.fit(codes)
        each.follow(codes)
        assert each.count == 0
        assert each.products.count > 10_000


def test_of_few_vectors_all_are_left(sketched):
    codes, sketch = sketched(on_a_surface(FITTED_TO - 1))
    near, _, _ = sketch.scan(codes, on_a_surface(1, seed=1)[0], np.arange(0, codes.count, 2), 10)
    assert sketch.count == 0
    assert len(near) == FITTED_TO // 2


def test_a_sketch_is_as_it_was_when_read_again_and_made_where_a_snapshot_has_none(tmp_path, sketched):
    codes, sketch = sketched(on_a_surface(5000))
    sketch.save(tmp_path)
    query, every = on_a_surface(1, seed=1)[0], np.arange(5000)
    again, made = Sketch.load(tmp_path, codes), Sketch.load(tmp_path / "empty", codes)
    assert np.array_equal(sketch.scan(codes, query, every, 5)[0], again.scan(codes, query, every, 5)[0])
    assert made.count == 5000
    codes.append(on_a_surface(300, seed=2))
    again.follow(codes)
    assert again.count == 5300


def test_a_sketch_of_more_or_other_vectors_is_refused(tmp_path, sketched):
    sketched(on_a_surface(5000))[1].save(tmp_path)
    with pytest.raises(StorageError, match="rebuild"):
        Sketch.load(tmp_path, sketched(on_a_surface(4500))[0])
    with pytest.raises(StorageError, match="rebuild"):
        Sketch.load(tmp_path, sketched(on_a_surface(6000)[:, :32])[0])


def test_filtered_searches_find_what_came_after_the_sketch_was_fitted_and_after_a_rebuild(tmp_path):
    rows = on_a_surface(6000)
    index = HnswIndex(DIM, threads=1, m=4, ef_construction=10)
    index.add(np.arange(4500), rows[:4500])
    index.save(tmp_path)
    index = HnswIndex.load(tmp_path, DIM, m=4, ef_construction=10)
    index.add(np.arange(4500, 6000), rows[4500:])
    assert [index.search(rows[label], 1, np.arange(3000, 6000))[0].label for label in range(4490, 5990, 50)] == list(
        range(4490, 5990, 50)
    )
    index.remove(range(1300))
    assert index._sketch.count == index._codes.count == 4700
    assert index.search(rows[5000], 1, np.arange(6000))[0].label == 5000
