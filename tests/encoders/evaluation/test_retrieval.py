"""Figures of several runs, queries that nothing could answer, and chance by the labels alone."""

import random

import numpy as np
import pytest

from encoders.base import ABNORMAL_COLUMNS, FINDING_NAMES
from encoders.evaluation.resampling import difference, mean_draws, resamples
from encoders.evaluation.retrieval import Ranking, by_finding, by_k, graded, protocol_a, summarised
from encoders.training.metrics import same

IMAGES = 60


def _labels():
    """Return labels (IMAGES, 14): one that half of the images have, and four that a random ranking often misses."""
    labels = np.zeros((IMAGES, len(FINDING_NAMES)))
    labels[np.arange(IMAGES), [0 if row % 2 else 2 + row % 8 for row in range(IMAGES)]] = 1
    return labels


def _chance_of_the_skipping_form(labels, k, rounds):
    """Return mAP@k of drawn answers, one query at a time: no code in common with what is tested."""
    sets = [set(np.flatnonzero(row)) for row in labels]
    generator, found = random.Random(2), []
    for query, wanted in enumerate(sets):
        others = [each for row, each in enumerate(sets) if row // 2 != query // 2]
        for _ in range(rounds):
            hits, total = 0, 0.0
            for place, each in enumerate(generator.sample(others, k), start=1):
                if each & wanted:
                    hits += 1
                    total += hits / place
            if hits:
                found.append(total / hits)
    return sum(found) / len(found)


@pytest.mark.parametrize("k", [5, 10])
def test_chance_of_the_form_that_skips_queries_is_what_the_labels_alone_give(k):
    labels, apart = _labels(), same([str(row // 2) for row in range(IMAGES)])
    generator = np.random.default_rng(9)
    drawn = [generator.random((IMAGES, IMAGES)) for _ in range(240)]
    expected = _chance_of_the_skipping_form(labels, k, 300)
    for runs in (3, 240):
        means = []
        for start in range(0, len(drawn), runs):
            ranking = Ranking(tuple(drawn[start : start + runs]), np.arange(IMAGES))
            cell = summarised({"random": protocol_a(ranking, labels, apart)}, "random")[f"map@{k}"]["random"]
            assert cell["low"] < cell["mean"] < cell["high"]
            means.append(cell["mean"])
        assert np.mean(means) == pytest.approx(expected, abs=0.01)


def test_every_form_is_over_the_queries_that_another_patient_could_answer():
    labels = np.zeros((40, len(FINDING_NAMES)))
    labels[:10, 3], labels[10, 4], labels[11:13, 5] = 1, 1, 1       # rows 11 and 12 are one patient; 13.. have no label
    apart = same([str(max(row, 12)) if row == 11 else str(row) for row in range(40)])
    ranking = Ranking((labels @ labels.T,), np.arange(40))
    cells = summarised({"perfect": protocol_a(ranking, labels, apart)}, "perfect")
    assert {name: each["perfect"]["queries"] for name, each in cells.items()} == dict.fromkeys(cells, 10)
    assert all(each["perfect"]["mean"] == 1 for each in cells.values())
    abnormal = labels[:, ABNORMAL_COLUMNS]
    cells = summarised({"perfect": graded(ranking, abnormal, apart)}, "perfect")
    assert {each["perfect"]["queries"] for each in cells.values()} == {10}
    assert cells["map@10"]["perfect"]["mean"] == cells["ndcg@10"]["perfect"]["mean"] == 1
    assert by_k(ranking, abnormal, apart)["map"][2] == 1
    found = by_finding(ranking, labels, apart)
    assert found == {FINDING_NAMES[3]: {"queries": 10, "chance p@10": 9 / 39, "map@10": 1, "p@10": 0.9}}


def test_a_draw_is_the_figure_of_the_resampled_images_in_all_runs():
    values = np.random.default_rng(6).random((3, 30))
    values[values < 0.3] = np.nan
    times = resamples(30)[:20]
    for drawn, counts in zip(mean_draws(values, times), times, strict=True):
        assert drawn == pytest.approx(np.nanmean(np.repeat(values, counts.astype(int), axis=1), 1).mean())


def test_a_difference_is_that_of_the_means_and_narrower_than_of_two_apart_where_both_move_alike():
    hard = np.random.default_rng(7).random(200)
    ours, theirs = hard + 0.1, hard
    mean, low, high = difference(ours, theirs, resamples(200))
    assert (mean, low, high) == pytest.approx((0.1, 0.1, 0.1))


def test_systems_are_compared_over_the_queries_that_both_were_asked():
    ours, theirs = np.array([[1.0, 1.0, 0.0, 0.0]]), np.array([[0.5, 0.5, np.nan, np.nan]])
    cells = summarised({"ours": {"map0@10": ours}, "theirs": {"map0@10": theirs}}, "ours")["map0@10"]
    assert cells["theirs"]["reference_minus_this"][0] == 0.5
    assert (cells["ours"]["queries"], cells["theirs"]["queries"]) == (4, 2)
