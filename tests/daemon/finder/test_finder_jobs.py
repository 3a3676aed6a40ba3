"""Scheduled jobs run, and what goes wrong with them is counted."""

import threading

import structlog
from structlog.testing import capture_logs

from daemon.config import Config
from daemon.finder.jobs import Jobs


def config_of(tmp_path, **storage):
    return Config(
        storage={"directory": tmp_path, **storage}, index={"snapshot_interval_s": 0.05, "recall_probe_interval_s": 0.05}
    )


def test_snapshot_and_recall_probe_run_again_and_again(tmp_path):
    snapshots, probes = threading.Semaphore(0), threading.Semaphore(0)
    jobs = Jobs(config_of(tmp_path), snapshots.release, probes.release)
    jobs.start()
    try:
        for semaphore in (snapshots, probes):
            assert semaphore.acquire(timeout=20)
            assert semaphore.acquire(timeout=20)
    finally:
        jobs.stop()


def test_a_job_that_fails_is_counted_logged_and_run_again(tmp_path):
    ran = threading.Semaphore(0)

    def fail():
        ran.release()
        raise OSError("disk full")

    structlog.reset_defaults()
    with capture_logs() as logs:
        jobs = Jobs(config_of(tmp_path), fail, lambda: None)
        jobs.start()
        assert ran.acquire(timeout=20)
        assert ran.acquire(timeout=20)
        jobs.stop()
    assert jobs.failed >= 1
    assert {"event": "job.failed", "job": "snapshot", "error": "OSError", "log_level": "error"} in logs


def test_a_job_that_is_still_running_when_its_turn_comes_again_is_counted_as_missed(tmp_path):
    going_on = threading.Event()
    jobs = Jobs(config_of(tmp_path), lambda: going_on.wait(20), lambda: None)
    counted = threading.Event()
    jobs._scheduler.add_listener(lambda event: counted.set() if jobs.missed else None)
    jobs.start()
    try:
        assert counted.wait(20)
    finally:
        going_on.set()
        jobs.stop()
    assert jobs.missed >= 1
