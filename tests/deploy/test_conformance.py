"""The conformance statement is the one that the code's tables give."""

from __future__ import annotations

from pathlib import Path

from daemon.conformance import statement
from daemon.finder import private
from encoders.readers.table import READERS, TRANSFER_SYNTAXES

ROOT = Path(__file__).resolve().parents[2]


def test_the_statement_in_deploy_is_made_from_the_tables():
    assert (ROOT / "deploy" / "CONFORMANCE.md").read_text(encoding="utf-8") == statement()


def test_every_sop_class_transfer_syntax_and_private_element_is_stated():
    text = statement()
    missing = [uid for uid in (*READERS, *(row.uid for row in TRANSFER_SYNTAXES)) if f"| {uid} " not in text]
    assert missing == []
    assert [row.keyword for row in private.ELEMENTS if row.keyword not in text] == []
