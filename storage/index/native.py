"""hnswlib as compiled for processors like this one, where the installation has it; else the one that runs on all.

The portable build has SSE only: a search of 230,000 vectors of 512 dimensions takes 1.6 times as long as with AVX-512.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Set
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

__all__ = ["hnswlib"]

#: Folders on the path that hold a build (deploy/install.sh), the best first, and the CPU flags that it takes.
BUILDS: tuple[tuple[str, frozenset[str]], ...] = (
    ("hnswlib_avx512f", frozenset({"avx512f"})),
    ("hnswlib_avx2", frozenset({"avx2", "fma"})),
)


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return what the processor, and the kernel for it, can do; nothing where it is not told."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), ()))


def load(flags: Set[str]) -> ModuleType:
    """Return hnswlib for a processor with these flags; whoever imports hnswlib later gets the same.

    One that has been imported before stays: two builds in one process would not bear each other.
    """
    if "hnswlib" not in sys.modules:
        for package, needed in BUILDS:
            if needed <= flags:
                try:
                    sys.modules["hnswlib"] = importlib.import_module(f"{package}.hnswlib")
                    break
                except ImportError:                                 # not installed, or for another Python
                    continue
    return importlib.import_module("hnswlib")


if TYPE_CHECKING:
    import hnswlib
else:
    hnswlib = load(cpu_flags())
