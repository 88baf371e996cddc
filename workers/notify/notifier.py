"""The notifier: plans events as they come, and works around those that cannot be planned."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import groupby
from typing import Final

import structlog
from sqlalchemy.engine import Connection, Engine

from models.enums import Lane
from models.messaging.outbox import BEFORE_FIRST_SUBJECT, PLANNING, WaitingEvent, claim_events
from models.messaging.trace import request_ids
from tasks.app import make_app
from tasks.broker.hint_publisher import HintPublisher
from tasks.broker.pubsub import EVENTS_CHANNEL, INBOX_CHANNEL, WakeupListener, WakeupPublisher
from tasks.settings import BrokerSettings
from workers.event_bus import EventBusListener
from workers.notify.planner import by_activity, plan
from workers.runtime.deferral import DeferredRows
from workers.runtime.polling import POLL_SECONDS, run_polling_loop

LINES: Final = 100
EVENTS_PER_LINE: Final = 10
"""How many lines, and how many events of each, are planned in one transaction."""

RETRY_DELAYS_SECONDS: Final = (1, 5, 30, 120, 600)
"""How long an event that could not be planned is left alone after the 1st, 2nd, … time; then always the last."""

log = structlog.get_logger(__name__)


class Notifier:
    """Plans what waits, woken by the bus, by Valkey and by the clock. Any number may run."""

    def __init__(self, engine: Engine, settings: BrokerSettings) -> None:
        self._engine = engine
        self._hinter = HintPublisher(make_app(settings))
        self._woken = threading.Event()
        self._bus = EventBusListener(settings, self._woken)
        self._wake = WakeupListener(settings.wake_url, [EVENTS_CHANNEL])
        self._waker = WakeupPublisher(settings.wake_url)
        self._aside = DeferredRows(RETRY_DELAYS_SECONDS)
        self._after = BEFORE_FIRST_SUBJECT

    def run(self, stop: threading.Event, ready: Callable[[], None] = lambda: None) -> None:
        """Plan until ``stop`` is set; calls ``ready`` once when it begins, broker and database or not."""
        relaying = threading.Thread(target=self._pass_wake_ups_on, args=(stop,), name="wake-ups", daemon=True)
        with ExitStack() as undo:
            self._hinter.start()
            undo.callback(self._hinter.stop)
            undo.callback(self._waker.close)
            self._bus.start()
            undo.callback(self._bus.stop)
            self._wake.start()
            relaying.start()
            undo.callback(self._wake.stop)
            ready()
            run_polling_loop("notifier", self.plan_batch, self._rest, stop)

    def plan_batch(self) -> bool:
        """Plan what waits on the next lines; whether it is worth looking again at once.

        :raises Exception: the database was away; nothing was planned.
        """
        came_from, self._after = self._after, BEFORE_FIRST_SUBJECT
        started = time.perf_counter()
        with self._engine.begin() as connection:
            waiting = claim_events(
                connection,
                PLANNING,
                subjects=LINES,
                per_subject=EVENTS_PER_LINE,
                after=came_from,
                excluded=self._aside.not_due(),
            )
            events = whole_activities(waiting)
            subjects = self._plan_around_faults(connection, by_activity(events)) if events else []
        if events:
            self._after = (events[-1].organization_id, events[-1].subject)
            self._waker.publish(INBOX_CHANNEL)
            log.info(
                "events.planned",
                events=len(events),
                ms=round((time.perf_counter() - started) * 1000, 1),
                request_ids=request_ids(event.request_id for event in events),
            )
        self._hinter.publish(Lane.COMMANDS, subjects)
        return bool(events) or came_from != BEFORE_FIRST_SUBJECT

    def _plan_around_faults(self, connection: Connection, activities: Sequence[list[WaitingEvent]]) -> list[str]:
        """Plan all of them at once; if that fails each half by itself, down to the activity that is at fault."""
        events = [event for activity in activities for event in activity]
        try:
            with connection.begin_nested():
                subjects = plan(connection, events)
        except Exception as fault:
            if connection.invalidated:
                raise
            if len(activities) == 1:
                self._set_aside(events, fault)
                return []
            middle = len(activities) // 2
            return self._plan_around_faults(connection, activities[:middle]) + self._plan_around_faults(
                connection, activities[middle:]
            )
        self._aside.take_back(event.id for event in events)
        return subjects

    def _set_aside(self, events: Sequence[WaitingEvent], fault: Exception) -> None:
        for event in events:
            pause = self._aside.put(event.id)
            log.error(
                "notifier.event_set_aside",
                event_id=str(event.id),
                type=event.type,
                subject=event.subject,
                organization=event.organization_id,
                times=self._aside.times(event.id),
                again_in_seconds=pause,
                exc_info=fault,
            )

    def _rest(self, seconds: float) -> None:
        self._woken.wait(seconds)
        self._woken.clear()

    def _pass_wake_ups_on(self, stop: threading.Event) -> None:
        while not stop.is_set():
            if self._wake.wait(POLL_SECONDS):
                self._woken.set()
        self._woken.set()


def whole_activities(waiting: Sequence[WaitingEvent]) -> list[WaitingEvent]:
    """These events, but not of an activity that the limit may have cut: it waits for its other events."""
    whole: list[WaitingEvent] = []
    for _, each in groupby(waiting, key=lambda event: (event.organization_id, event.subject)):
        line = list(each)
        if len(line) == EVENTS_PER_LINE:
            line = [event for event in line if event.activity_id != line[-1].activity_id] or line
        whole += line
    return whole
