"""Turns: work on many items in the event loop, which other requests do not have to wait for.

A thread would not help them more: work in Python holds the interpreter, whichever thread does it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import Final, TypeVar

Item = TypeVar("Item")

TURN_SECONDS: Final = 0.002
"""How long the work may go on before other requests have their turn."""


async def in_turns(items: Iterable[Item]) -> AsyncIterator[Item]:
    """Yield the items, and let other requests have their turn in between whenever one has taken too long."""
    ends_at = time.perf_counter() + TURN_SECONDS
    for item in items:
        yield item
        if time.perf_counter() >= ends_at:
            await asyncio.sleep(0)
            ends_at = time.perf_counter() + TURN_SECONDS
