"""Similarity C-FIND: round trips beside peers that only send answers, set-up, free text, and clients at once.

    python tests/benchmarks/bench_query.py [--full]

The requestor is the same for all and hardly counts (raw_scu.py). Ours searches 20,000 studies (230,000 in the long
run), 70 % of them with a report, by an example that is another one each time, and answers 9 standard keys, rank, score.
The peers are given the answers beforehand: pynetdicom as it comes, Orthanc with as many studies, and our own AE without
catalogue and index ("bare"); bare hnswlib searches as many vectors with the same parameters,
alone, and in that bare AE before each answer ("searching").
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import bulk
import numpy as np
import query_peers
import raw_scu
from harness import Figure, Options, Suite, cpu_s, main, ratio

from daemon.config import Config
from storage.base import Float32, Kind
from storage.catalogue import open_catalogue
from storage.index.native import hnswlib

ANSWERS = (10, 100)
#: Queries of one kind in a round; the slow peer gets fewer.
_QUERIES, _SLOW_QUERIES, _SETUPS = 40, 6, 15
_CLIENTS, _CLIENT_S = 8, 3.0
#: Finder processes that share a port, beside the one of all other figures.
_FINDERS = min(os.cpu_count() or 1, _CLIENTS)
#: What free text may cost beside an example.
_TEXT_MS = 25.0
_WORDS = (
    "small", "large", "left", "right", "bilateral", "pleural", "effusion", "no", "pneumothorax", "cardiomegaly", "lung",
    "nodule", "consolidation", "lower", "upper", "lobe", "edema", "mild", "atelectasis", "fracture", "stable",
)
_KEYS = dict.fromkeys(
    (0x00080020, 0x00080030, 0x00080050, 0x00081030, 0x00100010, 0x00100020, 0x00100030, 0x00100040, 0x0020000D), b""
) | {0x00080052: b"STUDY"}  # fmt: skip

Ask = Callable[[], float]


def similar(answers: int, *, uid: str = "", text: str = "", basis: str = "") -> bytes:
    """Return the request for so many similar studies."""
    keys = _KEYS | {0x00990010: b"CXRFIND SIMILARITY 1.0", 0x00991010: b"", 0x00991011: b""}
    keys |= {0x00991001: uid.encode()} if uid else {0x00991003: text.encode()}
    keys |= {0x00991002: basis.encode()} if basis else {}
    # in front of the answers' tags, and last in the bytes of the premade peers' requests
    return raw_scu.find_request(raw_scu.identifier(keys | {0x00991004: answers.to_bytes(2, "little")}))


def plain(answers: int) -> bytes:
    """Return a Study Root query that finds so many of Orthanc's studies."""
    return raw_scu.find_request(raw_scu.identifier(_KEYS | {0x00081030: f"SET {answers}".encode()}))


def premade(answers: int) -> bytes:
    """Return a request to a server with answers made beforehand; their number is its last value."""
    keys = _KEYS | {0x00991004: answers.to_bytes(2, "little")}
    return raw_scu.find_request(raw_scu.identifier(keys))


@dataclass(slots=True)
class Archive:
    """The catalogue that is searched, what was drawn from it, and the bare index of its images."""

    path: Path
    studies: int
    reported: list[str] = field(default_factory=list)
    images: Float32 = field(default_factory=lambda: np.zeros((0, 1), dtype=np.float32))

    def __post_init__(self) -> None:
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            bulk.make(self.path, self.studies, bulk.shipped_generation())
        catalogue = open_catalogue(self.path)
        active, after, images = catalogue.active_generation(), 0, []
        assert active is not None
        while (changes := catalogue.changes(active.generation_id, after)).sequence != after:
            images += [row.vector for row in changes.added if row.kind is Kind.IMAGE]
            self.reported += [row.study_instance_uid for row in changes.added if row.kind is Kind.REPORT]
            after = changes.sequence
        catalogue.close()
        self.images = np.stack(images)

    def bare_index(self) -> hnswlib.Index:
        """Return an hnswlib index of the images, with our parameters."""
        settings = Config().index
        index = hnswlib.Index(space="ip", dim=self.images.shape[1])
        index.init_index(len(self.images), M=settings.m, ef_construction=settings.ef_construction, random_seed=100)
        index.set_ef(settings.ef_search)
        index.add_items(self.images)
        return index


class Questions:
    """What is measured, by name; each call asks something that was not asked before."""

    def __init__(self, archive: Archive, index: hnswlib.Index, ports: dict[str, int], seed: int = 3) -> None:
        self._archive, self._index = archive, index
        self._rng = np.random.default_rng(seed)
        self._scus = {name: raw_scu.RawScu(port, "CXRSIMILAR") for name, port in ports.items()}

    def close(self) -> None:
        """End the associations."""
        for scu in self._scus.values():
            scu.release()

    def example(self, answers: int, basis: str = "IMAGE") -> Ask:
        """Ask by a study with a report."""
        uids = self._archive.reported
        return lambda: self._scus["ours"].timed(
            similar(answers, uid=uids[int(self._rng.integers(len(uids)))], basis=basis), answers
        )

    def text(self, answers: int) -> Ask:
        """Ask by six words."""
        return lambda: self._scus["ours"].timed(
            similar(answers, text=" ".join(self._rng.choice(_WORDS, 6))), answers
        )

    def made(self, name: str, answers: int) -> Ask:
        """Ask a server that has the answers already."""
        request = plain(answers) if name == "Orthanc" else premade(answers)
        return lambda: self._scus[name].timed(request, answers)

    def search(self, answers: int) -> Ask:
        """Search the bare index."""

        def ask() -> float:
            vector = self._archive.images[int(self._rng.integers(len(self._archive.images)))]
            began = time.perf_counter()
            self._index.knn_query(vector, k=answers, num_threads=1)
            return time.perf_counter() - began

        return ask


def by_turns(asks: dict[str, Ask], times: int) -> dict[str, float]:
    """Return the median milliseconds of each after one call that warms up.

    One question to each in turn: a search that follows its own like in a loop finds the caches full of its graph, and
    no service ever does.
    """
    times_s: dict[str, list[float]] = {name: [] for name in asks}
    for _ in range(times + 1):
        for name, ask in asks.items():
            times_s[name].append(ask())
    return {name: median(taken[1:]) * 1000 for name, taken in times_s.items()}


def milliseconds(ask: Ask, times: int) -> float:
    """Return the median of so many calls after one that warms up."""
    ask()
    return median(ask() for _ in range(times)) * 1000


# ---------------------------------------------------------------------------------------------- clients at once


def throughput(port: int, pids: Sequence[int], clients: int, folder: Path, uids: list[str]) -> tuple[float, float]:
    """Return queries a second of so many clients, and the share of all cores that they and the finders kept busy."""
    rng = np.random.default_rng(5)
    processes = []
    before = os.times()
    for number in range(clients):
        requests = [(similar(10, uid=uid, basis="IMAGE"), 10) for uid in rng.choice(uids, 300)]
        file = folder / f"client-{number}.pickle"
        file.write_bytes(pickle.dumps(requests))
        command = [sys.executable, str(Path(raw_scu.__file__)), str(port), str(_CLIENT_S), str(file)]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    asked_s, busy_s = sum(cpu_s(process.pid) for process in processes), sum(map(cpu_s, pids))
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    answered = sum(int(process.communicate()[0]) for process in processes)
    after = os.times()
    children_s = after.children_user + after.children_system - before.children_user - before.children_system
    used_s = children_s - asked_s + sum(map(cpu_s, pids)) - busy_s
    return answered / _CLIENT_S, used_s / (_CLIENT_S * (os.cpu_count() or 1))


# ---------------------------------------------------------------------------------------------- the suite


def measured(
    questions: Questions, ports: dict[str, int], finder_pids: Sequence[int], archive: Archive, options: Options
) -> Iterator[dict[str, float]]:
    """Yield the figures of each round, by name."""
    for _ in range(options.rounds):
        found: dict[str, float] = {}
        for n in ANSWERS:
            asks = {
                f"ours {n}": questions.example(n), f"two graphs {n}": questions.example(n, ""),
                f"bare {n}": questions.made("bare", n), f"searching {n}": questions.made("searching", n),
                f"hnswlib {n}": questions.search(n),
            }  # fmt: skip
            found |= by_turns(asks, _QUERIES)
            found[f"pynetdicom {n}"] = milliseconds(questions.made("pynetdicom", n), _SLOW_QUERIES)
            if "Orthanc" in ports:
                found[f"Orthanc {n}"] = milliseconds(questions.made("Orthanc", n), _QUERIES)
        found["text"] = milliseconds(questions.text(10), _QUERIES)
        for name in ("ours", "pynetdicom"):
            found[f"set-up {name}"] = milliseconds(
                lambda port=ports[name]: raw_scu.opened_echoed_released(port, "CXRSIMILAR"), _SETUPS
            )
        yield found | of_clients(ports["ours"], finder_pids, archive, options)


def of_clients(port: int, pids: Sequence[int], archive: Archive, options: Options) -> dict[str, float]:
    """Return queries a second of one client and of several at once, and the share of the cores that is busy."""
    found = {}
    for clients in (1, _CLIENTS):
        found[f"{clients} clients"], found[f"{clients} busy"] = throughput(
            port, pids, clients, options.work, archive.reported
        )
    return found


def run(options: Options) -> Suite:
    """Measure."""
    archive = Archive(options.work / "data" / "catalogue.db", 230_000 if options.full else 20_000)
    index, timeout_s = archive.bare_index(), 1800 if options.full else 300
    with contextlib.ExitStack() as stack:
        port, pids = stack.enter_context(query_peers.finders(archive.path.parent, archive.studies, timeout_s))
        ports = {"ours": port}
        scu = raw_scu.RawScu(port, "CXRSIMILAR")
        uid = archive.reported[0]
        answers = {n: raw_scu.data_sets(scu.find(similar(n, uid=uid, basis="IMAGE"))) for n in ANSWERS}
        query_peers.ask_as_ever(scu, similar(10, uid=uid, basis="IMAGE"), archive.path.parent, archive.studies)
        scu.release()
        for name, kind in (("bare", "bare"), ("pynetdicom", "shipped")):
            ports[name] = stack.enter_context(query_peers.premade(kind, answers, options.work / kind))
        graph = options.work / "graph.hnsw"
        index.save_index(str(graph))
        searching = query_peers.premade("bare", answers, options.work / "searching", str(graph), str(index.dim))
        ports["searching"] = stack.enter_context(searching)
        orthanc = stack.enter_context(query_peers.orthanc(options.work / "orthanc", ANSWERS))
        ports |= {"Orthanc": orthanc} if orthanc is not None else {}
        questions = Questions(archive, index, ports)
        rounds = list(measured(questions, ports, pids, archive, options))
        questions.close()
    with query_peers.finders(archive.path.parent, archive.studies, timeout_s, _FINDERS) as (port, pids):
        shared = [of_clients(port, pids, archive, options) for _ in rounds]
    rounds = [found | {f"shared {name}": value for name, value in more.items()}
              for found, more in zip(rounds, shared, strict=True)]  # fmt: skip
    return told(rounds, archive, has_orthanc=orthanc is not None)


def told(rounds: list[dict[str, float]], archive: Archive, has_orthanc: bool) -> Suite:
    """Return figures and ratios of the rounds."""

    def of(name: str) -> list[float]:
        return [found[name] for found in rounds]

    suite = Suite("query", f"Similarity C-FIND among {archive.studies:,} studies, round trips")
    for n in ANSWERS:
        sums = [a + b for a, b in zip(of(f"bare {n}"), of(f"hnswlib {n}"), strict=True)]
        both = [a + 2 * b for a, b in zip(of(f"bare {n}"), of(f"hnswlib {n}"), strict=True)]
        ours, two = of(f"ours {n}"), of(f"two graphs {n}")
        suite.ratios += [
            ratio(f"{n} results / pynetdicom as it comes", ours, of(f"pynetdicom {n}"), 0.12, at_least=False),
            *([ratio(f"{n} results / Orthanc", ours, of(f"Orthanc {n}"), 2.0, at_least=False)] if has_orthanc else []),
            ratio(f"{n} results / hnswlib + our bare AE", ours, sums, 1.25, at_least=False),
            ratio(f"{n} results / our bare AE that searches", ours, of(f"searching {n}")),
            ratio(f"{n} results, two graphs / 2 x hnswlib + our bare AE", two, both, 1.25, at_least=False),
        ]
        for name, title in (
            ("ours", "by example, images"), ("two graphs", "by example, default basis"),
            ("bare", "our AE, answers made"), ("hnswlib", "hnswlib alone"),
            ("searching", "our AE, answers made, after a search by hnswlib"),
            ("pynetdicom", "pynetdicom as it comes"), ("Orthanc", "Orthanc"),
        ):  # fmt: skip
            if name != "Orthanc" or has_orthanc:
                suite.figures.append(Figure(f"{n} results, {title}", "ms", tuple(of(f"{name} {n}"))))
    more = [max(0.0, text - example) for text, example in zip(of("text"), of("two graphs 10"), strict=True)]
    suite.ratios += [
        ratio("free text, ms more than by example / 25 ms", more, [_TEXT_MS] * len(more), 1.0, at_least=False),
        ratio("open, echo, release / pynetdicom", of("set-up ours"), of("set-up pynetdicom"), 1.3, at_least=False),
        ratio(f"queries/s of {_CLIENTS} clients / of one", of(f"{_CLIENTS} clients"), of("1 clients")),
        ratio(f"cores busy with {_CLIENTS} clients / all", of(f"{_CLIENTS} busy"), [1.0] * len(rounds)),
        ratio(
            f"queries/s of {_CLIENTS} clients / of one, {_FINDERS} finders", of(f"shared {_CLIENTS} clients"),
            of("shared 1 clients"),
        ),
        ratio(
            f"cores busy with {_CLIENTS} clients / all, {_FINDERS} finders", of(f"shared {_CLIENTS} busy"),
            [1.0] * len(rounds), 0.8,
        ),
    ]
    suite.figures += [
        Figure("10 results by free text", "ms", tuple(of("text"))),
        Figure("open, echo, release", "ms", tuple(of("set-up ours"))),
        Figure("open, echo, release, pynetdicom", "ms", tuple(of("set-up pynetdicom"))),
        Figure("one client", "queries/s", tuple(of("1 clients"))),
        Figure(f"{_CLIENTS} clients", "queries/s", tuple(of(f"{_CLIENTS} clients"))),
        Figure(f"one client, {_FINDERS} finders", "queries/s", tuple(of("shared 1 clients"))),
        Figure(f"{_CLIENTS} clients, {_FINDERS} finders", "queries/s", tuple(of(f"shared {_CLIENTS} clients"))),
    ]
    suite.notes = [
        "Requests come from one raw requestor; every query has another example. Median of the queries of a round.",
        "The finder has been asked for the same keys before, as by workstations day by day, and has made heads for"
        " them.",
        "By default an example with a report is searched in two graphs: joint vectors, and images of other studies.",
        "Ours, our bare AE with and without a search, and hnswlib are asked by turns: each finds the caches as the"
        " others leave them. Our bare AE that searches is a query without any other work of ours.",
        "Clients and finders share the cores: busy is what all of them used of these. One finder is held back by"
        f" its GIL: the target is that of {_FINDERS}, one for each core ([finder] processes), asked after all others.",
    ]
    return suite


if __name__ == "__main__":
    main(run)
