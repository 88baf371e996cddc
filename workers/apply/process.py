"""The worker: a main process that consumes hints and runs the watchdog, and a child process that does the work.

The child applies commands in its main thread, and sends deliveries in a thread of its own.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from celery import Celery
from sqlalchemy.engine import Engine

from models.base import new_id
from models.database.engine import GENERIC_PLANS, WORKER_TIMEOUTS, make_engine
from models.enums import Lane
from models.messaging.canary import Canary, mark_canaries_seen
from tasks.app import make_app
from tasks.broker.hint_publisher import HintPublisher
from tasks.broker.hints import Hint
from tasks.broker.pubsub import EVENTS_CHANNEL, OUTCOMES_CHANNEL, WakeupPublisher
from tasks.celery_tasks import register_tasks, run_celery_worker
from tasks.log_config import ProcessKind
from tasks.outage_log import OutageLog
from tasks.process_reporter import ProcessReporter
from tasks.server_check import explain_refusal
from tasks.tracing import configure_tracing, stop_tracing
from tasks.watchdog import Watchdog, exit_stuck_process
from workers.apply.applier import COMMAND_LANES, Applier, BatchResult
from workers.apply.in_flight import InFlightBatch
from workers.apply.metrics import WorkerMetrics, share_values
from workers.apply.tally import count_batch
from workers.apply.watchdog import DeafLaneDetector, Heartbeat, StallDetector, find_unclaimed_lanes, has_unclaimed_work
from workers.deliver.channels.configured import make_channels
from workers.deliver.deliverer import Deliverer
from workers.runtime.readiness import announce_ready
from workers.settings import WorkerSettings


def run_apply_worker(
    settings: WorkerSettings, lanes: list[Lane], *, patience_seconds: float, metrics_directory: str | None = None
) -> int:
    """Apply commands until SIGTERM, and return the exit code.

    The process exits by itself if work is waiting but no progress is made for ``patience_seconds``; see
    :mod:`workers.apply.watchdog`. The child keeps its metrics in ``metrics_directory``, if there is one.
    """
    app = make_app(settings)
    heartbeat = Heartbeat()
    watchdogs = _make_watchdogs(settings, lanes, heartbeat, patience_seconds)
    child: _Child | None = None

    def start_child() -> None:
        nonlocal child
        child = _Child.start(settings, app, lanes, heartbeat, _make_metrics(metrics_directory))

    def stop_child() -> None:
        if child is not None:
            child.stop()

    def task_of(lane: Lane) -> Callable[[Hint], None]:
        def task(hint: Hint) -> None:
            if child is not None:
                child.handle_hint_or_wait(lane, hint)

        return task

    def ready() -> None:
        for watchdog in watchdogs:
            watchdog.start()
        announce_ready()

    def stop_watching() -> None:
        for watchdog in watchdogs:
            watchdog.stop()

    register_tasks(app, {lane: task_of(lane) for lane in Lane})
    return run_celery_worker(
        app,
        lanes,
        name=settings.worker_name,
        on_child_start=start_child,
        on_child_stop=stop_child,
        ready=ready,
        stopping=stop_watching,
    )


@dataclass(slots=True)
class _Child:
    """The objects that the child process uses, created after the fork."""

    settings: WorkerSettings
    app: Celery
    hints: HintPublisher
    applier: Applier
    in_flight: InFlightBatch
    wakeups: WakeupPublisher
    heartbeat: Heartbeat
    outage: OutageLog
    deliverer: Deliverer | None
    reporter: ProcessReporter
    metrics: WorkerMetrics | None

    @classmethod
    def start(
        cls,
        settings: WorkerSettings,
        app: Celery,
        lanes: Sequence[Lane],
        heartbeat: Heartbeat,
        metrics: WorkerMetrics | None = None,
    ) -> _Child:
        # After the fork, because the exporter runs in a thread.
        configure_tracing(ProcessKind.WORKER)
        hints, wakeups = HintPublisher(app), WakeupPublisher(settings.wake_url)
        hints.start()
        finished = 0

        def publish_wakeups(result: BatchResult) -> None:
            nonlocal finished
            finished += len(result.finished)
            if result.finished:
                wakeups.publish(OUTCOMES_CHANNEL, " ".join(str(id_) for id_ in result.finished))
            if result.events:
                wakeups.publish(EVENTS_CHANNEL)
            if result.deliveries:
                wake_deliverer()
            if metrics is not None:
                count_batch(metrics, result)

        def wake_deliverer() -> None:
            if deliverer is not None:
                deliverer.wake()
            else:
                hints.publish(Lane.DELIVERIES, ())

        def publish_continuation(remaining: Mapping[Lane, Sequence[str]]) -> None:
            # Without subjects, the hint only wakes a worker.
            for lane, subjects in (remaining or {own_lanes[0]: ()}).items():
                hints.publish(lane, subjects)

        own_lanes = [lane for lane in COMMAND_LANES if lane in lanes] or COMMAND_LANES
        in_flight = InFlightBatch(_make_autocommit_engine(settings), worker=f"{socket.gethostname()}/{new_id()}")
        applier = Applier(
            engine=make_engine(
                settings.database_url, application="tocsin-worker", timeouts=WORKER_TIMEOUTS | GENERIC_PLANS
            ),
            in_flight=in_flight,
            on_commit=publish_wakeups,
            request_continuation=publish_continuation,
            lanes=own_lanes,
        )
        deliverer = _start_deliverer(settings, metrics) if Lane.DELIVERIES in lanes else None
        reporter = ProcessReporter(
            settings.database_url,
            ProcessKind.WORKER,
            lambda: finished,
            lanes=[lane.value for lane in lanes],
            worker=in_flight.worker,
            # The main process, which replaces this one if it dies.
            pid=os.getppid(),
        )
        reporter.start()
        outage = OutageLog("worker.failed")
        return cls(settings, app, hints, applier, in_flight, wakeups, heartbeat, outage, deliverer, reporter, metrics)

    def handle_hint(self, lane: Lane, hint: Hint) -> None:
        """Handle a hint from a lane: mark its canaries as seen, and apply waiting commands or wake the deliverer."""
        if canaries := Canary.from_subjects(lane, hint.subjects):
            with self.in_flight.engine.connect() as autocommit:
                mark_canaries_seen(autocommit, canaries, worker=self.in_flight.worker)
        # A hint that carries nothing but canaries is no reason to look for work.
        if not canaries or len(canaries) < len(hint.subjects):
            self._look_for_work(lane, hint)
        self.heartbeat.beat(lane)
        if self.metrics is not None:
            self.metrics.set_blocked(self.hints.blocked_reason is not None)

    def _look_for_work(self, lane: Lane, hint: Hint) -> None:
        if lane in COMMAND_LANES:
            self.applier.drain(hint.subjects, lane)
        elif self.deliverer is not None:
            self.deliverer.wake()

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
        """Stop the deliverer and the publishers, and end the session that shows that this process is alive."""
        self.reporter.stop()
        if self.deliverer is not None:
            self.deliverer.stop()
        self.hints.stop()
        self.wakeups.close()
        self.in_flight.close()
        stop_tracing()


def _make_metrics(directory: str | None) -> WorkerMetrics | None:
    """Make the child's metrics, in files in the directory. Without one, nothing is counted."""
    if directory is None:
        return None
    share_values(directory)
    return WorkerMetrics()


def _start_deliverer(settings: WorkerSettings, metrics: WorkerMetrics | None) -> Deliverer | None:
    """Start to send deliveries, unless no channel is configured: then they wait."""
    channels = make_channels(settings)
    if not channels:
        return None
    deliverer = Deliverer(settings.database_url, channels, on_attempt=metrics.count_attempt if metrics else None)
    deliverer.start()
    return deliverer


def _make_watchdogs(
    settings: WorkerSettings, lanes: list[Lane], heartbeat: Heartbeat, patience_seconds: float
) -> list[Watchdog]:
    """Make the main process's watchdogs: one for the whole worker and, if it has several lanes, one for each of them.

    They have connections that the child does not share.
    """
    engine = make_engine(
        settings.database_url, application="tocsin-worker-watch", timeouts=WORKER_TIMEOUTS, pool_size=1
    )
    app = make_app(settings)
    is_stalled = StallDetector(heartbeat, partial(has_unclaimed_work, engine, app, lanes))
    watchdogs = [Watchdog(is_stalled, partial(exit_stuck_process, patience_seconds), patience_seconds=patience_seconds)]
    if len(lanes) > 1:
        # While a worker takes turns, each of the other lanes may keep it for the whole time limit of a task.
        lane_patience = patience_seconds * LANE_PATIENCE_FACTOR
        is_deaf = DeafLaneDetector(heartbeat, partial(find_unclaimed_lanes, engine, app, lanes))
        watchdogs.append(Watchdog(is_deaf, partial(exit_stuck_process, lane_patience), patience_seconds=lane_patience))
    return watchdogs


LANE_PATIENCE_FACTOR: Final = 2
"""How many times longer a worker may ignore one of its lanes than all of them."""


def _make_autocommit_engine(settings: WorkerSettings) -> Engine:
    # If PostgreSQL crashes, the last commits may be lost. That is harmless: such a crash does not count as an attempt.
    engine = make_engine(
        settings.database_url,
        application="tocsin-worker-notes",
        timeouts=WORKER_TIMEOUTS | {"synchronous_commit": "off"},
        # One for the session of InFlightBatch, one for canaries.
        pool_size=2,
    )
    return engine.execution_options(isolation_level="AUTOCOMMIT")
