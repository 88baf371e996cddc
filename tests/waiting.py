"""Helpers that wait for a condition instead of sleeping for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

FIRST_PAUSE_SECONDS: Final = 0.01
LONGEST_PAUSE_SECONDS: Final = 0.15
GROWTH: Final = 1.4


def eventually(condition: Callable[[], T], within_seconds: float = 30) -> T:
    """Poll `condition` until it returns a true value, and return that value.

    :raises AssertionError: when the condition is still false after `within_seconds`.
    """
    deadline = time.monotonic() + within_seconds
    pause = FIRST_PAUSE_SECONDS
    while not (result := condition()):
        assert time.monotonic() < deadline, f"still false after {within_seconds} s: {condition}"
        time.sleep(pause)
        # Polling takes CPU time from the processes under test.
        pause = min(GROWTH * pause, LONGEST_PAUSE_SECONDS)
    return result
