"""Why two images are alike: properties that hold for any model, shown on the shipped one."""

import numpy as np
import pytest

from encoders.common_subspace import CommonSubspaceEncoder
from encoders.explanation import Attribution, _overlaps, explain, overlay
from encoders.phantom import draw


@pytest.fixture(scope="module")
def encoder():
    return CommonSubspaceEncoder.load(None, "cpu", 1)


@pytest.fixture(scope="module")
def pair():
    return draw(3, 128)[0], draw(8, 128)[0]


@pytest.fixture(scope="module")
def explained(encoder, pair):
    return explain(encoder, *pair)


def test_the_cosine_explained_is_the_one_that_ranks(encoder, pair, explained):
    vectors = encoder.encode_images(list(pair)).embeddings
    assert explained.cosine == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-3)


def test_contributions_of_all_positions_and_of_a_normal_study_add_up_to_the_cosine(explained):
    for attribution in (explained.a, explained.b):
        assert attribution.contributions.sum() + attribution.normal == pytest.approx(explained.cosine, abs=0.01)


def test_heat_lies_between_zero_and_one_and_reaches_one(explained):
    for heat in (explained.heat_a, explained.heat_b):
        assert heat.dtype == np.float32
        assert heat.min() == 0
        assert heat.max() == 1


def test_an_image_is_explained_by_itself_with_cosine_one_and_the_same_regions(encoder, pair):
    mine = explain(encoder, pair[0], pair[0])
    assert mine.cosine == pytest.approx(1, abs=1e-4)
    assert np.array_equal(mine.heat_a, mine.heat_b)


def test_a_position_that_adds_nothing_gets_no_heat():
    contributions = np.array([[0.3, 0.0], [-0.2, 0.1]], np.float32)
    heat = Attribution(contributions, 0.0).heat
    assert heat[0, 0] == 1
    assert heat[0, 1] == heat[1, 0] == 0


def test_the_parts_of_a_crop_are_shared_out_without_loss():
    shares = _overlaps(5, 0.13, 0.77, 4)
    assert shares.sum(axis=0) == pytest.approx(np.ones(4))
    assert shares[4].sum() == 0
    assert np.array_equal(_overlaps(3, 0.0, 1.0, 3), np.eye(3))


def test_borders_of_cells_of_several_sizes_do_not_show():
    wide, narrow = np.repeat(np.arange(5.0), 6), np.repeat(np.arange(6.0) % 2, 5)
    contributions = np.tile(wide + narrow, (30, 1)).astype(np.float32)
    steps = [np.abs(np.diff(Attribution(contributions, 0.0, cell).heat[0])).max() for cell in (1, 6)]
    assert steps[1] < 0.5 * steps[0]


def test_the_model_that_sees_side_by_side_tells_how_large_its_largest_cells_are(explained):
    assert explained.a.contributions.shape == (30, 30)              # squares of 160 and 192 pixels: 5 and 6 positions
    assert explained.a.cell == 6


def test_the_overlay_keeps_the_picture_where_there_is_no_heat_and_colours_it_elsewhere():
    pixels = np.full((40, 60), 0.5, np.float32)
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0] = 1
    picture = np.asarray(overlay(pixels, heat))
    assert picture.shape == (40, 60, 3)
    assert np.ptp(picture[30:, 40:]) == 0
    red, green, blue = picture[2, 2].astype(int)
    assert red > green >= blue
