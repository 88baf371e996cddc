"""The relay: announces events on the bus, each line in its order, and sweeps forgotten commands.

An event is marked in the transaction that holds its line's lock, after the broker has taken it: it is announced at
least once, and never before the one before it. Any number of relays may run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from sqlalchemy.engine import Engine

from models.event import ANNOUNCE, START, claim_events, mark
from tasks.app import make_app
from tasks.lanes import Hinter
from tasks.settings import BrokerSettings
from tasks.wake import EVENTS_CHANNEL, WakeListener
from workers.bus import Bus, BusMessage
from workers.rounds import go_round
from workers.sweep import Sweeper

LINES: Final = 100
"""How many lines of events a relay has in hand at a time."""

EVENTS_PER_LINE: Final = 50


class Relay:
    """Announces what waits, woken by Valkey and by the clock. ``engine`` needs two connections."""

    def __init__(self, engine: Engine, settings: BrokerSettings, *, bus: Bus | None = None) -> None:
        self._engine = engine
        self._bus = bus or Bus(settings)
        self._hinter = Hinter(make_app(settings))
        self._sweeper = Sweeper(engine, self._hinter)
        self._wake = WakeListener(settings.wake_url, [EVENTS_CHANNEL])
        self._after = START

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
            go_round("relay", self.announce, self._wake.wait, stop)

    def announce(self) -> bool:
        """Announce what waits on the next lines; whether it is worth looking again at once.

        :raises Exception: the broker or the database was away; what is not marked will be announced again.
        """
        came_from, self._after = self._after, START
        with self._engine.begin() as connection:
            events = claim_events(connection, ANNOUNCE, lines=LINES, per_line=EVENTS_PER_LINE, after=came_from)
            if events:
                self._bus.publish([BusMessage(event.type, event.body) for event in events])
                mark(connection, ANNOUNCE, [event.id for event in events])
                self._after = (events[-1].organization_id, events[-1].subject)
        return bool(events) or came_from != START
