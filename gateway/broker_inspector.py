"""Looks at the broker for health checks and metrics, whatever state the broker is in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from celery import Celery
from kombu.connection import Connection

Result = TypeVar("Result")

BROKER_SECONDS: Final = 1.5
"""How long a look may take."""


class BrokerInspector:
    """Runs one look at a time, in a thread of its own: a broker that hangs takes no thread from other work.

    Requests that ask for a look that is already under way share its result.
    """

    def __init__(self, broker: Celery) -> None:
        self._broker = broker
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="broker-inspector")
        self._looks: dict[str, asyncio.Future[Any]] = {}

    async def look(self, name: str, inspect: Callable[[Connection], Result]) -> Result:
        """Return what ``inspect`` finds on a new connection to the broker. Looks of the same name find the same.

        :raises TimeoutError: if that takes longer than ``BROKER_SECONDS``.
        """
        look: asyncio.Future[Result] | None = self._looks.get(name)
        if look is None or look.done():
            look = asyncio.get_running_loop().run_in_executor(self._thread, self._inspect, inspect)
            look.add_done_callback(_retrieve)
            self._looks[name] = look
        async with asyncio.timeout(BROKER_SECONDS):
            return await asyncio.shield(look)

    def close(self) -> None:
        """Let the thread end with its current look."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _inspect(self, inspect: Callable[[Connection], Result]) -> Result:
        with self._broker.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=BROKER_SECONDS)
            return inspect(connection)


def _retrieve(look: asyncio.Future[Any]) -> None:
    # Nobody may be waiting any more, and asyncio would log an error that nobody has retrieved.
    if not look.cancelled():
        look.exception()
