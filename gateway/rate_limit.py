"""Limits on callers: on what each may spend, and on wrong tries to authenticate.

What a caller may spend is limited by a token bucket that holds a burst and refills at the configured rate. A command
costs one, a refused write one, and a read one per :data:`READ_BYTES` of its response. Each process counts separately.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

from models.refusals import TooManyCommands, TooManyRequests

BURST_SECONDS: Final = 5
"""The size of a bucket: it holds as many commands as the rate allows in this many seconds."""

READ_BYTES: Final = 100 * 1024
"""How many bytes of responses to reads cost as much as one command."""

_PRUNE_ABOVE: Final = 10_000
_TOLERANCE_SECONDS: Final = 1e-6


class RateLimiter:
    """Allows each caller ``rate`` commands per second, and bursts of ``BURST_SECONDS`` times that number.

    ``clock`` returns the current time in seconds.
    """

    def __init__(self, rate: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        # When each caller's bucket will be full again. A caller who is not listed has a full bucket.
        self._full_at: dict[str, float] = {}

    @property
    def capacity(self) -> int:
        """How many commands a full bucket holds."""
        return self._rate * BURST_SECONDS

    def require(self, caller: str, commands: int, *, at_most: int | None = None) -> None:
        """Require that a caller's bucket holds a number of commands, without taking any. With 0, it may be empty.

        ``at_most`` is how many commands the request may turn out to contain. A refusal says when there are as many.

        :raises TooManyRequests: if the bucket holds fewer than ``commands``.
        """
        if self._wait(caller, commands) > _TOLERANCE_SECONDS:
            wait = self._wait(caller, max(commands, at_most or 0))
            raise TooManyRequests(max(1, math.ceil(wait - _TOLERANCE_SECONDS)))

    def acquire(self, caller: str, commands: int = 1) -> None:
        """Take a number of commands from a caller's bucket.

        :raises TooManyRequests: if the bucket holds fewer commands than that. In that case, none are taken.
        :raises TooManyCommands: if not even a full bucket holds as many.
        """
        if commands > self.capacity:
            raise TooManyCommands(self.capacity)
        self.require(caller, commands)
        self.charge(caller, commands)

    def charge(self, caller: str, commands: float) -> None:
        """Take a number of commands from a caller's bucket, which may then hold less than nothing."""
        now = self._clock()
        self._full_at[caller] = max(self._full_at.get(caller, now), now) + commands / self._rate
        if len(self._full_at) > _PRUNE_ABOVE:
            self._full_at = {name: full for name, full in self._full_at.items() if full > now}

    def _wait(self, caller: str, commands: int) -> float:
        """Return the seconds until a caller's bucket holds a number of commands. If it does already, 0 or less."""
        now = self._clock()
        return self._full_at.get(caller, now) - now + commands / self._rate - BURST_SECONDS


FAILURE_SECONDS: Final = 60.0
MAX_WRONG_LOGINS: Final = 10
MAX_WRONG_TOKENS: Final = 100


class FailureLimit:
    """Counts the wrong tries of each address. After ``most`` within a minute, the address is blocked for a minute.

    Addresses of IPv6 count by their first 64 bits, because a host may use any address below them. ``clock`` returns the
    current time in seconds.
    """

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._failures: dict[str, list[float]] = {}
        self._blocked_until: dict[str, float] = {}

    def require_allowed(self, address: str) -> None:
        """Require that an address may try.

        :raises TooManyRequests: if it has failed too often.
        """
        if not self._blocked_until:
            return
        wait = self._blocked_until.get(_network(address), 0) - self._clock()
        if wait > 0:
            raise TooManyRequests(max(1, math.ceil(wait)))

    def record(self, address: str) -> None:
        """Record a wrong try."""
        now, network = self._clock(), _network(address)
        recent = [at for at in self._failures.pop(network, ()) if at > now - FAILURE_SECONDS]
        if len(recent) + 1 < self._most:
            self._failures[network] = [*recent, now]
        else:
            self._blocked_until[network] = now + FAILURE_SECONDS
        if len(self._failures) + len(self._blocked_until) > _PRUNE_ABOVE:
            self._prune(now)

    def _prune(self, now: float) -> None:
        since = now - FAILURE_SECONDS
        self._failures = {name: times for name, times in self._failures.items() if times[-1] > since}
        self._blocked_until = {name: until for name, until in self._blocked_until.items() if until > now}


def _network(address: str) -> str:
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return str(ip_network((parsed, 64), strict=False))
    return address
