"""Waiting for a command's end.

Workers say over Valkey which commands ended; the ids of a moment are read by one query. A wake-up may be lost, so
everyone who waits is also looked up in rounds: ten times a second while the channel is silent, else twice.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import Final, NamedTuple, Self
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.batcher import Batcher
from models.database.engine import is_transient
from models.enums import CommandState
from models.refusals import Unavailable
from tasks.broker import pubsub

POLL_SECONDS: Final = 0.1
ROUNDS_WHILE_WOKEN: Final = 5

log = structlog.get_logger(__name__)


class Outcome(NamedTuple):
    """A command that has ended. ``body`` is a string of JSON, ``status`` is absent if it is dead or discarded."""

    id: UUID
    type: str
    state: CommandState
    accepted_at: datetime
    finished_at: datetime | None
    attempts: int
    status: int | None
    body: str | None
    error: str | None


_READ: Final = """
SELECT id, type, state, accepted_at, finished_at, attempts, outcome_status, outcome_body::text, error
FROM commands WHERE id = ANY(%(ids)b::uuid[]) AND state <> 'accepted'
"""


class Outcomes:
    """Tells whoever waits how their commands ended."""

    def __init__(self, engine: AsyncEngine, *, wake_url: str | None, seconds: float) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._wake_url = wake_url
        self._waiting: dict[UUID, set[Wait]] = {}
        self._reader: Batcher[tuple[UUID, ...], None] = Batcher(self._read, max_size=500, timeout_seconds=seconds)
        self._looks: set[asyncio.Task[None]] = set()
        self._loops: list[asyncio.Task[None]] = []
        self._rounds_since_woken = ROUNDS_WHILE_WOKEN
        self._is_closing = False

    def start(self) -> None:
        """Listen, and look up in rounds."""
        listening = pubsub.subscribe(
            self._wake_url, [pubsub.OUTCOMES_CHANNEL], self._hear, on_listening=self._look_at_all
        )
        self._loops = [asyncio.create_task(listening), asyncio.create_task(self._look_in_rounds())]

    async def stop(self) -> None:
        """End listening and every wait."""
        self.release()
        for loop in self._loops:
            loop.cancel()
            with suppress(asyncio.CancelledError):
                await loop
        await self._reader.stop()

    def release(self) -> None:
        """Nobody is to wait any longer: the process is about to end."""
        self._is_closing = True
        for wait in {wait for waits in self._waiting.values() for wait in waits}:
            wait.release()

    def expect(self, ids: Iterable[UUID]) -> Wait:
        """Start to wait; before the commands are accepted, so that no end is missed."""
        return Wait(self, ids)

    def look(self, ids: Iterable[UUID]) -> None:
        """Look these up now: they may have ended long ago."""
        task = asyncio.get_running_loop().create_task(self._look(tuple(ids)))
        self._looks.add(task)
        task.add_done_callback(self._looks.discard)

    def _enter(self, wait: Wait) -> None:
        for id_ in wait.ids:
            self._waiting.setdefault(id_, set()).add(wait)
        if self._is_closing:
            wait.release()

    def _leave(self, wait: Wait) -> None:
        for id_ in wait.ids:
            waits = self._waiting.get(id_, set())
            waits.discard(wait)
            if not waits:
                self._waiting.pop(id_, None)

    def _hear(self, _channel: str, payload: str) -> None:
        self._rounds_since_woken = 0
        named = []
        for each in re.findall(r"[0-9a-fA-F-]{36}", payload):
            with suppress(ValueError):
                named.append(UUID(each))
        if ended := [id_ for id_ in named if id_ in self._waiting]:
            self.look(ended)

    def _look_at_all(self) -> None:
        if self._waiting:
            self.look(self._waiting)

    async def _look_in_rounds(self) -> None:
        rounds = 0
        while True:
            await asyncio.sleep(POLL_SECONDS)
            rounds += 1
            self._rounds_since_woken += 1
            is_woken = self._rounds_since_woken < ROUNDS_WHILE_WOKEN
            if self._waiting and not (is_woken and rounds % ROUNDS_WHILE_WOKEN):
                await self._look(tuple(self._waiting))

    async def _look(self, ids: tuple[UUID, ...]) -> None:
        try:
            await self._reader.submit(ids)
        except Unavailable:
            # The next round looks again; whoever has waited long enough reads the command later.
            return
        except Exception:
            log.exception("outcomes.unreadable", commands=len(ids))

    async def _read(self, questions: list[tuple[UUID, ...]]) -> Sequence[None]:
        ids = list({id_ for question in questions for id_ in question if id_ in self._waiting})
        if ids:
            try:
                await self._tell(ids)
            except Exception as fault:
                raise (Unavailable() if is_transient(fault) else fault) from fault
        return [None] * len(questions)

    async def _tell(self, ids: list[UUID]) -> None:
        async with self._engine.connect() as connection:
            rows = (await connection.exec_driver_sql(_READ, {"ids": ids})).all()
        for row in rows:
            outcome = Outcome._make(row)._replace(state=CommandState(row.state))
            for wait in self._waiting.get(outcome.id, ()):
                wait.tell(outcome)


class Wait:
    """One request's wait for its commands; use it as a context."""

    def __init__(self, outcomes: Outcomes, ids: Iterable[UUID]) -> None:
        self.ids = frozenset(ids)
        self._outcomes = outcomes
        self._ended: dict[UUID, Outcome] = {}
        self._over = asyncio.Event()

    def __enter__(self) -> Self:
        self._outcomes._enter(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._outcomes._leave(self)

    def tell(self, outcome: Outcome) -> None:
        """One of the commands has ended."""
        self._ended[outcome.id] = outcome
        if len(self._ended) == len(self.ids):
            self._over.set()

    def release(self) -> None:
        """Wait no longer."""
        self._over.set()

    async def outcomes(self, *, seconds: float) -> dict[UUID, Outcome] | None:
        """The outcomes of all the commands; ``None`` if some have not ended in time."""
        if seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), seconds)
        return self._ended if len(self._ended) == len(self.ids) else None
