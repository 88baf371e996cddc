"""Waiting for facts, not for time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

POLL_SECONDS: Final = 0.02


def eventually(fact: Callable[[], T], within_seconds: float = 30) -> T:
    """Wait until a fact holds; what it returned.

    :raises AssertionError: it did not come about.
    """
    until = time.monotonic() + within_seconds
    while not (found := fact()):
        assert time.monotonic() < until, f"it never came about: {fact}"
        time.sleep(POLL_SECONDS)
    return found
