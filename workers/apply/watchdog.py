"""Detection of a stuck worker: one that consumes no hints although its queues hold some and work is waiting.

A worker that consumes the hints of some lanes, but not those of another, is stuck as well; it is given more time,
because it may be busy with the others.

A stuck worker's broker connection may have died without an error, or its child process may hang. A worker is not stuck
while the database or the broker is unavailable, while other workers apply the waiting commands, while the queues are
empty, or while it is busy: a task's time limits end a batch long before the watchdog (:mod:`tasks.watchdog`) acts.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Collection, Set
from typing import Final

from celery import Celery
from sqlalchemy.engine import Engine

from models.enums import Lane
from models.messaging.backlog import find_stalled_lanes
from models.messaging.canary import lanes_with_unseen_canary
from tasks.celery_tasks import count_hints
from workers.relay.sweeper import OVERDUE_SECONDS


class Heartbeat:
    """A counter of finished tasks per lane, in memory that the child process shares with the main process.

    It must be created before the fork, and only one child at a time may write to it.

    >>> heartbeat = Heartbeat()
    >>> heartbeat.beat(Lane.BULK)
    >>> heartbeat.count, heartbeat.count_of(Lane.COMMANDS)
    (1, 0)
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _COUNTER.size * len(_LANES))

    @property
    def count(self) -> int:
        """The number of finished tasks."""
        return sum(map(self.count_of, _LANES))

    def count_of(self, lane: Lane) -> int:
        """Return the number of finished tasks of a lane."""
        count: int = _COUNTER.unpack_from(self._memory, _LANES.index(lane) * _COUNTER.size)[0]
        return count

    def beat(self, lane: Lane = Lane.COMMANDS) -> None:
        """Count a finished task."""
        _COUNTER.pack_into(self._memory, _LANES.index(lane) * _COUNTER.size, self.count_of(lane) + 1)


_COUNTER: Final = struct.Struct("@Q")
_LANES: Final = tuple(Lane)


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


class DeafLaneDetector:
    """Detects a lane that the worker no longer consumes while it finishes tasks of other lanes.

    That happens if somebody cancels the consumer of one queue, for example in Flower.
    """

    def __init__(self, heartbeat: Heartbeat, find_unclaimed_lanes: Callable[[], Set[Lane]]) -> None:
        self._heartbeat = heartbeat
        self._find_unclaimed_lanes = find_unclaimed_lanes
        self._last_counts = self._counts()
        self._suspects: Set[Lane] = frozenset()

    def __call__(self) -> bool:
        """Return whether a lane that was suspected at the last check still has unclaimed work and no finished task.

        :raises Exception: if the database or the broker is unavailable.
        """
        unclaimed, last_counts = self._find_unclaimed_lanes(), self._last_counts
        self._last_counts = self._counts()
        silent = {lane for lane in unclaimed if self._last_counts[lane] == last_counts[lane]}
        is_deaf = bool(self._suspects & silent)
        # Different lanes, each of which is slow for a moment, do not add up.
        self._suspects = self._suspects & silent if is_deaf else silent
        return is_deaf

    def _counts(self) -> dict[Lane, int]:
        return {lane: self._heartbeat.count_of(lane) for lane in Lane}


def has_unclaimed_work(engine: Engine, app: Celery, lanes: Collection[Lane]) -> bool:
    """Return whether one of these lanes has unclaimed work; see :func:`find_unclaimed_lanes`.

    :raises Exception: if the database or the broker is unavailable.
    """
    return bool(find_unclaimed_lanes(engine, app, lanes))


def find_unclaimed_lanes(engine: Engine, app: Celery, lanes: Collection[Lane]) -> set[Lane]:
    """Return those of the lanes that have both waiting work that no worker has claimed and hints on their queues.

    :raises Exception: if the database or the broker is unavailable.
    """
    try:
        with engine.connect() as connection:
            waiting = find_stalled_lanes(connection, older_than=OVERDUE_SECONDS)
            waiting |= lanes_with_unseen_canary(connection, older_than=OVERDUE_SECONDS)
    finally:
        # A child that is forked later must not inherit a connection.
        engine.dispose()
    return {lane for lane in waiting.intersection(lanes) if count_hints(app, [lane]) > 0}
