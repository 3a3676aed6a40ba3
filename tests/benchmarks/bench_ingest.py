"""C-STORE throughput of the listener and of its peers on this machine, in the same rounds.

    python tests/benchmarks/bench_ingest.py [--rounds 3] [--full]

The sender is the same for all, so what differs is the receiver. Ours answers after the object is flushed and
journalled; storescp does not flush at all, Orthanc runs with its own defaults.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from harness import Curve, Figure, Options, Suite, claim_memory, main, ratio
from receivers import Load, Receiver, ours, peers, running, throughput

_EXPLICIT, _JPEG_LOSSLESS = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.70"
_LARGE = 10_240_000
LOADS = {
    "1 x 3.6 MB JPEG lossless": Load(1, 3_600_000, _JPEG_LOSSLESS),
    "4 x 10.2 MB": Load(4, _LARGE, _EXPLICIT),
    "32 x 10.2 MB": Load(32, _LARGE, _EXPLICIT),
}
#: Associations of our curve, beside the 4 and 32 of the loads.
_MORE = (1, 2, 8)
#: Bytes a second that the quickest receiver takes: so much memory each load finds, whichever comes first.
_FASTEST = 1_000_000_000


def _measure(
    receiver: Receiver, loads: dict[str, Load], seconds: float, folder: Path
) -> dict[str, tuple[float, float]]:
    """Return objects a second and CPU milliseconds an object of a freshly started receiver, load after load."""
    found = {}
    with running(receiver, folder / "receiver") as peer:
        objects = folder / "objects"
        objects.mkdir()
        throughput(peer.port, Load(1, 100_000, _EXPLICIT), 0.2, objects)       # the first association is slow
        for name, load in loads.items():
            claim_memory(int(seconds * _FASTEST))
            before = peer.cpu_s()
            rate, count = throughput(peer.port, load, seconds, objects)
            found[name] = rate, (peer.cpu_s() - before) * 1e3 / max(count, 1)
            os.sync()
        shutil.rmtree(objects)
    return found


def run(options: Options) -> Suite:
    """Return throughput of ours and of the peers, load by load, and ours over associations."""
    suite = Suite("ingest", "C-STORE, objects/s acknowledged; ours after fsync and journal")
    seconds = 6.0 if options.full else 2.5
    best = ours(2)
    more = {f"{n} x 10.2 MB": Load(n, _LARGE, _EXPLICIT) for n in _MORE}
    subjects = [(best, LOADS | more), (ours(1), {n: load for n, load in LOADS.items() if load.associations < 32})]
    subjects += [(peer, LOADS) for peer in peers()]
    rates: dict[tuple[str, str], list[float]] = {}
    costs: dict[tuple[str, str], list[float]] = {}
    for number in range(options.rounds):
        for receiver, loads in subjects:
            folder = options.work / f"{number}-{receiver.name.replace(' ', '-')}"
            for load, (rate, cost) in _measure(receiver, loads, seconds, folder).items():
                rates.setdefault((receiver.name, load), []).append(rate)
                if not receiver.forks:
                    costs.setdefault((receiver.name, load), []).append(cost)
    for (name, load), values in rates.items():
        suite.figures.append(Figure(f"{load}: {name}", "objects/s", tuple(values)))
    for (name, load), values in costs.items():
        suite.figures.append(Figure(f"{load}: {name}", "CPU ms/object", tuple(values)))
    targets = {("Orthanc", "4 x 10.2 MB"): 1.6, ("DCMTK storescp", "4 x 10.2 MB"): 0.9,
               ("Orthanc", "1 x 3.6 MB JPEG lossless"): 1.6}  # fmt: skip
    for peer in peers():
        for load in LOADS:
            values, others = rates[best.name, load], rates[peer.name, load]
            suite.ratios.append(
                ratio(f"{load}: ours / {peer.name}", values, others, targets.get((peer.name, load)))
            )
    lines = {load.associations: rates[best.name, name] for name, load in (LOADS | more).items() if load.size == _LARGE}
    tops = [max(values[number] for values in lines.values()) for number in range(options.rounds)]
    suite.ratios.append(ratio("32 associations / best number of associations", lines[32], tops, 0.8))
    suite.curves.append(Curve(
        "C-STORE of 10.2 MB objects", "associations", "objects/s",
        {best.name: [(float(n), sorted(values)[len(values) // 2]) for n, values in sorted(lines.items())]}, log_x=True,
    ))  # fmt: skip
    missing = {"DCMTK storescp", "Orthanc"} - {peer.name for peer in peers()}
    suite.notes += [f"{name} is not installed: left out" for name in sorted(missing)]
    return suite


if __name__ == "__main__":
    main(run)
