"""kill -9 before every step of taking an object in: what was acknowledged is there, once; the rest can be sent."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from storage.spool import Spool

#: Takes one object in, and kills itself before its n-th call of these, or before the n-th SQL statement.
PROGRAM = """
import os, signal, sys
from pathlib import Path
from storage.spool import Spool
spool, n = Spool(Path(sys.argv[1])), int(sys.argv[2])
calls = 0
def step():
    global calls
    calls += 1
    if calls == n:
        os.kill(os.getpid(), signal.SIGKILL)
def before(function):
    def wrapped(*arguments, **options):
        step()
        return function(*arguments, **options)
    return wrapped
for name in ("fsync", "fdatasync", "link", "rename", "replace", "unlink", "mkdir"):
    setattr(os, name, before(getattr(os, name)))
spool._journal._writer.set_trace_callback(lambda statement: step())
path = spool.new_file()
path.write_bytes(b"object")
spool.accept(path, sop_class_uid="1.2.840.10008.5.1.4.1.1.1", sop_instance_uid="1.2.3", digest="0" * 64,
             transfer_syntax_uid="1.2.840.10008.1.2.1", calling_ae_title="PACS", size_bytes=6)
print("acknowledged", calls, flush=True)
step()
"""
MOST_STEPS = 40


def receive(folder: Path, step: int) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(folder), str(step)], capture_output=True, text=True,
                          timeout=60, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode, done.stdout


@pytest.mark.timeout(300)
def test_killed_before_any_step_of_accept_an_object_is_whole_or_absent_and_can_be_sent_again(tmp_path):
    _, whole = receive(tmp_path / "whole", MOST_STEPS + 1)
    steps = int(whole.split()[1])
    assert 4 < steps <= MOST_STEPS
    for step in range(1, steps + 2):
        folder = tmp_path / str(step)
        returncode, said = receive(folder, step)
        assert returncode == -signal.SIGKILL
        assert ("acknowledged" in said) == (step == steps + 1)
        spool = Spool(folder)
        spool.release_all()
        before = spool.depth()
        assert before in (0, 1)
        assert before == 1 or "acknowledged" not in said
        spool.close()
        assert receive(folder, MOST_STEPS + 1)[0] == 0           # the peer heard nothing and sends it again
        spool = Spool(folder)
        spool.release_all()
        claimed = spool.claim(5, "worker")
        assert [instance.path.read_bytes() for instance in claimed] == [b"object"]
        assert len([path for path in folder.rglob("*.dcm") if path.is_file()]) == 1
        spool.close()
