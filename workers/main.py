"""The processes: worker, relay, notifier. Each imports what it does when it is started, and nothing of the others."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator

from sqlalchemy.engine import Engine

from models.database.engine import WORKER_TIMEOUTS, make_engine
from models.enums import Lane
from tasks.log_config import configure_logging
from workers.runtime.imports import importing
from workers.runtime.readiness import announce_ready
from workers.settings import WorkerSettings


def run_worker(lanes: list[str], *, patience_seconds: float) -> None:
    """Apply commands until SIGTERM; ``lanes`` are names of queues."""
    with importing():
        from workers.apply.process import run_apply_worker

    sys.exit(run_apply_worker(_settings(), [Lane(lane) for lane in lanes], patience_seconds=patience_seconds))


def run_relay() -> None:
    """Announce events and sweep forgotten work until SIGTERM."""
    with importing():
        from workers.relay.relay import Relay

    settings = _settings()
    with _engine(settings, "tocsin-relay") as engine:
        Relay(engine, settings).run(_stop_on_signals(), announce_ready)


def run_notifier() -> None:
    """Decide who hears of what until SIGTERM."""
    with importing():
        from workers.notify.notifier import Notifier

    settings = _settings()
    with _engine(settings, "tocsin-notifier") as engine:
        Notifier(engine, settings).run(_stop_on_signals(), announce_ready)


def _settings() -> WorkerSettings:
    settings = WorkerSettings.from_environment()
    configure_logging(settings.log_level)
    return settings


@contextlib.contextmanager
def _engine(settings: WorkerSettings, application: str) -> Iterator[Engine]:
    engine = make_engine(settings.database_url, application=application, timeouts=WORKER_TIMEOUTS)
    try:
        yield engine
    finally:
        engine.dispose()


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
