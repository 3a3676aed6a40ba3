"""The disk watermark is measured in one way, for whoever asks."""

from __future__ import annotations

import pytest

from daemon.config import StorageSection
from daemon.disk import disk_state


@pytest.mark.parametrize(
    ("limits", "passed"),
    [
        ({"min_free_bytes": 0, "max_used_percent": 100}, ""),
        ({"min_free_bytes": 10**18, "max_used_percent": 100}, "free bytes below the limit"),
        ({"min_free_bytes": 0, "max_used_percent": 1e-9}, "used share above the limit"),
    ],
)
def test_the_limit_that_is_passed_is_named(tmp_path, limits, passed):
    free, named = disk_state(tmp_path, StorageSection(**limits))
    assert named == passed
    assert free > 0
