"""The worker: a main process that consumes hints and runs the watchdog, and a child process that applies commands."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from celery import Celery
from sqlalchemy.engine import Engine

from models.base import new_id
from models.database.engine import WORKER_TIMEOUTS, make_engine
from models.enums import Lane
from models.messaging.canary import Canary, mark_canaries_seen
from tasks.app import make_app
from tasks.broker.hint_publisher import HintPublisher
from tasks.broker.hints import Hint
from tasks.broker.pubsub import EVENTS_CHANNEL, OUTCOMES_CHANNEL, WakeupPublisher
from tasks.celery_tasks import register_tasks, run_celery_worker
from tasks.outage_log import OutageLog
from tasks.server_check import explain_refusal
from tasks.watchdog import Watchdog, exit_stuck_process
from workers.apply.applier import Applier, BatchResult
from workers.apply.watchdog import Heartbeat, StallDetector, has_unclaimed_work
from workers.runtime.readiness import announce_ready
from workers.settings import WorkerSettings

_COMMAND_LANES: Final = frozenset({Lane.COMMANDS, Lane.BULK})


def run_apply_worker(settings: WorkerSettings, lanes: list[Lane], *, patience_seconds: float) -> int:
    """Apply commands until SIGTERM, and return the exit code.

    The process exits by itself if work is waiting but no progress is made for ``patience_seconds``; see
    :mod:`workers.apply.watchdog`.
    """
    app = make_app(settings)
    heartbeat = Heartbeat()
    watchdog = _make_watchdog(settings, lanes, heartbeat, patience_seconds)
    child: _Child | None = None

    def start_child() -> None:
        nonlocal child
        child = _Child.start(settings, app, heartbeat)

    def stop_child() -> None:
        if child is not None:
            child.stop()

    def task_of(lane: Lane) -> Callable[[Hint], None]:
        def task(hint: Hint) -> None:
            if child is not None:
                child.handle_hint_or_wait(lane, hint)

        return task

    def ready() -> None:
        watchdog.start()
        announce_ready()

    register_tasks(app, {lane: task_of(lane) for lane in Lane})
    return run_celery_worker(
        app,
        lanes,
        on_child_start=start_child,
        on_child_stop=stop_child,
        ready=ready,
        stopping=watchdog.stop,
    )


@dataclass(slots=True)
class _Child:
    """The objects that the child process uses, created after the fork."""

    settings: WorkerSettings
    app: Celery
    hints: HintPublisher
    applier: Applier
    wakeups: WakeupPublisher
    heartbeat: Heartbeat
    outage: OutageLog

    @classmethod
    def start(cls, settings: WorkerSettings, app: Celery, heartbeat: Heartbeat) -> _Child:
        hints, wakeups = HintPublisher(app), WakeupPublisher(settings.wake_url)
        hints.start()

        def publish_wakeups(result: BatchResult) -> None:
            if result.finished:
                wakeups.publish(OUTCOMES_CHANNEL, " ".join(str(id_) for id_ in result.finished))
            if result.events:
                wakeups.publish(EVENTS_CHANNEL)

        applier = Applier(
            engine=make_engine(settings.database_url, application="tocsin-worker", timeouts=WORKER_TIMEOUTS),
            autocommit_engine=_make_autocommit_engine(settings),
            worker=f"{socket.gethostname()}/{new_id()}",
            on_commit=publish_wakeups,
            request_continuation=lambda: hints.publish(Lane.COMMANDS, ()),
        )
        return cls(settings, app, hints, applier, wakeups, heartbeat, OutageLog("worker.failed"))

    def handle_hint(self, lane: Lane, hint: Hint) -> None:
        """Handle a hint from a lane: mark its canaries as seen, and apply waiting commands."""
        if canaries := Canary.from_subjects(lane, hint.subjects):
            with self.applier.autocommit_engine.connect() as autocommit:
                mark_canaries_seen(autocommit, canaries, worker=self.applier.worker)
        if lane in _COMMAND_LANES:
            self.applier.drain(hint.subjects)
        self.heartbeat.beat()

    def handle_hint_or_wait(self, lane: Lane, hint: Hint) -> None:
        """Handle a hint, but only log an error that an operator must resolve. The sweeper publishes the hint again.

        :raises Exception: for any other error, which Celery logs.
        """
        try:
            self.handle_hint(lane, hint)
        except Exception as error:
            if explain_refusal(error) is None:
                raise
            self.outage.record_error(error)
        else:
            self.outage.end()

    def stop(self) -> None:
        """Stop the publishers."""
        self.hints.stop()
        self.wakeups.close()


def _make_watchdog(
    settings: WorkerSettings, lanes: list[Lane], heartbeat: Heartbeat, patience_seconds: float
) -> Watchdog:
    """Make the main process's watchdog, with connections that the child does not share."""
    engine = make_engine(
        settings.database_url, application="tocsin-worker-watch", timeouts=WORKER_TIMEOUTS, pool_size=1
    )
    return Watchdog(
        StallDetector(heartbeat, partial(has_unclaimed_work, engine, make_app(settings), lanes)),
        partial(exit_stuck_process, patience_seconds),
        patience_seconds=patience_seconds,
    )


def _make_autocommit_engine(settings: WorkerSettings) -> Engine:
    # If PostgreSQL crashes, the last commits may be lost. That is harmless: such a crash does not count as an attempt.
    engine = make_engine(
        settings.database_url,
        application="tocsin-worker-notes",
        timeouts=WORKER_TIMEOUTS | {"synchronous_commit": "off"},
        pool_size=1,
    )
    return engine.execution_options(isolation_level="AUTOCOMMIT")
