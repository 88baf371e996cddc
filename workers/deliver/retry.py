"""When a failed delivery is tried again, and when a target that keeps failing is left alone for a while."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

JITTER: Final = 0.2
"""By which fraction a delay is shortened or lengthened at random, so that deliveries do not come back all at once."""

MAX_RETRY_AFTER_SECONDS: Final = 24 * 3600.0
"""The longest pause that a server may ask for."""

FAULTS_TO_OPEN: Final = 5
"""How many faults in a row open a target's circuit breaker."""

OPEN_SECONDS: Final = (2.0, 5.0, 10.0, 20.0, 30.0)
"""How long the breaker stays open after the 1st, 2nd, … failed probe. The last pause repeats."""


def retry_delay_seconds(
    attempts: int,
    delays: Sequence[float],
    *,
    retry_after_seconds: float | None = None,
    random_unit: float | None = None,
) -> float | None:
    """Return the pause after the ``attempts``-th failed attempt, in seconds, or ``None`` if it was the last one.

    The pause is the scheduled one, or what the server asked for if that is longer, with jitter. ``random_unit`` is a
    number from 0 to 1 that replaces the random one.

    >>> retry_delay_seconds(1, (5.0, 300.0), random_unit=0.5)
    5.0
    >>> retry_delay_seconds(2, (5.0, 300.0), retry_after_seconds=900, random_unit=0)
    900.0
    >>> retry_delay_seconds(3, (5.0, 300.0)) is None
    True
    """
    if attempts > len(delays):
        return None
    unit = random.random() if random_unit is None else random_unit
    scheduled = delays[attempts - 1] * (1 + JITTER * (2 * unit - 1))
    # A server that asked for a pause never gets the message earlier.
    asked = min(retry_after_seconds or 0.0, MAX_RETRY_AFTER_SECONDS) * (1 + JITTER * unit)
    return max(scheduled, asked)


@dataclass(slots=True)
class CircuitBreaker:
    """Decides how many messages may be sent to a target now. Times are in seconds of a monotonic clock.

    After :data:`FAULTS_TO_OPEN` faults in a row it opens: nothing is sent until a pause has passed, and then a single
    message as a probe. If the probe fails, the next pause is longer. Any success closes the breaker.
    """

    faults: int = 0
    open_until: float = 0.0

    def limit(self, now: float, concurrency: int) -> int:
        """Return how many messages may be in flight to the target."""
        if self.faults < FAULTS_TO_OPEN:
            return concurrency
        return 0 if now < self.open_until else 1

    def record_success(self) -> None:
        """Close the breaker."""
        self.faults = 0

    def record_fault(self, now: float) -> None:
        """Count a fault, and open the breaker if there have been enough."""
        self.faults += 1
        if self.faults >= FAULTS_TO_OPEN:
            pause = OPEN_SECONDS[min(self.faults - FAULTS_TO_OPEN, len(OPEN_SECONDS) - 1)]
            self.open_until = now + pause
