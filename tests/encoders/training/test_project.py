"""The projection is fitted on what the model really tells."""

from dataclasses import replace

import numpy as np
import pytest

from encoders.base import ABNORMAL_COLUMNS, FINDING_NAMES, Basis
from encoders.towers.projection import text_slots
from encoders.towers.subspace import IMAGE
from encoders.training.arrays import Arrays
from encoders.training.manifest import Sample
from encoders.training.project import (
    NothingToFitOn,
    ProjectionOptions,
    fit_projection,
    project_images,
    tells_views,
    with_pairs,
)
from encoders.training.validation import Outputs

FRONTAL, LATERAL, CHANNELS, DIM = 40, 20, 24, 8


@pytest.fixture
def arrays():
    n = FRONTAL + LATERAL
    samples = tuple(Sample("iu-xray", f"s{row}", f"p{row}", None) for row in range(n))
    labels = np.zeros((n, len(FINDING_NAMES)), np.float32)
    frontal = np.repeat(np.array([1, 0], np.float32), [FRONTAL, LATERAL])
    text = np.where(frontal == 1, np.arange(n), -1)
    texts = tuple(f"text {row}" for row in range(FRONTAL))
    nothing = np.zeros(n, np.int64)
    return Arrays(samples, nothing, labels, {}, frontal, nothing, text, texts, labels[:FRONTAL], {})


def outputs(view):
    """Return what a model says whose lateral images look otherwise, and which says this of the views."""
    generator = np.random.default_rng(0)

    def drawn(*shape):
        return generator.normal(size=shape).astype(np.float32)

    features = np.abs(drawn(FRONTAL + LATERAL, CHANNELS))
    features[FRONTAL:] += 2
    logits, nothing = {"view": np.array(view, np.float32)[:, None]}, np.zeros(0, np.float32)
    return Outputs(
        features, drawn(len(features), DIM), logits, {}, nothing, drawn(FRONTAL, CHANNELS), drawn(FRONTAL, DIM), {}
    )


@pytest.mark.parametrize(
    ("lateral_logit", "told"), [(-5.0, True), (5.0, False)], ids=["a head that tells them", "one that nobody taught"]
)
def test_lateral_images_are_seen_from_lateral_ones_only_where_the_model_tells_them(arrays, lateral_logit, told):
    said = outputs([5.0] * FRONTAL + [lateral_logit] * LATERAL)
    options = ProjectionOptions(appearance_dim=20)
    assert bool(fit_projection(arrays, said, options).matrix[IMAGE][-1].any()) is told


def test_a_model_with_fewer_directions_than_are_asked_for_gives_shorter_vectors(arrays):
    said = outputs([5.0] * FRONTAL + [-5.0] * LATERAL)
    projection = fit_projection(arrays, said, ProjectionOptions())
    assert {part.size for part in projection.bias.values()} == {CHANNELS}


def test_a_report_leads_to_its_lateral_image_as_far_as_that_counts(arrays):
    told = replace(arrays, text=np.concatenate([np.arange(FRONTAL), np.arange(LATERAL)]))
    said = outputs([5.0] * FRONTAL + [-5.0] * LATERAL)

    def far(share):
        projection = fit_projection(told, said, ProjectionOptions(appearance_dim=20, lateral_share=share))
        image = project_images(projection, said, np.zeros((len(arrays.samples), len(FINDING_NAMES)), np.float32))
        words = text_slots(said.text_features, said.text_embeddings)
        report = projection(words, np.zeros((FRONTAL, len(FINDING_NAMES)), np.float32), Basis.REPORT)
        return 1 - (image[FRONTAL:] * report[:LATERAL]).sum(1).mean()

    assert far(4.0) < far(0.5) < far(0.0)


def test_reports_lie_among_images_of_the_same_findings_where_no_image_has_its_own(arrays):
    findings = np.arange(len(arrays.samples)) % 3                   # none, or one of two
    labels = np.zeros_like(arrays.labels)
    labels[findings > 0, ABNORMAL_COLUMNS[0] + findings[findings > 0]] = 1
    alone = replace(arrays, labels=labels, text_labels=labels[:FRONTAL], text=np.full(len(findings), -1))
    said = outputs([5.0] * FRONTAL + [-5.0] * LATERAL)
    for row, finding in enumerate(findings):
        said.features[row, finding] += 4
        if row < FRONTAL:
            said.text_features[row, finding] += 4
    with pytest.raises(NothingToFitOn, match="no train image has a report"):
        fit_projection(alone, said, ProjectionOptions(appearance_dim=20))
    assert with_pairs(arrays, "iu-xray", 0) == (arrays, True)
    sick = findings[:FRONTAL] > 0
    same = findings[:FRONTAL][sick, None] == findings[:FRONTAL][sick]

    def closer(told):
        """Return by how much more a report resembles images of its findings, where this is told of the reports."""
        paired, own = with_pairs(replace(alone, text_labels=told), "iu-xray", 0)
        assert not own
        projection = fit_projection(paired, said, ProjectionOptions(appearance_dim=20))
        nothing = np.zeros((len(findings), len(FINDING_NAMES)), np.float32)
        image = project_images(projection, said, nothing)[:FRONTAL]
        report = projection(text_slots(said.text_features, said.text_embeddings), nothing[:FRONTAL], Basis.REPORT)
        cosines = (image @ report.T)[sick][:, sick]
        return cosines[same].mean() - cosines[~same].mean()

    exchanged = labels[:FRONTAL].copy()
    columns = [ABNORMAL_COLUMNS[0] + 1, ABNORMAL_COLUMNS[0] + 2]
    exchanged[:, columns] = exchanged[:, columns[::-1]]
    assert closer(labels[:FRONTAL]) > 0.1
    assert closer(exchanged) < -0.1


def test_an_image_whose_findings_no_report_tells_of_stays_alone(arrays):
    labels = arrays.labels.copy()
    labels[3, ABNORMAL_COLUMNS[0]] = 1
    labels[4] = np.nan
    paired, _ = with_pairs(replace(arrays, labels=labels, text=np.full(len(labels), -1)), "iu-xray", 0)
    assert (paired.text < 0).nonzero()[0].tolist() == [3, 4]


def test_training_data_without_a_normal_study_are_refused_with_the_cure(arrays):
    sick = replace(arrays, labels=np.ones_like(arrays.labels))
    with pytest.raises(NothingToFitOn, match=r"iu-xray: no normal studies.*--no-export"):
        fit_projection(sick, outputs([5.0] * FRONTAL + [-5.0] * LATERAL), ProjectionOptions())


def test_a_head_tells_views_when_it_knows_most_of_each_that_there_is():
    view = np.array([[2], [1], [3], [-1], [-2]], np.float32)
    both, one = np.array([1, 1, 1, 0, 0], np.float32), np.array([1, 1, 1, np.nan, np.nan], np.float32)
    assert tells_views(view, both)
    assert not tells_views(np.abs(view), both)
    assert tells_views(np.abs(view), one)
