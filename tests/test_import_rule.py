"""The house's rule: daemon knows encoders and storage; these two know neither each other nor daemon."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {"daemon", "encoders", "storage"}
FORBIDDEN = {"encoders": {"daemon", "storage"}, "storage": {"daemon", "encoders"}}


def imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("room", sorted(FORBIDDEN))
def test_a_room_imports_only_what_it_may(room):
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    wrong = {str(path.relative_to(ROOT)): imported(path) & FORBIDDEN[room] for path in files}
    assert {path: names for path, names in wrong.items() if names} == {}


def test_the_top_level_holds_only_the_rooms_and_plain_files():
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    tracked = ROOMS | {"deploy", "tests"}
    untracked = {"demo", "build", "cxrfind.egg-info", "cxrfind-data", "runs", "bench", "__pycache__"}
    assert folders - untracked == tracked
