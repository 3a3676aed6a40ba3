"""Mentions: where, on which side, why."""

import pytest

from encoders.findings import State, mentions
from encoders.findings.text import has_words, sentences


def one(text, finding):
    (mention,) = [mention for mention in mentions(text, "") if mention.finding == finding]
    return mention


def test_a_mention_points_at_its_words_and_its_sentence():
    findings = "1. Lungs are clear.  2. Small LEFT effusion noted. No pneumothorax."
    mention = one(findings, "Pleural Effusion")
    assert findings[mention.start : mention.end] == mention.phrase == "effusion"
    assert findings[mention.sentence_start : mention.sentence_end] == "Small LEFT effusion noted"


def test_mentions_come_in_reading_order_with_their_section():
    found = mentions("No effusion. Cardiomegaly.", "Mild edema.")
    assert [(mention.finding, mention.section) for mention in found] == [
        ("Pleural Effusion", "findings"),
        ("Cardiomegaly", "findings"),
        ("Edema", "impression"),
    ]


def test_the_cue_tells_what_decided_the_state():
    doubted = one("Pneumonia cannot be excluded.", "Pneumonia")
    assert (doubted.state, doubted.cue) == (State.UNCERTAIN, "cannot be excluded")
    assert one("There is no effusion.", "Pleural Effusion").cue == "no"
    assert one("There is an effusion.", "Pleural Effusion").cue == ""


@pytest.mark.parametrize(
    ("sentence", "finding", "side"),
    [
        ("Small left pleural effusion.", "Pleural Effusion", "left"),
        ("Opacity in the right lower lobe.", "Lung Opacity", "right"),
        ("Bibasilar atelectasis.", "Atelectasis", "bilateral"),
        ("Right effusion and left atelectasis.", "Pleural Effusion", "right"),
        ("Right effusion and left atelectasis.", "Atelectasis", "left"),
        ("Effusions, left greater than right.", "Pleural Effusion", ""),
        ("Atelectasis in the lingula.", "Atelectasis", "left"),
        ("Middle lobe pneumonia.", "Pneumonia", "right"),
        ("Mild pulmonary edema.", "Edema", ""),
    ],
)
def test_laterality_is_read_in_the_clause_of_the_mention(sentence, finding, side):
    assert one(sentence, finding).laterality == side


def test_history_and_technique_under_a_heading_are_no_mentions():
    text = "EXAM: chest, line placement\nHISTORY: Pneumonia. Effusion.\nCOMPARISON: None.\n\nFINDINGS:\nNo edema."
    assert [mention.finding for mention in mentions(text, "")] == ["Edema"]


def test_a_context_heading_on_one_line_reaches_to_the_end_of_its_sentence():
    (mention,) = mentions("Indication: pneumonia. Small effusion.", "")
    assert mention.finding == "Pleural Effusion"


def test_decimals_abbreviations_and_item_numbers_do_not_split_sentences():
    text = "1. A 1.2 cm nodule vs. scar.2. Heart normal."
    assert [sentence.text for sentence in sentences(text)] == ["A 1.2 cm nodule vs. scar", "Heart normal"]


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("No effusion\nSmall left pneumothorax\nCardiomegaly", 3),
        ("NO EFFUSION\nSMALL LEFT PNEUMOTHORAX\nMODERATE CARDIOMEGALY", 3),
        ("THERE IS NO LEFT\nPLEURAL EFFUSION", 1),  # may be wrapped at 16 characters
        ("no effusion\nsmall pneumothorax\nsevere left atelectasis", 3),
        ("There is no evidence of\nPneumothorax", 1),
        ("No consolidation\nor effusion", 1),
        ("There is no focal consolidation, no pneumothorax and no pleural\nEffusion", 1),
    ],
)
def test_a_line_that_had_room_for_the_next_word_ends_an_item(text, items):
    assert len(sentences(text)) == items


def test_text_without_punctuation_is_cut_between_words():
    text = "effusion " * 500
    pieces = sentences(text)
    assert len(pieces) > 3
    assert all(piece.text == text[piece.start : piece.end] for piece in pieces)
    assert "".join(piece.text.replace(" ", "") for piece in pieces) == text.replace(" ", "")


def test_anonymised_words_say_nothing():
    assert not has_words("XXXX. xxxx 12 / -")
    assert has_words("XXXX normal")
