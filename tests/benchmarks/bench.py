"""Measures cxrfind beside its peers: every suite of this folder, one after the other; tables, bench.json, bench.html.

    python tests/benchmarks/bench.py [--only search,query] [--full] [--rounds N] [--output bench]
    python tests/benchmarks/bench.py --only ingest --profile             # where the time goes, by py-spy
    python tests/benchmarks/bench.py --compare earlier/bench.json        # measure, then before and after
    python tests/benchmarks/bench.py --from bench/bench.json --markdown  # measure nothing: the table of a stored run

A suite runs in a process of its own, so that neither memory nor imports of one reach the next. One that fails is
reported and the others still run; the exit code is then 1. A missed target is a result, not a failure.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import machine
import page
import report

from daemon.roles import FINDER_ENVIRONMENT

HERE = Path(__file__).parent
TIMEOUT_S, TIMEOUT_FULL_S = 600, 3 * 3600
ERROR_LINES = 30
#: Suites that do the finder's work, and their peers beside it, in their own process: with its environment.
AS_FINDER = ("growth", "query", "search", "start")
#: As cxrfind run sets it for worker and finder: numpy's threads would spin on beside those that encode or build graphs.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}
ENVIRONMENTS = {name: FINDER_ENVIRONMENT | _ONE_THREAD for name in AS_FINDER} | {"encoder": _ONE_THREAD}
PROFILES = {"flamegraph": "svg", "speedscope": "speedscope.json"}


def suites(folder: Path, only: str | None) -> list[str]:
    """Return the names of the suites of a folder, in order.

    Raises
    ------
    SystemExit
        If `only` names one that is not there.
    """
    found = sorted(path.stem.removeprefix("bench_") for path in folder.glob("bench_*.py"))
    wanted = only.split(",") if only else found
    if unknown := sorted(set(wanted) - set(found)):
        raise SystemExit(f"no suite {', '.join(unknown)} in {folder}; there are: {', '.join(found)}")
    return wanted


def profiler(name: str, kind: str, output: Path) -> list[str]:
    """Return the command that records what follows it, with all its child processes.

    Raises
    ------
    SystemExit
        If py-spy is not installed.
    """
    program = Path(sysconfig.get_path("scripts")) / "py-spy"
    if not program.exists():
        raise SystemExit(f"no {program}: install the dev extra (pip install -e '.[dev]')")
    place = output / f"{name}.{PROFILES[kind]}"
    # many processes at once: it must neither hold them up nor fall behind
    how = ["--subprocesses", "--nonblocking", "--rate", "50", "--format", kind, "--output", str(place)]
    return [str(program), "record", *how, "--"]


def run_suite(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one suite in a process of its own; return what it found, or {"error": ...}, and how it was run."""
    found_path, log_path = options.output / f"{name}.json", options.output / f"{name}.log"
    found_path.unlink(missing_ok=True)
    code = f"import harness, bench_{name}; harness.main(bench_{name}.run)"
    command = [sys.executable, "-c", code, "--json", found_path, "--work", options.output, "--rounds", options.rounds]
    command += ["--full"] if options.full else []
    if options.profile:
        command = [*profiler(name, options.profile, options.output), *command]
    paths = os.pathsep.join([str(options.suites.resolve()), str(HERE), os.environ.get("PYTHONPATH", "")])
    began, timeout_s = time.monotonic(), options.timeout or (TIMEOUT_FULL_S if options.full else TIMEOUT_S)
    problem = ""
    environment = ENVIRONMENTS.get(name, {}) | os.environ | {"PYTHONPATH": paths}
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [str(part) for part in command], stderr=log, env=environment, start_new_session=True
        )
        try:
            if process.wait(timeout_s):
                problem = f"exit code {process.returncode}"
        except subprocess.TimeoutExpired:
            problem = f"not done after {timeout_s:.0f} s"
        finally:
            with suppress(ProcessLookupError):  # also servers that a failed suite has left behind
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    said = {
        "commit": machine.commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "full": options.full,
        "profile": options.profile,
        "seconds": round(time.monotonic() - began, 1),
    }
    if found_path.exists() and not problem:
        found = json.loads(found_path.read_text())
        found_path.unlink()
        if not log_path.stat().st_size:
            log_path.unlink()
        return found | said | {"name": name}
    lines = log_path.read_text(errors="replace").strip().splitlines()[-ERROR_LINES:]
    return {"name": name, "title": name, "error": "\n".join([problem or "no figures written", *lines])} | said


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the wanted suites, store bench.json after each; return its content."""
    path = options.output / "bench.json"
    wanted = suites(options.suites, options.only)
    earlier = json.loads(path.read_text())["suites"] if options.keep and path.exists() else []
    results: dict[str, Any] = {"machine": machine.machine(options.output), "suites": []}
    report.head(results)
    for name in wanted:
        report.begin(name)
        done = run_suite(name, options)
        report.end(done)
        results["suites"].append(done)
        done_names = {each["name"] for each in results["suites"]}
        kept = [each for each in earlier if each["name"] not in done_names]
        stored = results | {"suites": sorted([*results["suites"], *kept], key=lambda each: str(each["name"]))}
        path.write_text(json.dumps(stored, indent=1) + "\n")
    return stored


def arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--only", metavar="NAMES", help="these suites only: search,query")
    add("--full", action="store_true", help="the long run, with 230,000 and 1,000,000 vectors")
    add("--rounds", type=int, default=3, help="alternations between us and the peers (default: 3)")
    add("--output", type=Path, default=Path("bench"), help="folder of bench.json, bench.html and the suites' own files;"
        " on the disk that is to be measured (default: bench)")  # fmt: skip
    add("--keep", action="store_true", help="keep the other suites of an earlier bench.json in that folder")
    add("--profile", nargs="?", const="flamegraph", choices=PROFILES, help="record each suite's processes with py-spy;"
        " its figures then say little")  # fmt: skip
    add("--timeout", type=float, help="end a suite after so many seconds")
    add("--compare", type=Path, metavar="JSON", help="print ratios before (this file) and after")
    add("--from", type=Path, metavar="JSON", dest="source", help="measure nothing, report what this file holds")
    add("--markdown", nargs="?", const=Path("-"), type=Path, metavar="PAGE",
        help="print the ratios as Markdown, or write them into a page between its bench marks")  # fmt: skip
    add("--suites", type=Path, default=HERE, metavar="FOLDER", help="where the bench_*.py are (default: here)")
    return parser.parse_args()


def main() -> int:
    """Measure or read, report; return the exit code."""
    options = arguments()
    if options.profile and options.markdown:
        raise SystemExit("figures taken under a profiler are not for publication: --profile or --markdown")
    options.output = options.source.parent if options.source else options.output
    options.output.mkdir(parents=True, exist_ok=True)
    earlier = json.loads(options.compare.read_text()) if options.compare else None
    if options.source:
        results = json.loads(options.source.read_text())
    else:
        results = measure(options)
        report.summary(results)
    if earlier:
        report.comparison(earlier, results)
    if options.markdown:
        report.markdown(results, options.markdown)
    written = page.write(results, options.output, earlier)
    print(f"\n{written}", file=sys.stderr)
    return int(any("error" in each for each in results["suites"]))


if __name__ == "__main__":
    raise SystemExit(main())
