"""The transformers text tower: a small one trained in-domain, one from a local folder, and both in a checkpoint."""

import subprocess
import sys

import pytest
import torch

from encoders.towers.image import TowerError
from encoders.towers.text import build_text_tower

TEXTS = ["heart size is normal", "no pleural effusion", "large left pleural effusion", "cardiomegaly is unchanged"]


def vectors(tower):
    tower.module.eval()
    with torch.inference_mode():
        return tower.module(tower.prepare(TEXTS))


@pytest.fixture
def small():
    tower = build_text_tower("transformer", width=32)
    tower.fit(TEXTS, seed=3)
    return tower


def test_a_process_that_begins_with_the_text_tower_has_one():
    code = (
        "from encoders.towers.text import build_text_tower; tower = build_text_tower('transformer', width=32);"
        f"tower.fit({TEXTS!r}, 1); print(tuple(tower.module(tower.prepare({TEXTS!r})).shape))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert result.stdout.strip() == "(4, 32)", result.stderr[-2000:]


def test_other_words_give_another_vector_and_padding_none(small):
    rows = vectors(small)
    assert rows.shape == (4, 32)
    assert not torch.allclose(rows[1], rows[2], atol=1e-3)
    with torch.inference_mode():
        torch.testing.assert_close(small.module(small.prepare(TEXTS[:1])), rows[:1], atol=1e-5, rtol=1e-5)


def test_what_card_and_state_hold_is_the_same_tower(small):
    again = build_text_tower("transformer", width=32)
    again.restore(small.card(), small.tensors())
    again.module.load_state_dict(small.module.state_dict())
    torch.testing.assert_close(vectors(again), vectors(small))


def test_a_local_folder_is_taken_as_it_is_and_one_without_weights_is_named(small, tmp_path):
    small.module.model.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(small._tokenizer.to_str(), encoding="utf-8")
    tower = build_text_tower("transformer", folder=str(tmp_path), width=32)
    tower.fit(["other words"], seed=9)
    torch.testing.assert_close(vectors(tower), vectors(small))
    (tmp_path / "config.json").unlink()
    with pytest.raises(TowerError, match=r"needs config\.json"):
        build_text_tower("transformer", folder=str(tmp_path), width=32)
