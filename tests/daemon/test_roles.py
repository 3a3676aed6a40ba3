"""How a role's process shows that it lives, and how it is ended; what systemd is told."""

import os
import platform
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from daemon import service_status
from daemon.config import StorageSection, load
from daemon.notify import Notifier
from daemon.roles import (
    FINDER_ENVIRONMENT,
    WORKER_NICENESS,
    Heartbeat,
    heartbeat_path,
    read_heartbeat,
    run_folder,
    write_heartbeat,
)


@pytest.fixture
def path(tmp_path):
    run_folder(tmp_path)
    return heartbeat_path(tmp_path, "worker", 0)


def wait_for(condition):
    until = time.monotonic() + 20
    while not (value := condition()):
        assert time.monotonic() < until
        time.sleep(0.02)
    return value


def test_a_heartbeat_tells_process_readiness_and_facts_and_goes_with_the_process(path):
    facts = {"batches": 1}
    with Heartbeat(path) as beat:
        beat.facts = facts.copy
        wait_for(lambda: read_heartbeat(path).get("ready") is False)
        beat.ready.set()
        seen = wait_for(lambda: (found := read_heartbeat(path)).get("ready") and found)
        assert (seen["pid"], seen["batches"]) == (os.getpid(), 1)
        facts["batches"] = 2
        renewed = wait_for(lambda: (found := read_heartbeat(path))["batches"] == 2 and found)
        assert renewed["at"] > seen["at"]
    assert not path.exists()


def test_facts_that_cannot_be_told_do_not_end_the_heartbeat(path):
    faults = []

    def facts():
        faults.append(1)
        if len(faults) < 3:
            raise ValueError("not now")
        return {"batches": 7}

    with Heartbeat(path) as beat:
        beat.facts = facts
        wait_for(lambda: read_heartbeat(path).get("batches") == 7)


def test_a_heartbeat_that_is_missing_or_torn_is_empty(path):
    assert read_heartbeat(path) == {}
    path.write_text('{"pid": 1')
    assert read_heartbeat(path) == {}


def test_a_role_that_cannot_write_its_heartbeat_any_more_still_shows_that_it_lives(path):
    program = (
        "import os, resource, sys, time; from pathlib import Path; from daemon.roles import Heartbeat\n"
        "path = Path(sys.argv[1])\n"
        "with Heartbeat(path):\n"
        "    while not path.exists(): time.sleep(0.02)\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"                     # as if the disk were full
        "    os.utime(path, (0, 0))\n"
        "    until = time.monotonic() + 20\n"
        "    while path.stat().st_mtime == 0 and time.monotonic() < until: time.sleep(0.02)\n"
        "    print(path.stat().st_mtime > 0, [other.name for other in path.parent.iterdir()])\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=False)
    assert "True ['worker-0.json']" in done.stdout.splitlines()


def test_status_says_which_roles_are_still_starting(tmp_path):
    config = load().model_copy(update={"storage": StorageSection(directory=tmp_path)})
    run_folder(tmp_path)
    for role, ready in (("listener", True), ("worker", False), ("finder", True)):
        write_heartbeat(heartbeat_path(tmp_path, role, 0), {"ready": ready})
    facts = service_status.collect(config)
    assert (facts["ready"], facts["starting"]) == (False, ["worker"])
    assert service_status.as_text(facts).splitlines()[0] == "cxrfind is not ready (starting: worker)"


def test_a_role_that_does_not_exist_is_a_fault_of_the_configuration_and_says_which_there_are(tmp_path):
    program = "import sys; from daemon import config, roles; sys.exit(roles.run_role('cook', config.load()))"
    environment = {**os.environ, "CXRFIND_STORAGE__DIRECTORY": str(tmp_path)}
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 78
    assert "the roles are listener, worker, finder" in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_stop_however_often_it_comes(number):
    program = (
        "import threading, sys; from daemon.roles import stop_on_signals; stop = threading.Event();"
        "stop_on_signals(stop); print('up', flush=True); stop.wait(60); sys.stdin.read();"
        "sys.exit(0 if stop.is_set() else 3)"       # after the last signal: an interpreter that ends has no handlers
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"up\n"
        for _ in range(5):
            process.send_signal(number)
        process.stdin.close()
        assert process.wait(20) == 0


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_hears_what_it_is_told_and_the_roles_do_not_inherit_its_socket(tmp_path, monkeypatch, abstract):
    name = f"@cxrfind-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + name[1:] if abstract else name)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        monkeypatch.setenv("WATCHDOG_USEC", "10000000")
        notifier = Notifier()
        assert "NOTIFY_SOCKET" not in os.environ
        assert notifier.watchdog_interval_s == 5
        notifier.tell("READY=1", "STATUS=all roles ready")
        assert systemd.recv(100) == b"READY=1\nSTATUS=all roles ready"
    notifier.tell("STOPPING=1")                     # nobody listens any more: no fault


def test_without_systemd_nothing_is_told(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", "10000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    notifier = Notifier()
    notifier.tell("READY=1")
    assert notifier.watchdog_interval_s is None


def test_a_worker_is_nice_and_its_encoder_threads_sleep_when_they_wait():
    code = "import os; from daemon.roles import give_way; give_way(); print(os.nice(0)); import torch"
    environment = {**os.environ, "OMP_DISPLAY_ENV": "TRUE"}         # the runtime says at its start what it goes by
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) == min(os.nice(0) + WORKER_NICENESS, 19)
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_a_worker_s_freed_memory_is_used_again_without_page_faults():
    code = """if True:
        import resource
        from daemon.roles import keep_memory

        def faults():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(20):
                b"1" * 40_000_000                   # larger than any block that glibc keeps by itself
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        keep_memory()
        print(faults(), faults())
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, later = map(int, done.stdout.split())
    assert later < first / 10                       # by itself it clears 10,000 pages each time


_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not _HUGE_PAGES.exists() or "[madvise]" not in _HUGE_PAGES.read_text(),
    reason="huge pages are not for those who ask",
)
def test_a_finder_s_large_memory_asks_for_huge_pages():
    code = """if True:
        import ctypes, re
        malloc = ctypes.CDLL(None).malloc
        malloc.restype = ctypes.c_void_p
        place = malloc(ctypes.c_size_t(64 << 20))
        smaps = open("/proc/self/smaps").read()
        for start, end, flags in re.findall(r"^([0-9a-f]+)-([0-9a-f]+) .*?VmFlags: ([a-z0-9 ]*)", smaps, re.M | re.S):
            if int(start, 16) <= place < int(end, 16):
                print("hg" in flags.split())
    """
    for environment, asked in (({}, "False"), (FINDER_ENVIRONMENT, "True")):
        command = [sys.executable, "-c", code]
        clean = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
        done = subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == asked


def test_a_finder_looks_for_cyclic_garbage_rarely_and_not_among_what_it_has_loaded():
    code = """if True:
        import gc, weakref
        from daemon.roles import collect_less
        class Node: pass
        collect_less()
        loaded, node = gc.get_freeze_count(), Node()
        node.itself, gone = node, weakref.ref(node)
        del node
        few = [[] for _ in range(5_000)]
        print(loaded > 10_000, gone() is not None)
        many = [[] for _ in range(30_000)]
        print(gone() is None)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "True"]
