"""What may stand in a log line, and what may not."""

import io
import json
import logging
import os
import sys
import threading
import warnings

import pytest
import structlog
from pydicom.dataelem import DataElement
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from daemon import logs
from daemon.config import LogSection

NAME = "MARKED^PATIENT"


@pytest.fixture(autouse=True)
def _undone():
    """Leave this process's logging as it was."""
    root, hooks = logging.getLogger(), (sys.excepthook, threading.excepthook)
    handlers, level = root.handlers[:], root.level
    pydicom, quiet = logging.getLogger("pydicom"), logging.getLogger("pydicom").level
    pydicom.setLevel(logging.NOTSET)                # the readers, once imported, silence it
    yield
    pydicom.setLevel(quiet)
    root.handlers[:] = handlers
    root.setLevel(level)
    sys.excepthook, threading.excepthook = hooks
    structlog.reset_defaults()
    logging.captureWarnings(False)


@pytest.fixture
def stream():
    stream = io.StringIO()
    logs.configure(LogSection(format="json"), "worker", stream)
    return stream


def lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_json_with_event_time_level_role_and_the_keys_given(stream):
    logs.get_logger().info("instance.indexed", sop_instance_uid="1.2.3", encode_ms=41.7)
    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "instance.indexed", "level": "info", "role": "worker", "sop_instance_uid": "1.2.3", "encode_ms": 41.7
    }  # fmt: skip


@pytest.mark.parametrize("key", ["patient_name", "PatientName", "patient_id", "text", "StudyDate", "accession_number"])
def test_keys_that_name_patient_data_are_withheld(stream, key):
    logs.get_logger().info("instance.indexed", **{key: NAME})
    assert lines(stream)[0][key] == logs.WITHHELD
    assert NAME not in stream.getvalue()


@pytest.mark.parametrize("value", [{"a": NAME}, [{"a": NAME}], DataElement(0x00100010, "PN", NAME)])
def test_values_that_are_not_plain_are_named_by_type_only(stream, value):
    logs.get_logger().info("instance.indexed", extra=value)
    assert NAME not in stream.getvalue()
    assert type(value[0] if isinstance(value, list) else value).__name__ in stream.getvalue()


def test_the_level_holds_for_our_own_modules_and_libraries_speak_from_warning_on(stream):
    structlog.get_logger("storage.spool").info("disk.checked")
    structlog.get_logger("storage.spool").debug("disk.looked_at")
    logging.getLogger("apscheduler.scheduler").info("Added job")
    logging.getLogger("apscheduler.scheduler").warning("Run time of job was missed")
    assert [line["event"] for line in lines(stream)] == ["disk.checked", "Run time of job was missed"]


def test_the_message_of_a_dicom_library_is_reduced_to_its_place(stream):
    logging.getLogger("pydicom").warning("Invalid value for VR PN: %s", NAME)
    logging.getLogger("pynetdicom.events").error("(0010,0010) PN [%s]", NAME)
    warnings.warn(f"Invalid value for VR UI: '{NAME}'", stacklevel=1)
    assert [line["event"] for line in lines(stream)] == ["library.warned"] * 3
    assert NAME not in stream.getvalue()
    assert lines(stream)[0]["source"].startswith("pydicom:test_logs:")


def test_an_exception_is_logged_with_its_cause_and_places_but_without_local_variables(stream):
    def inner(secret):
        raise ValueError("short file")

    try:
        try:
            inner(NAME)
        except ValueError as error:
            raise RuntimeError("cannot go on") from error
    except RuntimeError:
        logs.get_logger().exception("batch.failed")
    (line,) = lines(stream)
    assert line["exception"] == ["ValueError: short file", "RuntimeError: cannot go on"]
    assert any(place.endswith(":inner") for place in line["where"])
    assert NAME not in stream.getvalue()


def test_what_an_sql_error_quotes_of_its_parameters_is_left_out(stream):
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        try:
            connection.execute(text("SELECT * FROM nowhere WHERE name = :name"), {"name": NAME})
        except OperationalError:
            logs.get_logger().exception("batch.failed")
    engine.dispose()
    assert lines(stream)[0]["exception"][-1] == "OperationalError: no such table: nowhere"
    assert NAME not in stream.getvalue()


def test_what_a_dicom_library_raises_is_logged_without_its_message(stream):
    from pydicom import config
    from pydicom.valuerep import validate_value

    try:
        validate_value("UI", NAME, config.RAISE)
    except ValueError:
        logs.get_logger().exception("batch.failed")
    assert lines(stream)[0]["exception"] == ["ValueError"]
    assert NAME not in stream.getvalue()


def test_a_console_line_is_readable_text():
    stream = io.StringIO()
    logs.configure(LogSection(format="console"), "finder", stream)
    logs.get_logger().info("index.loaded", vectors=12)
    assert "index.loaded" in stream.getvalue()
    assert "vectors=12" in stream.getvalue()


def test_a_log_that_cannot_be_written_stops_nobody():
    with open("/dev/full", "w", buffering=1) as full:
        logs.configure(LogSection(format="json"), "finder", full)
        logs.get_logger().info("query.answered", answers=10)
        structlog.get_logger("daemon.finder").warning("request.refused")
        structlog.reset_defaults()
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())    # what is buffered must go somewhere at the end
