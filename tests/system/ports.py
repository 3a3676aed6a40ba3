"""A port of loopback that is free, and that no other test process will be given meanwhile."""

from __future__ import annotations

import os
import socket


def free_port() -> int:
    """Return a port that nobody listens on.

    What is given here is bound a moment later, so each of pytest-xdist's processes has ports of its own: every n-th
    pair of numbers (the kernel prefers numbers of one parity).
    """
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    own = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = int(probe.getsockname()[1])
        if port // 2 % count == own:
            return port
