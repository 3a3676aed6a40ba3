"""On what a run was measured: figures of two machines are not compared, ratios are with care."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

#: Libraries whose version moves a figure; those that are not installed are left out.
LIBRARIES = (
    "torch", "onnxruntime", "openvino", "numpy", "hnswlib", "simsimd", "faiss-cpu", "pynetdicom", "pydicom",
    "imagecodecs",
)  # fmt: skip
#: Instruction sets that decide how fast a model and a vector search can be.
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
#: Peer -> (a command of it, its Debian package).
PEERS = {"DCMTK": ("storescp", "dcmtk"), "Orthanc": ("Orthanc", "orthanc")}


def _first_match(path: str, pattern: str) -> str | None:
    found = re.search(pattern, Path(path).read_text(), re.MULTILINE)
    return found and found[1].strip()


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def commit() -> str | None:
    """Return the source's commit, with + where files differ from it; None outside of git."""
    folder = str(Path(__file__).parent)
    revision = _output("git", "-C", folder, "rev-parse", "--short=10", "HEAD")
    return revision and revision + ("+" if _output("git", "-C", folder, "status", "--porcelain") else "")


def peers() -> dict[str, str | None]:
    """Return peer -> its version; None for one that is not installed."""
    found = {}
    for name, (command, _) in PEERS.items():
        version = re.search(r"\d+\.\d+[.\d]*", _output(command, "--version") or "")
        found[name] = version[0] if version else "unknown version" if shutil.which(command) else None
    return found


def missing_peers() -> str | None:
    """Return one sentence on what to install; None where all peers are."""
    missing = [name for name, version in peers().items() if version is None]
    packages = " ".join(PEERS[name][1] for name in missing)
    return f"without {' and '.join(missing)}: apt-get install {packages} (Debian)" if missing else None


def _libraries() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine(work: Path) -> dict[str, Any]:
    """Return processor, memory, kernel, file system of the folder `work`, and versions."""
    memory_kib = _first_match("/proc/meminfo", r"^MemTotal:\s*(\d+)") or "0"
    flags = (_first_match("/proc/cpuinfo", r"^flags\s*:(.*)$") or "").split()
    return {
        "cpu": _first_match("/proc/cpuinfo", r"^model name\s*:(.*)$") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "instructions": [name for name in INSTRUCTIONS if name in flags],
        "memory_gib": round(int(memory_kib) / 2**20, 1),
        "kernel": platform.release(),
        "file_system": _output("stat", "--file-system", "--format", "%T", str(work)),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "libraries": _libraries(),
        "peers": peers(),
    }
