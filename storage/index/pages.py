"""What the kernel is told of this process's memory: which is free, and what shall lie in huge pages again."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

_HUGE_BYTES = 2 * 1024 * 1024
#: Linux 6.1 (madvise(2)); earlier ones refuse, and khugepaged gets there in time: 16 MB in ten seconds.
_MADV_COLLAPSE = 25
#: Less is not worth a system call.
_FROM_BYTES = 4 * 1024 * 1024
_HEAD = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ 0 *\n")


def collapse(smaps: Path = Path("/proc/self/smaps")) -> None:
    """Have what asked for huge pages (``glibc.malloc.hugetlb=1``) lie in such, where Linux can; about 1 s a GB.

    ``realloc`` moves a large block by its page table, and that takes its huge pages apart: a search of 230,000 vectors
    then takes a tenth longer.
    """
    try:
        entries = re.split(r"^(?=[0-9a-f]+-)", smaps.read_text(encoding="ascii", errors="replace"), flags=re.MULTILINE)
        madvise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):                               # not Linux
        return
    for entry in entries:
        head = _HEAD.match(entry)
        flags, held, huge = (re.search(rf"^{name}: *(.*)$", entry, re.MULTILINE) for name in (
            "VmFlags", "Anonymous", "AnonHugePages"
        ))  # fmt: skip
        if not (head and flags and held and huge) or "hg" not in flags[1].split():
            continue
        if (int(held[1].split()[0]) - int(huge[1].split()[0])) * 1024 < _FROM_BYTES:
            continue
        start = -(-int(head[1], 16) // _HUGE_BYTES) * _HUGE_BYTES
        size = int(head[2], 16) // _HUGE_BYTES * _HUGE_BYTES - start
        if size >= _HUGE_BYTES:
            madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _MADV_COLLAPSE)


def give_back() -> None:
    """Give the kernel what malloc holds and nobody uses, where the C library is glibc.

    To load an index, or to build it, takes arrays for a while; 4 MB of what was freed stayed beside 160,000 vectors.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
