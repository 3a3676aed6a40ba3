"""What a file written past the page cache holds, on file systems and with memory that allow it or not."""

from __future__ import annotations

import mmap
import os
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from storage.direct_file import CHUNK_BYTES, Buffers, DirectFile

HEAD = b"head" * 83


class Unaligned(Buffers):
    """Memory that no disk takes directly."""

    burst = True

    def take(self) -> memoryview:
        return memoryview(bytearray(CHUNK_BYTES + 1))[1:]


def lent() -> Buffers:
    """Return buffers of which another file has one."""
    buffers = Buffers()
    buffers.other = buffers.take()
    return buffers


@pytest.fixture(params=["disk", "memory"])
def folder(request, tmp_path):
    if request.param == "disk":
        yield tmp_path
    elif not Path("/dev/shm").is_dir():
        pytest.skip("no tmpfs in /dev/shm")
    else:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
            yield Path(name)


def is_cached(path: Path) -> bool:
    """Return whether the beginning of a file is in the page cache."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.preadv(descriptor, [bytearray(4096)], 0, os.RWF_NOWAIT) > 0
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("buffers", [lent(), Unaligned(), Buffers()], ids=["aligned", "unaligned", "alone"])
@pytest.mark.parametrize("chunks", [0, 1, 2])
@pytest.mark.parametrize("more", [-1, 0, 1, 4095, 4096, 4097, 70_001])
def test_a_file_holds_what_was_written_however_it_was_cut(folder, buffers, chunks, more):
    size = max(0, chunks * CHUNK_BYTES - len(HEAD) + more)
    numbers, content, seen = random.Random(size), os.urandom(size), bytearray()
    for number in range(2):                         # the second one in the buffer of the first
        seen.clear()
        file = DirectFile(folder / str(number), buffers, HEAD, seen.extend)
        position = 0
        while position < size:
            piece = memoryview(content)[position : position + numbers.randrange(1, 400_000)]
            if numbers.random() < 0.5:
                file.write(piece)
            else:
                room = file.room()
                piece = piece[: len(room)]
                room[: len(piece)] = piece
                file.advance(len(piece))
            position += len(piece)
        file.close()
        file.close()
        assert (folder / str(number)).read_bytes() == HEAD + content
        assert seen == content


def test_of_several_files_large_ones_leave_the_page_cache_to_others_small_and_lone_ones_are_read_from_it(tmp_path):
    for name, size, buffers in (
        ("large", 3 * CHUNK_BYTES, lent()), ("small", 5000, lent()), ("lone", 3 * CHUNK_BYTES, Buffers()),
    ):  # fmt: skip
        file = DirectFile(tmp_path / name, buffers, HEAD, len)
        file.write(memoryview(bytes(size)))
        file.close()
    try:
        probe = os.open(tmp_path / "probe", os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
        os.write(probe, mmap.mmap(-1, 4096))
        os.close(probe)
        tells = is_cached(tmp_path / "small") and not is_cached(tmp_path / "probe")
    except OSError:
        tells = False
    if not tells:
        pytest.skip("this file system has no way past the page cache, or does not tell what is in it")
    assert not is_cached(tmp_path / "large")
    assert is_cached(tmp_path / "lone")


def test_files_come_in_a_burst_together_or_one_right_after_another():
    buffers = Buffers(burst_s=0)
    first, second = buffers.take(), buffers.take()
    assert buffers.burst
    buffers.give_back(first)
    assert not buffers.burst
    buffers.give_back(second)
    buffers.take()
    assert not buffers.burst
    soon = Buffers(burst_s=3600)
    buffer = soon.take()
    assert not soon.burst
    soon.give_back(buffer)
    soon.take()
    assert soon.burst


def test_a_file_that_is_given_up_writes_nothing_more_and_lends_its_buffer_to_the_next(tmp_path):
    buffers = Buffers()
    file = DirectFile(tmp_path / "a", buffers, HEAD, len)
    file.write(memoryview(bytes(CHUNK_BYTES + 10)))
    file.close(whole=False)
    assert (tmp_path / "a").stat().st_size == CHUNK_BYTES
    given_back = buffers.take()
    given_back[:4] = b"next"
    assert buffers.take() is not given_back


_FULL = """
import sys
from pathlib import Path
from storage.direct_file import CHUNK_BYTES, Buffers, DirectFile
buffers = Buffers()
other = buffers.take()
file = DirectFile(Path(sys.argv[1]), buffers, b"", len)
try:
    file.write(memoryview(bytes(3 * CHUNK_BYTES)))
except OSError as error:
    print(error.errno)
file.close(whole=False)
"""


@pytest.mark.parametrize("limit", [CHUNK_BYTES, CHUNK_BYTES + 4096, CHUNK_BYTES + 100_001])
def test_a_disk_that_is_full_is_told(tmp_path, limit):
    def restrict() -> None:                         # Python ignores SIGXFSZ: the write fails with EFBIG
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run([sys.executable, "-c", _FULL, str(tmp_path / "a")], preexec_fn=restrict, capture_output=True,
                          text=True, check=True)
    assert done.stdout.strip() == "27"
