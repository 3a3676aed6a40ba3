"""What is kept of each image: 8-bit grey, moderate size, lossless, for the next model and for the eye."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

import imagecodecs
import numpy as np

from storage.base import Float32, StorageError
from storage.greys import Uint8, grey_levels, unit_range
from storage.snapshot import sync

_KEY = re.compile(r"[0-9a-f]{64}")
_SUFFIX = ".jxl"
#: JPEG-LS, a folder deeper: what was written before JPEG XL is read, never written.
_OLDER_SUFFIX = ".jls"
#: Of JPEG XL: the fast lossless mode, with one thread. Higher ones take four times as long for a tenth of the bytes.
_EFFORT = 1


class RenditionDamaged(StorageError):
    """A kept image is missing or not what was written."""

    def __init__(self, key: str, what: str) -> None:
        super().__init__(f"rendition {key[:12]} is {what}; send the object again, or restore its file from a backup")
        self.key = key


class Renditions:
    """A store of images by content, lossless JPEG XL (at 512 × 625: 100 kB in 1.6 ms; JPEG-LS 80 kB in 6.2 ms).

    The key is the sha256 of the file, so reading verifies it, equal images lie there once, and a crash between this
    store and the Catalogue leaves at most a file that nobody names. Safe to call from many threads and processes.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def path(self, key: str) -> Path:
        """Return where a key's file lies; ValueError if it is no key."""
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no rendition key")
        folder = self._directory / key[:2]
        older = folder / key[2:4] / f"{key}{_OLDER_SUFFIX}"
        return older if older.exists() else folder / f"{key}{_SUFFIX}"

    def put(self, pixels: Uint8 | Float32) -> str:
        """Return the key of an image that is on disk, power cut or not, when this returns."""
        return self.put_many([pixels])[0]

    def put_many(self, images: Sequence[Uint8 | Float32]) -> list[str]:
        """Return the keys of images that are all on disk when this returns; each folder is flushed once.

        Parameters
        ----------
        images : sequence of ndarray (rows, columns)
            uint8, or floating 0..1 (rounded to 8 bits); larger is brighter.
        """
        keys: list[str] = []
        folders: set[Path] = set()
        for pixels in images:
            data = bytes(imagecodecs.jpegxl_encode(grey_levels(pixels), lossless=True, effort=_EFFORT, numthreads=1))
            key = hashlib.sha256(data).hexdigest()
            path = self.path(key)
            if not _holds(path, data):
                if not path.parent.exists():
                    path.parent.mkdir(exist_ok=True)
                    folders.add(self._directory)
                unfinished = path.with_suffix(f".{os.getpid()}-{os.urandom(4).hex()}")
                try:
                    with unfinished.open("wb") as file:
                        file.write(data)
                        file.flush()
                        os.fsync(file.fileno())
                    unfinished.replace(path)
                finally:
                    unfinished.unlink(missing_ok=True)
            folders.add(path.parent)
            keys.append(key)
        for folder in folders:
            sync(folder)
        return keys

    def load(self, key: str) -> Uint8:
        """Return an image, uint8 (rows, columns), larger brighter; RenditionDamaged if it is not as it was."""
        path = self.path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise RenditionDamaged(key, "missing") from None
        if hashlib.sha256(data).hexdigest() != key:                 # before a decoder sees it
            raise RenditionDamaged(key, "damaged")
        decode = imagecodecs.jpegls_decode if path.suffix == _OLDER_SUFFIX else imagecodecs.jpegxl_decode
        return np.asarray(decode(data), dtype=np.uint8)

    def load_unit(self, key: str) -> Float32:
        """Return an image as an encoder takes it, float32 (rows, columns) 0..1; RenditionDamaged like `load`."""
        return unit_range(self.load(key))

    def delete(self, key: str) -> None:
        """Delete an image that no instance names any longer; nothing happens if it isn't there."""
        self.path(key).unlink(missing_ok=True)


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.read_bytes() == data
    except FileNotFoundError:
        return False
