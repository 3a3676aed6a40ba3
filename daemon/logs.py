"""Logs: one JSON line (or one console line) per unit of work, and nothing that tells who a patient is.

Three nets, because a log is copied to places where nobody expects patients: our own code logs UIDs and counts only;
:func:`withhold_patients` blanks keys that name patient data, and values that are not plain; messages of the DICOM and
SQL libraries, which quote values, are reduced to where they came from (pynetdicom#911, fo-dicom#2042).
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import threading
from functools import lru_cache
from types import TracebackType
from typing import IO

import structlog
from structlog.typing import EventDict, WrappedLogger

from daemon.config import LogSection

#: Keys that must not reach a log, written without underscores; each stands for its snake_case and DICOM keyword too.
PATIENT_KEYS = frozenset(
    {
        "patient", "patientname", "patientid", "patientkey", "issuerofpatientid", "otherpatientids", "birthdate",
        "patientbirthdate", "patientsex", "patientage", "age", "sex", "patientaddress", "accession", "accessionnumber",
        "studydate", "studytime", "contentdate", "contenttime", "studydescription", "referringphysicianname",
        "text", "querytext", "findings", "impression", "indication", "report", "dataset", "identifier", "attributes",
        "studyid", "institutionname", "operatorsname", "physician",
    }
)  # fmt: skip
WITHHELD = "[withheld]"

#: Libraries whose messages and exceptions quote data elements or SQL parameters.
_QUOTING = frozenset({"pydicom", "pynetdicom", "sqlalchemy", "py.warnings", "warnings"})
_PLAIN = (str, int, float, bool, type(None))


def withhold_patients(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Blank every key that names patient data, and every value that is not a plain one or a list of such."""
    for key, value in event.items():
        if _names_patient_data(key):
            event[key] = WITHHELD
        elif isinstance(value, list | tuple):
            event[key] = [item if isinstance(item, _PLAIN) else type(item).__name__ for item in value]
        elif not isinstance(value, _PLAIN) and key not in {"_record", "exc_info"}:
            event[key] = f"[{type(value).__name__}]"
    return event


@lru_cache(maxsize=1024)
def _names_patient_data(key: str) -> bool:
    return re.sub(r"[_\W]", "", key).lower() in PATIENT_KEYS


def quiet_libraries(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Keep of a library's message that may quote data elements only who said it, and where."""
    record = event.get("_record")
    if isinstance(record, logging.LogRecord) and record.name.split(".")[0] in _QUOTING | {"py"}:
        event["event"] = "library.warned"
        event["source"] = f"{record.name}:{record.module}:{record.lineno}"
    return event


def _frames(traceback: TracebackType | None) -> list[tuple[str, str]]:
    found = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        module = str(traceback.tb_frame.f_globals.get("__name__", "?"))
        found.append((module, f"{module}:{traceback.tb_lineno}:{code.co_name}"))
        traceback = traceback.tb_next
    return found


def describe(error: BaseException) -> str:
    """Return the type of an exception, with its message unless that may quote patient data."""
    roots = {module.split(".")[0] for module, _ in _frames(error.__traceback__)}
    roots.add(type(error).__module__.split(".")[0])
    if roots & _QUOTING:
        cause = getattr(error, "orig", None)                        # SQLAlchemy: the driver's own words, no parameters
        return f"{type(error).__name__}: {cause}" if isinstance(cause, Exception) else type(error).__name__
    return f"{type(error).__name__}: {error}"


def format_exception(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace ``exc_info`` by types and places, cause before effect: no local variables, no quoted data."""
    info = event.pop("exc_info", None)
    error = info if isinstance(info, BaseException) else sys.exc_info()[1] if info is True else None
    if isinstance(info, tuple):
        error = info[1]
    chain: list[str] = []
    where: list[str] = []
    while error is not None and len(chain) < 5:
        chain.insert(0, describe(error))
        where[:0] = [place for _, place in _frames(error.__traceback__)]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if chain:
        event["exception"] = chain
        event["where"] = where[-20:]
    return event


class _Lines:
    """Where our own lines end up: beside `logging`, whose records and search for the caller cost more than the rest."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream, self._writing = stream, threading.Lock()

    def write(self, line: str) -> None:
        """Write a line; a log that cannot be written stops nobody."""
        with self._writing, contextlib.suppress(OSError, ValueError):
            self._stream.write(line + "\n")
            self._stream.flush()

    msg = debug = info = warning = warn = error = exception = critical = fatal = write


def _role_adder(role: str) -> structlog.typing.Processor:
    def add_role(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event.setdefault("role", role)
        return event

    return add_role


def configure(section: LogSection, role: str, stream: IO[str] | None = None) -> None:
    """Send everything that this process logs, or its libraries warn of, to one stream.

    Parameters
    ----------
    section : LogSection
        Least level; ``json``, ``console`` or ``auto`` (console on a terminal).
    role : str
        Put on each line.
    stream : text file, optional
        Where to write; standard error by default.
    """
    stream = stream if stream is not None else sys.stderr
    console = section.format == "console" or (section.format == "auto" and stream.isatty())
    level = logging.getLevelNamesMapping()[section.level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _role_adder(role),
        format_exception,
        withhold_patients,
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=stream.isatty()) if console else structlog.processors.JSONRenderer()
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[quiet_libraries, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    lines = _Lines(stream)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.WARNING))                      # libraries
    logging.captureWarnings(True)
    structlog.configure(
        processors=[*shared, renderer],
        logger_factory=lambda *_: lines,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )
    _quiet_pynetdicom()
    _log_uncaught()


def get_logger() -> structlog.typing.FilteringBoundLogger:
    """Return the logger of the daemon; bind nothing about a patient to it."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger("cxrfind")
    return logger


def _quiet_pynetdicom() -> None:
    """Turn off pynetdicom's logging of identifiers (patient names at INFO by default)."""
    from pynetdicom import _config

    _config.LOG_REQUEST_IDENTIFIERS = False
    _config.LOG_RESPONSE_IDENTIFIERS = False
    _config.LOG_HANDLER_LEVEL = "none"
    logging.getLogger("pynetdicom").setLevel(logging.WARNING)


def _log_uncaught() -> None:
    """Send uncaught exceptions of every thread to the log, instead of Python's own traceback."""

    def uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            return
        get_logger().critical("process.failed", exc_info=(kind, error, traceback))

    def thread_uncaught(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_value is not None:
            uncaught(arguments.exc_type, arguments.exc_value, arguments.exc_traceback)

    sys.excepthook = uncaught
    threading.excepthook = thread_uncaught


__all__ = ["PATIENT_KEYS", "WITHHELD", "configure", "describe", "get_logger", "withhold_patients"]
