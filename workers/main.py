"""Entry points for the worker, the relay and the notifier. Each imports only the code that its process needs."""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy.engine import Engine

from models.database.engine import WORKER_TIMEOUTS, make_engine
from models.enums import Lane
from models.settings import SettingsError
from tasks.log_config import ProcessKind, configure_logging, log_process_started, log_process_stopped
from tasks.process_reporter import ProcessReporter
from tasks.server_check import check_servers
from tasks.settings import MetricsSettings, ProcessSettings
from tasks.startup import StartupError
from tasks.tracing import configure_tracing, stop_tracing
from workers.runtime.imports import importing
from workers.runtime.readiness import announce_ready
from workers.settings import NotifierSettings, RelaySettings, WorkerSettings

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


S = TypeVar("S", bound=ProcessSettings)


def run_worker(lanes: list[str], *, patience_seconds: float) -> None:
    """Apply commands until SIGTERM. ``lanes`` are the names of the queues to consume.

    The process exits by itself if work is waiting but no progress is made for ``patience_seconds``.
    """
    with importing():
        from workers.apply.process import run_apply_worker
        from workers.deliver.channels.configured import make_channels

    with _process(ProcessKind.WORKER, WorkerSettings) as settings:
        try:
            make_channels(settings)
        except SettingsError as error:
            sys.exit(str(error))
        with _shared_metrics(settings) as directory:
            exit_code = run_apply_worker(
                settings,
                [Lane(lane) for lane in lanes],
                patience_seconds=patience_seconds,
                metrics_directory=directory,
            )
    sys.exit(exit_code)


def run_relay() -> None:
    """Publish events, and send hints for overdue commands, until SIGTERM."""
    with importing():
        from workers.relay.relay import Relay
        from workers.runtime.metrics import relay_registry

    with _process(ProcessKind.RELAY, RelaySettings) as settings, _engine(settings, "tocsin-relay") as engine:
        relay = Relay(engine, settings, keep_days=settings.keep_days)
        _serve_metrics(settings, relay_registry(relay, settings.database_url))
        with _reporting(settings, ProcessKind.RELAY, lambda: relay.processed):
            relay.run(_stop_on_signals(), announce_ready)


def run_notifier() -> None:
    """Plan notifications until SIGTERM."""
    with importing():
        from workers.notify.notifier import Notifier
        from workers.runtime.metrics import notifier_registry

    with _process(ProcessKind.NOTIFIER, NotifierSettings) as settings, _engine(settings, "tocsin-notifier") as engine:
        notifier = Notifier(engine, settings, notify_window=settings.notify_window)
        _serve_metrics(settings, notifier_registry(notifier))
        with _reporting(settings, ProcessKind.NOTIFIER, lambda: notifier.processed):
            notifier.run(_stop_on_signals(), announce_ready)


@contextlib.contextmanager
def _process(kind: ProcessKind, settings_class: type[S]) -> Iterator[S]:
    """Read the settings, check the servers, and log when the process starts and when it stops normally.

    If a check fails, exit with code 1 and one sentence on stderr.
    """
    settings = settings_class.from_environment()
    configure_logging(settings.log_level)
    try:
        # In a worker only a check: its child configures its own.
        configure_tracing(kind)
        check_servers(settings)
    except StartupError as error:
        sys.exit(str(error))
    log_process_started(kind)
    yield settings
    stop_tracing()
    log_process_stopped(kind)


@contextlib.contextmanager
def _shared_metrics(settings: WorkerSettings) -> Iterator[str | None]:
    """Serve the worker's metrics, if a setting says where, and yield the directory in which its child keeps them."""
    if settings.metrics_address is None:
        yield None
        return
    with importing():
        from workers.apply.metrics import worker_registry

    with tempfile.TemporaryDirectory(prefix="tocsin-metrics-", ignore_cleanup_errors=True) as directory:
        _serve_metrics(settings, worker_registry(directory))
        yield directory


def _serve_metrics(settings: MetricsSettings, registry: CollectorRegistry) -> None:
    """Serve these metrics where the settings say. If no port there can be used, exit with one sentence on stderr."""
    from tasks.metrics.exposition import serve_metrics

    if settings.metrics_address is None:
        return
    try:
        serve_metrics(registry, settings.metrics_address)
    except StartupError as error:
        sys.exit(str(error))


@contextlib.contextmanager
def _reporting(settings: ProcessSettings, kind: ProcessKind, finished: Callable[[], int]) -> Iterator[None]:
    """Report the process while the block runs."""
    reporter = ProcessReporter(settings.database_url, kind, finished)
    reporter.start()
    try:
        yield
    finally:
        reporter.stop()


@contextlib.contextmanager
def _engine(settings: ProcessSettings, application: str) -> Iterator[Engine]:
    engine = make_engine(settings.database_url, application=application, timeouts=WORKER_TIMEOUTS)
    try:
        yield engine
    finally:
        engine.dispose()


def _stop_on_signals() -> threading.Event:
    """Return an event that is set when the process receives SIGTERM or SIGINT."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
