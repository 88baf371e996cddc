"""The worker: consumes hints in a main process that watches over a child, and applies commands in that child."""

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
from tasks.watchdog import Watchdog, exit_stuck_process
from workers.apply.applier import Applier, BatchResult
from workers.apply.watchdog import Heartbeat, StallDetector, has_unclaimed_work
from workers.runtime.readiness import announce_ready
from workers.settings import WorkerSettings

_LANES_OF_COMMANDS: Final = frozenset({Lane.COMMANDS, Lane.BULK})


def run_apply_worker(settings: WorkerSettings, lanes: list[Lane], *, patience_seconds: float) -> int:
    """Apply commands until SIGTERM; the exit code.

    After ``patience_seconds`` without progress, while work waits, it ends itself: see :mod:`workers.apply.watchdog`.
    """
    app = make_app(settings)
    pulse = Heartbeat()
    watch = _watch(settings, lanes, pulse, patience_seconds)
    child: _Child | None = None

    def start_child() -> None:
        nonlocal child
        child = _Child.start(settings, app, pulse)

    def stop_child() -> None:
        if child is not None:
            child.stop()

    def body_of(lane: Lane) -> Callable[[Hint], None]:
        def body(hint: Hint) -> None:
            if child is not None:
                child.work(lane, hint)

        return body

    def ready() -> None:
        watch.start()
        announce_ready()

    register_tasks(app, {lane: body_of(lane) for lane in Lane})
    return run_celery_worker(
        app,
        lanes,
        on_child_start=start_child,
        on_child_stop=stop_child,
        ready=ready,
        stopping=watch.stop,
    )


@dataclass(slots=True)
class _Child:
    """What a worker's child process works with; there is one per process, made after the fork."""

    settings: WorkerSettings
    app: Celery
    hinter: HintPublisher
    applier: Applier
    waker: WakeupPublisher
    pulse: Heartbeat

    @classmethod
    def start(cls, settings: WorkerSettings, app: Celery, pulse: Heartbeat) -> _Child:
        hinter, waker = HintPublisher(app), WakeupPublisher(settings.wake_url)
        hinter.start()

        def tell(done: BatchResult) -> None:
            if done.finished:
                waker.publish(OUTCOMES_CHANNEL, " ".join(str(id_) for id_ in done.finished))
            if done.events:
                waker.publish(EVENTS_CHANNEL)

        applier = Applier(
            engine=make_engine(settings.database_url, application="tocsin-worker", timeouts=WORKER_TIMEOUTS),
            autocommit_engine=_notes_engine(settings),
            worker=f"{socket.gethostname()}/{new_id()}",
            on_commit=tell,
            request_continuation=lambda: hinter.publish(Lane.COMMANDS, ()),
        )
        return cls(settings, app, hinter, applier, waker, pulse)

    def work(self, lane: Lane, hint: Hint) -> None:
        """The body of every lane's task."""
        if canaries := Canary.from_subjects(lane, hint.subjects):
            with self.applier.autocommit_engine.connect() as notes:
                mark_canaries_seen(notes, canaries, worker=self.applier.worker)
        if lane in _LANES_OF_COMMANDS:
            self.applier.drain(hint.subjects)
        self.pulse.beat()

    def stop(self) -> None:
        """End what was started beside the tasks."""
        self.hinter.stop()
        self.waker.close()


def _watch(settings: WorkerSettings, lanes: list[Lane], pulse: Heartbeat, patience_seconds: float) -> Watchdog:
    """The watch of the main process, with connections of its own."""
    engine = make_engine(
        settings.database_url, application="tocsin-worker-watch", timeouts=WORKER_TIMEOUTS, pool_size=1
    )
    return Watchdog(
        StallDetector(pulse, partial(has_unclaimed_work, engine, make_app(settings), lanes)),
        partial(exit_stuck_process, patience_seconds),
        patience_seconds=patience_seconds,
    )


def _notes_engine(settings: WorkerSettings) -> Engine:
    # Losing the last note in a crash of PostgreSQL is harmless: such a crash counts no attempt anyway.
    engine = make_engine(
        settings.database_url,
        application="tocsin-worker-notes",
        timeouts=WORKER_TIMEOUTS | {"synchronous_commit": "off"},
        pool_size=1,
    )
    return engine.execution_options(isolation_level="AUTOCOMMIT")
