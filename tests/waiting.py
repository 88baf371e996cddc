"""Waiting for facts, not for time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

FIRST_PAUSE_SECONDS: Final = 0.01
LONGEST_PAUSE_SECONDS: Final = 0.15
GROWTH: Final = 1.4


def eventually(fact: Callable[[], T], within_seconds: float = 30) -> T:
    """Wait until a fact holds; what it returned.

    :raises AssertionError: it did not come about.
    """
    until = time.monotonic() + within_seconds
    pause = FIRST_PAUSE_SECONDS
    while not (found := fact()):
        assert time.monotonic() < until, f"it never came about: {fact}"
        time.sleep(pause)
        # Looking costs what the others need to get there.
        pause = min(GROWTH * pause, LONGEST_PAUSE_SECONDS)
    return found
