"""deploy/PERFORMANCE.md names what there is."""

from __future__ import annotations

import re
from pathlib import Path

from daemon.config import Config

PAGE = (Path(__file__).parents[2] / "deploy" / "PERFORMANCE.md").read_text(encoding="utf-8")


def test_every_key_that_the_page_names_can_be_configured():
    named = re.findall(r"`\[(\w+)\] (\w+)`", PAGE)
    assert len(named) >= 8
    sections = {name: field.annotation.model_fields for name, field in Config.model_fields.items() if name != "peers"}
    assert [(section, key) for section, key in named if key not in sections.get(section, {})] == []


def test_the_page_has_the_place_that_the_benchmark_writes_to():
    before, _, rest = PAGE.partition("\n<!-- bench: begin -->\n")
    assert before
    assert "\n<!-- bench: end -->\n" in rest
