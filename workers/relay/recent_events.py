"""The events published in the last seconds before the broker last responded, which an outage may have lost."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from uuid import UUID


class RecentEvents:
    """Remembers, in this process only, the events that it has published shortly before the broker last responded.

    The window ends when the broker last responded, not now: on a quiet system, an outage may be noticed much later.
    """

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Set the length of the window in seconds."""
        self._seconds = seconds
        self._clock = clock
        self._published: deque[tuple[float, UUID]] = deque()

    @property
    def ids(self) -> list[UUID]:
        """The events in the window, in the order in which they were published."""
        return [event for _, event in self._published]

    def add(self, events: Iterable[UUID]) -> None:
        """Remember events that the broker has just confirmed."""
        now = self._clock()
        self._published.extend((now, event) for event in events)

    def move_on(self, responded_at: float) -> None:
        """End the window at ``responded_at``, in the clock's time, and forget the events before its start."""
        while self._published and self._published[0][0] < responded_at - self._seconds:
            self._published.popleft()

    def clear(self) -> None:
        """Forget all events."""
        self._published.clear()
