import os
import subprocess
import sys
import threading
import time
from itertools import pairwise

import numpy as np
import pytest
import toy_encoder
from finder_archive import FIND
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from daemon.finder import private
from daemon.finder.haste import NICER, Haste

#: Refuses what its argument names, as the kernel does without the right, and prints the log, then policy and niceness
#: within, in a thread that was started within, and after, niceness relative to that before.
_REFUSED = """
import os, sys, threading
from daemon.finder.beside import Beside
from daemon.finder.haste import Haste
real = os.sched_setscheduler
def without_right(thread, policy, parameters):
    if policy & os.SCHED_RR or sys.argv[1] == "policies":
        raise PermissionError(1, "Operation not permitted")
    real(thread, policy, parameters)
if sys.argv[1] in ("real-time", "policies"):
    os.sched_setscheduler = without_right
elif sys.argv[1] == "all":
    import resource
    resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
    resource.setrlimit(resource.RLIMIT_NICE, (0, 0))
    if os.geteuid() == 0:
        os.setuid(65534)
usual = os.getpriority(os.PRIO_PROCESS, 0)
def tell():
    print(os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK, os.getpriority(os.PRIO_PROCESS, 0) - usual)
haste = Haste()
with haste.hastened():
    tell()
    thread = threading.Thread(target=tell)
    thread.start()
    thread.join()
    met = threading.Barrier(2)
    Beside(1).all_of([met.wait, met.wait])          # a helper begins
haste.usual()
tell()
"""


def _is_in_haste(thread: int = 0) -> bool:
    try:
        return bool(os.sched_getscheduler(thread) & os.SCHED_RR)
    except ProcessLookupError:                      # it has just ended
        return False


def _threads_in_haste() -> int:
    return sum(_is_in_haste(int(name)) for name in os.listdir("/proc/self/task"))


def _may_be_hasty() -> bool:
    script = "import os; os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    return sys.platform == "linux" and done.returncode == 0


needs_right = pytest.mark.skipif(not _may_be_hasty(), reason="needs RLIMIT_RTPRIO or CAP_SYS_NICE")


def _spend(cpu_s: float) -> None:
    began = time.thread_time()
    while time.thread_time() - began < cpu_s:
        pass


@needs_right
def test_a_hastened_thread_goes_before_others_and_no_other_thread_with_it():
    seen, begun = [], threading.Event()

    def look() -> None:
        begun.wait()
        seen.append(_is_in_haste())

    other = threading.Thread(target=look)
    other.start()
    haste = Haste()
    with haste.hastened() as is_hastened:
        assert (is_hastened, _is_in_haste()) == (True, True)
        begun.set()
        other.join()
    haste.usual()
    assert (seen, _is_in_haste()) == ([False], False)


@needs_right
def test_a_thread_waits_in_haste_for_its_next_query_and_not_for_anything_else():
    haste = Haste()
    for _ in range(2):
        with haste.hastened():
            pass
        assert _is_in_haste()
    haste.usual()
    haste.usual()
    assert not _is_in_haste()


@needs_right
def test_what_all_queries_may_take_comes_to_an_end():
    haste = Haste(share=0.0, saved_s=0.05)
    with haste.hastened() as first:
        _spend(0.1)
    assert not _is_in_haste()
    with haste.hastened() as second:
        assert not _is_in_haste()
    assert (first, second) == (True, False)


@needs_right
def test_a_thread_that_reads_is_in_haste_from_its_first_piece_on_until_it_has_used_up_what_there_is():
    haste = Haste(share=0.0, saved_s=0.05)
    haste.reads()
    assert _is_in_haste()
    _spend(0.1)
    haste.reads()
    assert not _is_in_haste()


@needs_right
def test_who_has_used_up_what_there_is_waits_until_some_is_saved_again():
    haste = Haste(share=0.25, saved_s=0.2)
    with haste.hastened():
        _spend(0.4)
    hastened = []
    for _ in range(10_000):
        with haste.hastened() as is_hastened:
            _spend(0.001)
        hastened.append(is_hastened)
        if len(hastened) > 1 and hastened[-2] and not is_hastened:
            break
    assert not hastened[0]
    changes = sum(one is not next_one for one, next_one in pairwise(hastened))
    assert changes == 2                             # once in haste, it stays so for some 60 queries
    assert sum(hastened) > 20


@needs_right
@pytest.mark.parametrize(
    ("refused", "within"),
    [("", f"{os.SCHED_RR} 0"), ("real-time", f"{os.SCHED_OTHER} {-NICER}"), ("all", f"{os.SCHED_OTHER} 0"),
     ("policies", f"{os.SCHED_OTHER} 0")],
)
def test_queries_are_as_hasty_as_the_system_allows_and_the_log_says_where_it_does_not(refused, within):
    command = [sys.executable, "-c", _REFUSED, refused]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *logged, first, started, after = done.stdout.splitlines()
    assert (first, started, after) == (within, "0 0", "0 0")
    assert done.stdout.count("queries.not_hastened") == len(logged) == (refused in ("all", "policies"))


@needs_right
@pytest.mark.parametrize(("key", "value", "hasty"), [("QueryUID", "1.1", True), ("QueryText", "effusion", False)])
def test_queries_by_example_are_hastened_and_those_by_text_are_not(running, monkeypatch, key, value, hasty):
    seen = []

    class WatchingEncoder(toy_encoder.ToyEncoder):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.card = {}                          # `score` is asked then

        def score(self, cosines, query, entry):
            seen.append(_is_in_haste())
            return super().score(cosines, query, entry)

    monkeypatch.setattr(toy_encoder, "ToyEncoder", WatchingEncoder)
    vectors = np.eye(toy_encoder.DIM, dtype=np.float32)
    finder = running(lambda archive: archive.commit(*(archive.image(f"1.{n}", vector=vectors[n]) for n in (1, 2, 3))))
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", ""
    private.add(identifier, key, value)
    assert finder.ask(identifier)[-1][0].Status == 0x0000
    assert set(seen) == {hasty}


@needs_right
def test_after_a_refusal_or_another_request_only_the_thread_that_reads_is_in_haste(running):
    finder = running(lambda archive: archive.commit(archive.image("1.1", vector=np.eye(toy_encoder.DIM)[0])))
    asked = {"known": ("QueryUID", "1.1"), "unknown": ("QueryUID", "1.2")}
    identifiers = {}
    for name, (key, value) in asked.items():
        identifiers[name] = Dataset()
        identifiers[name].QueryRetrieveLevel, identifiers[name].StudyInstanceUID = "STUDY", ""
        private.add(identifiers[name], key, value)
    scu = AE(ae_title="TESTSCU")
    scu.add_requested_context(FIND)
    scu.add_requested_context(Verification)
    association = scu.associate("127.0.0.1", finder.facts["port"], ae_title="CXRSIMILAR")
    seen = []
    for ask in (
        lambda: list(association.send_c_find(identifiers["known"], FIND)),
        lambda: list(association.send_c_find(identifiers["unknown"], FIND)),
        lambda: list(association.send_c_find(identifiers["known"], FIND)),
        association.send_c_echo,
    ):
        ask()
        seen.append(_threads_in_haste())
    association.release()
    assert seen == [2, 1, 2, 1]                     # one reads
