"""Decoder processes: what happens to the object, and to the others, when one misbehaves."""

import os
import pickle
import signal
import time
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import numpy as np
import pytest

from daemon import reading
from daemon.reading import ReaderPool
from encoders.base import Report, ReportState
from encoders.readers import read_instance
from storage.base import SpooledInstance
from storage.renditions import Renditions


def spooled(path, number=1):
    return SpooledInstance(number, path, "", "", "", "", 0, "PACS", datetime.now(UTC))


@pytest.fixture
def fifo(tmp_path):
    """A file that whoever opens it waits for: a decoder that hangs."""
    path = tmp_path / "hangs.dcm"
    os.mkfifo(path)
    return path


def take(pool, count):
    return sorted((pool.done.get(timeout=60) for _ in range(count)), key=lambda read: read.instance.spool_id)


def test_an_image_comes_back_as_floats_no_larger_than_asked_for(tmp_path, write_dx):
    with ReaderPool(1, 128, 30, 0) as pool:
        pool.submit(spooled(write_dx(tmp_path / "a.dcm")))
        (read,) = take(pool, 1)
    assert read.reason == ""
    assert read.result.header.attributes["00100010"]["vr"] == "PN"
    pixels = read.result.content.pixels
    assert (pixels.dtype, min(pixels.shape)) == (np.float32, 128)
    assert 0 <= pixels.min() < 0.1 < 0.9 < pixels.max() <= 1


def test_an_image_comes_back_in_the_greys_that_its_rendition_keeps(tmp_path, write_dx):
    path = write_dx(tmp_path / "a.dcm")
    with ReaderPool(1, 128, 30, 0) as pool:
        pool.submit(spooled(path))
        (read,) = take(pool, 1)
    renditions, pixels = Renditions(tmp_path / "renditions"), read.result.content.pixels
    assert np.array_equal(renditions.load_unit(renditions.put(pixels)), pixels)
    assert np.abs(pixels - read_instance(path, 128).content.pixels).max() <= 0.5 / 255 + 1e-6


def test_an_object_that_cannot_be_read_comes_back_with_its_reason_and_the_child_goes_on(tmp_path, write_dx):
    (tmp_path / "b.dcm").write_bytes(b"no DICOM at all" * 20)
    with ReaderPool(1, 128, 30, 0) as pool:
        before = dict(pool.process_ids)
        pool.submit(spooled(tmp_path / "b.dcm", 1))
        pool.submit(spooled(write_dx(tmp_path / "a.dcm"), 2))
        bad, good = take(pool, 2)
        assert dict(pool.process_ids) == before
    assert (bad.result, bad.died) == (None, False)
    assert bad.reason
    assert good.result is not None


def test_a_reader_that_hangs_is_ended_after_its_time_and_only_its_object_is_blamed(tmp_path, fifo, write_dx):
    with ReaderPool(2, 128, 2.0, 0) as pool:
        pool.submit(spooled(fifo, 1))
        for number in range(2, 8):
            pool.submit(spooled(write_dx(tmp_path / f"{number}.dcm"), number))
        hung, *others = take(pool, 7)
    assert hung.died
    assert hung.reason == "not read within 2 s"
    assert all(read.result is not None for read in others)


def test_a_reader_that_is_killed_by_a_signal_names_it_and_is_replaced(tmp_path, fifo, write_dx):
    with ReaderPool(1, 128, 60, 0) as pool:
        pool.submit(spooled(fifo, 1))
        pool.submit(spooled(write_dx(tmp_path / "a.dcm"), 2))
        (process_id,) = pool.process_ids.values()
        time.sleep(0.3)
        os.kill(process_id, signal.SIGSEGV)
        dead, good = take(pool, 2)
        assert list(pool.process_ids.values()) != [process_id]
    assert dead.died
    assert dead.reason == "its decoder process died (SIGSEGV)"
    assert good.result is not None


def test_an_object_that_needs_more_memory_than_allowed_is_refused_with_the_name_of_the_limit(tmp_path, write_dx):
    path = write_dx(tmp_path / "large.dcm", 9_900, 10_000)
    with ReaderPool(1, 128, 60, 400_000_000) as pool:
        pool.submit(spooled(path, 1))
        pool.submit(spooled(write_dx(tmp_path / "a.dcm"), 2))
        large, good = take(pool, 2)
    assert "worker.reader_memory_bytes" in large.reason
    assert good.result is not None


def test_readers_end_with_the_pool_even_in_the_middle_of_an_object(fifo):
    with ReaderPool(2, 128, 60, 0) as pool:
        pool.submit(spooled(fifo))
        time.sleep(0.3)
        process_ids = list(pool.process_ids.values())
    for process_id in process_ids:
        with pytest.raises(ProcessLookupError):
            os.kill(process_id, 0)


def test_an_answer_that_would_run_code_is_refused():
    class Hostile:
        def __reduce__(self):
            return os.system, ("true",)

    with pytest.raises(pickle.UnpicklingError, match="system is not something that a reader returns"):
        reading.loads_allowed(pickle.dumps(Hostile()))


def test_a_report_comes_out_of_a_decoder_process_of_debian_12_too(monkeypatch):
    by_name = lambda member, protocol: (getattr, (type(member), member.name))  # noqa: E731  (enum of Python 3.11.2)
    monkeypatch.setattr(StrEnum, "__reduce_ex__", by_name)
    for state in ReportState:
        assert reading.loads_allowed(pickle.dumps(Report("Clear lungs.", "", state=state))).state is state


def test_decoder_processes_do_not_load_torch():
    with ReaderPool(1, 128, 60, 0) as pool:
        (process_id,) = pool.process_ids.values()
        maps = Path(f"/proc/{process_id}/maps").read_text()
    assert "libtorch" not in maps
