"""Ranks of the right report or image, and what the reports found share with the image."""

import numpy as np
import pytest

from encoders.base import FINDING_NAMES
from encoders.evaluation.cross_modal import cross_modal, right_ranks
from encoders.evaluation.pools import Pool
from encoders.evaluation.systems import System
from encoders.training import metrics
from encoders.training.manifest import Sample


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


def test_a_report_that_shares_more_findings_is_worth_more_and_a_text_of_two_images_has_the_findings_of_both():
    labels = np.zeros((24, len(FINDING_NAMES)))
    labels[0, [2, 3]], labels[1, 2], labels[2, 3] = 1, 1, 1
    told = ["both", "one", "one", *(f"clear {row}" for row in range(3, 24))]
    samples = tuple(Sample("", str(row), str(row), None, findings=text) for row, text in enumerate(told))
    pool = Pool("toy", "frontal", np.arange(24), samples, labels, np.empty((24, 0)))
    turned = np.array([0.2, 0.1, 0.1, 0.0, *np.linspace(0.3, 1, 20)])  # all images ask for: clear 3, one, both, ...
    reports = np.stack([np.cos(turned), np.sin(turned)], 1).astype(np.float32)
    images = np.tile(np.array([1, 0], np.float32), (24, 1))
    found = cross_modal([System("m", "", (images,), (reports,))], pool)["m"]
    assert (found["images"], found["reports"]) == (24, 23)
    cell = found["image_to_report"]["ndcg@10"]
    assert cell["queries"] == 3
    # gains 3 and 3 for image 0, 1 and 1 for the others, at places 2 and 3 instead of 1 and 2
    assert cell["mean"] == pytest.approx((1 / np.log2(3) + 1 / 2) / (1 + 1 / np.log2(3)))
