"""Logging for every process: one JSON object per line on stderr, including warnings and crashes."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
from collections.abc import MutableMapping
from enum import StrEnum
from importlib.metadata import version
from types import TracebackType
from typing import Any, Final

import orjson
import structlog

from tasks.settings import LogLevel

_DEMOTED_LOGGERS: Final = ("alembic", "celery.app.trace", "celery.worker.strategy")
"""The loggers whose info lines are treated as debug lines, because they log every migration and every Celery task."""

_STDERR: Final = 2

log = structlog.get_logger(__name__)


class ProcessKind(StrEnum):
    """A kind of long-running process, by its name in the log."""

    GATEWAY = "gateway"
    WORKER = "worker"
    RELAY = "relay"
    NOTIFIER = "notifier"


def configure_logging(level: LogLevel) -> None:
    """Log everything at ``level`` or above as JSON on stderr, including libraries' records, warnings and crashes."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        # This bypasses the standard library: a line per request costs a tenth as much.
        processors=[*shared, structlog.processors.format_exc_info, _render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=StderrLogger,
        cache_logger_on_first_use=True,
    )
    handler = _StderrHandler()
    handler.addFilter(_demote_chatty_libraries)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _render_text,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_crash
    threading.excepthook = _log_thread_crash
    sys.unraisablehook = _log_unraisable


class StderrLogger:
    """A logger that writes each line to stderr in one system call, without a lock that a fork could copy while held."""

    __slots__ = ("name",)

    def __init__(self, name: str = "") -> None:
        self.name = name

    def msg(self, line: bytes) -> None:
        """Write one line. If stderr is closed or broken, do nothing."""
        _write_line(line)

    debug = info = warning = error = critical = exception = msg


class _StderrHandler(logging.Handler):
    """A handler that writes libraries' records to the same stream as tocsin's own lines."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            _write_line(self.format(record).encode())
        except Exception:
            self.handleError(record)


def _write_line(line: bytes) -> None:
    rest = memoryview(line + b"\n")
    with contextlib.suppress(OSError):
        while rest:
            rest = rest[os.write(_STDERR, rest) :]


def _render(_logger: object, _method: str, event: MutableMapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(event, default=str)
    except TypeError:
        # orjson rejects lone surrogates and integers beyond 64 bits.
        return json.dumps(event, default=str).encode()


def _render_text(logger: object, method: str, event: MutableMapping[str, Any]) -> str:
    return _render(logger, method, event).decode()


def log_process_started(kind: ProcessKind) -> None:
    """Log that this process has started, with its version."""
    log.info("process.started", kind=kind, version=version("tocsin"), pid=os.getpid())


def log_process_stopped(kind: ProcessKind) -> None:
    """Log that this process has stopped gracefully."""
    log.info("process.stopped", kind=kind, pid=os.getpid())


def _demote_chatty_libraries(record: logging.LogRecord) -> bool:
    if record.levelno != logging.INFO or not record.name.startswith(_DEMOTED_LOGGERS):
        return True
    record.levelno, record.levelname = logging.DEBUG, logging.getLevelName(logging.DEBUG)
    return logging.getLogger().isEnabledFor(logging.DEBUG)


def _log_crash(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    log.critical("process.crashed", exc_info=(kind, error, traceback))


def _log_thread_crash(crash: threading.ExceptHookArgs) -> None:
    if crash.exc_value is not None:
        exc_info = (crash.exc_type, crash.exc_value, crash.exc_traceback)
        log.critical("thread.crashed", thread=crash.thread.name if crash.thread else None, exc_info=exc_info)


def _log_unraisable(error: sys.UnraisableHookArgs) -> None:
    log.error("error.unraisable", where=repr(error.object), exc_info=error.exc_value)
