"""The finder's scheduled jobs: snapshots, the recall probe, the disk check (APScheduler 3)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED, JobEvent
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from daemon.config import Config
from daemon.disk import disk_state

log = structlog.get_logger(__name__)

DISK_CHECK_INTERVAL_S = 60.0
#: Recall is known soon after the start, not only after the first interval.
_FIRST_PROBE_S = 60.0


class Jobs:
    """Runs the jobs in threads of its own; late ones are run late, never dropped, and what was missed is counted."""

    def __init__(
        self, config: Config, snapshot: Callable[[], object] | None, probe_recall: Callable[[], object]
    ) -> None:
        """Plan them; without `snapshot` those only that each of several finders has to do for itself."""
        self.missed = 0
        self.failed = 0
        self._storage = config.storage
        self._scheduler = BackgroundScheduler(
            executors={"default": ThreadPoolExecutor(2)},
            job_defaults={"coalesce": True, "misfire_grace_time": None, "max_instances": 1},
        )
        self._scheduler.add_listener(self._count, EVENT_JOB_MISSED | EVENT_JOB_MAX_INSTANCES | EVENT_JOB_ERROR)
        add = self._scheduler.add_job
        interval = config.index.recall_probe_interval_s
        first = datetime.now() + timedelta(seconds=min(interval, _FIRST_PROBE_S))
        add(probe_recall, "interval", seconds=interval, id="recall_probe", next_run_time=first)
        if snapshot is None:
            return
        add(snapshot, "interval", seconds=config.index.snapshot_interval_s, id="snapshot")
        add(self._check_disk, "interval", seconds=DISK_CHECK_INTERVAL_S, id="disk_check", next_run_time=datetime.now())

    def start(self) -> None:
        """Begin."""
        self._scheduler.start()

    def stop(self) -> None:
        """End, after the jobs that run."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)

    def _count(self, event: JobEvent) -> None:
        if event.code == EVENT_JOB_ERROR:
            self.failed += 1
            log.error("job.failed", job=event.job_id, error=type(event.exception).__name__)
        else:
            self.missed += 1
            log.warning("job.missed", job=event.job_id)

    def _check_disk(self) -> None:
        free, passed = disk_state(self._storage.directory, self._storage)
        if passed:
            log.warning("disk.low", free_bytes=free, limit=passed, cure="C-STORE answers A700 until space is freed")
