"""A graph that grows keeps its huge pages; what is freed goes back to the kernel."""

import ctypes
import mmap
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from storage.index.pages import collapse

_ROOT = Path(__file__).parents[3]
_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_MADV_COLLAPSE = 25

_GROWN = """
import re, sys
from pathlib import Path
import numpy as np
from storage.index.hnsw import HnswIndex
DIM = 1024
rng = np.random.default_rng(0)
def rows(count):
    made = rng.standard_normal((count, DIM), dtype=np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)
def shares():
    entries = re.findall(r"^Rss: +(\\d+).*?^AnonHugePages: +(\\d+)", Path("/proc/self/smaps").read_text(), re.M | re.S)
    return max((int(held), int(huge)) for held, huge in entries)
index = HnswIndex(DIM, m=4, ef_construction=8, threads=1)
index.add(np.arange(9000), rows(9000))
index.search(rows(1)[0], 1)
index.add(np.arange(9000, 12000), rows(3000))
print(*shares())
"""

_FREED = """
from storage.index.pages import give_back
def held():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))
empty = held()
blocks = [bytes(4000) for _ in range(10_000)]
last = bytes(4000)
full = held()
del blocks
freed = held()
give_back()
print(full - empty, freed - empty, held() - empty)
"""


def _can_collapse():
    if not _ENABLED.exists() or "[never]" in _ENABLED.read_text():
        return False
    block = mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    block[:] = bytes(8 << 20)
    first = -(-ctypes.addressof(ctypes.c_char.from_buffer(block)) // (2 << 20)) * (2 << 20)
    return ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(4 << 20), _MADV_COLLAPSE) == 0


@pytest.mark.skipif(not _can_collapse(), reason="this Linux has no huge pages, or no MADV_COLLAPSE")
def test_a_graph_that_grows_while_it_is_searched_lies_in_huge_pages():
    environment = os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    command = [sys.executable, "-c", _GROWN]
    output = subprocess.run(command, cwd=_ROOT, env=environment, check=True, capture_output=True, text=True).stdout
    held, huge = map(int, output.split())
    assert held > 40 * 1024
    assert huge > 0.8 * held


def test_memory_that_cannot_be_looked_at_is_left_alone(tmp_path):
    collapse(tmp_path / "none")
    (tmp_path / "other").write_text("nothing that Linux writes\n")
    collapse(tmp_path / "other")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc_trim is glibc's")
def test_what_is_freed_below_a_block_in_use_goes_back_to_the_kernel():
    output = subprocess.run(
        [sys.executable, "-c", _FREED], cwd=_ROOT, check=True, capture_output=True, text=True
    ).stdout
    full, freed, left = map(int, output.split())                            # kB
    assert full > 38_000
    assert freed > 30_000                                                   # malloc alone keeps it
    assert left < 4_000
