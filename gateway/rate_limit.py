"""Rate limit of commands per caller: a token bucket that refills at the rate and holds a burst."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

from models.refusals import TooManyRequests

BURST_SECONDS: Final = 5
"""A bucket holds what the rate allows in this many seconds."""

_PRUNE_ABOVE: Final = 10_000


class RateLimiter:
    """Allows ``rate`` commands per second for each caller, and bursts of ``BURST_SECONDS`` times as many.

    Each process counts for itself. ``clock`` returns seconds.
    """

    def __init__(self, rate: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        # When each caller's bucket will be full again; the buckets of other callers are full.
        self._full_at: dict[str, float] = {}

    def acquire(self, caller: str, commands: int = 1) -> None:
        """Take commands from a caller's bucket.

        :raises TooManyRequests: if the bucket does not hold that many; then none are taken.
        """
        now = self._clock()
        full_at = max(self._full_at.get(caller, now), now) + commands / self._rate
        wait = full_at - now - BURST_SECONDS
        if wait > 1e-9:
            raise TooManyRequests(max(1, math.ceil(wait)))
        self._full_at[caller] = full_at
        if len(self._full_at) > _PRUNE_ABOVE:
            self._full_at = {name: full for name, full in self._full_at.items() if full > now}
