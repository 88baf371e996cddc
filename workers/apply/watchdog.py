"""Detection of a stuck worker: one that consumes no hints although its queues hold some and work is waiting.

A stuck worker's broker connection may have died without an error, or its child process may hang. A worker is not stuck
while the database or the broker is unavailable, while other workers apply the waiting commands, while the queues are
empty, or while it is busy: a task's time limits end a batch long before the watchdog (:mod:`tasks.watchdog`) acts.
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
from models.messaging.canary import lanes_with_unseen_canary
from tasks.celery_tasks import count_hints
from workers.relay.sweeper import OVERDUE_SECONDS


class Heartbeat:
    """A counter of finished tasks, in memory that the child process shares with the main process.

    It must be created before the fork, and only one child at a time may write to it.

    >>> heartbeat = Heartbeat()
    >>> heartbeat.beat()
    >>> heartbeat.count
    1
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _COUNTER.size)

    @property
    def count(self) -> int:
        """The number of finished tasks."""
        count: int = _COUNTER.unpack_from(self._memory)[0]
        return count

    def beat(self) -> None:
        """Count a finished task."""
        _COUNTER.pack_into(self._memory, 0, self.count + 1)


_COUNTER: Final = struct.Struct("@Q")


class StallDetector:
    """Detects a stall: work is waiting unclaimed, and no task has finished since the last check."""

    def __init__(self, heartbeat: Heartbeat, has_unclaimed_work: Callable[[], bool]) -> None:
        self._heartbeat = heartbeat
        self._has_unclaimed_work = has_unclaimed_work
        self._last_count = heartbeat.count

    def __call__(self) -> bool:
        """Return whether the worker is stalled.

        :raises Exception: if the database or the broker is unavailable.
        """
        is_waiting, last_count = self._has_unclaimed_work(), self._last_count
        self._last_count = self._heartbeat.count
        return is_waiting and self._last_count == last_count


def has_unclaimed_work(engine: Engine, app: Celery, lanes: Collection[Lane]) -> bool:
    """Return whether these lanes have both waiting work that no worker has claimed and hints on their queues.

    :raises Exception: if the database or the broker is unavailable.
    """
    try:
        with engine.connect() as connection:
            waiting = find_stalled_lanes(connection, older_than=OVERDUE_SECONDS)
            waiting |= lanes_with_unseen_canary(connection, older_than=OVERDUE_SECONDS)
    finally:
        # A child that is forked later must not inherit a connection.
        engine.dispose()
    own = waiting.intersection(lanes)
    return bool(own) and count_hints(app, own) > 0
