"""The real service in a folder of its own, for tests: started by the command that users type, stopped by SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ports import free_port

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 120.0


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = TIMEOUT_S) -> Any:
    """Return the first true value of `condition`; fail with `what` when it takes too long."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:.0f} s in vain: {what}")
        time.sleep(0.1)
    return value


@dataclass
class Service:
    """A running cxrfind: its folder, ports and what its commands say."""

    directory: Path
    ingest_port: int = field(default_factory=free_port)
    similar_port: int = field(default_factory=free_port)
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CXRFIND_")},
            "CXRFIND_INGEST__PORT": str(self.ingest_port),
            "CXRFIND_SIMILAR__PORT": str(self.similar_port),
            "CXRFIND_STORAGE__DIRECTORY": str(self.directory / "data"),
            "CXRFIND_STORAGE__MIN_FREE_BYTES": "0",
            "CXRFIND_STORAGE__MAX_USED_PERCENT": "100",
            "CXRFIND_LOG__FORMAT": "json",
            **self.environment,
        }

    @property
    def log(self) -> Path:
        return self.directory / "service.log"

    def start(self) -> None:
        began = time.time()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "daemon", "run"], env=self.environment, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, cwd=self.directory,
            )

        def ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, f"the service ended: {self.log.read_text()[-2000:]}"
            own = [path.stat().st_mtime >= began for path in (self.directory / "data" / "run").glob("*-0.json")]
            return all(own) and bool(self.status()["ready"])        # roles that were killed have left theirs

        wait_until(ready, f"the service is ready; log: {self.log}")

    def stop(self) -> int:
        """Send SIGTERM; return the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "daemon", *arguments], env=self.environment, cwd=self.directory,
            capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )

    def send(self) -> subprocess.CompletedProcess[str]:
        """Send the folder ``dicom`` by C-STORE."""
        return self.command("send", str(self.directory / "dicom"), "--to", f"CXRFIND@127.0.0.1:{self.ingest_port}")

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.command("status", "--json").stdout)
        return answer

    def wait_until_searchable(self) -> dict[str, Any]:
        """Return the status when the spool is empty and the index has caught up with the catalogue."""

        def caught_up() -> dict[str, Any] | None:
            facts = self.status()
            done = facts["ready"] and not facts["spool_depth"] and facts["index_sequence"] == facts["sequence"]
            return facts if done else None

        return wait_until(caught_up, "everything that was sent is searchable")


@contextmanager
def running(directory: Path, **environment: str) -> Iterator[Service]:
    """Run the service in `directory` while the block lasts."""
    service = Service(directory, environment=environment)
    try:
        service.start()
        yield service
    finally:
        if service.process and service.process.poll() is None:
            try:
                service.stop()
            except subprocess.TimeoutExpired:
                service.process.kill()
                raise
