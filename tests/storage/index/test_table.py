"""The label table's two ways to find nodes: by search, and by a column of nodes for each number."""

import numpy as np
import pytest

from storage.index import table


@pytest.mark.parametrize("seed", range(8))
def test_whatever_comes_and_goes_many_labels_are_found_as_few_are(monkeypatch, seed):
    monkeypatch.setattr(table, "_LOOK_UP_FROM", 5)
    rng, held, last, live = np.random.default_rng(seed), table.LabelTable(4), int(seed), set()
    for _ in range(25):
        labels = last + np.cumsum(rng.integers(1, 9, size=int(rng.integers(0, 60))))
        last = int(labels[-1]) if len(labels) else last
        held.append(labels, rng.integers(1, 4, size=(len(labels), 4)).astype(np.float32))
        live |= set(labels.tolist())
        if live and rng.random() < 0.6:
            gone = rng.choice(sorted(live), size=min(len(live), 5), replace=False).tolist()
            held.drop(gone)
            live -= set(gone)
        if rng.random() < 0.2:
            held, _ = held.compacted()
        asked = np.append(np.unique(rng.integers(-3, last + 20, size=80)), 2**40)
        known = sorted(live & set(asked.tolist()))
        assert held._labels[held.live_rows_of(asked)].tolist() == known
        assert held.live_nodes_of(asked).tolist() == sorted(set(held.nodes_of(np.asarray(known)).tolist()))
        assert held.live_node_ids().tolist() == sorted(set(held.nodes_of(np.asarray(sorted(live))).tolist()))


@pytest.mark.parametrize("rows", [np.ones((5, 64), dtype=np.int8), np.arange(7), np.array([b"1.2.3", b"4"])])
def test_a_grown_array_begins_a_cache_line_and_keeps_its_rows(rows):
    larger = table.grown(rows, 100)
    assert larger.ctypes.data % 64 == 0
    assert len(larger) >= 100
    assert larger.dtype == rows.dtype
    assert np.array_equal(larger[: len(rows)], rows)
    assert not larger[len(rows) :].any()
    assert table.grown(larger, 100) is larger


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("removed", [0, 5])
@pytest.mark.parametrize("equal", [False, True])
def test_what_a_graph_found_becomes_the_same_labels_by_the_short_way_and_by_the_long_one(shared, removed, equal):
    random = np.random.default_rng(removed)
    vectors = random.normal(size=(40, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    held = table.LabelTable(4)
    held.append(np.arange(10, 50), vectors)
    if shared:
        held.append(np.arange(60, 63), vectors[:3])
    held.drop(range(10, 10 + removed))
    nodes = random.permutation(held.live_node_ids())[:30].astype(np.uint64)
    values = random.choice([-1e-7, 0.1, 0.2, 0.3, 0.4, 0.5], len(nodes)) if equal else np.linspace(-1e-7, 1, len(nodes))
    distances = np.sort(values).astype(np.float32)
    for k in range(1, 31):
        short = held.nearest(nodes, distances, k)
        if k < len(nodes) and distances[k - 1] == distances[-1]:
            assert short is None                    # the next one may be as near, and have a smaller label
            continue
        long = held.neighbours(nodes.astype(np.int64), np.float32(1) - distances, k)
        assert short.labels.tolist() == long.labels.tolist()
        assert short.similarities == pytest.approx(long.similarities, abs=1e-6)
        assert max(short.similarities) <= 1


def test_few_labels_have_the_nodes_of_many_and_unknown_ones_are_refused():
    held = table.LabelTable(2)
    held.append(np.array([3, 5, 9]), np.eye(2, dtype=np.float32)[[0, 1, 0]])
    held.drop([5])
    assert held.nodes_of(np.array([9, 3])).tolist() == [0, 0]
    for label in (0, 4, 5, 10):
        with pytest.raises(table.BadLabel):
            held.nodes_of(np.array([3, label]))
