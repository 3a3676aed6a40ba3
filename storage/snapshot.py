"""Snapshots on disk: written beside, checked, then renamed into place; two are kept; any doubt means none.

A snapshot is a folder ``snapshot-<sequence>`` with the files of whoever saved it and ``manifest.json``, which holds
every file's size and sha256, and on a second line its own. hnswlib loads 4 KB of bit rot without a word and crashes
later: no byte reaches it before its hash is right.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import structlog

from storage.base import StorageError

log = structlog.get_logger(__name__)

FORMAT_VERSION = 2
KEPT = 2
_MANIFEST = "manifest.json"
_PREFIX = "snapshot-"
_UNFINISHED = ".unfinished-"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SnapshotManifest:
    """What a snapshot was made of; it fits only where all but `counts`, `sequence` and `files` are equal.

    Attributes
    ----------
    parameters : mapping
        Engine parameters that the files depend on (hnswlib's M and efConstruction).
    sequence : int
        The Catalogue's sequence number up to which changes are in it.
    files : mapping of relative path to (size in bytes, sha256)
    """

    engine: str
    space: str
    dim: int
    parameters: Mapping[str, int]
    counts: Mapping[str, int]
    sequence: int
    generation_id: int
    fingerprint: str
    format_version: int = FORMAT_VERSION
    files: Mapping[str, tuple[int, str]] = field(default_factory=dict)

    def fits(self, other: SnapshotManifest) -> bool:
        """Return whether a snapshot with this manifest may be used where `other` is expected."""
        same = {"counts": {}, "sequence": 0, "files": {}}
        return replace(self, **same) == replace(other, **same)  # type: ignore[arg-type]


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hashes(paths: Sequence[Path]) -> list[str]:
    """Return the sha256 of files; hashing releases the GIL, so all cores do it."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(sha256_of, paths))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_snapshot(root: Path, write: Callable[[Path], None], manifest: SnapshotManifest) -> Path:
    """Return the folder of a new snapshot in `root`, complete and on disk; older ones beyond two are deleted.

    Parameters
    ----------
    write : callable
        Gets an empty folder and writes the files into it.
    """
    root.mkdir(parents=True, exist_ok=True)
    for left in root.glob(f"{_UNFINISHED}*"):                       # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    folder = root / f"{_UNFINISHED}{os.getpid()}"
    folder.mkdir()
    try:
        write(folder)
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        for path in paths:
            sync(path)
        files = {
            str(path.relative_to(folder)): (path.stat().st_size, digest)
            for path, digest in zip(paths, _hashes(paths), strict=True)
        }
        text = json.dumps(asdict(replace(manifest, files=files)))
        (folder / _MANIFEST).write_text(f"{text}\n{_digest(text)}\n", encoding="utf-8")
        for path in (folder / _MANIFEST, *(path for path in folder.rglob("*") if path.is_dir()), folder):
            sync(path)
        target = root / f"{_PREFIX}{manifest.sequence:020d}"
        if target.exists():                                                         # refused when it was loaded
            shutil.rmtree(target)
        folder.rename(target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    sync(root)
    for old in sorted(root.glob(f"{_PREFIX}*"), reverse=True)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def load_snapshot(
    root: Path, expected: SnapshotManifest, read: Callable[[Path, SnapshotManifest], T]
) -> tuple[T, SnapshotManifest] | None:
    """Return what `read` makes of the newest sound snapshot that fits, with its manifest; None when in any doubt.

    Parameters
    ----------
    read : callable
        Gets a folder whose every byte has been verified, and its manifest; raises StorageError, OSError or ValueError
        when its content makes no sense, and then the older snapshot has its turn.
    """
    if not root.is_dir():
        return None
    for folder in sorted(root.glob(f"{_PREFIX}*"), reverse=True):
        try:
            manifest = _verified(folder)
            if not manifest.fits(expected):
                log.info("snapshot.passed_over", folder=folder.name, reason="made by another model or setting")
                continue
            return read(folder, manifest), manifest
        except (StorageError, OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            log.warning("snapshot.refused", folder=folder.name, reason=str(error))
    return None


def _verified(folder: Path) -> SnapshotManifest:
    """Return a folder's manifest after comparing every file with it."""
    try:
        text, digest = (folder / _MANIFEST).read_text(encoding="utf-8").splitlines()
        if digest != _digest(text):
            raise ValueError
        values: dict[str, Any] = json.loads(text)
        values["files"] = {name: (int(size), str(digest)) for name, (size, digest) in values["files"].items()}
        manifest = SnapshotManifest(**values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"{_MANIFEST} is missing or unreadable ({type(error).__name__})") from error
    present = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {_MANIFEST}
    if present != set(manifest.files):
        raise StorageError("files are missing or were added")
    for name, (size, _) in manifest.files.items():
        if (folder / name).stat().st_size != size:
            raise StorageError(f"{name} is not what was written")
    hashes = _hashes([folder / name for name in manifest.files])
    for (name, (_, digest)), found in zip(manifest.files.items(), hashes, strict=True):
        if found != digest:
            raise StorageError(f"{name} is not what was written")
    return manifest
