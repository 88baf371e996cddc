"""The relay, which publishes events in sequence order per subject, and sends hints for overdue commands.

An event is marked as published after the broker has confirmed it, in the transaction that holds its subject's lock. So
it is published at least once, and never before its subject's preceding event. Any number of relays may run. After an
outage of the broker, a relay publishes its last events once more (docs/decisions/0026).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, contextmanager
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy.engine import Connection, Engine

from models.messaging.outbox import PUBLISHING, WaitingEvent, mark_processed, mark_waiting
from tasks.app import make_app
from tasks.broker.hint_publisher import HintPublisher
from tasks.broker.pubsub import EVENTS_CHANNEL, WakeupListener
from tasks.settings import BrokerSettings
from workers.relay.event_bus import EventBus
from workers.relay.recent_events import RecentEvents
from workers.relay.sent_batch import BusMessage
from workers.relay.sweeper import Sweeper
from workers.runtime.deferral import DeferredRows
from workers.runtime.outbox_loop import OutboxLoop, ProcessedBatch
from workers.runtime.polling import run_polling_loop

SUBJECTS_PER_BATCH: Final = 100
EVENTS_PER_SUBJECT: Final = 50

RETRY_DELAYS_SECONDS: Final = (1, 5, 30, 120)
"""How many seconds after its 1st, 2nd, … rejection an event is sent again. After one more, it counts as published."""

MAX_DEFERRED: Final = 5_000
"""The maximum number of rejected events that wait for a retry in a relay. Any others count as published at once."""

REPUBLISHED_SECONDS: Final = 10.0
"""Events that were published within this many seconds before an outage of the broker are published again after it."""

log = structlog.get_logger(__name__)


class Relay:
    """Publishes waiting events whenever Valkey or polling wakes it."""

    def __init__(
        self,
        engine: Engine,
        settings: BrokerSettings,
        *,
        bus: EventBus | None = None,
        rejected_events: RejectedEvents | None = None,
        recent_events: RecentEvents | None = None,
        keep_days: int = 0,
    ) -> None:
        """Set up the relay, without connecting to anything. ``engine`` must provide two connections.

        ``keep_days`` is the age at which finished work is deleted; 0 keeps everything.
        """
        self._engine = engine
        self._bus = bus or EventBus(settings)
        self._hints = HintPublisher(make_app(settings))
        self._is_canary_due = threading.Event()
        self._sweeper = Sweeper(engine, self._hints, keep_days=keep_days, send_notifier_canary=self._is_canary_due.set)
        self._wakeups = WakeupListener(settings.wake_url, [EVENTS_CHANNEL])
        self._rejected_events = rejected_events or RejectedEvents()
        self._recent_events = recent_events or RecentEvents(REPUBLISHED_SECONDS)
        self._bus_has_failed = False
        self._loop = OutboxLoop(
            engine,
            PUBLISHING,
            self._publish,
            deferred=self._rejected_events.deferred,
            subjects_per_batch=SUBJECTS_PER_BATCH,
            events_per_subject=EVENTS_PER_SUBJECT,
            log_event="events.published",
            verb="publish",
        )

    def run(self, stop: threading.Event, ready: Callable[[], None] = lambda: None) -> None:
        """Publish and sweep until ``stop`` is set. Call ``ready`` once at the start, even if no server is reachable."""
        sweeping = threading.Thread(target=self._sweeper.run, args=(stop,), name="sweep", daemon=True)
        with ExitStack() as cleanup:
            cleanup.callback(self._bus.close)
            self._wakeups.start()
            cleanup.callback(self._wakeups.stop)
            self._hints.start()
            cleanup.callback(self._hints.stop)
            sweeping.start()
            cleanup.callback(sweeping.join, 1.0)
            ready()
            run_polling_loop("relay", self._poll, self._wakeups.wait, stop)

    def _poll(self) -> bool:
        return self.publish_batch() and not self._loop.is_caught_up

    @property
    def processed(self) -> int:
        """The number of events that were published since the start."""
        return self._loop.processed

    @property
    def is_blocked(self) -> bool:
        """Whether RabbitMQ blocks what this relay publishes."""
        return self._bus.is_blocked or self._hints.blocked_reason is not None

    def publish_batch(self) -> bool:
        """Publish the next batch of events. Return whether it had any, or others follow.

        While RabbitMQ blocks publishers, do nothing, so that no transaction waits for it.

        :raises Exception: if the broker or the database failed. Events not marked as published will be published again.
        """
        with self._noting_bus_failures():
            self._bus.check()
        if self._bus_has_failed:
            self._publish_recent_events_again()
        self._recent_events.move_on(self._bus.responded_at)
        if self._bus.is_blocked:
            return False
        if self._is_canary_due.is_set():
            with self._noting_bus_failures():
                self._bus.send_notifier_canary()
            self._is_canary_due.clear()
        return self._loop.process_batch()

    def _publish(self, connection: Connection, events: Sequence[WaitingEvent]) -> ProcessedBatch:
        with self._noting_bus_failures():
            result = self._bus.publish([BusMessage(event.type, event.body) for event in events])
        settled = [index for index in range(len(events)) if index not in result.unconfirmed]
        rejected = {position for position, index in enumerate(settled) if index in result.rejected}
        published = self._rejected_events.settle([events[index].id for index in settled], rejected)
        mark_processed(connection, PUBLISHING, published)
        self._recent_events.add(published)
        return ProcessedBatch(
            {"events": len(settled) - len(rejected), "refused": len(rejected)},
            is_interrupted=bool(result.unconfirmed),
        )

    @contextmanager
    def _noting_bus_failures(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            self._bus_has_failed = True
            raise

    def _publish_recent_events_again(self) -> None:
        """Mark the events that an outage may have lost, although the broker had confirmed them, as waiting again."""
        with self._engine.begin() as connection:
            marked = mark_waiting(connection, PUBLISHING, self._recent_events.ids)
        self._recent_events.clear()
        self._bus_has_failed = False
        if marked:
            log.info("relay.publishing_again", events=marked, reason="the broker was unreachable")


class RejectedEvents:
    """The events that a full RabbitMQ queue rejected while other queues accepted them. They are retried a few times.

    Brief congestion loses nothing. A queue that stays full misses the events that it rejected, and its service catches
    up over HTTP. Such a queue neither delays the others nor floods them with duplicates (docs/decisions/0013).
    """

    def __init__(
        self, *, delays_seconds: Sequence[float] = RETRY_DELAYS_SECONDS, max_deferred: int = MAX_DEFERRED
    ) -> None:
        """Set the delay before each retry of an event, and the maximum number of events that wait for a retry."""
        self.deferred = DeferredRows(delays_seconds)
        self._max_retries = len(delays_seconds)
        self._max_deferred = max_deferred
        self._is_rejecting = False
        self._given_up = 0

    def settle(self, events: Sequence[UUID], rejected: AbstractSet[int]) -> list[UUID]:
        """Return the events that count as published. ``rejected`` holds the indexes in ``events`` of the rejected ones.

        A rejected event is deferred. It counts as published once its retries are used up, or if too many others are
        deferred.
        """
        deferred = {event for index, event in enumerate(events) if index in rejected and self._try_defer(event)}
        published = [event for event in events if event not in deferred]
        self.deferred.clear(published)
        self._log_changes(rejected=len(rejected), given_up=len(rejected) - len(deferred))
        return published

    def _try_defer(self, event: UUID) -> bool:
        failures = self.deferred.failures(event)
        if failures >= self._max_retries or (failures == 0 and len(self.deferred) >= self._max_deferred):
            return False
        self.deferred.defer(event)
        return True

    def _log_changes(self, *, rejected: int, given_up: int) -> None:
        if rejected and not self._is_rejecting:
            log.warning("relay.refused", events=rejected, reason="a queue that is bound to the events is full")
        if given_up and not self._given_up:
            log.warning("relay.given_up", fix="empty the queue; its service catches up at /api/0/…/events/")
        self._given_up += given_up
        if self._is_rejecting and not rejected and not self.deferred:
            log.info("relay.refusals_ended", given_up=self._given_up)
            self._given_up = 0
        self._is_rejecting = bool(rejected or self.deferred)
