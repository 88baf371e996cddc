"""When a worker is deaf: it takes no hint off its queues although they lie there and work waits.

Its broker connection is dead and nobody told it, or its child process hangs. A worker is not deaf when the database or
the broker is away, when others have the work in hand, when nobody hints at it, or while it is busy: time limits end a
batch long before the watch (:mod:`tasks.watchdog`) loses its patience.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Collection
from typing import Final

from celery import Celery
from sqlalchemy.engine import Engine

from models.enums import Lane
from models.messaging.backlog import find_stalled_lanes
from models.messaging.canary import queues_with_unseen_canary
from tasks.celery_tasks import count_hints
from workers.relay.sweeper import OVERDUE_SECONDS


class Heartbeat:
    """Counts what the child process has done, in memory that it shares with the main process; make it before the fork.

    >>> pulse = Pulse()
    >>> pulse.beat()
    >>> pulse.beats
    1
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _COUNTER.size)

    @property
    def count(self) -> int:
        """How often it beat."""
        count: int = _COUNTER.unpack_from(self._memory)[0]
        return count

    def beat(self) -> None:
        """Say that a task was done. There is one child at a time, and so one who writes."""
        _COUNTER.pack_into(self._memory, 0, self.count + 1)


_COUNTER: Final = struct.Struct("@Q")


class StallDetector:
    """Tells whether work lies untaken, and no task has ended since it was last asked."""

    def __init__(self, pulse: Heartbeat, is_untaken: Callable[[], bool]) -> None:
        self._pulse = pulse
        self._is_untaken = is_untaken
        self._beats = pulse.count

    def __call__(self) -> bool:
        """Look.

        :raises Exception: the database or the broker does not answer.
        """
        untaken, before = self._is_untaken(), self._beats
        self._beats = self._pulse.count
        return untaken and self._beats == before


def has_unclaimed_work(engine: Engine, app: Celery, lanes: Collection[Lane]) -> bool:
    """Whether work of these lanes waits that nobody has in hand, with hints at it on their queues.

    :raises Exception: the database or the broker does not answer.
    """
    try:
        with engine.connect() as connection:
            waiting = find_stalled_lanes(connection, older_than=OVERDUE_SECONDS)
            waiting |= queues_with_unseen_canary(connection, older_than=OVERDUE_SECONDS)
    finally:
        # Nothing of it stays open for a child to inherit.
        engine.dispose()
    mine = waiting.intersection(lanes)
    return bool(mine) and count_hints(app, mine) > 0
