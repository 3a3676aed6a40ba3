"""bench.py with small suites of its own: what it stores, shows and survives."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCH = Path(__file__).parent / "bench.py"
SUITE = '''
from harness import Curve, Figure, Options, Suite, main, ratio

def run(options: Options) -> Suite:
    assert options.work.is_dir() and not any(options.work.iterdir())
    ours, peer = (10.0, 11.0, 12.0), (5.0,) * 3
    return Suite(
        "{name}", "Objects <each second>",
        [Figure("ours", "objects/s", ours), Figure("peer", "objects/s", peer), Figure("rounds", "", (options.rounds,))],
        [ratio("ours / peer", ours, peer, 1.6), ratio("time / peer", ours, peer, 1.2, at_least=False),
         ratio("free / peer", ours, peer)],
        [Curve("Time by size", "vectors", "ms", {"p50": [(1e4, 0.2), (1e6, 0.6)]}, log_x=True)],
        ["full" if options.full else "short"],
    )

if __name__ == "__main__":
    main(run)
'''


class Suites:
    """A folder of suites."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()

    def write(self, name, text=SUITE):
        path = self.folder / f"bench_{name}.py"
        path.write_text(text.replace("{name}", name))
        return path


def bench(suites, output, *more):
    command = [sys.executable, BENCH, "--suites", suites.folder, "--output", output, *more]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, timeout=280)


@pytest.fixture
def suites(tmp_path):
    return Suites(tmp_path / "suites")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Return suites with one named alpha, the folder of its results, and what the run has printed."""
    folder = tmp_path_factory.mktemp("stored")
    suites = Suites(folder / "suites")
    suites.write("alpha")
    done = bench(suites, folder / "out", "--rounds", 7)
    assert done.returncode == 0, done.stderr
    return suites, folder / "out", done.stdout


def test_a_run_stores_and_shows_ratios_with_their_verdicts(stored):
    _, output, printed = stored
    results = json.loads((output / "bench.json").read_text())
    (suite,) = results["suites"]
    reached, passed, free = suite["ratios"]
    assert (reached["values"], reached["median"], reached["met"]) == ([2.0, 2.2, 2.4], 2.2, True)
    assert (passed["met"], free["met"]) == (False, None)
    assert suite["figures"][2]["values"] == [7]
    assert suite["notes"] == ["short"]
    assert {"cpu", "cores", "memory_gib", "kernel", "python"} <= results["machine"].keys()
    assert results["machine"]["libraries"].keys() >= {"torch", "hnswlib"}
    page = (output / "bench.html").read_text()
    assert "1 of 2 targets met" in page
    assert page.count("<svg") == 5  # targets, ratios, one curve, figures of two units
    assert ">met<" in page
    assert ">missed<" in page
    assert "Objects &lt;each second&gt;" in page
    assert re.findall(r'(?:src|href)="(?!#)[^"]*|url\((?!#)[^)]*|<script|<link', page) == []  # needs no other file
    assert "missed" in printed
    assert "1 of 2 targets met" in printed
    assert sorted(path.name for path in output.iterdir()) == ["bench.html", "bench.json"]


def test_a_suite_that_fails_is_reported_and_the_others_still_run(suites, tmp_path):
    suites.write("alpha", "def run(options):\n    raise RuntimeError('the peer <did> not start')\n")
    suites.write("beta", "import os, signal\ndef run(options):\n    os.kill(os.getpid(), signal.SIGSEGV)\n")
    suites.write("omega")
    done = bench(suites, tmp_path / "out")
    assert done.returncode == 1
    alpha, beta, omega = json.loads((tmp_path / "out/bench.json").read_text())["suites"]
    assert "the peer <did> not start" in alpha["error"]
    assert "-11" in beta["error"]
    assert omega["ratios"][0]["met"]
    assert "failed: alpha, beta" in done.stdout
    assert "the peer &lt;did&gt; not start" in (tmp_path / "out/bench.html").read_text()


def test_a_suite_that_hangs_is_ended(suites, tmp_path):
    suites.write("alpha", "import time\ndef run(options):\n    time.sleep(3600)\n")
    done = bench(suites, tmp_path / "out", "--timeout", 3)
    assert done.returncode == 1
    assert "alpha failed: not done after 3 s" in done.stdout


def test_a_failed_suite_leaves_no_process_behind(suites, tmp_path):
    pid = tmp_path / "pid"
    suites.write("alpha", f'''
import subprocess
from pathlib import Path

def run(options):
    Path({str(pid)!r}).write_text(str(subprocess.Popen(["sleep", "3600"]).pid))
    1 / 0
''')
    assert bench(suites, tmp_path / "out").returncode == 1
    stat = Path(f"/proc/{pid.read_text()}/stat")
    deadline = time.monotonic() + 20
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline, "it still runs"
        time.sleep(0.1)


def test_before_and_after_tell_a_change_from_noise(stored, tmp_path):
    suites, output, _ = stored
    now = tmp_path / "now" / "bench.json"
    now.parent.mkdir()
    shutil.copy(output / "bench.json", now)
    found = json.loads(now.read_text())
    found["suites"][0]["ratios"][0] |= {"values": [1.0, 1.1, 1.2]}
    found["suites"][0]["ratios"][1] |= {"values": [1.0, 1.1, 1.2]}
    (tmp_path / "before.json").write_text(json.dumps(found))
    done = bench(suites, "unused", "--from", now, "--compare", tmp_path / "before.json")
    rows = {line.split()[1]: line.split()[-1] for line in done.stdout.splitlines() if line.strip().startswith("alpha")}
    assert rows == {"ours": "better", "time": "worse", "free": "same"}
    assert "Before and after" in (now.parent / "bench.html").read_text()


def test_the_table_of_a_stored_run_is_written_between_the_marks_of_a_page(stored, tmp_path):
    suites, output, _ = stored
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench: begin -->\nold\n<!-- bench: end -->\nafter\n")
    done = bench(suites, "unused", "--from", output / "bench.json", "--markdown", page)
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert "| alpha | time / peer | 2.20 | 2.00 – 2.40 | ≤ 1.2 | **missed** |" in text
    assert text.startswith("before\n<!-- bench: begin -->\n")
    assert text.endswith("<!-- bench: end -->\nafter\n")
    assert "old" not in text


def test_suites_measured_one_by_one_are_kept_in_one_report(suites, tmp_path):
    suites.write("alpha")
    suites.write("beta")
    bench(suites, tmp_path / "out", "--only", "beta")
    bench(suites, tmp_path / "out", "--only", "alpha", "--keep", "--full")
    found = json.loads((tmp_path / "out/bench.json").read_text())["suites"]
    assert [(each["name"], each["full"]) for each in found] == [("alpha", True), ("beta", False)]
    assert found[0]["notes"] == ["full"]


def test_a_suite_that_is_not_there_is_named(suites, tmp_path):
    suites.write("alpha")
    done = bench(suites, tmp_path / "out", "--only", "alhpa")
    assert done.returncode == 1
    assert "no suite alhpa" in done.stderr
    assert "there are: alpha" in done.stderr


def test_a_profile_shows_the_functions_of_a_suite(suites, tmp_path):
    busy = "def spin(): return sum(n * n for n in range(30_000_000))\n"
    suites.write("alpha", busy + SUITE.replace("    ours, peer", "    spin()\n    ours, peer"))
    done = bench(suites, tmp_path / "out", "--profile")
    if "permission denied" in (done.stdout + done.stderr).lower():
        pytest.skip("this machine lets no process trace another")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "spin (bench_alpha.py" in (tmp_path / "out/alpha.svg").read_text()
    assert "under a profiler" in (tmp_path / "out/bench.html").read_text()


def test_a_suite_runs_alone(suites, tmp_path):
    path = suites.write("alpha")
    done = subprocess.run(
        [sys.executable, path, "--json", tmp_path / "alpha.json", "--work", tmp_path], capture_output=True, text=True,
        check=False, env={"PYTHONPATH": str(BENCH.parent)}, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "ours / peer" in done.stdout
    assert json.loads((tmp_path / "alpha.json").read_text())["name"] == "alpha"
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["suites"]  # its folder is gone
