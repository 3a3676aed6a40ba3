"""The demo as a user types it: it answers three questions, writes its picture and leaves nothing running."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(400)


def demo(out: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CXRFIND_")}
    return subprocess.run(
        [sys.executable, "-m", "daemon", "demo", "--studies", "6", "--out", str(out)],
        env={**clean, **environment}, capture_output=True, text=True, timeout=380, check=False,
    )


def test_the_demo_asks_three_questions_and_leaves_nothing_running(tmp_path: Path):
    done = demo(tmp_path)
    assert done.returncode == 0, done.stderr
    for title in ("1. Studies like the example", "2. Studies for the text", "3. Studies like the example, filtered"):
        assert title in done.stdout
    assert (tmp_path / "query.png").read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "data" / "run").glob("*.json")) == []


def test_a_port_that_is_taken_is_one_sentence_before_anything_is_drawn(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = demo(tmp_path, CXRFIND_INGEST__PORT=str(port))
    assert done.returncode == 1
    assert f"port {port} cannot be used" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "dicom").exists()
