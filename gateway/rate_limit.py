"""Limits on callers: on each caller's rate of commands, and on wrong tries to log in.

The rate is limited by a token bucket that holds a burst and refills at the configured rate.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

from models.refusals import TooManyRequests

BURST_SECONDS: Final = 5
"""The size of a bucket: it holds as many commands as the rate allows in this many seconds."""

_PRUNE_ABOVE: Final = 10_000


class RateLimiter:
    """Allows each caller ``rate`` commands per second, and bursts of ``BURST_SECONDS`` times that number.

    Each process counts separately. ``clock`` returns the current time in seconds.
    """

    def __init__(self, rate: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        # When each caller's bucket will be full again. A caller who is not listed has a full bucket.
        self._full_at: dict[str, float] = {}

    def acquire(self, caller: str, commands: int = 1) -> None:
        """Take a number of commands from a caller's bucket.

        :raises TooManyRequests: if the bucket holds fewer commands than that. In that case, none are taken.
        """
        now = self._clock()
        full_at = max(self._full_at.get(caller, now), now) + commands / self._rate
        wait = full_at - now - BURST_SECONDS
        if wait > 1e-9:
            raise TooManyRequests(max(1, math.ceil(wait)))
        self._full_at[caller] = full_at
        if len(self._full_at) > _PRUNE_ABOVE:
            self._full_at = {name: full for name, full in self._full_at.items() if full > now}


MAX_FAILURES: Final = 10
FAILURE_SECONDS: Final = 60.0


class FailureLimit:
    """Counts the wrong tries of each address. After ten within a minute, it may not try again until one is older.

    Each process counts separately. ``clock`` returns the current time in seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: dict[str, list[float]] = {}

    def require_allowed(self, address: str) -> None:
        """Require that an address may try.

        :raises TooManyRequests: if it has failed too often.
        """
        recent = self._recent(address)
        if len(recent) >= MAX_FAILURES:
            raise TooManyRequests(max(1, math.ceil(recent[-MAX_FAILURES] + FAILURE_SECONDS - self._clock())))

    def record(self, address: str) -> None:
        """Record a wrong try."""
        self._failures[address] = [*self._recent(address), self._clock()][-MAX_FAILURES:]
        if len(self._failures) > _PRUNE_ABOVE:
            self._failures = {name: recent for name in self._failures if (recent := self._recent(name))}

    def _recent(self, address: str) -> list[float]:
        since = self._clock() - FAILURE_SECONDS
        return [at for at in self._failures.get(address, ()) if at > since]
