"""The wait for commands' outcomes.

Workers publish the ids of finished commands over Valkey. Outcomes whose ids arrive together are read in one query. A
wake-up may be lost, so all awaited commands are also polled: twice a second while wake-ups arrive, otherwise ten times
a second.

A wait also ends when one of its commands turns out to be held. Whether there is any hold is asked twice a second while
requests wait; only while there is one is each command looked up.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from contextvars import Context
from datetime import datetime
from types import TracebackType
from typing import Final, NamedTuple, Self
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.background import end_task
from gateway.batcher import Batcher
from gateway.unavailable import unavailable_if_transient
from models.enums import CommandState
from models.messaging.command_ledger import IS_WAITING
from models.messaging.hold import ANY_HOLD_IN_FORCE, FIND_HELD, HeldCommand, held_command_from_row
from models.refusals import Unavailable
from tasks.broker import pubsub
from tasks.outage_log import OutageLog

POLL_SECONDS: Final = 0.1
MAX_PAYLOAD_CHARACTERS: Final = 65_536
"""The length of a wake-up's payload above which the ids in it are not read."""

POLLS_PER_HOLD_CHECK: Final = 5
POLLS_PER_HOLD_CHECK_AT_REST: Final = 50
"""How many polls pass before the waiter looks again whether any hold is in force: with and without waits."""

POLLS_PER_REFRESH_WHILE_WOKEN: Final = 5
"""While wake-ups arrive, only every fifth poll reads outcomes. Wake-ups count as arriving until there have been five
polls in a row without one."""

log = structlog.get_logger(__name__)


class Outcome(NamedTuple):
    """A finished command. ``body`` is JSON text, and ``status`` is ``None`` if the command is dead or discarded.

    ``problem`` is the JSON text of the members that only the RFC 9457 form of a refusal has.
    """

    id: UUID
    type: str
    state: CommandState
    accepted_at: datetime
    finished_at: datetime | None
    attempts: int
    status: int | None
    body: str | None
    error: str | None
    problem: str | None = None


_READ: Final = f"""
SELECT id, type, state, accepted_at, finished_at, attempts, outcome_status AS status,
       outcome_body::text AS body, error, outcome_problem::text AS problem
FROM commands WHERE id = ANY(%(ids)b::uuid[]) AND NOT ({IS_WAITING})
"""  # noqa: S608


class OutcomeWaiter:
    """Reads outcomes and delivers each one to the requests that wait for it."""

    def __init__(self, engine: AsyncEngine, *, wake_url: str | None, timeout_seconds: float) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._wake_url = wake_url
        self._waits: dict[UUID, set[OutcomeWait]] = {}
        self._reader: Batcher[tuple[UUID, ...], None] = Batcher(
            self._read, max_size=500, timeout_seconds=timeout_seconds
        )
        self._refreshes: set[asyncio.Task[None]] = set()
        self._loops: list[asyncio.Task[None]] = []
        self._polls_since_wakeup = POLLS_PER_REFRESH_WHILE_WOKEN
        self._is_closing = False
        self._holds_exist = False
        self._outage = OutageLog("outcomes.unreadable")

    def start(self) -> None:
        """Start listening for wake-ups and polling."""
        listening = pubsub.subscribe(
            self._wake_url, [pubsub.OUTCOMES_CHANNEL], self._on_wakeup, on_listening=self._refresh_all
        )
        self._loops = [asyncio.create_task(listening), asyncio.create_task(self._poll())]

    async def stop(self) -> None:
        """Stop listening and polling, and end every wait."""
        self.release()
        for loop in self._loops:
            await end_task(loop)
        await self._reader.stop()

    def release(self) -> None:
        """End every wait, present and future, so that the process can stop."""
        self._is_closing = True
        for wait in {wait for waits in self._waits.values() for wait in waits}:
            wait.release()

    def expect(self, ids: Iterable[UUID]) -> OutcomeWait:
        """Return a context manager that waits for these commands.

        Enter it before the commands are accepted, so that no wake-up is missed.
        """
        return OutcomeWait(self, ids)

    def refresh(self, ids: Iterable[UUID]) -> None:
        """Read these commands' outcomes now, in the background. Use this if the commands may have finished long ago."""
        # A wake-up or a request triggers it, and its log lines belong to neither.
        task = asyncio.get_running_loop().create_task(self._refresh(tuple(ids)), context=Context())
        self._refreshes.add(task)
        task.add_done_callback(self._refreshes.discard)

    @property
    def holds_exist(self) -> bool:
        """Whether some hold was in force when the waiter last looked: half a second ago or, at rest, a few seconds."""
        return self._holds_exist

    def _enter(self, wait: OutcomeWait) -> None:
        for id_ in wait.ids:
            self._waits.setdefault(id_, set()).add(wait)
        if self._is_closing:
            wait.release()

    def _leave(self, wait: OutcomeWait) -> None:
        for id_ in wait.ids:
            waits = self._waits.get(id_, set())
            waits.discard(wait)
            if not waits:
                self._waits.pop(id_, None)

    def _on_wakeup(self, _channel: str, payload: str) -> None:
        self._polls_since_wakeup = 0
        if len(payload) > MAX_PAYLOAD_CHARACTERS:
            # No worker sends this much. It is only a wake-up, and not worth reading.
            self._refresh_all()
            return
        finished = []
        for each in re.findall(r"[0-9a-fA-F-]{36}", payload):
            with suppress(ValueError):
                finished.append(UUID(each))
        if awaited := [id_ for id_ in finished if id_ in self._waits]:
            self.refresh(awaited)

    def _refresh_all(self) -> None:
        if self._waits:
            self.refresh(self._waits)

    async def _poll(self) -> None:
        polls = 0
        while True:
            await asyncio.sleep(POLL_SECONDS)
            polls += 1
            self._polls_since_wakeup += 1
            if polls % (POLLS_PER_HOLD_CHECK if self._waits else POLLS_PER_HOLD_CHECK_AT_REST) == 1:
                await self._check_holds()
            is_woken = self._polls_since_wakeup < POLLS_PER_REFRESH_WHILE_WOKEN
            if self._waits and not (is_woken and polls % POLLS_PER_REFRESH_WHILE_WOKEN):
                await self._refresh(tuple(self._waits))

    async def _check_holds(self) -> None:
        # While the database is away, nothing is held up by a hold.
        with suppress(Exception):
            async with asyncio.timeout(1.0), self._engine.connect() as connection:
                self._holds_exist = bool((await connection.exec_driver_sql(ANY_HOLD_IN_FORCE)).scalar_one())

    async def find_held(self, ids: Iterable[UUID]) -> dict[UUID, HeldCommand]:
        """Return which of these commands are held, by id. Ask only while :attr:`holds_exist`."""
        with unavailable_if_transient():
            async with self._engine.connect() as connection:
                rows = (await connection.exec_driver_sql(FIND_HELD, {"ids": list(ids)})).all()
        return {row.command_id: held_command_from_row(row) for row in rows}

    async def _refresh(self, ids: tuple[UUID, ...]) -> None:
        try:
            await self._reader.submit(ids)
        except Unavailable:
            # The next poll tries again. A caller whose wait ends earlier gets 202 and can read the command later.
            return
        except Exception as error:
            self._outage.record_error(error)
        else:
            self._outage.end()

    async def _read(self, batch: list[tuple[UUID, ...]]) -> Sequence[None]:
        ids = list({id_ for ids in batch for id_ in ids if id_ in self._waits})
        if ids:
            with unavailable_if_transient():
                await self._deliver(ids)
        return [None] * len(batch)

    async def _deliver(self, ids: list[UUID]) -> None:
        async with self._engine.connect() as connection:
            rows = (await connection.exec_driver_sql(_READ, {"ids": ids})).all()
        for row in rows:
            outcome = Outcome(**row._mapping)._replace(state=CommandState(row.state))
            for wait in self._waits.get(outcome.id, ()):
                wait.record(outcome)
        if self._holds_exist and len(rows) < len(ids):
            for held in (await self.find_held(ids)).values():
                for wait in self._waits.get(held.command_id, ()):
                    wait.record_held(held)


class OutcomeWait:
    """A context manager for one request's wait for the outcomes of its commands."""

    def __init__(self, waiter: OutcomeWaiter, ids: Iterable[UUID]) -> None:
        self.ids = frozenset(ids)
        self._waiter = waiter
        self._outcomes: dict[UUID, Outcome] = {}
        self.held: dict[UUID, HeldCommand] = {}
        """The commands that turned out to be held, which end the wait."""
        self._is_over = asyncio.Event()

    def __enter__(self) -> Self:
        self._waiter._enter(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiter._leave(self)

    def record(self, outcome: Outcome) -> None:
        """Record the outcome of one of the awaited commands."""
        self._outcomes[outcome.id] = outcome
        if len(self._outcomes) == len(self.ids):
            self._is_over.set()

    def record_held(self, held: HeldCommand) -> None:
        """Record that one of the awaited commands is held, and end the wait."""
        self.held[held.command_id] = held
        self._is_over.set()

    def release(self) -> None:
        """End the wait, even if some commands are not finished."""
        self._is_over.set()

    async def outcomes(self, *, seconds: float) -> dict[UUID, Outcome] | None:
        """Return the outcomes of all commands, or ``None`` if any is held, or is not finished after ``seconds``."""
        if seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_over.wait(), seconds)
        return self._outcomes if len(self._outcomes) == len(self.ids) else None
