"""The shipped encoder, through the seam that worker and finder use."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from encoders.base import FINDING_NAMES, Basis, CheckpointError, ReportText
from encoders.checkpoint import CARD_FILE, SHIPPED, WEIGHTS_FILE, model_info
from encoders.phantom import draw
from encoders.registry import UnknownEncoder, load_encoder

EFFUSION = "Large right pleural effusion with adjacent atelectasis."
CLEAR = "Heart size is normal. Lungs are clear. No pleural effusion or pneumothorax."


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("common-subspace", None, "cpu", 1)


@pytest.fixture(scope="module")
def images():
    return [draw(seed, 200)[0] for seed in range(5)]


def test_vectors_of_both_modalities_are_unit_rows_of_one_length(encoder, images):
    image = encoder.encode_images(images)
    report = encoder.encode_reports([ReportText(EFFUSION, ""), ReportText("", CLEAR)])
    text = encoder.encode_text("cardiomegaly")
    assert image.embeddings.shape == (5, encoder.dim)
    assert report.embeddings.shape == (2, encoder.dim)
    assert text.shape == (encoder.dim,)
    for rows in (image.embeddings, report.embeddings, text[None]):
        assert rows.dtype == np.float32
        assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-5)


def test_an_image_gets_the_same_vector_in_any_batch(encoder, images):
    together = encoder.encode_images(images)
    for row, image in enumerate(images):
        alone = encoder.encode_images([image])
        assert np.abs(alone.embeddings[0] - together.embeddings[row]).max() < 1e-5
        assert np.abs(alone.findings[0] - together.findings[row]).max() < 1e-5


def test_contrast_and_brightness_of_the_window_hardly_move_a_vector(encoder, images):
    darker = [image * 0.6 + 0.1 for image in images]
    cosines = (encoder.encode_images(images).embeddings * encoder.encode_images(darker).embeddings).sum(1)
    assert cosines.min() > 0.999


def test_blank_and_non_finite_images_give_finite_vectors(encoder):
    spoiled = np.full((50, 60), np.nan, np.float32)
    encoding = encoder.encode_images([np.zeros((64, 64), np.float32), spoiled, np.ones((3, 2), np.float32)])
    assert np.isfinite(encoding.embeddings).all()
    assert np.isfinite(encoding.findings).all()


def test_nothing_to_encode_gives_empty_arrays(encoder):
    assert encoder.encode_images([]).findings.shape == (0, len(FINDING_NAMES))
    assert encoder.encode_reports([]).embeddings.shape == (0, encoder.dim)


def test_probabilities_lie_between_zero_and_one(encoder, images):
    encoding = encoder.encode_images(images)
    for values in (encoding.findings, encoding.chest, encoding.frontal):
        assert ((values >= 0) & (values <= 1)).all()


def test_the_findings_of_a_report_are_the_labelers(encoder):
    findings = encoder.encode_reports([ReportText(EFFUSION, ""), ReportText(CLEAR, "")]).findings
    column = FINDING_NAMES.index("Pleural Effusion")
    assert findings[0, column] == 1
    assert findings[1, column] == 0


def test_a_negated_finding_is_far_from_the_finding(encoder):
    effusion = encoder.encode_text("pleural effusion")
    reports = encoder.encode_reports([ReportText(EFFUSION, ""), ReportText(CLEAR, "")]).embeddings
    assert reports[0] @ effusion > reports[1] @ effusion + 0.2


def test_free_text_without_a_known_word_still_has_a_direction(encoder):
    assert np.linalg.norm(encoder.encode_text("zzz qqq")) == pytest.approx(1, abs=1e-5)
    assert np.linalg.norm(encoder.encode_text("")) == pytest.approx(1, abs=1e-5)


def test_a_study_is_fused_from_what_it_has(encoder, images):
    vectors = encoder.encode_images(images[:2]).embeddings
    report, clear = encoder.encode_reports([ReportText(EFFUSION, ""), ReportText(CLEAR, "")]).embeddings
    alone = encoder.fuse(vectors[:1], None)
    assert alone == pytest.approx(vectors[0], abs=1e-5)
    by_report = encoder.fuse(vectors[:0], report)
    assert by_report @ report > 0.8 > by_report @ clear
    joint = encoder.fuse(vectors, report)
    assert np.linalg.norm(joint) == pytest.approx(1, abs=1e-5)
    assert joint @ report > encoder.fuse(vectors, None) @ report
    with pytest.raises(ValueError, match="no vector"):
        encoder.fuse(vectors[:0], None)


@pytest.mark.parametrize("query", list(Basis))
@pytest.mark.parametrize("entry", list(Basis))
def test_scores_are_probabilities_that_never_fall_as_the_cosine_rises(encoder, query, entry):
    scores = encoder.score(np.linspace(-1, 1, 201, dtype=np.float32), query, entry)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert (np.diff(scores) >= 0).all()
    assert scores[-1] > scores[0]


def test_random_noise_and_text_pages_are_kept_out_and_phantom_chests_let_in(encoder, images):
    generator = np.random.default_rng(0)
    noise = [generator.random((150, 150)).astype(np.float32) for _ in range(4)]
    assert (encoder.encode_images(noise).chest < encoder.chest_threshold).all()
    assert (encoder.encode_images(images).chest >= encoder.chest_threshold).mean() >= 0.8


def test_the_model_is_known_without_importing_torch():
    code = (
        "import sys; from encoders.checkpoint import model_info; print(model_info().model_id); "
        "assert 'torch' not in sys.modules"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert model_info().fingerprint[:12] in shown.stdout
    assert len(model_info().model_id) <= 64


def test_the_shipped_checkpoint_is_small_enough_for_the_repository():
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= 30_000_000


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(SHIPPED, tmp_path / "weights")


def test_a_flipped_bit_in_the_weights_is_found_before_anything_is_encoded(copy):
    data = bytearray((copy / WEIGHTS_FILE).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / WEIGHTS_FILE).write_bytes(data)
    with pytest.raises(CheckpointError, match="restore both files"):
        load_encoder("common-subspace", copy)


def test_a_missing_checkpoint_says_what_to_name(tmp_path):
    with pytest.raises(CheckpointError, match=r"encoder\.checkpoint must name a folder"):
        load_encoder("common-subspace", tmp_path)


def test_missing_weights_are_not_replaced_by_random_ones(copy):
    (copy / WEIGHTS_FILE).unlink()
    with pytest.raises(CheckpointError, match="restore it beside"):
        load_encoder("common-subspace", copy)


@pytest.mark.parametrize(("key", "value"), [("format", 99), ("dim", None)])
def test_a_card_of_another_layout_is_refused(copy, key, value):
    card = json.loads((copy / CARD_FILE).read_text())
    if value is None:
        del card[key]
    else:
        card[key] = value
    (copy / CARD_FILE).write_text(json.dumps(card))
    with pytest.raises(CheckpointError):
        model_info(copy)


class Borrowed:
    """An encoder of somebody else, to be found by its import path."""

    def __init__(self, checkpoint, device, threads):
        self.given = (checkpoint, device, threads)


def test_an_encoder_is_found_by_its_import_path(monkeypatch):
    monkeypatch.setitem(sys.modules, "somebodys_encoder", sys.modules[__name__])
    assert load_encoder("somebodys_encoder:Borrowed", None, "cpu", 3).given == (None, "cpu", 3)


@pytest.mark.parametrize("name", ["no-such", "no_such_module:Encoder", "encoders.base:NoSuch"])
def test_an_unknown_encoder_is_named(name):
    with pytest.raises(UnknownEncoder, match=name.split(":", maxsplit=1)[0]):
        load_encoder(name)
