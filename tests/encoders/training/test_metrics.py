"""Figures against values worked out by hand."""

import numpy as np
import pytest
from sklearn.metrics import ndcg_score, roc_auc_score

from encoders.training import metrics


def test_ndcg_takes_its_ideal_list_from_the_whole_database():
    scores = np.array([[0.9, 0.8, 0.1]])
    relevance = np.array([[0.0, 1.0, 2.0]])
    ideal = 3 / np.log2(2) + 1 / np.log2(3)
    got = metrics.ndcg(scores, relevance, k=2)
    assert got[0] == pytest.approx((1 / np.log2(3)) / ideal)


def test_ndcg_agrees_with_scikit_learn_on_exponential_gains():
    generator = np.random.default_rng(0)
    scores, relevance = generator.random((6, 40)), generator.integers(0, 4, (6, 40)).astype(float)
    expected = [ndcg_score([2.0**r - 1], [s], k=10) for r, s in zip(relevance, scores, strict=True)]
    assert metrics.ndcg(scores, relevance, 10) == pytest.approx(np.array(expected))


def test_an_excluded_entry_is_neither_found_nor_expected():
    scores = np.array([[1.0, 0.5, 0.2]])
    relevance = np.array([[3.0, 1.0, 0.0]])
    excluded = np.array([[True, False, False]])
    assert metrics.ndcg(scores, relevance, 10, excluded)[0] == pytest.approx(1.0)


def test_average_precision_has_the_three_forms_of_the_model_page():
    scores = np.array([[4.0, 3.0, 2.0, 1.0]])
    relevance = np.array([[0.0, 1.0, 0.0, 1.0]])
    assert metrics.average_precision(scores, relevance, 2)[0] == pytest.approx(0.5)
    assert metrics.average_precision(scores, relevance, 2, normalise="all")[0] == pytest.approx(0.25)
    assert np.isnan(metrics.average_precision(scores, relevance, 1)[0])


def test_protocol_b_asks_only_for_abnormal_studies_but_searches_all():
    labels = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    perfect = labels @ labels.T + 0.0
    result = metrics.protocol_b(perfect, labels, np.eye(3, dtype=bool))
    assert result.queries.tolist() == [0, 1]
    assert result.means()["ndcg@10"] == pytest.approx(1.0)
    worst = metrics.protocol_b(-perfect, labels, np.eye(3, dtype=bool))
    assert worst.means()["ndcg@10"] == pytest.approx(1 / np.log2(3))


def test_auc_agrees_with_scikit_learn_with_ties_and_ignores_unknown_truth():
    generator = np.random.default_rng(1)
    scores, truth = generator.integers(0, 5, 60).astype(float), generator.integers(0, 2, 60).astype(float)
    assert metrics.auc(scores, truth) == pytest.approx(roc_auc_score(truth, scores))
    unknown = np.concatenate([truth, [np.nan]])
    assert metrics.auc(np.append(scores, 99.0), unknown) == pytest.approx(roc_auc_score(truth, scores))
    assert np.isnan(metrics.auc(scores, np.zeros(60)))


def test_cross_modal_counts_an_identical_text_as_right_and_ties_as_half():
    scores = np.array([[0.9, 0.1], [0.3, 0.2], [0.5, 0.5]])
    found = metrics.cross_modal(scores, query_text=[7, 9, 7], entry_text=[7, 9])
    assert found["r@1"] == pytest.approx(1 / 3)
    assert found["r@5"] == 1.0
    with pytest.raises(ValueError, match="merge identical texts"):
        metrics.cross_modal(scores, [7, 9, 7], [7, 7])


def test_the_bootstrap_interval_holds_the_mean_and_narrows_with_more_queries():
    generator = np.random.default_rng(2)
    few, many = generator.random(30), generator.random(3000)
    low, high = metrics.bootstrap(few)
    assert low < few.mean() < high
    narrow = metrics.bootstrap(many)
    assert narrow[1] - narrow[0] < (high - low) / 4
