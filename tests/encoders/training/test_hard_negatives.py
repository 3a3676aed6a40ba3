"""Reports turned round, and a training that is shown them."""

import numpy as np
import pytest
import torch

from encoders.findings import label
from encoders.training.hard_negatives import contradicted, sides_swapped
from encoders.training.prepared import prepare_texts
from encoders.training.trainer import Trainer


def order():
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The heart is normal. No pleural effusion.", "The heart is normal. Pleural effusion."),
        ("Lungs without evidence of consolidation.", "Lungs with consolidation."),
        ("There is a large pneumothorax. Bones intact.", "There is no large pneumothorax. Bones intact."),
        ("Mild cardiomegaly.", "No evidence of mild cardiomegaly."),
    ],
)
def test_one_sentence_is_turned_round_and_the_rest_stays(text, expected):
    assert contradicted(text, order()) == expected


def test_the_labeler_reads_the_contrary_of_the_finding_that_was_turned_round():
    text = "Small left pleural effusion. No pneumothorax. Cardiomegaly."
    before = label(text, "")
    for seed in range(8):
        after = label(contradicted(text, np.random.default_rng(seed)), "")
        changed = [name for name in before if before[name] != after[name]]
        assert len(changed) == 1
        assert {before[changed[0]], after[changed[0]]} == {0.0, 1.0}


@pytest.mark.parametrize("text", ["", "The heart is of normal size.", "Possible pneumonia.", "History of effusion."])
def test_a_report_that_claims_and_denies_no_finding_has_no_contrary(text):
    assert contradicted(text, order()) is None


def test_sides_are_swapped_as_they_are_written():
    assert sides_swapped("Left effusion, RIGHT-sided port; leftward shift.") == (
        "Right effusion, LEFT-sided port; rightward shift."
    )
    assert sides_swapped("Upright view. No effusion.") is None


def test_a_batch_holds_the_hard_negatives_of_its_own_reports_with_their_labels(tmp_path, small_experiment):
    experiment = small_experiment(tmp_path)
    text = experiment.text.model_copy(update={"hard_negatives": True, "extra_batch": 0})
    trainer = Trainer(experiment.model_copy(update={"text": text}), tmp_path / "run")
    texts, altered = trainer.arrays.texts, trainer.batches.texts.altered
    assert altered.shape == (len(texts), 2)
    with_contrary = np.flatnonzero(altered[:, 0] >= 0)
    assert len(with_contrary) > len(texts) / 2
    rows = np.flatnonzero(np.isin(trainer.arrays.text, with_contrary))[:4]
    raw = np.stack([np.asarray(trainer.arrays.images[row]) for row in rows])
    batch = trainer.batches.of(torch.from_numpy(raw), rows, torch.Generator().manual_seed(0))
    own = np.unique(trainer.arrays.text[rows])
    expected = trainer.batches.texts.with_altered(own)
    assert len(expected) > len(own)
    assert torch.equal(batch.prepared, trainer.batches.texts.prepared[torch.from_numpy(expected)])
    first = altered[own[0], 0]
    assert not torch.equal(trainer.batches.texts.labels[first], trainer.batches.texts.labels[own[0]])
    assert batch.own_text.max() < len(own)


def test_without_the_key_nothing_is_altered(tmp_path, small_experiment):
    experiment = small_experiment(tmp_path)
    trainer = Trainer(experiment, tmp_path / "run")
    plain = prepare_texts(trainer.model, trainer.arrays, trainer.vocabularies, prompts=experiment.text.prompts)
    assert (plain.altered == -1).all()
    assert len(plain.prepared) == len(trainer.batches.texts.prepared)
