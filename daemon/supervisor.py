"""``cxrfind run``: start the roles on this machine, watch over them, and end them in order.

A role that dies is started again with a growing pause, and the others go on; what a dead worker had claimed returns
to the spool first. Nothing that a role knows is lost with it: all they share is storage.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from daemon import logs
from daemon.checks import check
from daemon.config import Config
from daemon.notify import Notifier
from daemon.roles import (
    EX_CONFIG,
    FINDER_ENVIRONMENT,
    ROLES,
    SUPERVISOR_PID,
    AnotherRuns,
    heartbeat_path,
    process_counts,
    read_heartbeat,
    sole,
    stop_on_signals,
    worker_owner,
)
from storage.base import StorageError
from storage.spool import Spool

#: Pause before a role is started again: doubled at each death, forgotten after a healthy minute.
BACKOFF_FIRST_S, BACKOFF_LAST_S, HEALTHY_AFTER_S = 0.5, 30.0, 60.0

#: Roles write a heartbeat each second, from a thread that a long batch does not hold up.
HUNG_AFTER_S = 30.0

#: Between its start and its first heartbeat, on a machine with better things to do.
FIRST_BEAT_S = 60.0

#: After SIGTERM, before SIGKILL: the listener ends its associations (10 s at most), the worker its batch, the finder
#: writes a snapshot; 30 s in all.
GRACE_S = {"listener": 11.0, "worker": 10.0, "finder": 9.0}

_TICK_S = 0.2


@dataclass(slots=True)
class _Role:
    name: str
    index: int
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restart_at: float = 0.0
    backoff_s: float = BACKOFF_FIRST_S
    ready: bool = False
    was_ever_ready: bool = False
    deaths: int = field(default=0)

    @property
    def title(self) -> str:
        return f"{self.name}-{self.index}"


class Supervisor:
    """The roles of one machine as child processes."""

    def __init__(self, config: Config, config_path: Path | None, roles: Sequence[str]) -> None:
        self._config, self._config_path = config, config_path
        self._directory = config.storage.directory
        self._spool = Spool(self._directory / "spool")
        self._notifier = Notifier()
        self._log = logs.get_logger()
        self._roles = [_Role(name, index) for name in roles for index in range(process_counts(config)[name])]
        self._told_ready = False
        self._watchdog_at = 0.0

    def serve(self, stop: threading.Event) -> int:
        """Run every role until `stop` is set; return the exit status."""
        self._spool.release_all()
        try:
            for role in self._roles:
                self._start(role)
            while not stop.wait(_TICK_S):
                for role in self._roles:
                    if not self._look_after(role):
                        return 1
                self._tell()
            return 0
        finally:
            self._end_all()

    def _start(self, role: _Role) -> None:
        heartbeat_path(self._directory, role.name, role.index).unlink(missing_ok=True)
        command = [sys.executable, "-m", "daemon", "run", "--role", role.name, "--index", str(role.index)]
        if self._config_path is not None:
            command += ["--config", str(self._config_path)]
        own = FINDER_ENVIRONMENT if role.name == "finder" else {}
        role.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            env={**own, **os.environ, SUPERVISOR_PID: str(os.getpid())},
            start_new_session=True,                                 # Ctrl-C is for us: we end them in order
        )
        role.started_at, role.ready = time.monotonic(), False
        self._log.info("role.started", process=role.title, pid=role.process.pid)

    def _look_after(self, role: _Role) -> bool:
        """Start again what died, kill what hangs; False when a person has to mend something first."""
        now = time.monotonic()
        if role.process is None:
            if now >= role.restart_at:
                self._start(role)
            return True
        status = role.process.poll()
        if status is not None:
            if status == EX_CONFIG and not role.was_ever_ready:
                return False
            self._bury(role, status)
            return True
        age = self._age(role)
        if age is not None and age > HUNG_AFTER_S:
            self._log.error("role.hung", process=role.title, pid=role.process.pid, silent_s=round(age, 1))
            role.process.kill()
            return True
        beat = read_heartbeat(heartbeat_path(self._directory, role.name, role.index))
        if not role.ready and beat.get("pid") == role.process.pid and beat.get("ready"):
            role.ready = role.was_ever_ready = True
            self._log.info("role.ready", process=role.title, start_s=round(now - role.started_at, 2))
        if now - role.started_at > HEALTHY_AFTER_S and role.ready:
            role.backoff_s = BACKOFF_FIRST_S
        return True

    def _age(self, role: _Role) -> float | None:
        """Return the seconds since a running role's last sign of life, None when it does not run."""
        if role.process is None or role.process.poll() is not None:
            return None
        try:
            beaten_at = heartbeat_path(self._directory, role.name, role.index).stat().st_mtime
        except FileNotFoundError:
            return time.monotonic() - role.started_at - FIRST_BEAT_S
        return min(time.time() - beaten_at, time.monotonic() - role.started_at)

    def _bury(self, role: _Role, status: int) -> None:
        if role.process is None:
            return
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        self._log.error("role.died", process=role.title, pid=role.process.pid, how=how, restart_in_s=role.backoff_s)
        self._release(role)
        role.process, role.ready = None, False
        role.deaths += 1
        role.restart_at = time.monotonic() + role.backoff_s
        role.backoff_s = min(role.backoff_s * 2, BACKOFF_LAST_S)

    def _release(self, role: _Role) -> None:
        """Give back to the spool what a dead worker had claimed."""
        if role.name == "worker":
            self._spool.release(worker_owner(role.index))

    def _tell(self) -> None:
        waiting = [role.title for role in self._roles if not role.ready]
        if not waiting and not self._told_ready:
            self._told_ready = True
            self._notifier.tell("READY=1")
            self._log.info("service.ready")
        interval, now = self._notifier.watchdog_interval_s, time.monotonic()
        if now < self._watchdog_at:
            return
        self._watchdog_at = now + min(interval or 5.0, 5.0)
        self._notifier.tell(f"STATUS={'waiting for ' + ', '.join(waiting) if waiting else 'all roles ready'}")
        ages = [age for role in self._roles if (age := self._age(role)) is not None]
        if interval is not None and all(age < HUNG_AFTER_S for age in ages):
            self._notifier.tell("WATCHDOG=1")

    def _end_all(self) -> None:
        self._notifier.tell("STOPPING=1", "STATUS=ending the roles in order")
        for name in dict.fromkeys(role.name for role in self._roles):
            ending = [role for role in self._roles if role.name == name]
            for role in ending:
                if role.process is not None and role.process.poll() is None:
                    role.process.terminate()
            until = time.monotonic() + GRACE_S.get(name, 10.0)
            for role in ending:
                self._end(role, until)

    def _end(self, role: _Role, until: float) -> None:
        if role.process is None:
            return
        try:
            role.process.wait(max(until - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            self._log.error("role.killed", process=role.title, reason="did not end in time")
            role.process.kill()
            role.process.wait()
        self._release(role)


def run(config: Config, config_path: Path | None, roles: Sequence[str] = ROLES) -> int:
    """Run the service in the foreground and return its exit status.

    Returns
    -------
    int
        0 after SIGTERM or SIGINT; 1, after one sentence on standard error, when it cannot run: another instance has
        the storage directory, a port is taken, there is no model.
    """
    logs.configure(config.log, "supervisor")
    stop = threading.Event()
    stop_on_signals(stop)
    directory = config.storage.directory
    try:
        with sole(directory, "lock", "cxrfind"):
            faults = check(config)
            if faults:
                sys.stderr.writelines(f"cxrfind: {fault}\n" for fault in faults)
                return 1
            status = Supervisor(config, config_path, roles).serve(stop)
            logs.get_logger().info("service.ended", status=status)
            return status
    except (AnotherRuns, OSError, StorageError) as error:
        sys.stderr.write(f"cxrfind: {error}\n")
        return 1
