"""The vector that is indexed: what its two blocks are worth, and checkpoints from before it had two."""

import json
import shutil

import numpy as np
import pytest

from encoders.base import ABNORMAL_FINDINGS, FINDING_NAMES, Basis
from encoders.checkpoint import CARD_FILE, SHIPPED, WEIGHTS_FILE, sha256_of
from encoders.common_subspace import CommonSubspaceEncoder
from encoders.phantom import draw
from encoders.tensors import read_tensors, write_tensors
from encoders.towers.projection import MOST_FINDINGS, Projection
from encoders.towers.subspace import IMAGE, TEXT

WEIGHT, BLOCK = 0.5, len(ABNORMAL_FINDINGS)


@pytest.fixture
def projection():
    generator = np.random.default_rng(1)
    matrix = generator.normal(size=(30, 20)).astype(np.float32)
    bias = np.zeros(20, np.float32)
    return Projection({IMAGE: matrix}, {IMAGE: bias}, np.zeros(3, np.float32), 0.5, {Basis.IMAGE.value: WEIGHT})


def probabilities(**present):
    rows = np.full((1, len(FINDING_NAMES)), 0.0, np.float32)
    for name, value in present.items():
        rows[0, FINDING_NAMES.index(name.replace("_", " "))] = value
    return rows


def vector(projection, seed, **present):
    slots = np.random.default_rng(seed).normal(size=(1, 30)).astype(np.float32)
    return projection(slots, probabilities(**present), Basis.IMAGE)[0]


def test_two_studies_share_in_the_findings_block_what_their_findings_overlap(projection):
    a = vector(projection, 2, Edema=0.8, Pleural_Effusion=0.5, Fracture=0.3)
    b = vector(projection, 3, Edema=0.6, Pleural_Effusion=0.2, No_Finding=0.9)
    overlap = WEIGHT**2 * (np.sqrt(0.8 * 0.6) + np.sqrt(0.5 * 0.2))
    assert a[:BLOCK] @ b[:BLOCK] == pytest.approx(overlap, abs=1e-5)
    for row in (a, b):
        assert row.shape == (projection.dim,) == (BLOCK + 20,)
        assert np.linalg.norm(row) == pytest.approx(1, abs=1e-6)


def test_healthy_studies_are_compared_by_their_appearance_alone(projection):
    a, b = vector(projection, 2), vector(projection, 3)
    assert not a[:BLOCK].any()
    assert np.linalg.norm(a[BLOCK:]) == pytest.approx(1, abs=1e-6)
    assert vector(projection, 2) @ a == pytest.approx(1, abs=1e-6)
    assert b @ a < 0.9


def test_a_study_with_every_finding_keeps_something_of_its_own(projection):
    everything = {name.replace(" ", "_"): 1.0 for name in ABNORMAL_FINDINGS}
    a, b = vector(projection, 2, **everything), vector(projection, 3, **everything)
    assert np.linalg.norm(a[:BLOCK]) == pytest.approx(MOST_FINDINGS, abs=1e-5)
    assert 0.9 < a @ b < 0.999


def reports(weights, *rows):
    """Return vectors of reports that state findings and otherwise speak of different things."""
    generator, matrix = np.random.default_rng(4), np.eye(20, dtype=np.float32)
    weighed = Projection({TEXT: matrix}, {TEXT: np.zeros(20, np.float32)}, np.zeros(3, np.float32), 0.5, weights)
    slots = generator.normal(size=(len(rows), 20)).astype(np.float32)
    found = np.concatenate([probabilities(**row) for row in rows])
    return weighed, weighed(slots, found, Basis.REPORT)


def test_a_report_to_be_fused_is_as_sure_of_its_findings_as_the_joint_weight_says():
    weighed, rows = reports({"REPORT": 0.08, "JOINT": 0.4}, {"Edema": 1.0, "Fracture": 0.5}, {"Edema": 1.0}, {})
    fused = weighed.to_be_fused(rows)
    expected = 0.4 * np.sqrt(np.array([1.0, 0.5]))
    columns = [ABNORMAL_FINDINGS.index(name) for name in ("Edema", "Fracture")]
    assert fused[0, columns] == pytest.approx(expected, abs=1e-5)
    assert np.linalg.norm(fused, axis=1) == pytest.approx(1, abs=1e-5)
    assert fused[0] @ fused[1] > rows[0] @ rows[1] + 0.1
    assert fused[2] == pytest.approx(rows[2], abs=1e-6)             # it states none
    ratio = fused[0, BLOCK:] / rows[0, BLOCK:]
    assert ratio == pytest.approx(ratio[0], abs=1e-4)               # what else it says, it says as before


@pytest.mark.parametrize("weights", [{"REPORT": 0.08}, {"REPORT": 0.0, "JOINT": 0.4}, {}], ids=str)
def test_without_a_joint_weight_or_findings_in_reports_these_are_fused_as_they_are(weights):
    weighed, rows = reports(weights, {"Edema": 1.0}, {"Edema": 1.0})
    assert np.array_equal(weighed.to_be_fused(rows), rows)


def test_a_checkpoint_without_findings_in_its_vectors_is_still_read(tmp_path):
    shutil.copy(SHIPPED / CARD_FILE, tmp_path)
    card = json.loads((tmp_path / CARD_FILE).read_text(encoding="utf-8"))
    del card["projection"]["findings_weight"]
    card["format"], card["dim"] = 2, card["dim"] - BLOCK
    tensors = dict(read_tensors(SHIPPED / WEIGHTS_FILE))
    tensors["projection.matrix.image"] = tensors["projection.matrix.image"][:-1]
    write_tensors(tensors, tmp_path / WEIGHTS_FILE, "float16")
    card["weights"]["sha256"] = sha256_of(tmp_path / WEIGHTS_FILE)
    (tmp_path / CARD_FILE).write_text(json.dumps(card), encoding="utf-8")
    images = [draw(seed, 200)[0] for seed in range(2)]
    before = CommonSubspaceEncoder.load(tmp_path, "cpu", 1).encode_images(images).embeddings
    now = CommonSubspaceEncoder.load(SHIPPED, "cpu", 1).encode_images(images).embeddings[:, BLOCK:]
    assert before.shape == now.shape == (2, card["dim"])
    now /= np.linalg.norm(now, axis=1, keepdims=True)
    assert (before * now).sum(1) == pytest.approx(1, abs=2e-3)      # 16 bits beside 8
