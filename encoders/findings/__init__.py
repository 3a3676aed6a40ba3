"""Findings from report text: the 14 CheXpert observations by rules, offline, for reports in English.

    text.py      report -> sentences, with section and place
    lexicon.py   phrases.toml (how findings are named) and scopes.toml (negation, doubt), compiled once
    mentions.py  sentence -> mentions: finding, state, side, place
    scopes.py    the state of a mention from the triggers around it
    language.py  whether a report is in English at all
    labels.py    mentions -> 14 labels of a report
    measure.py   the labels against human codes; ERRORS.md: what remains wrong
"""

from encoders.findings.labels import LabelInputError, Labelled, label, label_array, label_csv
from encoders.findings.mentions import Mention, mentions
from encoders.findings.scopes import State

__all__ = ["LabelInputError", "Labelled", "Mention", "State", "label", "label_array", "label_csv", "mentions"]
