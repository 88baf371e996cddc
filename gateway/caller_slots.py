"""Limits on how many requests, and how many streams, one caller may have open at the same time in this process."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

from models.refusals import TooManyRequests

MAX_REQUESTS: Final = 200
"""How many requests of one caller may be in hand, most of which wait for an outcome."""

MAX_STREAMS: Final = 50

REQUEST_SECONDS: Final = 1.0
"""How long a request is expected to take that does not wait for an outcome."""

MAX_READS: Final = 4
"""How many reads of one caller run at the same time: half as many as there are connections for reads."""

STREAM_SECONDS: Final = 15.0
"""When a caller may try again to open a stream: by then, the next heartbeat has ended those whose client is gone."""


@dataclass(eq=False, slots=True)
class Slot:
    """One open request or stream, and when it is expected to end, in the time of the clock."""

    caller: str
    ends_at: float


class CallerSlots:
    """Allows each caller ``most`` slots at the same time. ``clock`` returns the current time in seconds."""

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._taken: dict[str, set[Slot]] = {}

    def take(self, caller: str, *, seconds: float) -> Slot:
        """Take a slot that will probably be free again after a number of seconds.

        :raises TooManyRequests: if the caller has no free slot. It says when the first one will probably be free.
        """
        now = self._clock()
        taken = self._taken.setdefault(caller, set())
        if len(taken) >= self._most:
            raise TooManyRequests(max(1, math.ceil(min(slot.ends_at for slot in taken) - now)))
        slot = Slot(caller, now + seconds)
        taken.add(slot)
        return slot

    def extend(self, slot: Slot, *, seconds: float) -> None:
        """Note that a slot will be in use for this many seconds from now."""
        slot.ends_at = self._clock() + seconds

    def free(self, slot: Slot) -> None:
        """Give a slot back. It may have been given back already."""
        taken = self._taken.get(slot.caller, set())
        taken.discard(slot)
        if not taken:
            self._taken.pop(slot.caller, None)

    @contextmanager
    def taken(self, caller: str, *, seconds: float) -> Iterator[Slot]:
        """Take a slot for the duration of the block, as :meth:`take` does."""
        slot = self.take(caller, seconds=seconds)
        try:
            yield slot
        finally:
            self.free(slot)


class CallerQueues:
    """Lets ``most`` pieces of work of each caller run at the same time. Others of that caller wait, in order."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._queues: dict[str, asyncio.Semaphore] = {}
        self._users: dict[str, int] = {}

    @asynccontextmanager
    async def turn(self, caller: str) -> AsyncIterator[None]:
        """Wait for the caller's turn, and take it for the duration of the block."""
        queue = self._queues.setdefault(caller, asyncio.Semaphore(self._most))
        self._users[caller] = self._users.get(caller, 0) + 1
        try:
            async with queue:
                yield
        finally:
            self._users[caller] -= 1
            if not self._users[caller]:
                del self._users[caller], self._queues[caller]
