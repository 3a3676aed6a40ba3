"""The status table and the private dictionaries."""

from pathlib import Path

import pytest

from daemon.finder import errors, private
from daemon.status import STATUSES, comment_of, outcome_of

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"


def every(kind):
    for child in kind.__subclasses__():
        yield child
        yield from every(child)


@pytest.mark.parametrize("error", sorted(every(errors.FinderError), key=lambda kind: kind.__name__))
def test_every_error_has_a_status_of_its_own_before_the_last_row(error):
    row = next(row for row in STATUSES if issubclass(error, row.error))
    assert row.error is not Exception
    assert row.section.startswith("PS3.")


def test_the_statuses_are_those_that_similar_queries_promise():
    promised = {
        errors.Loading("x"): 0xA700, errors.TooManyMatches(5): 0xA700, errors.BadIdentifier("x", (1,)): 0xA900,
        errors.ExampleUnknown("x"): 0xC101, errors.ExampleNotEncoded("x"): 0xC102, errors.ExampleKeptOut("x"): 0xC103,
        errors.NoUsableIndex("x"): 0xC104, errors.NotAuthorised("text"): 0x0124,
        errors.DestinationUnknown("x"): 0xA801, errors.OriginalsNotKept("x"): 0xA702,
    }  # fmt: skip
    assert {error: outcome_of(error).status for error in promised} == promised
    assert outcome_of(errors.BadIdentifier("x", (0x00080052,))).offending == (0x00080052,)


def test_a_comment_is_ascii_one_line_and_at_most_64_characters():
    comment = comment_of("Übermäßig\nlang\\ " + "x" * 80)
    assert comment.isascii()
    assert "\n" not in comment
    assert "\\" not in comment
    assert len(comment) == 64


def test_an_unforeseen_error_does_not_show_its_message():
    outcome = outcome_of(ValueError("Doe^Jane"))
    assert outcome.status == 0xC001
    assert "Doe" not in outcome.comment


def test_the_shipped_dictionaries_equal_the_table():
    assert (DEPLOY / "cxrfind.dic").read_text() == private.dcmtk_dictionary()
    assert (DEPLOY / "orthanc-dictionary.json").read_text() == private.orthanc_dictionary()


def test_the_creator_has_an_even_length():
    assert len(private.CREATOR) % 2 == 0
