"""Vectors all around, which no few directions tell: product codes leave out whom nobody asked for, and nobody else."""

import numpy as np
import pytest

from storage.base import StorageError
from storage.index import products as module
from storage.index import sketch
from storage.index.codes import CodeRows
from storage.index.hnsw import HnswIndex
from storage.index.products import Products
from storage.index.sketch import FITTED_TO, Sketch

DIM = 256


def all_around(count, seed=0):
    """Return unit vectors, float32 (count, 256), 8 dimensions bent into all 256 so that none is longer than others."""
    surface, rng = np.random.default_rng(99), np.random.default_rng(seed)
    inner, outer = surface.normal(size=(8, 600)) / 3, surface.normal(size=(600, DIM))
    rows = np.tanh(rng.normal(size=(count, 8)) @ inner) @ outer
    base = np.tanh(np.random.default_rng(98).normal(size=(6000, 8)) @ inner) @ outer
    values, axes = np.linalg.eigh(np.cov(base.T))
    rows = rows @ axes / np.sqrt(values)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Have small indexes product codes, and few candidates."""
    monkeypatch.setattr(sketch, "FITTED_FROM", FITTED_TO)
    monkeypatch.setattr(module, "_MORE", 512)
    monkeypatch.setattr(module, "_FOR_EACH", 16)


@pytest.mark.parametrize("k", [1, 10, 20])
@pytest.mark.parametrize("share", [1, 0.6])
def test_few_are_left_and_the_nearest_are_among_them(k, share, sketched):
    rows, queries = all_around(12_000), all_around(40, seed=1)
    codes, sketch = sketched(rows)
    products = sketch.products
    some = np.flatnonzero(np.random.default_rng(2).random(len(rows)) < share)
    left = found = 0
    for query in queries:
        near, cosines, _ = products.scan(codes, query, some, k)
        assert np.array_equal(cosines, codes.scan(query, near)[0])
        assert np.isin(near, some).all()
        assert (np.diff(near) > 0).all()
        left += len(near)
        found += len(set(some[np.argsort(-(rows[some] @ query))[:k]].tolist()) & set(near.tolist()))
    assert left / len(queries) < len(some) / 3
    assert found >= 0.99 * k * len(queries)


@pytest.mark.parametrize("share", [0.1, 0.01])
def test_where_few_pass_all_their_codes_are_read(share, sketched):
    codes, sketch = sketched(all_around(6000))
    products = sketch.products
    some = np.flatnonzero(np.random.default_rng(2).random(6000) < share)
    assert np.array_equal(products.scan(codes, all_around(1, seed=1)[0], some, 1)[0], some)


def test_what_lies_on_the_other_side_is_found_as_well(sketched, monkeypatch):
    monkeypatch.setattr(module, "_MORE", 64)
    monkeypatch.setattr(module, "_FOR_EACH", 4)
    rows, queries = all_around(12_000), all_around(20, seed=1)
    codes, sketch = sketched(rows)
    for query in queries:
        cosines = rows @ query
        far = np.flatnonzero(cosines < np.quantile(cosines, 0.3))
        near, _, _ = sketch.scan(codes, query, far, 10)
        assert set(far[np.argsort(-cosines[far])[:10]].tolist()) <= set(near.tolist())


def test_of_noise_that_nothing_tells_apart_enough_codes_are_read(sketched):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(12_040, DIM)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    codes, sketch = sketched(rows[:12_000])
    products = sketch.products
    found = 0
    for query in rows[12_000:]:
        near, _, _ = products.scan(codes, query, np.arange(12_000), 10)
        found += len(set(np.argsort(-(rows[:12_000] @ query))[:10].tolist()) & set(near.tolist()))
    assert found >= 0.98 * 10 * 40


def test_the_newest_are_found_before_they_have_product_codes(sketched):
    rows = all_around(5000)
    codes, sketch = sketched(rows[:4700])
    products = sketch.products
    codes.append(rows[4700:4900])
    products.follow(codes)
    assert products.count < 4900
    near, _, _ = products.scan(codes, rows[4890], np.arange(4900), 1)
    assert 4890 in near
    assert len(near) < 2000
    codes.append(rows[4900:])
    products.follow(codes)
    assert codes.count - products.count < module._AT_ONCE


def test_a_search_between_fitting_and_following_reads_all_codes():
    rows = all_around(5000)
    codes, sketch = CodeRows(DIM), Sketch(DIM)
    codes.append(rows)
    sketch.fit(codes)
    assert len(sketch.scan(codes, rows[77], np.arange(5000), 1)[0]) == 5000


@pytest.mark.parametrize("dim", [6, 10, 128])
def test_any_dimension_has_product_codes(dim):
    rows = np.random.default_rng(0).normal(size=(5000, dim)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    codes = CodeRows(dim)
    codes.append(rows)
    products = Products.fitted(rows)
    products.follow(codes)
    assert 77 in products.scan(codes, rows[77], np.arange(5000), 1)[0]


def test_product_codes_are_as_they_were_when_read_again_and_made_where_a_snapshot_has_none(tmp_path, sketched):
    codes, sketch = sketched(all_around(5000))
    products = sketch.products
    products.save(tmp_path)
    query, every = all_around(1, seed=1)[0], np.arange(5000)
    again = Sketch.load(tmp_path, codes).products
    assert np.array_equal(products.scan(codes, query, every, 5)[0], again.scan(codes, query, every, 5)[0])
    assert Sketch.load(tmp_path / "empty", codes).products.count == products.count


def test_product_codes_of_more_or_other_vectors_or_cut_short_are_refused(tmp_path, sketched):
    sketched(all_around(5000))[1].products.save(tmp_path)
    for rows in (all_around(4200), all_around(6000)[:, :32]):
        codes = CodeRows(rows.shape[1])
        codes.append(rows)
        with pytest.raises(StorageError, match="rebuild"):
            Products.load(tmp_path, codes)
    file = tmp_path / "products.faiss"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(StorageError, match="rebuild"):
        Products.load(tmp_path, codes)


def test_an_index_of_such_vectors_scans_product_codes_once_the_graph_has_missed_some(tmp_path):
    rows, queries = all_around(6000), all_around(40, seed=1)
    index = HnswIndex(DIM, threads=1, m=4, ef_construction=10, ef_search=10)
    index.add(np.arange(4500), rows[:4500])
    index.save(tmp_path)
    index = HnswIndex.load(tmp_path, DIM, m=4, ef_construction=10, ef_search=10)
    index.add(np.arange(4500, 6000), rows[4500:])

    def found(some=None):
        """Return the mean share of the ten nearest that a search finds."""
        allowed = np.arange(6000) if some is None else some
        shares = []
        for query in queries:
            kth = np.sort(rows[allowed] @ query)[-10]
            shares.append(np.mean([each.similarity >= kth - 1e-6 for each in index.search(query, 10, some)]))
        return np.mean(shares)

    assert found() < 0.9
    while index.deepen():
        pass
    assert found() >= 0.99
    assert found(np.arange(3000, 6000)) >= 0.99
    assert [each.label for each in index.exact(rows[5], 1)] == [5]
    index.remove(range(1300))
    assert index._sketch.products.count > 4400
    assert index.search(rows[5000], 1)[0].label == 5000
    assert index.search(rows[100], 1)[0].label != 100
    index.save(tmp_path)
    assert index.ef_search > 10 or index._scan_below > 512
    again = HnswIndex.load(tmp_path, DIM, m=4, ef_construction=10, ef_search=10)
    assert (again.ef_search, again._scan_below) == (index.ef_search, index._scan_below)
