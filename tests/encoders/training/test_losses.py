"""Each loss on cases whose value is known."""

import math

import pytest
import torch

from encoders.training.losses.coupling import masked_bce, unit_distance
from encoders.training.losses.jaccard import jaccard, weighted_contrastive
from encoders.training.losses.smooth_ap import smooth_graded_ap
from encoders.training.losses.triplet import semi_hard_triplet

NAN = float("nan")


def test_unknown_labels_do_not_count():
    logits = torch.tensor([[0.0, 50.0]])
    assert masked_bce(logits, torch.tensor([[1.0, NAN]])).item() == pytest.approx(math.log(2))
    assert masked_bce(logits, torch.tensor([[NAN, NAN]])).item() == 0


def test_the_sdml_form_is_zero_for_parallel_vectors():
    assert unit_distance(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0]])).item() == pytest.approx(0)
    assert unit_distance(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]])).item() == pytest.approx(math.sqrt(2))


def test_the_sdml_form_compares_what_is_known_of_a_row():
    logits = torch.tensor([[0.0, 3.0, 9.0], [5.0, 5.0, 5.0]])
    assert unit_distance(logits, torch.tensor([[1.0, 0.0, NAN], [NAN, NAN, NAN]])).item() == pytest.approx(math.sqrt(2))


def test_triplets_are_made_of_what_is_known():
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]])
    labels = torch.tensor([[1.0, 0.0, NAN], [1.0, 0.0, NAN], [0.0, 1.0, NAN]])  # the third column: not coded
    loss = semi_hard_triplet(features, labels)
    assert loss.item() == pytest.approx(semi_hard_triplet(features, labels.nan_to_num(0.0)).item())
    assert loss.item() > 0.5
    labels[2] = torch.tensor([NAN, 1.0, 0.0])                       # it may share the first: no negative
    assert semi_hard_triplet(features, labels).item() == 0


def test_jaccard_of_two_normal_studies_is_one_and_of_an_unknown_one_zero():
    a = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 0.0], [NAN, NAN, NAN]])
    expected = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert torch.equal(jaccard(a, a), expected)
    assert jaccard(a[1:2], torch.tensor([[1.0, 0.0, 0.0]])).item() == pytest.approx(0.5)


def test_the_contrastive_loss_falls_when_what_shares_more_is_nearer():
    weights = torch.tensor([[0.0, 1.0, 0.2]])
    allowed = torch.tensor([[False, True, True]])
    right = weighted_contrastive(torch.tensor([[1.0, 0.9, 0.1]]), weights, allowed, 0.1)
    wrong = weighted_contrastive(torch.tensor([[1.0, 0.1, 0.9]]), weights, allowed, 0.1)
    assert right < wrong


def test_a_pair_that_is_not_allowed_changes_nothing():
    weights, allowed = torch.tensor([[1.0, 1.0, 0.5]]), torch.tensor([[False, True, True]])
    one = weighted_contrastive(torch.tensor([[1.0, 0.4, 0.2]]), weights, allowed, 0.1)
    other = weighted_contrastive(torch.tensor([[-1.0, 0.4, 0.2]]), weights, allowed, 0.1)
    assert one.item() == pytest.approx(other.item())


def test_smooth_ap_is_near_the_true_ap_at_low_temperature():
    cosines = torch.tensor([[0.9, 0.7, 0.5, 0.3]])
    relevance = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    allowed = torch.ones(1, 4, dtype=torch.bool)
    # A single query against four entries: the diagonal that is left out is entry against itself.
    assert smooth_graded_ap(cosines, relevance, allowed, 0.005).item() == pytest.approx(1 - (1 + 2 / 3) / 2, abs=1e-3)


def test_a_triplet_that_is_apart_by_the_margin_costs_nothing():
    labels = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    apart = torch.tensor([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0]])
    mixed = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1]])
    assert semi_hard_triplet(apart, labels).item() == pytest.approx(0, abs=1e-6)
    assert semi_hard_triplet(mixed, labels).item() > 0.2


def test_a_triplet_loss_without_any_negative_is_zero_and_has_a_gradient():
    features = torch.ones(3, 2, requires_grad=True)
    loss = semi_hard_triplet(features, torch.ones(3, 1))
    loss.backward()
    assert loss.item() == 0
    assert features.grad is not None
