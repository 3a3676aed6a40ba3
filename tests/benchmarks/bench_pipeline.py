"""From C-STORE to searchable: the real service against the bare loop of decoding and encoding the same files.

    python tests/benchmarks/bench_pipeline.py [--rounds 3] [--full]

The bare loop decodes the files with as many processes as the worker has decoders, then encodes them in the worker's
batches with as many threads, with the same runtime and at the same niceness: nothing is received, moved, kept or
committed, and malloc is as it comes. Objects count once a similarity C-FIND finds them. Sender and workstation run on
the same cores as the service, whose archive holds 10,000 studies from the start: an index of a few hundred vectors is
searched in another way, which costs more with each object. The workstation that is timed goes before all others, idle
or not: a real one has a processor of its own, and need not wait for the sender's turn to end before it reads an answer.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count as counter
from pathlib import Path
from typing import IO, Any

import bulk
import numpy as np
from harness import Figure, Options, Suite, main, ratio
from receivers import free_port
from workload import FindClient, Pacer, Sample, make_samples, study_uid

from daemon.finder.haste import Urgency

_READERS = min(os.cpu_count() or 1, 8)
_ASSOCIATIONS = 4
_ROLES = ("listener", "worker", "finder")
_PATIENCE_S = 300.0                                 # a machine may have other work
_STUDIES = 10_000                                   # in the archive before anything is sent
_FIRST = 2                                          # real-time priority of the workstation that is timed
_NEARLY = 48                                        # objects: the worker tells once a second how many it has done


class Service:
    """`cxrfind run` with its defaults, in a folder of its own, on loopback."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ingest, self.similar = folder, free_port(), free_port()
        self._log: IO[bytes] = (folder / "service.log").open("wb")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CXRFIND_")} | {
            "CXRFIND_INGEST__PORT": str(self.ingest), "CXRFIND_SIMILAR__PORT": str(self.similar),
            "CXRFIND_STORAGE__DIRECTORY": str(folder / "data"), "CXRFIND_STORAGE__MIN_FREE_BYTES": "0",
            "CXRFIND_STORAGE__MAX_USED_PERCENT": "100", "CXRFIND_LOG__FORMAT": "json",
        }  # fmt: skip
        command = [sys.executable, "-m", "daemon", "run"]
        self._process = subprocess.Popen(command, env=environment, stdout=self._log, stderr=self._log)

    def heartbeat(self, role: str) -> dict[str, Any]:
        """Return what a role last said of itself."""
        try:
            found: dict[str, Any] = json.loads((self.folder / "data" / "run" / f"{role}-0.json").read_text())
        except (OSError, ValueError):
            return {}
        return found

    def wait_until_ready(self) -> None:
        """Wait until every role serves."""
        deadline = time.monotonic() + _PATIENCE_S
        while not all(self.heartbeat(role).get("ready") for role in ("listener", "worker", "finder")):
            assert self._process.poll() is None, (self.folder / "service.log").read_text()[-2000:]
            assert time.monotonic() < deadline, "the service did not start"
            time.sleep(0.1)

    @contextmanager
    def worker_paused(self) -> Iterator[None]:
        """Stop the worker for a while (below the 30 s after which the supervisor takes it for hung)."""
        pid = int(self.heartbeat("worker")["pid"])
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def cpu_s(self, role: str) -> float:
        """Return the CPU seconds that a role's process and its living children have used (PROC(5))."""
        pid = self.heartbeat(role)["pid"]
        children = [word for path in Path(f"/proc/{pid}/task").glob("*/children") for word in path.read_text().split()]
        return sum(_cpu_s(int(process)) for process in [pid, *children])

    def close(self) -> None:
        """End it in order."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)
        self._log.close()


@contextmanager
def _before_all_others() -> Iterator[None]:
    """Let this thread run at once whenever it is woken (sched(7)), where that is allowed."""
    usual = Urgency.of_this_thread()
    with suppress(OSError):
        usual._replace(policy=os.SCHED_RR, priority=_FIRST).take()
    try:
        yield
    finally:
        usual.take()


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class BareLoop:
    """The bare loop in a process of its own."""

    def __init__(self, folder: Path, samples: list[Sample]) -> None:
        folder.mkdir()
        (folder / "paths.json").write_text(json.dumps([str(sample.path) for sample in samples]))
        command = [sys.executable, str(Path(__file__).with_name("workload.py")), "--bare", str(folder), str(_READERS)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def run(self, count: int) -> tuple[float, float, float]:
        """Return the seconds of decoding and of encoding `count` files, and the CPU seconds of both."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count}\n")
        before = self._cpu_s()
        self._process.stdin.flush()
        decode_s, encode_s = json.loads(self._line())
        return decode_s, encode_s, self._cpu_s() - before

    def _cpu_s(self) -> float:
        found = Path(f"/proc/{self._process.pid}/task").glob("*/children")
        children = [int(word) for path in found for word in path.read_text().split()]
        return sum(map(_cpu_s, [self._process.pid, *children]))

    def close(self) -> None:
        """End it."""
        self._process.communicate()


class Bench:
    """One service and its samples; every run sends objects that were never seen before."""

    def __init__(self, work: Path) -> None:
        self.samples = make_samples(work / "samples")
        (work / "data").mkdir()
        bulk.make(work / "data" / "catalogue.db", _STUDIES, bulk.shipped_generation())
        self.bare = BareLoop(work / "bare", self.samples)
        self.service = Service(work)
        self._runs = counter(1)
        self.example = ""
        self._rng = np.random.default_rng(11)

    def warm_up(self) -> None:
        """Wait until the service is ready, and send what all questions will be asked with."""
        self.service.wait_until_ready()
        seeds = self.send(12)                       # the first of everything is slow
        self.example = study_uid(seeds, 0)
        self._await(self.example, [study_uid(seeds, n) for n in range(1, 12)])     # an example never finds itself

    def send(self, count: int) -> int:
        """Send objects as fast as they are taken; return the run's number."""
        run = next(self._runs)
        Pacer(self.service.ingest, self.samples, run, count, 0, _ASSOCIATIONS).wait()
        return run

    def _await(self, example: str, uids: list[str]) -> None:
        deadline, client = time.monotonic() + _PATIENCE_S, None
        while True:
            try:
                client = client or FindClient(self.service.similar)
                if client.found(example, uids) == set(uids):
                    return client.release()
            except AssertionError:                  # the example itself is not there yet
                client = None
            assert time.monotonic() < deadline, "objects did not become searchable"
            time.sleep(0.1)

    def _all(self, run: int, count: int, before: int) -> None:
        """Wait until all objects of a run are found.

        Asking costs the cores too: nothing is asked before the worker says that it is nearly through, and then for the
        last one alone.
        """
        deadline = time.monotonic() + _PATIENCE_S
        while self._encoded < before + count - _NEARLY:
            assert time.monotonic() < deadline, "objects did not become searchable"
            time.sleep(0.05)
        uids = [study_uid(run, number) for number in range(count)]
        for some in [uids[-1:], *(uids[start : start + 150] for start in range(0, count, 150))]:
            self._await(self.example, some)

    def from_full_spool(self, count: int) -> float:
        """Return images a second from a spool that holds them all to the last being searchable."""
        before = self._encoded
        with self.service.worker_paused():
            run = self.send(count)
            time.sleep(0.5)
            began = time.monotonic()
        self._all(run, count, before)
        return count / (time.monotonic() - began)

    def while_receiving(self, count: int, asking: bool) -> tuple[float, list[float]]:
        """Return images a second from the first C-STORE to the last being searchable, and C-FINDs' times meanwhile."""
        run, began, before = next(self._runs), time.monotonic(), self._encoded
        pacer = Pacer(self.service.ingest, self.samples, run, count, 0, _ASSOCIATIONS)
        times = self.questions(lambda: self._encoded < before + count) if asking else []
        pacer.wait()
        self._all(run, count, before)
        return count / (time.monotonic() - began), times

    @property
    def _encoded(self) -> int:
        return int(self.service.heartbeat("worker").get("encoded", 0))

    def questions(self, going_on: Any) -> list[float]:
        """Return the seconds that one C-FIND of ten answers after the other takes, a pause of 20 ms between two.

        The example is another study of the archive each time.
        """
        client, times = FindClient(self.service.similar), []
        with _before_all_others():
            while going_on():
                request = client.request(bulk.study_uid(int(self._rng.integers(_STUDIES))), [])
                began = time.perf_counter()
                assert len(client.ask(request)) == 10
                times.append(time.perf_counter() - began)
                time.sleep(0.02)
        client.release()
        return times

    def freshness(self, rate: float, seconds: float) -> list[float]:
        """Return the seconds from C-STORE success to found, of every object sent at a rate."""
        run, count = next(self._runs), int(rate * seconds)
        pacer = Pacer(self.service.ingest, self.samples, run, count, rate, _ASSOCIATIONS)
        client, waiting, times = FindClient(self.service.similar), {}, []
        deadline = time.monotonic() + seconds + _PATIENCE_S
        while len(times) < count:
            assert time.monotonic() < deadline, "objects did not become searchable"
            while not pacer.acknowledged.empty():
                number, at = pacer.acknowledged.get()
                waiting[study_uid(run, number)] = at
            for uid in client.found(self.example, sorted(waiting)) if waiting else ():
                times.append(time.time() - waiting.pop(uid))
            time.sleep(0.05)
        pacer.wait()
        client.release()
        return times

    def close(self) -> None:
        """End service and bare loop."""
        self.service.close()
        self.bare.close()


def _p95(values: list[float]) -> float:
    return float(np.percentile(values, 95))


def run(options: Options) -> Suite:
    """Return rates against the bare loop, freshness at half load, and C-FIND's times idle and at full load."""
    suite = Suite("pipeline", "C-STORE to searchable; 2048 x 2500 pixels: uncompressed, JPEG lossless, JPEG 2000")
    count, seconds = (400, 20.0) if options.full else (120, 6.0)
    found: dict[tuple[str, str], list[float]] = {}

    def note(name: str, unit: str, value: float) -> float:
        found.setdefault((name, unit), []).append(value)
        return value

    bench = Bench(options.work)
    try:
        bench.warm_up()
        for _ in range(options.rounds):
            decode_s, encode_s, cpu_s = bench.bare.run(count)
            note("CPU of the bare loop", "ms/image", cpu_s / count * 1e3)
            note("bare loop: decode", "ms/image", decode_s / count * 1e3)
            note("bare loop: encode", "ms/image", encode_s / count * 1e3)
            note("bare loop", "images/s", count / (decode_s + encode_s))
            before = {role: bench.service.cpu_s(role) for role in _ROLES}
            note("service, from a full spool to searchable", "images/s", bench.from_full_spool(count))
            for role in _ROLES:
                note(f"CPU of the {role}", "ms/image", (bench.service.cpu_s(role) - before[role]) / count * 1e3)
            until = time.monotonic() + seconds / 3
            idle = bench.questions(lambda until=until: time.monotonic() < until)
            rate, _ = bench.while_receiving(count, asking=False)    # a client that asks without end costs a third of it
            note("service, from the first C-STORE to searchable", "images/s", rate)
            _, busy = bench.while_receiving(count, asking=True)
            note("C-FIND, idle, p95", "ms", _p95(idle) * 1e3)
            note("C-FIND, idle, median", "ms", float(np.median(idle)) * 1e3)
            note("C-FIND, full ingest load, p95", "ms", _p95(busy) * 1e3)
            note("C-FIND, full ingest load, median", "ms", float(np.median(busy)) * 1e3)
            fresh = bench.freshness(rate / 2, seconds)
            note("freshness at half load, p95", "s", _p95(fresh))
            note("freshness at half load, median", "s", float(np.median(fresh)))
    finally:
        bench.close()
    suite.figures += [Figure(name, unit, tuple(values)) for (name, unit), values in found.items()]
    by_name = {name: values for (name, _), values in found.items()}
    for name in ("service, from a full spool to searchable", "service, from the first C-STORE to searchable"):
        suite.ratios.append(ratio(f"{name} / bare loop", by_name[name], by_name["bare loop"], 0.8))
    suite.ratios.append(ratio(
        "CPU of the worker / of the bare loop", by_name["CPU of the worker"], by_name["CPU of the bare loop"], None,
        at_least=False,
    ))  # fmt: skip
    suite.ratios.append(ratio(
        "C-FIND p95, full ingest load / idle", by_name["C-FIND, full ingest load, p95"], by_name["C-FIND, idle, p95"],
        2.0, at_least=False,
    ))  # fmt: skip
    fresh_p95 = by_name["freshness at half load, p95"]
    suite.ratios.append(
        ratio("freshness at half load, p95, over 1 s", fresh_p95, [1.0] * len(fresh_p95), 1.0, at_least=False)
    )
    return suite


if __name__ == "__main__":
    main(run)
