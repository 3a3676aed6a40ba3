"""Ranks of the right report or image."""

import numpy as np

from encoders.evaluation.cross_modal import right_ranks
from encoders.training import metrics


def test_the_best_of_several_right_entries_counts():
    scores = np.array([[0.1, 0.9, 0.5, 0.4]])
    assert right_ranks(scores, np.array([[True, False, True, False]])) == [2]


def test_a_tie_costs_half_a_place_for_each_wrong_entry():
    assert right_ranks(np.array([[0.5, 0.5, 0.5]]), np.array([[True, False, False]])) == [2]


def test_ranks_agree_with_the_single_right_entry_of_training():
    scores = np.random.default_rng(3).random((40, 40))
    ranks = right_ranks(scores, np.eye(40, dtype=bool))
    expected = metrics.cross_modal(scores, list(range(40)), list(range(40)))
    assert float(np.median(ranks)) == expected["median_rank"]
    assert float((ranks <= 10).mean()) == expected["r@10"]
