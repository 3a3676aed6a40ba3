"""The disk watermark: one measure for the listener, which refuses past it, and the finder's job, which warns of it."""

from __future__ import annotations

import os
from pathlib import Path

from daemon.config import StorageSection


def disk_state(folder: Path, limits: StorageSection) -> tuple[int, str]:
    """Return the bytes free to this user on the disk of `folder`, and which limit is passed ("" for none).

    The share used is df's: of what users may have, without the file system's reserve.
    """
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
    if free < limits.min_free_bytes:
        return free, "free bytes below the limit"
    if used > (used + free) * limits.max_used_percent / 100:
        return free, "used share above the limit"
    return free, ""
