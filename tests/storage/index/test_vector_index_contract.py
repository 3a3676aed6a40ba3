"""What every index engine promises, over the whole registry; ExactIndex itself is compared with plain numpy."""

import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.base import StorageError
from storage.index.registry import INDEXES, UnknownEngine, engine
from storage.index.table import BadLabel, BadVector

DIM = 24


def unit_rows(count, seed=0, dim=DIM):
    rows = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def make(name, vectors=None, **parameters):
    index = engine(name)(DIM, **{"threads": 1, "ef_search": 200, **parameters})
    if vectors is not None:
        index.add(np.arange(len(vectors)), vectors)
    return index


def truth(vectors, query, k, labels=None):
    labels = np.arange(len(vectors)) if labels is None else np.asarray(sorted(labels))
    cosines = vectors[labels] @ query
    return labels[np.lexsort((labels, -cosines))][:k].tolist()


@pytest.fixture(params=sorted(INDEXES))
def name(request):
    return request.param


def labels_of(neighbours):
    return [neighbour.label for neighbour in neighbours]


def test_search_returns_the_nearest_best_first_with_their_cosines(name):
    vectors = unit_rows(2000)
    index = make(name, vectors)
    for query in unit_rows(20, seed=1):
        found = index.search(query, 10)
        assert labels_of(found) == truth(vectors, query, 10)
        assert np.allclose([n.similarity for n in found], vectors[labels_of(found)] @ query, atol=1e-5)


@pytest.mark.parametrize("before", [0, 300])
def test_room_made_beforehand_changes_no_answer(name, before):
    vectors = unit_rows(2000)
    index = make(name, vectors[:before])
    index.reserve(2000)
    index.reserve(10)                                                       # there is room already
    if before:
        assert labels_of(index.search(vectors[7], 1)) == [7]
    index.add(np.arange(before, 2000), vectors[before:])
    for query in unit_rows(20, seed=1):
        assert labels_of(index.search(query, 10)) == truth(vectors, query, 10)


def test_a_query_of_any_length_is_taken_as_a_direction(name):
    vectors = unit_rows(50)
    index = make(name, vectors)
    assert index.search(vectors[7] * 1000, 1)[0].similarity == pytest.approx(1, abs=1e-5)
    assert labels_of(index.search(vectors[7] * 1000, 5)) == labels_of(index.search(vectors[7], 5))


@pytest.mark.parametrize("count", [0, 1, 5, 700])
def test_search_beyond_the_number_of_vectors_returns_all_of_them(name, count):
    index = make(name, unit_rows(count))
    assert sorted(labels_of(index.search(unit_rows(1)[0], 5000))) == list(range(count))


@pytest.mark.parametrize("k", [0, -3])
def test_no_neighbours_are_returned_when_none_are_asked_for(name, k):
    assert make(name, unit_rows(20)).search(unit_rows(1)[0], k) == []


def test_equal_vectors_are_all_found_under_their_own_labels_in_order(name):
    vectors = unit_rows(900)
    vectors[100:600] = vectors[50]
    index = make(name, vectors)
    assert labels_of(index.search(vectors[50], 501)) == [50, *range(100, 600)]
    assert labels_of(index.search(vectors[50], 3)) == [50, 100, 101]


def test_two_thousand_duplicates_hide_nobody(name):
    vectors = unit_rows(3200, seed=4)
    vectors[200:2200] = vectors[0]
    index = make(name, vectors)
    others = [*range(1, 200), *range(2200, 3200)]
    found = [labels_of(index.search(vectors[label], 1)) for label in others]
    assert found == [[label] for label in others]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_is_refused_and_nothing_is_added(name, bad):
    index = make(name, unit_rows(30))
    vectors = unit_rows(5, seed=2)
    vectors[3, 4] = bad
    with pytest.raises(BadVector, match="label 103"):
        index.add(np.arange(100, 105), vectors)
    assert len(index) == 30
    assert 100 not in index
    index.add(np.arange(100, 105), unit_rows(5, seed=2))
    assert np.isfinite([n.similarity for n in index.search(vectors[0], 35)]).all()


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.01, 40.0])
def test_a_vector_that_is_not_of_unit_length_is_refused(name, scale):
    with pytest.raises(BadVector, match="unit length"):
        make(name, unit_rows(3) * np.float32(scale))


def test_rounding_is_no_reason_to_refuse(name):
    assert len(make(name, unit_rows(3) * np.float32(1.0005))) == 3


@pytest.mark.parametrize("query", [np.zeros(DIM), np.full(DIM, np.nan), np.ones(DIM + 1), np.ones(3)])
def test_a_query_without_direction_or_of_another_dimension_is_refused(name, query):
    with pytest.raises(BadVector):
        make(name, unit_rows(5)).search(query.astype(np.float32), 1)


def test_vectors_of_another_dimension_are_refused(name):
    with pytest.raises(BadVector, match="dim 24"):
        make(name).add(np.arange(2), unit_rows(2, dim=23))


@pytest.mark.parametrize("labels", [[-1], [5, 5], [6, 5], [4]])
def test_labels_grow_and_are_never_seen_twice(name, labels):
    index = make(name, unit_rows(5))
    with pytest.raises(BadLabel, match="above 4"):
        index.add(np.asarray(labels), unit_rows(len(labels)))


def test_a_removed_label_can_t_come_back(name):
    index = make(name, unit_rows(5))
    index.remove([4])
    with pytest.raises(BadLabel):
        index.add(np.asarray([4]), unit_rows(1))


def test_labels_far_beyond_32_bits_are_kept(name):
    index = make(name)
    index.add(np.asarray([2**40, 2**62]), unit_rows(2))
    assert sorted(labels_of(index.search(unit_rows(1)[0], 2))) == [2**40, 2**62]


def test_removed_vectors_are_gone_and_the_rest_is_found(name):
    vectors = unit_rows(1500)
    index = make(name, vectors)
    index.remove(range(0, 1500, 3))
    left = [label for label in range(1500) if label % 3]
    assert len(index) == 1000
    assert 3 not in index
    assert 4 in index
    assert index.labels().tolist() == left
    for query in vectors[:30]:
        assert labels_of(index.search(query, 5)) == truth(vectors, query, 5, left)


def test_removing_what_is_not_there_is_refused_and_removes_nothing(name):
    index = make(name, unit_rows(5))
    with pytest.raises(BadLabel):
        index.remove([1, 9])
    assert len(index) == 5


def test_one_of_two_equal_vectors_may_leave(name):
    vectors = unit_rows(700)
    vectors[600] = vectors[1]
    index = make(name, vectors)
    index.remove([1])
    assert index.search(vectors[1], 1)[0].label == 600
    index.remove([600])
    assert index.search(vectors[1], 1)[0].similarity < 0.999
    index.add(np.asarray([700]), vectors[1][None])                  # the same vector again, under a new label
    assert index.search(vectors[1], 1)[0].label == 700


def test_the_last_one_may_leave_and_others_come(name):
    index = make(name, unit_rows(3))
    index.remove([0, 1, 2])
    assert len(index) == 0
    assert index.search(unit_rows(1)[0], 3) == []
    index.add(np.asarray([3]), unit_rows(1, seed=9))
    assert labels_of(index.search(unit_rows(1)[0], 3)) == [3]


def test_vectors_come_back_in_the_order_asked_for(name):
    vectors = unit_rows(10)
    index = make(name, vectors)
    assert np.array_equal(index.vectors([7, 2, 7]), vectors[[7, 2, 7]])
    with pytest.raises(BadLabel):
        index.vectors([1, 11])


@pytest.mark.parametrize("share", [0.0005, 0.02, 0.4, 0.95, 1])
def test_filters_never_return_fewer_than_there_are(name, share):
    vectors = unit_rows(3000, seed=5)
    index = make(name, vectors)
    index.remove(range(100))
    allowed = np.random.default_rng(6).permutation(3000)[: max(1, int(3000 * share))]
    live = set(allowed.tolist()) - set(range(100))
    for query in unit_rows(5, seed=7):
        found = labels_of(index.search(query, 10, np.append(allowed, [10**9, -1])))
        assert len(found) == min(10, len(live))
        assert found == truth(vectors, query, 10, live)


def test_a_filter_that_nobody_passes_returns_nobody(name):
    assert make(name, unit_rows(700)).search(unit_rows(1)[0], 5, np.asarray([], dtype=np.int64)) == []


def test_what_was_saved_is_loaded_whole(name, tmp_path):
    vectors = unit_rows(1300)
    vectors[1200] = vectors[5]
    index = make(name, vectors)
    index.remove(range(50, 60))
    index.save(tmp_path)
    loaded = engine(name).load(tmp_path, DIM, threads=1, ef_search=200)
    assert loaded.labels().tolist() == index.labels().tolist()
    for query in unit_rows(10, seed=3):
        assert labels_of(loaded.search(query, 7)) == labels_of(index.search(query, 7))
    assert labels_of(loaded.search(vectors[5], 2)) == [5, 1200]
    with pytest.raises(BadLabel):
        loaded.add(np.asarray([1299]), unit_rows(1))
    loaded.add(np.asarray([1300]), unit_rows(1, seed=8))
    assert loaded.search(unit_rows(1, seed=8)[0], 1)[0].label == 1300


@pytest.mark.parametrize("dim", [DIM - 1, DIM + 1, 2 * DIM])
def test_files_of_another_dimension_are_refused(name, tmp_path, dim):
    make(name, unit_rows(100)).save(tmp_path)
    with pytest.raises(StorageError, match="rebuild"):
        engine(name).load(tmp_path, dim)


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_comes_and_goes_the_answers_are_those_of_numpy(name, data):
    # Coarse vectors, so that equal ones and ties are frequent; more than SCAN_BELOW, so that the graph answers.
    seed = data.draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-2, 3, size=(900, DIM)).astype(np.float32) + np.eye(DIM, dtype=np.float32)[0] * 5
    vectors[rng.integers(0, 900, 100)] = vectors[rng.integers(0, 900, 100)]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = make(name, vectors[:600])
    live = set(range(600))
    for _ in range(data.draw(st.integers(0, 3))):
        gone = set(rng.choice(sorted(live), size=data.draw(st.integers(0, len(live) // 2)), replace=False).tolist())
        index.remove(gone)
        live -= gone
    index.add(np.arange(600, 900), vectors[600:])
    live |= set(range(600, 900))
    k = data.draw(st.integers(1, 40))
    allowed = rng.choice(900, size=data.draw(st.integers(1, 900)), replace=False) if data.draw(st.booleans()) else None
    wanted = live if allowed is None else live & set(allowed.tolist())
    query = vectors[data.draw(st.integers(0, 899))]
    found = index.search(query, k, allowed)
    exact = np.sort(vectors[sorted(wanted)] @ query)[::-1][:k] if wanted else np.zeros(0)
    assert len(found) == min(k, len(wanted)) == len(set(labels_of(found)))
    assert set(labels_of(found)) <= wanted
    assert np.allclose([n.similarity for n in found], exact, atol=1e-5)
    assert [(-n.similarity, n.label) for n in found] == sorted((-n.similarity, n.label) for n in found)


def test_many_threads_search_while_one_adds_and_removes(name):
    """Without the lock hnswlib ends here in a segmentation fault or spurious errors within seconds."""
    vectors = unit_rows(3000, seed=11)
    index = make(name, vectors[:600], ef_construction=40, m=8, ef_search=40)
    stop, faults, searches = threading.Event(), [], [0]

    def read(seed):
        rng = np.random.default_rng(seed)
        while not stop.is_set():
            try:
                found = index.search(vectors[rng.integers(3000)], 10)
                assert len(found) == 10
                assert np.isfinite([n.similarity for n in found]).all()
                index.search(vectors[rng.integers(3000)], 5, np.arange(0, 3000, 7))
                searches[0] += 1
            except Exception as fault:
                faults.append(fault)
                return

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for start in range(600, 3000, 100):
        index.add(np.arange(start, start + 100), vectors[start : start + 100])
        index.remove(range(start - 600, start - 540))
    stop.set()
    for thread in threads:
        thread.join()
    assert faults == []
    assert searches[0] > 0
    assert len(index) == 3000 - 24 * 60


@pytest.mark.parametrize("wrong", ["annoy", "storage.index:Nothing", "no.such.module:Index", ""])
def test_an_engine_that_does_not_exist_is_named(wrong):
    with pytest.raises(UnknownEngine, match="exact, hnsw"):
        engine(wrong)


def test_an_engine_may_be_named_by_its_class():
    assert engine("storage.index.exact:ExactIndex") is INDEXES["exact"]
