"""Operators' reads and changes for HTTP requests: the functions of :mod:`models.operations`, run on the read engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.unavailable import TRY_AGAIN, unavailable_if_transient
from models.database.errors import is_transient
from models.operations.ledger_numbers import LedgerNumbers, read_ledger_numbers
from models.operations.overview import read_overview, read_queues
from models.serializers.operations import BrokerState, BrokerStatusJson, OverviewJson, QueueJson
from tasks.broker_status import BrokerStatus, read_broker_status
from tasks.metrics.ledger import ANSWER_SECONDS, CACHE_SECONDS
from tasks.settings import BrokerSettings

T = TypeVar("T")

BROKER_SECONDS: Final = 1.0
"""How long to wait for the broker's answer, so that an overview takes less than two seconds without it."""

BROKER_AGE_SECONDS: Final = 1.0
"""How long an answer of the broker is used again."""


class Snapshot(NamedTuple):
    """What the live stream shows at one moment."""

    overview: OverviewJson
    queues: list[QueueJson]


class OperationsService:
    """Runs functions of :mod:`models.operations`. ``seconds`` is the time limit of each, including its retry."""

    def __init__(self, engine: AsyncEngine, settings: BrokerSettings, *, seconds: float) -> None:
        self._engine = engine
        self._settings = settings
        self._seconds = seconds
        self._broker_lock = asyncio.Lock()
        self._broker: BrokerStatus | None = None
        self._asked_at = 0.0
        self._ledger_lock = asyncio.Lock()
        self._numbers: LedgerNumbers | None = None
        self._reading: asyncio.Task[LedgerNumbers] | None = None
        self._numbers_at = float("-inf")

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Return what a function reads.

        :raises Unavailable: if the database is unreachable or does not respond in time.
        """
        with unavailable_if_transient(TRY_AGAIN):
            async with asyncio.timeout(self._seconds):
                try:
                    return await self._read(query)
                except Exception as error:
                    if not is_transient(error):
                        raise
                    # Retry once: the connection may have broken while it was idle in the pool.
                    return await self._read(query)

    async def write(self, change: Callable[[Connection], T]) -> T:
        """Run a function in a transaction, and return its result after the commit.

        :raises Unavailable: if the database is unreachable or does not respond in time.
        """
        with unavailable_if_transient(TRY_AGAIN):
            async with asyncio.timeout(self._seconds), self._engine.begin() as connection:
                return await connection.run_sync(change)

    async def overview(self) -> OverviewJson:
        """Return the state of the whole system. If the broker does not answer in time, the overview says so."""
        broker = _broker_json(await self._broker_status())
        return await self.read(lambda connection: read_overview(connection, broker=broker))

    async def queues(self) -> list[QueueJson]:
        """Return every queue. If the broker does not answer in time, its consumers are unknown."""
        consumers = (await self._broker_status()).consumers
        return await self.read(lambda connection: read_queues(connection, consumers=consumers))

    async def snapshot(self) -> Snapshot:
        """Return the overview and the queues."""
        return Snapshot(await self.overview(), await self.queues())

    async def ledger_numbers(self) -> LedgerNumbers | None:
        """Return the numbers for the metrics, a few seconds old at most, or ``None`` without an answer in time."""
        async with self._ledger_lock:
            clock = asyncio.get_running_loop().time
            if clock() - self._numbers_at > CACHE_SECONDS:
                # A question that has not been answered yet is not asked again. It is not cancelled either: with a
                # server that hangs, the cancellation would take longer than the answer may.
                self._reading = self._reading or asyncio.create_task(self._read(read_ledger_numbers))
                await asyncio.wait({self._reading}, timeout=ANSWER_SECONDS)
                if not self._reading.done():
                    return None
                # The process's own metrics are needed most while something is unavailable.
                self._numbers = None if self._reading.exception() else self._reading.result()
                self._reading = None
                self._numbers_at = clock()
            return self._numbers

    async def _read(self, query: Callable[[Connection], T]) -> T:
        async with self._engine.connect() as connection:
            return await connection.run_sync(query)

    async def _broker_status(self) -> BrokerStatus:
        # One question at a time: a broker that does not answer keeps a thread until its connection fails.
        async with self._broker_lock:
            clock = asyncio.get_running_loop().time
            if self._broker is None or clock() - self._asked_at > BROKER_AGE_SECONDS:
                self._broker = await asyncio.to_thread(read_broker_status, self._settings, seconds=BROKER_SECONDS)
                self._asked_at = clock()
            return self._broker


def _broker_json(status: BrokerStatus) -> BrokerStatusJson:
    state = BrokerState.OK if status.is_reachable else BrokerState.UNREACHABLE
    return {"status": state, "kind": status.kind, "detail": status.detail}
