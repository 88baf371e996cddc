"""How many commands one caller may send: a bucket that refills at the rate and holds a burst."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

from models.refusals import TooManyRequests

BURST_SECONDS: Final = 5
"""A bucket holds what the rate allows in this time."""

_TIDY_ABOVE: Final = 10_000


class RateLimiter:
    """``rate`` commands a second for each caller, five times as many in a burst; counted in this process."""

    def __init__(self, rate: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        # When each caller's bucket will be full again; a caller who is not here has a full one.
        self._full_at: dict[str, float] = {}

    def acquire(self, caller: str, commands: int = 1) -> None:
        """Count commands of a caller.

        :raises TooMany: the bucket does not hold that many; nothing is counted then.
        """
        now = self._clock()
        full_at = max(self._full_at.get(caller, now), now) + commands / self._rate
        wait = full_at - now - BURST_SECONDS
        if wait > 1e-9:
            raise TooManyRequests(max(1, math.ceil(wait)))
        self._full_at[caller] = full_at
        if len(self._full_at) > _TIDY_ABOVE:
            self._full_at = {name: full for name, full in self._full_at.items() if full > now}
