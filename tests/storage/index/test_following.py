"""Three indexes that follow the Catalogue, from a snapshot or from nothing."""

import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest

from storage.base import Kind
from storage.index.following import IndexSet, IndexSettings


@pytest.fixture(params=["hnsw", "exact"])
def settings(request):
    return IndexSettings(type=request.param, threads=1)


@pytest.fixture
def open_set(archive, tmp_path, settings):
    return lambda changed=settings: IndexSet.open(archive.catalogue, archive.generation, tmp_path / "index", changed)


def held(indexes):
    return {
        (kind.value, *indexes.owner(label)) for kind in Kind for label in indexes._indexes[kind].labels().tolist()
    }


def test_what_is_committed_is_found_after_following(archive, open_set):
    indexes = open_set()
    assert indexes.follow() == 0
    archive.commit(archive.image("1.1"), archive.image("1.2"), archive.report("1.2"))
    assert indexes.follow() == 5
    assert indexes.counts() == {Kind.IMAGE: 2, Kind.REPORT: 1, Kind.JOINT: 2}
    (best,) = indexes.search(Kind.IMAGE, archive.direction("1.2.1.1"), 1)
    assert indexes.owner(best.label) == ("1.2", "1.2.1.1")
    assert best.similarity == pytest.approx(1, abs=1e-5)


def test_a_graph_that_is_built_from_the_catalogue_has_room_for_all_from_the_start(archive, tmp_path):
    archive.commit(*(archive.image(f"1.{n}") for n in range(1100)))
    settings = IndexSettings(threads=1)
    indexes = IndexSet.open(archive.catalogue, archive.generation, tmp_path / "index", settings)
    assert indexes._indexes[Kind.IMAGE]._graph.get_max_elements() == 1100 + 1024
    assert len(indexes._indexes[Kind.IMAGE]) == 1100


def test_what_is_rejected_or_replaced_is_no_longer_found(archive, open_set):
    archive.commit(archive.image("1.1", 1), archive.image("1.1", 2), archive.image("1.2"))
    indexes = open_set()
    archive.commit(archive.note("1.1", sops=["1.1.1.1"]))
    archive.commit(archive.image("1.2", digest="other", embedding=archive.direction(5)))
    indexes.follow()
    assert held(indexes) == archive.searchable()
    found = indexes.search(Kind.IMAGE, archive.direction(5), 9)
    assert indexes.owner(found[0].label)[1] == "1.2.1.1"
    assert len(found) == 2


def test_studies_have_labels_and_searches_may_be_held_to_or_kept_from_them(archive, open_set):
    archive.commit(*(archive.image(f"1.{n}", m) for n in range(6) for m in (1, 2)))
    indexes = open_set()
    query = archive.direction("1.3.1.2")
    some = indexes.labels_of_studies(Kind.IMAGE, {"1.3", "1.4", "9.9"})
    assert len(some) == 4
    found = indexes.search(Kind.IMAGE, query, 50, allowed_labels=some)
    assert {indexes.owner(n.label)[0] for n in found} == {"1.3", "1.4"}
    left = indexes.search(Kind.IMAGE, query, 10, excluded_labels=some)
    assert len(left) == 8
    assert {indexes.owner(n.label)[0] for n in left} == {"1.0", "1.1", "1.2", "1.5"}
    assert [n.label for n in left[:3]] == [n.label for n in indexes.search(Kind.IMAGE, query, 3, excluded_labels=some)]


def test_a_snapshot_and_the_tail_give_what_a_rebuild_gives(archive, open_set, tmp_path):
    archive.commit(*(archive.image(f"1.{n}") for n in range(20)), archive.report("1.3"))
    first = open_set()
    assert first.snapshot() is True
    assert first.snapshot() is False
    archive.commit(archive.note("1.1", sops=["1.1.1.1"]), archive.report("1.3", 2), archive.image("2.1"))
    archive.commit(archive.image("1.2", digest="other", embedding=archive.direction(1)))
    restored = open_set()
    assert restored._snapshot_sequence == first.sequence
    shutil.rmtree(tmp_path / "index")
    rebuilt = open_set()
    assert held(restored) == held(rebuilt) == archive.searchable()
    for seed in range(10):
        query = archive.direction(seed)
        for kind in Kind:
            answers = [indexes.search(kind, query, 7) for indexes in (restored, rebuilt)]
            assert [n.label for n in answers[0]] == [n.label for n in answers[1]]


def rebuilt_when(damage, archive, open_set, tmp_path, changed=None):
    archive.commit(*(archive.image(f"1.{n}") for n in range(20)))
    open_set().snapshot()
    damage(tmp_path / "index")
    opened = open_set(changed) if changed else open_set()
    assert opened._snapshot_sequence == -1
    assert held(opened) == archive.searchable()


def test_a_damaged_snapshot_means_a_rebuild(archive, open_set, tmp_path):
    def rot(folder):
        path = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 64
        path.write_bytes(data)

    rebuilt_when(rot, archive, open_set, tmp_path)


def test_other_graph_parameters_mean_a_rebuild(archive, open_set, tmp_path, settings):
    rebuilt_when(lambda _: None, archive, open_set, tmp_path, replace(settings, m=12))


def test_a_snapshot_of_another_catalogue_means_a_rebuild_and_is_removed(archive, open_set, tmp_path, settings):
    """The database was restored from a backup, or made anew: same model, same numbers, other vectors."""
    archive.commit(*(archive.image(f"1.{n}") for n in range(5)))
    open_set().snapshot()
    other = type(archive)(tmp_path / "other.db")
    other.commit(other.image("7.1"))
    for _ in range(2):
        opened = IndexSet.open(other.catalogue, other.generation, tmp_path / "index", settings)
        assert held(opened) == other.searchable()
        other.commit(*(other.image(f"7.{n}") for n in range(2, 6)))     # as many, and the same labels


def test_another_ef_needs_no_rebuild(archive, open_set, settings):
    archive.commit(archive.image("1.1"))
    open_set().snapshot()
    assert open_set(replace(settings, ef_search=300))._snapshot_sequence > 0


def test_the_recall_of_a_small_index_is_whole(archive, open_set):
    archive.commit(*(archive.image(f"1.{n}") for n in range(30)))
    indexes = open_set()
    assert indexes.probe_recall(Kind.IMAGE, samples=10, k=5) == 1.0
    assert indexes.probe_recall(Kind.REPORT) == 1.0


def test_the_probe_notices_an_index_that_misses_neighbours(archive, open_set, monkeypatch):
    archive.commit(*(archive.image(f"1.{n}") for n in range(30)))
    indexes = open_set()
    index = indexes._indexes[Kind.IMAGE]
    search = index.search
    monkeypatch.setattr(index, "search", lambda vector, k: search(vector, k + 2)[2:])
    assert indexes.probe_recall(Kind.IMAGE, samples=10, k=5) == pytest.approx(0.6)


def test_searches_go_deeper_until_they_find_enough(archive, open_set, settings):
    archive.commit(*(archive.image(f"1.{n}") for n in range(700)))
    indexes = open_set(replace(settings, m=4, ef_construction=16, ef_search=10))
    shallow = indexes.probe_recall(Kind.IMAGE)
    assert indexes.keep_recall()[Kind.IMAGE] >= 0.99 > (shallow if settings.type == "hnsw" else 0)


def test_the_recall_of_every_kind_is_kept(archive, open_set, settings):
    for n in range(700):
        archive.commit(archive.image(f"1.{n}"), archive.report(f"1.{n}"))
    indexes = open_set(replace(settings, m=4, ef_construction=16, ef_search=10))
    assert min(indexes.keep_recall().values()) >= 0.99
    assert all(indexes.probe_recall(kind) >= 0.99 for kind in Kind)


def test_searches_and_snapshots_go_on_while_it_follows(archive, open_set):
    indexes, faults, done = open_set(), [], threading.Event()

    def ask():
        while not done.is_set():
            try:
                for neighbour in indexes.search(Kind.JOINT, archive.direction(3), 5):
                    assert np.isfinite(neighbour.similarity)
                indexes.labels_of_studies(Kind.JOINT, [f"1.{n}" for n in range(30)])
            except Exception as fault:
                faults.append(fault)
                return

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for n in range(15):
        archive.commit(archive.image(f"1.{n}", 1), archive.image(f"1.{n - 1}", 2))
        indexes.follow()
        if n % 10 == 0:
            indexes.snapshot()
    done.set()
    for thread in threads:
        thread.join()
    assert faults == []
    assert held(indexes) == archive.searchable()
