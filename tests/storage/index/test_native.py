"""hnswlib comes from the build for this processor, and from the portable one where there is none."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from storage.index import native
from storage.index.hnsw import HnswIndex


def in_a_process(code: str) -> str:
    """Return what Python code prints in a process of its own."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize(
    ("flags", "installed", "expected"),
    [
        ({"sse2", "avx2", "fma", "avx512f"}, ["hnswlib_avx512f", "hnswlib_avx2"], "hnswlib_avx512f.hnswlib"),
        ({"sse2", "avx2", "fma", "avx512f"}, ["hnswlib_avx2"], "hnswlib_avx2.hnswlib"),
        ({"sse2", "avx2", "fma"}, ["hnswlib_avx512f", "hnswlib_avx2"], "hnswlib_avx2.hnswlib"),
        ({"sse2", "avx2"}, ["hnswlib_avx512f", "hnswlib_avx2"], "hnswlib"),
        (set(), ["hnswlib_avx512f"], "hnswlib"),
        ({"avx512f"}, [], "hnswlib"),
    ],
)
def test_the_best_installed_build_that_the_processor_can_run_is_taken(flags, installed, expected, tmp_path: Path):
    for package in installed:
        (tmp_path / package).mkdir()
        (tmp_path / package / "hnswlib.py").touch()
    (tmp_path / "hnswlib.py").touch()
    code = (
        "import sys\nfrom storage.index import native\n"
        f"del sys.modules['hnswlib']; sys.path[:] = [{str(tmp_path)!r}]\n"
        "for name in [name for name in sys.modules if name.startswith('hnswlib_')]: del sys.modules[name]\n"
        f"found = native.load({flags!r})\nimport hnswlib\nassert hnswlib is found\nprint(found.__name__)"
    )
    assert in_a_process(code) == expected


def test_the_processors_flags_are_read(tmp_path: Path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu avx2 fma\nbogomips\t: 4200.00\n")
    assert native.cpu_flags(tmp_path / "cpuinfo") == {"fpu", "avx2", "fma"}
    assert native.cpu_flags(tmp_path / "missing") == frozenset()


def test_every_build_reads_a_graph_of_another_and_finds_the_same_in_it(tmp_path: Path):
    rows = np.random.default_rng(3).standard_normal((1500, 512), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    index = HnswIndex(512, threads=1)
    index.add(np.arange(1500), rows)
    index.save(tmp_path)
    expected = [each.label for each in index.search(rows[7], 20)]
    code = (
        "from pathlib import Path\nfrom storage.index.hnsw import HnswIndex\n"
        f"index = HnswIndex.load(Path({str(tmp_path)!r}), 512)\n"
        "print([each.label for each in index.search(index.vectors([7])[0], 20)])"
    )
    portable = f"import hnswlib\n{code}"                      # what has been imported before stays
    assert [in_a_process(portable), in_a_process(code)] == [str(expected)] * 2
