"""Planning for large audiences: the events of one subject, in parts, each in a transaction of its own.

The subject is held by a lock of the session until its last part is planned. Meanwhile, this and other notifiers plan
the events of other subjects, and later events of this subject wait, so that their order is kept. The events are marked
as planned with their last part. If the process dies before, its lock ends with its session, and the next notifier
starts again with the first part: those that have been notified are not notified again.

See docs/decisions/0037-large-audiences.md.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

import structlog
from sqlalchemy.engine import Connection, Engine

from models.database.errors import is_contention
from models.messaging.outbox import PLANNING, EventSubject, WaitingEvent, hold_subject, read_waiting
from models.messaging.trace import log_ids
from tasks.tracing import record_spans
from workers.notify.planner import (
    NOTHING_PLANNED,
    Addressed,
    Planned,
    by_activity,
    divide,
    finish,
    plan_part,
    retract_part,
)
from workers.runtime.deferral import DeferredRows

TRIES: Final = 5
"""How often a part is tried that waits for another notifier too long, before the whole audience is left for later."""

log = structlog.get_logger(__name__)


class FanOuts:
    """The subjects with large audiences, which are planned one after the other."""

    def __init__(
        self,
        engine: Engine,
        *,
        window: timedelta,
        clock: Callable[[], datetime],
        deferred: DeferredRows,
        read: Callable[[Sequence[WaitingEvent]], list[WaitingEvent]],
        events_per_subject: int,
        announce: Callable[[Planned], None],
        defer: Callable[[Sequence[WaitingEvent], Exception], None],
        wake: Callable[[], object],
    ) -> None:
        """Set up without a subject.

        ``read`` returns those of a subject's events that are complete, ``announce`` is called after each commit,
        ``defer`` with the events that cannot be planned, and ``wake`` once later events of a subject may be planned.
        """
        self._engine = engine
        self._window = window
        self._clock = clock
        self._deferred = deferred
        self._read = read
        self._events_per_subject = events_per_subject
        self._announce = announce
        self._defer = defer
        self._wake = wake
        self.processed = 0
        """The number of events that were planned since the start."""
        # None only wakes the thread, to stop.
        self._queue: queue.SimpleQueue[EventSubject | None] = queue.SimpleQueue()
        self._pending: set[EventSubject] = set()
        self._stop = threading.Event()

    def __contains__(self, subject: EventSubject) -> bool:
        """Whether the subject is being planned, or is going to be."""
        return subject in self._pending

    def add(self, subjects: Iterable[EventSubject]) -> None:
        """Have subjects planned."""
        for subject in subjects:
            if subject not in self._pending:
                self._pending.add(subject)
                self._queue.put(subject)

    def run(self) -> None:
        """Plan subjects until :meth:`stop` is called. This is the target of a thread."""
        while not self._stop.is_set():
            self._plan_next()

    def stop(self) -> None:
        """End :meth:`run` after the current part. The next notifier starts again with what is unfinished."""
        self._stop.set()
        self._queue.put(None)

    def is_stopping(self) -> bool:
        """Whether :meth:`stop` has been called."""
        return self._stop.is_set()

    def plan_added(self) -> None:
        """Plan the subjects that have been added, in the calling thread."""
        while not self._queue.empty():
            self._plan_next()

    def _plan_next(self) -> None:
        """Wait for the next subject, and plan it. Whatever fails is found again by polling."""
        if (subject := self._queue.get()) is None:
            return
        try:
            with self._engine.connect() as connection:
                # Closing the connection ends the session, and with it the lock.
                connection.detach()
                self._plan_subject(connection, subject)
        except Exception as error:
            log.warning("notifier.fan_out_failed", organization=subject[0], subject=subject[1], exc_info=error)
        finally:
            self._pending.discard(subject)
            self._wake()

    def _plan_subject(self, connection: Connection, subject: EventSubject) -> None:
        with connection.begin():
            is_held = hold_subject(connection, PLANNING, subject)
        if not is_held:
            return
        with connection.begin():
            events = self._read(
                read_waiting(
                    connection,
                    PLANNING,
                    [subject],
                    per_subject=self._events_per_subject,
                    excluded=self._deferred.not_due(),
                )
            )
        for activity in by_activity(events):
            try:
                self._plan_activity(connection, activity)
            except Exception as error:
                if connection.invalidated or is_contention(error):
                    raise
                self._defer(activity, error)
            else:
                self._deferred.clear(event.id for event in activity)

    def _plan_activity(self, connection: Connection, events: Sequence[WaitingEvent]) -> None:
        started = time.perf_counter()
        planned = NOTHING_PLANNED
        with connection.begin():
            parts = divide(connection, events)
        for part in parts:
            if self._stop.is_set():
                return
            planned += self._plan_part(connection, part)
        is_more = True
        while is_more and not self._stop.is_set():
            with connection.begin():
                is_more = retract_part(connection, events)
        if self._stop.is_set():
            return
        with connection.begin():
            finished = finish(connection, events, window=self._window)
        self._announce(finished)
        self.processed += finished.events
        planned += finished
        seconds = time.perf_counter() - started
        log.info(
            "events.planned",
            events=planned.events,
            decisions=planned.decisions,
            deliveries=planned.deliveries,
            ms=round(seconds * 1000, 1),
            **log_ids(events),
        )
        record_spans("plan", events, seconds=seconds)

    def _plan_part(self, connection: Connection, part: Sequence[Addressed]) -> Planned:
        for tries_left in reversed(range(TRIES)):
            try:
                with connection.begin():
                    planned = plan_part(connection, part, window=self._window, now=self._clock())
            except Exception as error:
                if connection.invalidated or not is_contention(error) or not tries_left:
                    raise
            else:
                self._announce(planned)
                return planned
        raise AssertionError("unreachable")
