import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import toy_encoder
from finder_archive import FIND
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from daemon.finder import private
from daemon.finder.haste import NICER, Haste

#: Prints the log, then niceness within and after, relative to that before.
_WITHOUT_RIGHT = """
import os, resource
from daemon.finder.haste import Haste
resource.setrlimit(resource.RLIMIT_NICE, (0, 0))
if os.geteuid() == 0:
    os.setuid(65534)
usual = os.getpriority(os.PRIO_PROCESS, 0)
with Haste().hastened() as is_hastened:
    print(is_hastened, os.getpriority(os.PRIO_PROCESS, 0) - usual)
print(os.getpriority(os.PRIO_PROCESS, 0) - usual)
"""


def _niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def _threads() -> list[int]:
    return [int(name) for name in os.listdir("/proc/self/task")]


def _niceness_of(thread: int) -> int:
    try:
        return os.getpriority(os.PRIO_PROCESS, thread)
    except ProcessLookupError:                      # it has just ended
        return _niceness()


def _may_be_less_nice() -> bool:
    script = f"import os; os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) - {NICER})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    return sys.platform == "linux" and done.returncode == 0


needs_right = pytest.mark.skipif(not _may_be_less_nice(), reason="needs RLIMIT_NICE or CAP_SYS_NICE")


def _spend(cpu_s: float) -> None:
    began = time.thread_time()
    while time.thread_time() - began < cpu_s:
        pass


@needs_right
def test_a_hastened_thread_goes_before_others_and_no_other_thread_with_it():
    usual, seen, begun = _niceness(), [], threading.Event()

    def look() -> None:
        begun.wait()
        seen.append(_niceness())

    other = threading.Thread(target=look)
    other.start()
    haste = Haste()
    with haste.hastened() as is_hastened:
        assert (is_hastened, _niceness()) == (True, usual - NICER)
        begun.set()
        other.join()
    haste.usual()
    assert (seen, _niceness()) == ([usual], usual)


@needs_right
def test_a_thread_waits_in_haste_for_its_next_query_and_not_for_anything_else():
    usual, haste = _niceness(), Haste()
    for _ in range(2):
        with haste.hastened():
            pass
        assert _niceness() == usual - NICER
    haste.usual()
    haste.usual()
    assert _niceness() == usual


@needs_right
def test_what_all_queries_may_take_comes_to_an_end():
    usual, haste = _niceness(), Haste(share=0.0, saved_s=0.05)
    with haste.hastened() as first:
        _spend(0.1)
    assert _niceness() == usual
    with haste.hastened() as second:
        assert _niceness() == usual
    assert (first, second) == (True, False)


@pytest.mark.skipif(sys.platform != "linux", reason="a thread has a niceness of its own on Linux only")
def test_where_the_system_refuses_queries_are_answered_at_the_usual_niceness_and_the_log_says_so():
    done = subprocess.run([sys.executable, "-c", _WITHOUT_RIGHT], capture_output=True, text=True, check=True)
    assert done.stdout.count("queries.not_hastened") == 1
    assert done.stdout.splitlines()[-2:] == ["False 0", "0"]


@needs_right
@pytest.mark.parametrize(("key", "value", "nicer"), [("QueryUID", "1.1", NICER), ("QueryText", "effusion", 0)])
def test_queries_by_example_are_hastened_and_those_by_text_are_not(running, monkeypatch, key, value, nicer):
    seen = []

    class WatchingEncoder(toy_encoder.ToyEncoder):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.card = {}                          # `score` is asked then

        def score(self, cosines, query, entry):
            seen.append(_niceness())
            return super().score(cosines, query, entry)

    monkeypatch.setattr(toy_encoder, "ToyEncoder", WatchingEncoder)
    vectors = np.eye(toy_encoder.DIM, dtype=np.float32)
    finder = running(lambda archive: archive.commit(*(archive.image(f"1.{n}", vector=vectors[n]) for n in (1, 2, 3))))
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", ""
    private.add(identifier, key, value)
    assert finder.ask(identifier)[-1][0].Status == 0x0000
    assert set(seen) == {_niceness() - nicer}


@needs_right
def test_after_a_refusal_or_another_request_a_thread_is_no_longer_in_haste(running):
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
    before = {_niceness_of(thread) for thread in _threads()}
    seen = []
    for ask in (
        lambda: list(association.send_c_find(identifiers["known"], FIND)),
        lambda: list(association.send_c_find(identifiers["unknown"], FIND)),
        lambda: list(association.send_c_find(identifiers["known"], FIND)),
        association.send_c_echo,
    ):
        ask()
        seen.append(sorted({_niceness_of(thread) for thread in _threads()} - before))
    association.release()
    usual = _niceness()
    assert seen == [[usual - NICER], [], [usual - NICER], []]
