"""The relay: announces events on the bus, each line in its order, and sweeps forgotten commands.

An event is marked in the transaction that holds its line's lock, after the broker has taken it: it is announced at
least once, and never before the one before it. Any number of relays may run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy.engine import Engine

from models.messaging.outbox import BEFORE_FIRST_SUBJECT, PUBLISHING, claim_events, mark_processed
from models.messaging.trace import request_ids
from tasks.app import make_app
from tasks.broker.hint_publisher import HintPublisher
from tasks.broker.pubsub import EVENTS_CHANNEL, WakeupListener
from tasks.settings import BrokerSettings
from workers.event_bus import BusMessage, EventBus
from workers.relay.sweeper import Sweeper
from workers.runtime.deferral import DeferredRows
from workers.runtime.polling import run_polling_loop

LINES: Final = 100
"""How many lines of events a relay has in hand at a time."""

EVENTS_PER_LINE: Final = 50

RETRY_DELAYS_SECONDS: Final = (1, 5, 30, 120)
"""How long after the 1st, 2nd, … time an event that was refused is published again; after the last it counts."""

MAX_DEFERRED: Final = 5_000
"""How many refused events a relay tries again; what is refused beyond them counts at once."""

log = structlog.get_logger(__name__)


class Relay:
    """Announces what waits, woken by Valkey and by the clock. ``engine`` needs two connections."""

    def __init__(
        self,
        engine: Engine,
        settings: BrokerSettings,
        *,
        bus: EventBus | None = None,
        owed: RefusedEvents | None = None,
    ) -> None:
        self._engine = engine
        self._bus = bus or EventBus(settings)
        self._hinter = HintPublisher(make_app(settings))
        self._sweeper = Sweeper(engine, self._hinter)
        self._wake = WakeupListener(settings.wake_url, [EVENTS_CHANNEL])
        self._owed = owed or RefusedEvents()
        self._after = BEFORE_FIRST_SUBJECT

    def run(self, stop: threading.Event, ready: Callable[[], None] = lambda: None) -> None:
        """Announce and sweep until ``stop`` is set; calls ``ready`` once when it begins, broker and database or not."""
        sweeping = threading.Thread(target=self._sweeper.run, args=(stop,), name="sweep", daemon=True)
        with ExitStack() as undo:
            undo.callback(self._bus.close)
            self._wake.start()
            undo.callback(self._wake.stop)
            self._hinter.start()
            undo.callback(self._hinter.stop)
            sweeping.start()
            undo.callback(sweeping.join, 1.0)
            ready()
            run_polling_loop("relay", self.publish_batch, self._wake.wait, stop)

    def publish_batch(self) -> bool:
        """Announce what waits on the next lines; whether it is worth looking again at once.

        :raises Exception: the broker or the database was away; what is not marked will be announced again.
        """
        came_from, self._after = self._after, BEFORE_FIRST_SUBJECT
        started = time.perf_counter()
        with self._engine.begin() as connection:
            events = claim_events(
                connection,
                PUBLISHING,
                subjects=LINES,
                per_subject=EVENTS_PER_LINE,
                after=came_from,
                excluded=self._owed.not_due(),
            )
            if events:
                refused = self._bus.publish([BusMessage(event.type, event.body) for event in events])
                mark_processed(connection, PUBLISHING, self._owed.settle([event.id for event in events], refused))
                self._after = (events[-1].organization_id, events[-1].subject)
        if events:
            log.info(
                "events.published",
                events=len(events) - len(refused),
                refused=len(refused),
                ms=round((time.perf_counter() - started) * 1000, 1),
                request_ids=request_ids(event.request_id for event in events),
            )
        return bool(events) or came_from != BEFORE_FIRST_SUBJECT


class RefusedEvents:
    """Events that a full queue on RabbitMQ refused while the others took them: published again a few times.

    A moment of fullness loses nothing. A queue that stays full misses what it refused, and its service catches up over
    HTTP; it neither holds the others up nor floods them with repetitions (docs/decisions/0013).
    """

    def __init__(self, *, pauses_seconds: Sequence[float] = RETRY_DELAYS_SECONDS, at_most: int = MAX_DEFERRED) -> None:
        self._tries = len(pauses_seconds)
        self._at_most = at_most
        self._aside = DeferredRows(pauses_seconds)
        self._refusing = False
        self._given_up = 0

    def not_due(self) -> list[UUID]:
        """The events whose turn has not come."""
        return self._aside.not_due()

    def settle(self, published: Sequence[UUID], refused: AbstractSet[int]) -> list[UUID]:
        """Those of the published events that count as announced; ``refused`` are the places of the others."""
        owed = {event for place, event in enumerate(published) if place in refused and self._try_again(event)}
        announced = [event for event in published if event not in owed]
        self._aside.take_back(announced)
        self._say(refused=len(refused), given_up=len(refused) - len(owed))
        return announced

    def _try_again(self, event: UUID) -> bool:
        times = self._aside.times(event)
        if times >= self._tries or (times == 0 and len(self._aside) >= self._at_most):
            return False
        self._aside.put(event)
        return True

    def _say(self, *, refused: int, given_up: int) -> None:
        if refused and not self._refusing:
            log.warning("relay.refused", events=refused, why="a queue bound to the events is full, and refuses")
        if given_up and not self._given_up:
            log.warning("relay.given_up", fix="empty the queue; its service catches up at /api/0/…/events/")
        self._given_up += given_up
        if self._refusing and not refused and not self._aside:
            log.info("relay.no_longer_refused", given_up=self._given_up)
            self._given_up = 0
        self._refusing = bool(refused or self._aside)
