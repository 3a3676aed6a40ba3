"""The pictures: findings of known place and size, the same for the same seed, never taken for a patient's."""

import numpy as np
import pytest

from encoders.phantom import Abnormality, Kind, draw
from encoders.phantom.anatomy import SIDES, person
from encoders.phantom.bones import fracture_place
from encoders.phantom.canvas import Canvas
from encoders.phantom.devices import central_line, et_tube, feeding_tube, pacemaker
from encoders.phantom.film import expose, field_height

ROWS, COLUMNS = 320, 300


@pytest.fixture(scope="module")
def anatomy():
    return person(np.random.default_rng(4))


_drawn = {}


def picture(anatomy, *abnormalities, view="frontal", seed=6):
    """Return a picture, drawn once for all the tests that look at it."""
    key = (anatomy.seed, abnormalities, view, seed)
    if key not in _drawn:
        _drawn[key] = draw_anew(anatomy, *abnormalities, view=view, seed=seed)
    return _drawn[key]


def draw_anew(anatomy, *abnormalities, view="frontal", seed=6):
    return expose(anatomy, abnormalities, view, (ROWS, COLUMNS), np.random.default_rng(seed))


def around(anatomy, point, radius_cm=0.8):
    """Return the slices of the picture around a point in cm."""
    canvas = Canvas(ROWS, COLUMNS, ROWS / field_height(anatomy), anatomy.lean)
    column, row = canvas.pixel(point)
    reach = max(1, round(radius_cm * canvas.px_per_cm))
    return (slice(max(0, round(row) - reach), round(row) + reach + 1),
            slice(max(0, round(column) - reach), round(column) + reach + 1))


def change(anatomy, point, *abnormalities, radius_cm=0.8):
    """Return how much brighter a place is with the abnormalities than without."""
    where = around(anatomy, point, radius_cm)
    return float(picture(anatomy, *abnormalities)[where].mean() - picture(anatomy)[where].mean())


@pytest.mark.parametrize("side", sorted(SIDES))
@pytest.mark.parametrize("zone", ["upper", "mid", "lower"])
def test_a_consolidation_brightens_its_zone_and_leaves_the_other_lung_alone(anatomy, side, zone):
    other = "left" if side == "right" else "right"
    place = anatomy.place(side, zone)
    found = Abnormality(Kind.CONSOLIDATION, side, zone, 0.6, place)
    assert change(anatomy, place, found) > 0.12
    assert abs(change(anatomy, anatomy.place(other, zone), found)) < 0.06


@pytest.mark.parametrize("side", sorted(SIDES))
def test_a_nodule_is_bright_within_its_diameter_only(anatomy, side):
    place = anatomy.place(side, "upper", 0.5, 0.4)
    found = Abnormality(Kind.NODULE, side, "upper", 3.0, place)
    assert change(anatomy, place, found, radius_cm=0.5) > 0.08
    assert abs(change(anatomy, (place[0], place[1] + 3.5), found, radius_cm=0.5)) < 0.03


@pytest.mark.parametrize("side", sorted(SIDES))
def test_an_effusion_fills_the_base_of_its_side_and_higher_when_it_is_larger(anatomy, side):
    base = (SIDES[side] * (anatomy.half_width - 1.5), anatomy.dome[side] + 0.4 * anatomy.sulcus)
    middle = anatomy.place(side, "mid", 0.85, 0.3)
    small, large = Abnormality(Kind.EFFUSION, side, size=0.25), Abnormality(Kind.EFFUSION, side, size=0.95)
    assert change(anatomy, base, small) > 0.08
    assert abs(change(anatomy, middle, small)) < 0.05
    assert change(anatomy, middle, large) > 0.15


@pytest.mark.parametrize("side", sorted(SIDES))
def test_a_pneumothorax_darkens_the_apex_of_its_side(anatomy, side):
    place = (SIDES[side] * (float(anatomy.lateral_edge(np.float32([anatomy.apex + 6]))[0]) - 1.2), anatomy.apex + 6)
    assert change(anatomy, place, Abnormality(Kind.PNEUMOTHORAX, side, "upper", 3.0)) < -0.01


def test_cardiomegaly_widens_the_heart_beyond_half_of_the_thorax(anatomy):
    x, y = anatomy.heart_centre
    edge = x + 1.25 * anatomy.heart_half_width
    assert change(anatomy, (edge, y + 1.0), Abnormality(Kind.CARDIOMEGALY, size=0.8)) > 0.1


def test_oedema_brightens_both_perihilar_regions(anatomy):
    found = Abnormality(Kind.EDEMA, size=0.8)
    for side in SIDES:
        assert change(anatomy, anatomy.place(side, "mid", 0.25, 0.7), found, radius_cm=1.5) > 0.05


def test_plate_atelectasis_brightens_its_place(anatomy):
    place = anatomy.place("right", "lower", 0.5, 0.4)
    assert change(anatomy, place, Abnormality(Kind.ATELECTASIS, "right", "lower", 0.7, place), radius_cm=0.4) > 0.04


def test_a_wide_mediastinum_hides_the_medial_upper_lung(anatomy):
    place = (3.6 * anatomy.scale + anatomy.rotation, anatomy.apex + 8 * anatomy.scale)
    assert change(anatomy, place, Abnormality(Kind.WIDE_MEDIASTINUM, size=0.8), radius_cm=0.4) > 0.03


def test_pleural_thickening_caps_the_apex(anatomy):
    place = (-6.0, anatomy.apex + 0.9)
    assert change(anatomy, place, Abnormality(Kind.PLEURAL_THICKENING, "right", "upper", 0.8), radius_cm=0.4) > 0.02


@pytest.mark.parametrize("side", sorted(SIDES))
def test_a_fracture_shows_where_the_rib_is_broken(anatomy, side):
    found = Abnormality(Kind.FRACTURE, side, rib=6)
    assert change(anatomy, fracture_place(anatomy, side, 6), found, radius_cm=1.2) > 0.03


@pytest.mark.parametrize(("kind", "path"), [
    (Kind.ET_TUBE, lambda a: et_tube(a, 4.0)[3:]),
    (Kind.CENTRAL_LINE, lambda a: central_line(a, "right")[6:]),
    (Kind.FEEDING_TUBE, lambda a: feeding_tube(a)[10:-10]),
    (Kind.PACEMAKER, lambda a: pacemaker(a, "left")[0]),
])
def test_a_device_is_brighter_than_what_lies_beneath_along_its_whole_course(anatomy, kind, path):
    side = {Kind.CENTRAL_LINE: "right", Kind.PACEMAKER: "left"}.get(kind, "")
    found = Abnormality(kind, side, size=4.0)
    changes = [change(anatomy, point, found, radius_cm=0.1) for point in path(anatomy)[::4]]
    assert np.mean(changes) > 0.03
    assert np.mean(np.asarray(changes) > 0) > 0.8


def test_lung_is_darker_than_heart_and_heart_darker_than_nothing_but_bone_and_belly(anatomy):
    film = picture(anatomy)
    lung = film[around(anatomy, anatomy.place("right", "mid", 0.7), 1.5)].mean()
    heart = film[around(anatomy, anatomy.heart_centre, 1.5)].mean()
    belly = film[around(anatomy, (-7.0, anatomy.dome["right"] + 3.0), 1.0)].mean()
    assert lung + 0.2 < heart
    assert lung + 0.2 < belly


@pytest.mark.parametrize("kind", [Kind.CARDIOMEGALY, Kind.CONSOLIDATION, Kind.EFFUSION, Kind.NODULE, Kind.EDEMA,
                                  Kind.ATELECTASIS, Kind.PACEMAKER, Kind.FEEDING_TUBE])
def test_the_lateral_view_shows_it_too(anatomy, kind):
    found = Abnormality(kind, "left", "mid", 0.7 if kind is not Kind.NODULE else 3.0, anatomy.place("left", "mid"))
    difference = picture(anatomy, found, view="lateral") - picture(anatomy, view="lateral")
    assert difference.max() > 0.1


@pytest.mark.parametrize("view", ["frontal", "lateral"])
def test_the_same_seed_draws_the_same_picture_and_another_seed_another(anatomy, view):
    assert np.array_equal(draw_anew(anatomy, view=view, seed=1), draw_anew(anatomy, view=view, seed=1))
    assert not np.array_equal(draw_anew(anatomy, view=view, seed=1), draw_anew(anatomy, view=view, seed=2))


@pytest.mark.parametrize("shape", [(64, 64), (256, 200), (200, 256)])
def test_every_picture_has_white_letters_on_black_along_its_lower_edge(anatomy, shape):
    film = expose(anatomy, (), "frontal", shape, np.random.default_rng(0))
    strip = film[-max(12, shape[0] // 28):]
    assert film.dtype == np.float32
    assert film.shape == shape
    assert film.min() >= 0
    assert film.max() <= 1
    assert strip.max() == 1.0
    assert np.median(strip) == 0.0


def test_draw_gives_picture_findings_and_words_of_one_study():
    pixels, findings, text, impression = draw(12, 128)
    assert pixels.shape == (128, 128)
    assert len(findings) == 14
    assert text
    assert impression
    assert np.array_equal(pixels, draw(12, 128)[0])
