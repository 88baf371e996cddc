"""The log of every process: one JSON object per line on stderr, from the first line to the last."""

from __future__ import annotations

import logging
import os
import sys
import threading
from enum import StrEnum
from importlib.metadata import version
from types import TracebackType
from typing import Any, Final

import structlog

from tasks.settings import LogLevel

_DEMOTED_LOGGERS: Final = ("alembic", "celery.app.trace", "celery.worker.strategy")
"""Libraries whose lines at info level count as debug: one per migration, and two per Celery task."""

log = structlog.get_logger(__name__)


class ProcessKind(StrEnum):
    """The kinds of long-running processes, as the log names them."""

    GATEWAY = "gateway"
    WORKER = "worker"
    RELAY = "relay"
    NOTIFIER = "notifier"


def configure_logging(level: LogLevel) -> None:
    """Log every record from ``level`` up as JSON on stderr: our events, libraries, warnings and crashes."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_demote_chatty_libraries)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(default=str),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_crash
    threading.excepthook = _log_thread_crash


def log_process_started(kind: ProcessKind) -> None:
    """Log the start of this process with its version."""
    log.info("process.started", kind=kind, version=version("tocsin"), pid=os.getpid())


def log_process_stopped(kind: ProcessKind) -> None:
    """Log the orderly end of this process."""
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
