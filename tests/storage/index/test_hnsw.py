"""hnswlib's own traps, each closed."""

import numpy as np
import pytest

from storage.base import StorageError
from storage.index import hnsw
from storage.index.exact import ExactIndex
from storage.index.hnsw import GRAPH_FILE, HnswIndex

DIM = 16


def unit_rows(count, seed=0):
    rows = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def filled(count=2000, **parameters):
    index = HnswIndex(DIM, **{"threads": 1, **parameters})
    index.add(np.arange(count), unit_rows(count))
    return index


def test_the_graph_grows_past_its_first_capacity():
    index = filled(1000)
    for start in range(1000, 3000, 50):
        index.add(np.arange(start, start + 50), unit_rows(50, seed=start))
    assert len(index) == 3000
    assert index._graph.get_max_elements() >= 3000
    assert index.search(unit_rows(50, seed=2950)[49], 1)[0].label == 2999


def test_a_graph_is_built_anew_when_a_fifth_of_it_is_deleted():
    index = filled()
    index.remove(range(400))
    assert index._graph.get_current_count() == 2000
    index.remove([400])
    assert index._graph.get_current_count() == 1599
    assert index.search(unit_rows(2000)[1999], 1)[0].label == 1999


def test_duplicates_share_a_node():
    index = HnswIndex(DIM, threads=1)
    index.add(np.arange(500), np.repeat(unit_rows(5), 100, axis=0))
    assert len(index) == 500
    assert index._graph.get_current_count() == 5


def test_a_batch_may_hold_equal_vectors_old_ones_and_such_as_had_left():
    rows = unit_rows(6)
    index = HnswIndex(DIM, threads=1)
    index.add(np.arange(4), rows[[0, 1, 2, 3]])
    index.remove([1])
    index.add(np.arange(4, 11), rows[[5, 1, 0, 5, 4, 1, 5]])
    assert index._graph.get_current_count() == 6
    for row, labels in ((0, [0, 6]), (1, [5, 9]), (4, [8]), (5, [4, 7, 10])):
        assert [each.label for each in index.search(rows[row], len(labels))] == labels


def test_duplicates_are_known_however_many_vectors_came_between(tmp_path):
    vectors = unit_rows(6000)
    index = HnswIndex(DIM, threads=1, m=4, ef_construction=10)
    index.add(np.arange(6000), vectors)
    index.add(np.arange(6000, 6100), vectors[::60])
    assert index._graph.get_current_count() == 6000
    index.save(tmp_path)
    loaded = HnswIndex.load(tmp_path, DIM, m=4, ef_construction=10)
    loaded.add(np.arange(6100, 6200), vectors[::60])
    assert loaded._graph.get_current_count() == 6000
    assert [n.label for n in loaded.search(vectors[60], 3)] == [60, 6001, 6101]


def test_beside_the_graph_only_a_third_of_the_vectors_bytes_are_held():
    dim, count = 512, 4500
    rows = np.random.default_rng(0).normal(size=(count, dim)).astype(np.float32)
    index = HnswIndex(dim, threads=1, m=4, ef_construction=10)
    index.add(np.arange(count), rows / np.linalg.norm(rows, axis=1, keepdims=True))
    parts = (index, index._table, index._codes, index._sketch)
    arrays = [value for part in parts for value in vars(part).values() if isinstance(value, np.ndarray)]
    assert 0.25 * rows.nbytes < sum(array.nbytes for array in arrays) <= rows.nbytes / 3 + 64 * dim


def test_one_thread_makes_the_same_graph_every_time(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        filled().save(tmp_path / name)
    assert (tmp_path / "a" / GRAPH_FILE).read_bytes() == (tmp_path / "b" / GRAPH_FILE).read_bytes()


def test_a_search_that_the_graph_cannot_answer_is_answered_by_a_scan():
    """All that lies near is deleted but not yet rebuilt: hnswlib raises, for it reaches fewer than k."""
    index = HnswIndex(DIM, threads=1, m=4, ef_construction=16, ef_search=10)
    near, far = unit_rows(300, seed=1), unit_rows(1500, seed=2)
    near = near * 0.01 + np.eye(DIM, dtype=np.float32)[0]
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    index.add(np.arange(1800), np.concatenate([near, far]).astype(np.float32))
    index.remove(range(300))
    exact = ExactIndex(DIM)
    exact.add(np.arange(300, 1800), far)
    query = np.eye(DIM, dtype=np.float32)[0]
    for k in (1, 10, 100, 374):
        assert len({n.label for n in index.search(query, k)}) == k
    assert index.search(query, 400) == exact.search(query, 400)


def test_searches_go_deeper_in_the_graph_while_that_takes_less_than_a_scan_and_then_scan():
    index, exact = filled(6000, m=4, ef_construction=10, ef_search=10), ExactIndex(DIM)
    exact.add(np.arange(6000), unit_rows(6000))
    queries, depths = unit_rows(30, seed=4), []
    agree = [{n.label for n in index.search(q, 10)} == {n.label for n in exact.search(q, 10)} for q in queries]
    assert not all(agree)
    while index.deepen():
        depths.append(index.ef_search)
    assert depths == [20, 40, 80, 80]
    for query in queries:
        assert {n.label for n in index.search(query, 10)} == {n.label for n in exact.search(query, 10)}
    index.add(np.arange(6000, 12_000), unit_rows(6000, seed=5))     # more than a scan was quicker for
    assert index.deepen()
    assert index.ef_search == 160


def test_searches_made_deeper_while_a_graph_is_built_anew_are_deeper_in_that_one_too():
    class Rebuilt(HnswIndex):
        def _insert(self, graph, start, vectors):
            if graph is not self._graph and start == 0:
                self.deepen()                       # the hourly probe has a thread of its own
            super()._insert(graph, start, vectors)

    index = Rebuilt(DIM, threads=1, ef_search=20)
    index.add(np.arange(5000), unit_rows(5000))
    index.remove(range(1001))
    assert index._graph.get_current_count() == 3999
    assert index._graph.ef == index.ef_search == 40


def test_of_neighbours_as_near_as_the_last_one_those_of_the_smallest_labels_are_found():
    rows = unit_rows(4000)
    rows[:, 0] = np.minimum(rows[:, 0], 0)
    rows[:, 1:] /= np.linalg.norm(rows[:, 1:], axis=1, keepdims=True)
    rows *= np.float32(0.8)
    rows[:, 0] = -np.float32(0.6)
    rows[1000:1040, 0] = np.float32(0.6)            # forty as near as one another, all others far
    index, exact = HnswIndex(DIM, threads=1, ef_search=200), ExactIndex(DIM)
    for each in (index, exact):
        each.add(np.arange(4000), rows)
    query = np.eye(DIM, dtype=np.float32)[0]
    for k in (1, 10, 39, 40):
        assert [n.label for n in index.search(query, k)] == [n.label for n in exact.search(query, k)]
    assert index._from_graph(query, 41) is not None     # not a scan


def test_searches_go_no_deeper_than_there_is_a_limit_to(monkeypatch):
    monkeypatch.setattr(hnsw, "CODES_FOR_ONE_EF", 0)
    index = filled(600, ef_search=100)
    while index.deepen():
        pass
    assert index.ef_search == 3200 <= hnsw.LARGEST_EF


def test_many_allowed_are_sieved_out_of_the_graph_s_answers(monkeypatch):
    monkeypatch.setattr(hnsw, "CODES_FOR_ONE_EF", 1)
    index, exact = filled(6000, ef_search=50), ExactIndex(DIM)
    exact.add(np.arange(6000), unit_rows(6000))
    for share in (0.9, 0.5, 0.2, 0.05):
        allowed = np.flatnonzero(np.random.default_rng(3).random(6000) < share)
        found = agreed = 0
        for query in unit_rows(30, seed=4):
            answers = index.search(query, 10, allowed)
            assert len(answers) == 10
            assert np.isin([n.label for n in answers], allowed).all()
            found += 10
            agreed += len({n.label for n in answers} & {n.label for n in exact.search(query, 10, allowed)})
        assert agreed / found > 0.95


def test_allowed_vectors_far_from_the_query_are_found_by_widening(monkeypatch):
    monkeypatch.setattr(hnsw, "CODES_FOR_ONE_EF", 1)
    index, vectors = filled(6000, ef_search=20), unit_rows(6000)
    query = unit_rows(1, seed=9)[0]
    farthest = np.sort(np.argsort(vectors @ query)[:2500])
    exact = ExactIndex(DIM)
    exact.add(np.arange(6000), vectors)
    assert index.search(query, 10, farthest) == exact.search(query, 10, farthest)


def test_what_passes_on_one_side_only_is_found_as_well_from_the_other(monkeypatch):
    monkeypatch.setattr(hnsw, "CODES_FOR_ONE_EF", 1)
    index, vectors = filled(6000, ef_search=30, m=8, ef_construction=60), unit_rows(6000)
    exact = ExactIndex(DIM)
    exact.add(np.arange(6000), vectors)
    allowed = np.flatnonzero(vectors[:, 0] < 0)
    agreed = 0
    for query in unit_rows(40, seed=4):
        query[0] = 0.3
        near = exact.search(query, 10, allowed)
        agreed += len({n.label for n in index.search(query, 10, allowed)} & {n.label for n in near})
    assert agreed / 400 > 0.98


def test_ef_is_set_again_after_loading(tmp_path):
    filled(ef_search=77).save(tmp_path)
    assert HnswIndex.load(tmp_path, DIM, ef_search=55)._graph.ef == 55


def test_vectors_of_a_snapshot_are_read_from_its_file_and_newer_ones_from_the_graph(tmp_path):
    vectors = unit_rows(3000)
    index = HnswIndex(DIM, threads=2)                               # elements lie in another order than labels
    index.add(np.arange(2500), vectors[:2500])
    index.save(tmp_path)
    for held in (index, HnswIndex.load(tmp_path, DIM)):
        held.add(np.arange(2500, 3000), vectors[2500:])
        held.remove(range(100))
        assert np.array_equal(held.vectors(range(100, 3000)), vectors[100:])
        assert np.array_equal(held._saved.read(np.arange(2500)), vectors[:2500])
        assert all(np.array_equal(held.vectors([label])[0], vectors[label]) for label in (100, 2499, 2500, 2999))
        assert held.search(vectors[2000], 1, np.arange(1990, 2010))[0].label == 2000


@pytest.mark.parametrize("harm", ["rot", "cut", "gone"])
def test_what_happens_to_the_file_later_harms_no_answer(tmp_path, harm):
    filled(500).save(tmp_path)
    index, path = HnswIndex.load(tmp_path, DIM), tmp_path / GRAPH_FILE
    if harm == "gone":
        path.unlink()
    else:
        whole = path.read_bytes()
        path.write_bytes(bytes(byte ^ 1 for byte in whole) if harm == "rot" else whole[:5000])
    assert np.array_equal(index.vectors(range(500)), unit_rows(500))
    assert all(np.array_equal(index.vectors([label]), unit_rows(500)[label : label + 1]) for label in (0, 7, 499))


def test_vectors_are_the_graph_s_again_when_it_is_built_anew(tmp_path):
    index = filled()
    index.save(tmp_path)
    index.remove(range(500))
    assert np.array_equal(index.vectors(range(500, 2000)), unit_rows(2000)[500:])


def test_a_graph_made_with_another_m_is_refused(tmp_path):
    filled(m=24).save(tmp_path)
    with pytest.raises(StorageError, match="M 16"):
        HnswIndex.load(tmp_path, DIM, m=16)


def test_a_graph_that_belongs_to_another_table_is_refused(tmp_path):
    filled(500).save(tmp_path)
    graph = (tmp_path / GRAPH_FILE).read_bytes()
    filled(600).save(tmp_path)
    (tmp_path / GRAPH_FILE).write_bytes(graph)
    with pytest.raises(StorageError, match="does not fit"):
        HnswIndex.load(tmp_path, DIM)


@pytest.mark.parametrize("left", [0, 20, 90, 5000])
def test_a_truncated_graph_is_refused(tmp_path, left):
    filled(500).save(tmp_path)
    (tmp_path / GRAPH_FILE).write_bytes((tmp_path / GRAPH_FILE).read_bytes()[:left])
    with pytest.raises(StorageError, match="rebuild"):
        HnswIndex.load(tmp_path, DIM)


def test_a_full_disk_is_noticed_although_hnswlib_says_nothing(tmp_path):
    (tmp_path / GRAPH_FILE).symlink_to("/dev/full")
    with pytest.raises(StorageError, match="disk full"):
        filled(500).save(tmp_path)
