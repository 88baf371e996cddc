"""The notifier, which plans who is notified of each event and works around events that cannot be planned."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Final

import structlog
from sqlalchemy.engine import Connection, Engine

from models.database.errors import is_contention
from models.enums import Lane
from models.messaging.canary import NOTIFIER, mark_queue_consumed
from models.messaging.outbox import PLANNING, WaitingEvent
from models.messaging.trace import log_ids
from tasks.app import make_app
from tasks.broker.hint_publisher import HintPublisher
from tasks.broker.pubsub import EVENTS_CHANNEL, INBOX_CHANNEL, WakeupListener, WakeupPublisher
from tasks.settings import DEFAULT_NOTIFY_WINDOW, BrokerSettings
from workers.notify.event_bus_listener import EventBusListener
from workers.notify.fan_out import FanOuts
from workers.notify.planner import NOTHING_PLANNED, Planned, by_activity, plan
from workers.notify.wakeups import Wakeups
from workers.runtime.deferral import DeferredRows
from workers.runtime.outbox_loop import OutboxLoop, ProcessedBatch
from workers.runtime.polling import POLL_SECONDS

SUBJECTS_PER_BATCH: Final = 100
EVENTS_PER_SUBJECT: Final = 10

RETRY_DELAYS_SECONDS: Final = (1, 5, 30, 120, 600)
"""How many seconds after its 1st, 2nd, … failure the planning of an event is retried. The last delay repeats."""

MARK_SECONDS: Final = 1.0
"""How many seconds pass at least before the notifier records again that it consumes its queue."""

log = structlog.get_logger(__name__)


class Notifier:
    """Plans the notifications for waiting events whenever the event bus, Valkey or polling wakes it.

    Any number of notifiers may run.
    """

    def __init__(
        self,
        engine: Engine,
        settings: BrokerSettings,
        *,
        notify_window: float = DEFAULT_NOTIFY_WINDOW,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Set up the notifier, without connecting to anything. ``notify_window`` is in seconds."""
        self._window = timedelta(seconds=notify_window)
        self._clock = clock
        self._hints = HintPublisher(make_app(settings))
        self._wakeups = Wakeups()
        self._bus = EventBusListener(settings, self._on_bus_message)
        self._has_message = threading.Event()
        self._mark_at = 0.0
        self._name = f"{socket.gethostname()}/{os.getpid()}"
        self._wakeup_listener = WakeupListener(settings.wake_url, [EVENTS_CHANNEL])
        self._wakeup_publisher = WakeupPublisher(settings.wake_url)
        self._processed = 0
        self._deferred = DeferredRows(RETRY_DELAYS_SECONDS)
        self._fan_outs = FanOuts(
            engine,
            window=self._window,
            clock=clock,
            deferred=self._deferred,
            read=complete_activities,
            events_per_subject=EVENTS_PER_SUBJECT,
            announce=self._announce,
            defer=self._defer,
            wake=self._wakeups.wake_from_valkey,
        )
        self._engine = engine
        self._loop = OutboxLoop(
            engine,
            PLANNING,
            self._plan,
            deferred=self._deferred,
            subjects_per_batch=SUBJECTS_PER_BATCH,
            events_per_subject=EVENTS_PER_SUBJECT,
            log_event="events.planned",
            verb="plan",
        )

    def run(self, stop: threading.Event, ready: Callable[[], None] = lambda: None) -> None:
        """Plan until ``stop`` is set. Call ``ready`` once at the start, even if no server is reachable."""
        forwarding = threading.Thread(target=self._forward_wakeups, args=(stop,), name="wake-ups", daemon=True)
        fan_outs = threading.Thread(target=self._fan_outs.run, name="fan-outs", daemon=True)
        with ExitStack() as cleanup:
            self._hints.start()
            cleanup.callback(self._hints.stop)
            cleanup.callback(self._wakeup_publisher.close)
            self._bus.start()
            cleanup.callback(self._bus.stop)
            self._wakeup_listener.start()
            forwarding.start()
            cleanup.callback(self._wakeup_listener.stop)
            fan_outs.start()
            cleanup.callback(fan_outs.join)
            cleanup.callback(self._fan_outs.stop)
            ready()
            self._loop.run("notifier", self._wakeups.wait, stop, before=self._mark_consumed)

    @property
    def processed(self) -> int:
        """The number of events that were planned since the start."""
        return self._processed + self._fan_outs.processed

    @property
    def is_blocked(self) -> bool:
        """Whether RabbitMQ blocks what this notifier publishes."""
        return self._hints.blocked_reason is not None

    def is_stopping(self) -> bool:
        """Whether large audiences are planned no further, because the notifier stops."""
        return self._fan_outs.is_stopping()

    def _on_bus_message(self) -> None:
        self._has_message.set()
        self._wakeups.wake_from_bus()

    def _mark_consumed(self) -> None:
        """Record that the queue is consumed, if it has been since the last record.

        The thread that plans does it, so that a notifier that no longer plans does not look alive.
        """
        if not self._has_message.is_set() or time.monotonic() < self._mark_at:
            return
        self._has_message.clear()
        with self._engine.begin() as connection:
            mark_queue_consumed(connection, NOTIFIER, worker=self._name)
        self._mark_at = time.monotonic() + MARK_SECONDS

    def plan_batch(self) -> bool:
        """Plan the next batch of events, and all large audiences. Return whether there were any, or others follow.

        :raises Exception: if the database failed. Nothing of the batch was planned.
        """
        has_worked = self._loop.process_batch()
        self._fan_outs.plan_added()
        return has_worked

    def _plan(self, connection: Connection, events: Sequence[WaitingEvent]) -> ProcessedBatch:
        # A subject that waits for its fan-out is not locked yet.
        own = [event for event in events if (event.organization_id, event.subject) not in self._fan_outs]
        complete = complete_activities(own)
        planned = self._plan_around_failures(connection, by_activity(complete)) if complete else NOTHING_PLANNED

        def after_commit() -> None:
            self._processed += planned.events
            self._fan_outs.add(planned.large)
            self._announce(planned)

        return ProcessedBatch(
            {"events": planned.events, "decisions": planned.decisions, "deliveries": planned.deliveries},
            after_commit,
            is_interrupted=planned.is_interrupted,
        )

    def _announce(self, planned: Planned) -> None:
        self._wakeup_publisher.publish(INBOX_CHANNEL)
        if planned.subjects:
            self._hints.publish(Lane.COMMANDS, planned.subjects)
        if planned.deliveries:
            self._hints.publish(Lane.DELIVERIES, ())

    def _plan_around_failures(self, connection: Connection, activities: Sequence[list[WaitingEvent]]) -> Planned:
        """Plan all activities together. If that fails, plan each half alone, until those that fail are isolated."""
        events = [event for activity in activities for event in activity]
        try:
            with connection.begin_nested():
                planned = plan(connection, events, window=self._window, now=self._clock())
        except Exception as error:
            # Another transaction is in the way, for example that of a notifier that holds the inboxes' locks. No event
            # is at fault, so the batch is planned again.
            if connection.invalidated or is_contention(error):
                raise
            if len(activities) == 1:
                self._defer(events, error)
                return NOTHING_PLANNED
            middle = len(activities) // 2
            return self._plan_around_failures(connection, activities[:middle]) + self._plan_around_failures(
                connection, activities[middle:]
            )
        self._deferred.clear(event.id for event in events)
        return planned

    def _defer(self, events: Sequence[WaitingEvent], error: Exception) -> None:
        for event in events:
            delay = self._deferred.defer(event.id)
            log.error(
                "notifier.event_deferred",
                event_id=str(event.id),
                type=event.type,
                subject=event.subject,
                organization=event.organization_id,
                failures=self._deferred.failures(event.id),
                retry_in_seconds=delay,
                **log_ids([event]),
                exc_info=error,
            )

    def _forward_wakeups(self, stop: threading.Event) -> None:
        while not stop.is_set():
            if self._wakeup_listener.wait(POLL_SECONDS):
                self._wakeups.wake_from_valkey()
        self._wakeups.wake_from_valkey()


def complete_activities(events: Sequence[WaitingEvent]) -> list[WaitingEvent]:
    """Return the events of those activities that the limit per subject cannot have cut off.

    An activity that may have been cut off waits for the next batch, with all its events. If it fills the limit alone,
    it is returned nevertheless.
    """
    complete: list[WaitingEvent] = []
    for _, group in groupby(events, key=lambda event: (event.organization_id, event.subject)):
        of_subject = list(group)
        if len(of_subject) == EVENTS_PER_SUBJECT:
            last = of_subject[-1].activity_id
            if last is not None:
                of_subject = [event for event in of_subject if event.activity_id != last] or of_subject
        complete += of_subject
    return complete
