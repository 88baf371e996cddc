"""The acceptance of commands into the ledger. Concurrent requests share one insert, one commit and one hint per lane.

Requests that arrive while a commit is in flight form the next batch. Requests with idempotency keys
(:mod:`gateway.ledger.idempotency`) form batches of their own on connections of their own, because a key may be in use
by a transaction that does not end, for example that of a gateway whose host was lost. Such a key affects only the
requests that name it: the other requests in their batch are accepted without them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Final, Protocol
from uuid import UUID

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.batcher import Batcher
from gateway.ledger.idempotency import (
    KeyGroups,
    decide,
    find_keys_in_use,
    is_key_in_use,
    redirect_keys,
    release_keys,
    store_keys,
)
from gateway.ledger.submission import AcceptedCommand, AcceptedCommands, Result, Submission
from models.database.errors import is_transient, sqlstate
from models.enums import Lane
from models.messaging.command_ledger import ACCEPT_COMMANDS, NewCommand, accept_parameters
from models.messaging.trace import log_ids
from models.refusals import Unavailable

MAX_BATCH_SIZE: Final = 500
KEYED_BATCHES_IN_FLIGHT: Final = 2
"""How many batches with keys may be in flight. While one waits for a key in use, the other slot serves the rest."""

ATTEMPTS: Final = 3
"""How many times a batch is attempted if it fails with a deadlock, a lock timeout or a broken connection."""

_UNIQUE_VIOLATION: Final = "23505"
_READ_COMMANDS: Final = "SELECT id, type, accepted_at, subject FROM commands WHERE id = ANY(%(ids)b::uuid[])"

log = structlog.get_logger(__name__)


class HintSink(Protocol):
    """Publishes hints to the workers. It neither blocks nor raises exceptions."""

    def publish(self, lane: Lane, subjects: Iterable[str]) -> None:
        """Publish a hint that these subjects have commands waiting to be applied."""


class CommandAcceptor:
    """Accepts submissions. When :meth:`accept` returns, the submission's commands have been committed.

    ``keyed_engine`` serves the submissions with idempotency keys. Its ``lock_timeout`` limits how long a batch waits
    for a key in use.
    """

    def __init__(
        self, engine: AsyncEngine, keyed_engine: AsyncEngine, hints: HintSink, *, timeout_seconds: float
    ) -> None:
        self._keyless: Batcher[Submission, AcceptedCommands] = Batcher(
            _LedgerWriter(engine, hints).accept_batch, max_size=MAX_BATCH_SIZE, timeout_seconds=timeout_seconds
        )
        self._keyed: Batcher[Submission, AcceptedCommands] = Batcher(
            _LedgerWriter(keyed_engine, hints).accept_batch,
            max_size=MAX_BATCH_SIZE,
            timeout_seconds=timeout_seconds,
            max_in_flight=KEYED_BATCHES_IN_FLIGHT,
        )

    async def accept(self, submission: Submission, *, deadline: float) -> AcceptedCommands:
        """Accept a submission, or find the commands that an equal request with the same key submitted earlier.

        ``deadline`` is in event-loop time.

        :raises IdempotencyKeyReused: if a key covers a different request. In that case, nothing is accepted.
        :raises Unavailable: if the database does not respond in time, or if a key is in use. If the database does not
            respond, the commands may still have been accepted.
        """
        batcher = self._keyed if submission.keys else self._keyless
        return await batcher.submit(submission, deadline=deadline)

    async def stop(self) -> None:
        """Wait until the batches in flight have finished."""
        await self._keyless.stop()
        await self._keyed.stop()


_Acceptance = tuple[list[Result], list[NewCommand]]
"""The submissions' results, in order, and the rows for which hints are to be published."""


class _LedgerWriter:
    """Writes batches of submissions to the ledger, over one engine."""

    def __init__(self, engine: AsyncEngine, hints: HintSink) -> None:
        self._engine = engine
        # Without idempotency keys, the insert is a single statement, which needs no explicit transaction.
        self._autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._hints = hints

    async def accept_batch(self, submissions: list[Submission]) -> Sequence[Result]:
        """Return each submission's commands or error, in the order of the submissions."""
        results: list[Result] = [Unavailable()] * len(submissions)
        remaining = list(range(len(submissions)))
        while remaining:
            groups = KeyGroups(submissions, remaining)
            accepted = await self._accept_together([submissions[index] for index in groups.leaders])
            for index, result in zip(groups.leaders, accepted, strict=True):
                results[index] = result
            for index, leader in groups.followers.items():
                results[index] = _as_replay(results[leader])
            remaining = groups.later
        return results

    async def _accept_together(self, submissions: list[Submission]) -> Sequence[Result]:
        has_key_in_use = False
        for attempt in range(ATTEMPTS):
            try:
                return await self._try(submissions, is_retry=attempt > 0, has_key_in_use=has_key_in_use)
            except DBAPIError as error:
                has_key_in_use |= is_key_in_use(error)
                if is_transient(error) or (attempt and sqlstate(error) == _UNIQUE_VIOLATION):
                    continue
                if len(submissions) == 1:
                    return [error]
                # The database rejects one of the submissions. If they are accepted one by one, the others succeed.
                return [(await self._accept_together([submission]))[0] for submission in submissions]
            except Exception as error:
                if not is_transient(error):
                    raise
                raise Unavailable from error
        raise Unavailable

    async def _try(self, submissions: list[Submission], *, is_retry: bool, has_key_in_use: bool) -> list[Result]:
        started = time.perf_counter()
        if has_key_in_use:
            results, rows = await self._accept_around_keys_in_use(submissions)
        elif is_retry or any(submission.keys for submission in submissions):
            async with self._engine.begin() as connection:
                results, rows = await _accept_with_keys(connection, submissions, is_retry=is_retry)
        else:
            results, rows = await self._accept_without_keys(submissions)
        self._publish_hints(rows, results)
        if rows:
            log.info(
                "commands.accepted",
                commands=len(rows),
                ms=round((time.perf_counter() - started) * 1000, 1),
                **log_ids(rows),
            )
        return results

    async def _accept_without_keys(self, submissions: Sequence[Submission]) -> _Acceptance:
        rows = [row for submission in submissions for row in submission.rows]
        async with self._autocommit.connect() as connection:
            accepted = await _insert(connection, rows)
        return [tuple(accepted[row.id] for row in submission.rows) for submission in submissions], rows

    async def _accept_around_keys_in_use(self, submissions: Sequence[Submission]) -> _Acceptance:
        async with self._engine.begin() as connection:
            in_use = await find_keys_in_use(connection, submissions)
            free = [submission for index, submission in enumerate(submissions) if index not in in_use]
            accepted, rows = await _accept_with_keys(connection, free, is_retry=True)
        log.warning("idempotency_keys.in_use", requests=len(in_use))
        remaining = iter(accepted)
        return [Unavailable() if index in in_use else next(remaining) for index in range(len(submissions))], rows

    def _publish_hints(self, rows: Iterable[NewCommand], results: Iterable[Result]) -> None:
        lanes = {row.id: row.lane for row in rows}
        subjects: dict[Lane, dict[str, None]] = {}
        for result in results:
            for command in result if isinstance(result, tuple) else ():
                if (lane := lanes.get(command.id)) is not None:
                    subjects.setdefault(lane, {})[command.subject] = None
        for lane, names in subjects.items():
            self._hints.publish(lane, names)


async def _accept_with_keys(
    connection: AsyncConnection, submissions: Sequence[Submission], *, is_retry: bool
) -> _Acceptance:
    stored = await store_keys(connection, submissions)
    decisions = [decide(submission, stored) for submission in submissions]
    await release_keys(connection, decisions)
    await redirect_keys(connection, decisions)
    rows = [row for decision in decisions for row in decision.rows]
    new_ids = {row.id for row in rows}
    replayed = [id_ for decision in decisions for id_ in decision.ids if id_ not in new_ids]
    # If the connection broke during the commit, the commit may have succeeded, so a retry first looks for its own
    # commands.
    known = await _read(connection, [*replayed, *(new_ids if is_retry else ())])
    missing = [row for row in rows if row.id not in known]
    accepted = known | (await _insert(connection, missing) if missing else {})
    return [decision.result(accepted) for decision in decisions], rows


def _as_replay(result: Result) -> Result:
    if isinstance(result, Exception):
        return result
    return tuple(command._replace(is_replay=True) for command in result)


# --- commands --------------------------------------------------------------------------------------------------


async def _insert(connection: AsyncConnection, rows: Sequence[NewCommand]) -> dict[UUID, AcceptedCommand]:
    types = {row.id: row.type for row in rows}
    result = await connection.exec_driver_sql(ACCEPT_COMMANDS, dict(accept_parameters(rows)))
    return {row.id: AcceptedCommand(row.id, types[row.id], row.accepted_at, row.subject) for row in result}


async def _read(connection: AsyncConnection, ids: Sequence[UUID]) -> dict[UUID, AcceptedCommand]:
    if not ids:
        return {}
    rows = await connection.exec_driver_sql(_READ_COMMANDS, {"ids": list(ids)})
    return {row.id: AcceptedCommand(row.id, row.type, row.accepted_at, row.subject) for row in rows}
