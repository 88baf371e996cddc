"""The acceptance of commands into the ledger. Concurrent requests share one insert, one commit and one hint per lane.

Requests that arrive while a commit is in flight form the next batch. Idempotency keys are written in the same
transaction as the commands that they cover, so that two gateways agree on which request came first.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple, Protocol
from uuid import UUID

import orjson
import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.batcher import Batcher
from models.base import column_arrays, insert_statement
from models.database.errors import is_transient, sqlstate
from models.enums import Lane
from models.messaging.command_ledger import ACCEPT_COMMANDS, NewCommand, accept_parameters, idempotency_keys
from models.messaging.trace import log_ids
from models.refusals import IdempotencyKeyReused, Refusal, Unavailable

MAX_BATCH_SIZE: Final = 500
ATTEMPTS: Final = 3
"""How many times a batch is attempted if it fails with a deadlock or a broken connection."""

_UNIQUE_VIOLATION: Final = "23505"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A caller's idempotency key, with a digest of the request and the indexes of the commands that the key covers."""

    name: str
    digest: str
    indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Submission:
    """The commands in one request, of which all or none are accepted. ``rows`` is never empty."""

    rows: tuple[NewCommand, ...]
    keys: tuple[IdempotencyKey, ...] = ()

    @property
    def caller(self) -> str:
        """The caller key. An idempotency key is unique among those of the same caller key."""
        return self.rows[0].caller


class AcceptedCommand(NamedTuple):
    """A command in the ledger. ``is_replay`` means that an earlier request with the same key submitted it."""

    id: UUID
    type: str
    accepted_at: datetime
    subject: str
    is_replay: bool = False


class HintSink(Protocol):
    """Publishes hints to the workers. It neither blocks nor raises exceptions."""

    def publish(self, lane: Lane, subjects: Iterable[str]) -> None:
        """Publish a hint that these subjects have commands waiting to be applied."""


_Accepted = dict[UUID, AcceptedCommand]
_Commands = tuple[AcceptedCommand, ...]
_Result = _Commands | Exception

_KEY_COLUMNS: Final = ("caller", "key", "request_hash", "command_ids")
_INSERT_KEYS: Final = insert_statement(idempotency_keys, _KEY_COLUMNS, "ON CONFLICT DO NOTHING")
_NAMED_KEYS: Final = "FROM unnest(%(callers)b::text[], %(keys)b::text[]) AS named(caller, key)"
_READ_KEYS: Final = (
    f"SELECT k.caller, k.key, k.request_hash, k.command_ids {_NAMED_KEYS}"
    " JOIN idempotency_keys k ON k.caller = named.caller AND k.key = named.key"
)
_DELETE_KEYS: Final = (
    "DELETE FROM idempotency_keys k USING unnest(%(callers)b::text[], %(keys)b::text[]) AS named(caller, key)"
    " WHERE k.caller = named.caller AND k.key = named.key"
)
_UPDATE_KEY: Final = (
    "UPDATE idempotency_keys SET command_ids = %(ids)s::jsonb WHERE caller = %(caller)s AND key = %(key)s"
)
_READ_COMMANDS: Final = "SELECT id, type, accepted_at, subject FROM commands WHERE id = ANY(%(ids)b::uuid[])"


class CommandAcceptor:
    """Accepts submissions. When :meth:`accept` returns, the submission's commands have been committed."""

    def __init__(self, engine: AsyncEngine, hints: HintSink, *, timeout_seconds: float, max_in_flight: int = 1) -> None:
        self._engine = engine
        # Without idempotency keys, the insert is a single statement, which needs no explicit transaction.
        self._autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._hints = hints
        self._batcher: Batcher[Submission, _Commands] = Batcher(
            self._accept_batch, max_size=MAX_BATCH_SIZE, timeout_seconds=timeout_seconds, max_in_flight=max_in_flight
        )

    async def accept(self, submission: Submission, *, deadline: float) -> tuple[AcceptedCommand, ...]:
        """Accept a submission, or find the commands that an equal request with the same key submitted earlier.

        ``deadline`` is in event-loop time.

        :raises IdempotencyKeyReused: if a key covers a different request. In that case, nothing is accepted.
        :raises Unavailable: if the database does not respond in time. The commands may still have been accepted.
        """
        return await self._batcher.submit(submission, deadline=deadline)

    async def stop(self) -> None:
        """Wait until the batches in flight have finished."""
        await self._batcher.stop()

    async def _accept_batch(self, submissions: list[Submission]) -> Sequence[_Result]:
        results: list[_Result] = [Unavailable()] * len(submissions)
        remaining = list(range(len(submissions)))
        while remaining:
            groups = _KeyGroups(submissions, remaining)
            accepted = await self._accept_together([submissions[index] for index in groups.leaders])
            for index, result in zip(groups.leaders, accepted, strict=True):
                results[index] = result
            for index, leader in groups.followers.items():
                results[index] = _as_replay(results[leader])
            remaining = groups.later
        return results

    async def _accept_together(self, submissions: list[Submission]) -> Sequence[_Result]:
        for attempt in range(ATTEMPTS):
            try:
                return await self._try(submissions, is_retry=attempt > 0)
            except DBAPIError as error:
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

    async def _try(self, submissions: list[Submission], *, is_retry: bool) -> list[_Result]:
        started = time.perf_counter()
        results: list[_Result]
        if is_retry or any(submission.keys for submission in submissions):
            async with self._engine.begin() as connection:
                results, rows, accepted = await self._accept_with_keys(connection, submissions, is_retry=is_retry)
        else:
            rows = [row for submission in submissions for row in submission.rows]
            async with self._autocommit.connect() as connection:
                accepted = await _insert(connection, rows)
            results = [tuple(accepted[row.id] for row in submission.rows) for submission in submissions]
        self._publish_hints(rows, accepted)
        if rows:
            log.info(
                "commands.accepted",
                commands=len(rows),
                ms=round((time.perf_counter() - started) * 1000, 1),
                **log_ids(rows),
            )
        return results

    async def _accept_with_keys(
        self, connection: AsyncConnection, submissions: list[Submission], *, is_retry: bool
    ) -> tuple[list[_Result], list[NewCommand], _Accepted]:
        stored = await _claim_keys(connection, submissions)
        decisions = [_decide(submission, stored) for submission in submissions]
        await _release_keys(connection, submissions, decisions)
        await _redirect_keys(connection, submissions, decisions)
        rows = [row for decision in decisions for row in decision.rows]
        new_ids = {row.id for row in rows}
        replayed = [id_ for decision in decisions for id_ in decision.ids if id_ not in new_ids]
        # If the connection broke during the commit, the commit may have succeeded, so a retry first looks for its own
        # commands.
        known = await _read(connection, [*replayed, *(new_ids if is_retry else ())])
        missing = [row for row in rows if row.id not in known]
        accepted = known | (await _insert(connection, missing) if missing else {})
        return [decision.result(accepted) for decision in decisions], rows, accepted

    def _publish_hints(self, rows: Iterable[NewCommand], accepted: _Accepted) -> None:
        subjects: dict[Lane, dict[str, None]] = {}
        for row in rows:
            subjects.setdefault(row.lane, {})[accepted[row.id].subject] = None
        for lane, names in subjects.items():
            self._hints.publish(lane, names)


# --- submissions of one batch that share keys ------------------------------------------------------------------


class _KeyGroups:
    """A batch's submissions, by index, grouped by whether they can be accepted together.

    ``leaders`` have no keys in common. Each of the ``followers`` has exactly the same keys and digests as its leader,
    and gets the leader's commands. ``later`` holds the rest, which share only some keys with a leader.
    """

    def __init__(self, submissions: Sequence[Submission], indexes: Iterable[int]) -> None:
        self.leaders: list[int] = []
        self.followers: dict[int, int] = {}
        self.later: list[int] = []
        owners: dict[tuple[str, str], int] = {}
        for index in indexes:
            submission = submissions[index]
            names = {(submission.caller, key.name) for key in submission.keys}
            sharing = {owners[name] for name in names if name in owners}
            if not sharing:
                owners |= dict.fromkeys(names, index)
                self.leaders.append(index)
            elif len(sharing) == 1 and submissions[leader := sharing.pop()].keys == submission.keys:
                self.followers[index] = leader
            else:
                self.later.append(index)


def _as_replay(result: _Result) -> _Result:
    if isinstance(result, Exception):
        return result
    return tuple(command._replace(is_replay=True) for command in result)


# --- idempotency keys ------------------------------------------------------------------------------------------


class _StoredKey(NamedTuple):
    digest: str
    ids: tuple[UUID, ...]


_StoredKeys = Mapping[tuple[str, str], _StoredKey]


@dataclass(slots=True)
class _Decision:
    """The decision on one submission: which rows to insert and which ids to return, or which refusal to raise.

    ``release`` holds the names of claimed keys to delete. ``redirect`` holds claimed keys that must
    cover earlier commands instead of those for which they were claimed.
    """

    rows: tuple[NewCommand, ...] = ()
    ids: tuple[UUID, ...] = ()
    refusal: Refusal | None = None
    release: list[str] = field(default_factory=list)
    redirect: list[IdempotencyKey] = field(default_factory=list)

    def result(self, accepted: _Accepted) -> _Result:
        if self.refusal:
            return self.refusal
        new = {row.id for row in self.rows}
        return tuple(accepted[id_]._replace(is_replay=id_ not in new) for id_ in self.ids)


def _decide(submission: Submission, stored: _StoredKeys) -> _Decision:
    ids = [row.id for row in submission.rows]
    found = [(key, stored[submission.caller, key.name]) for key in submission.keys]
    claimed = [key for key, known in found if set(known.ids) <= set(ids) and known.digest == key.digest]
    earlier = [(key, known) for key, known in found if key not in claimed]
    if any(known.digest != key.digest for key, known in earlier):
        return _Decision(refusal=IdempotencyKeyReused(), release=[key.name for key in claimed])
    for key, known in earlier:
        for index, id_ in zip(key.indexes, known.ids, strict=True):
            ids[index] = id_
    rows = tuple(row for row, id_ in zip(submission.rows, ids, strict=True) if row.id == id_)
    # A new key must cover the earlier commands that are returned for its request.
    redirect = [key for key in claimed if any(ids[index] != submission.rows[index].id for index in key.indexes)]
    return _Decision(rows=rows, ids=tuple(ids), redirect=redirect)


async def _claim_keys(connection: AsyncConnection, submissions: Sequence[Submission]) -> _StoredKeys:
    """Insert the keys that do not exist yet, and return all the submissions' keys as they are now stored."""
    # Sorted, so that two gateways rarely deadlock.
    rows = sorted(
        (submission.caller, key.name, key.digest, _ids_json(submission, key.indexes))
        for submission in submissions
        for key in submission.keys
    )
    if not rows:
        return {}
    await connection.exec_driver_sql(_INSERT_KEYS, dict(column_arrays(_KEY_COLUMNS, rows)))
    # This is a separate statement, so that its snapshot includes the keys that other transactions committed while the
    # insert waited for them.
    names = {"callers": [row[0] for row in rows], "keys": [row[1] for row in rows]}
    stored = await connection.exec_driver_sql(_READ_KEYS, names)
    return {
        (row.caller, row.key): _StoredKey(row.request_hash, tuple(UUID(each) for each in row.command_ids))
        for row in stored
    }


async def _release_keys(
    connection: AsyncConnection, submissions: Sequence[Submission], decisions: Sequence[_Decision]
) -> None:
    names = [
        (submission.caller, name)
        for submission, decision in zip(submissions, decisions, strict=True)
        for name in decision.release
    ]
    if names:
        await connection.exec_driver_sql(
            _DELETE_KEYS, {"callers": [caller for caller, _ in names], "keys": [key for _, key in names]}
        )


async def _redirect_keys(
    connection: AsyncConnection, submissions: Sequence[Submission], decisions: Sequence[_Decision]
) -> None:
    for submission, decision in zip(submissions, decisions, strict=True):
        for key in decision.redirect:
            ids = [str(decision.ids[index]) for index in key.indexes]
            await connection.exec_driver_sql(
                _UPDATE_KEY, {"ids": orjson.dumps(ids).decode(), "caller": submission.caller, "key": key.name}
            )


def _ids_json(submission: Submission, indexes: Iterable[int]) -> str:
    return orjson.dumps([str(submission.rows[index].id) for index in indexes]).decode()


# --- commands --------------------------------------------------------------------------------------------------


async def _insert(connection: AsyncConnection, rows: Sequence[NewCommand]) -> _Accepted:
    types = {row.id: row.type for row in rows}
    result = await connection.exec_driver_sql(ACCEPT_COMMANDS, dict(accept_parameters(rows)))
    return {row.id: AcceptedCommand(row.id, types[row.id], row.accepted_at, row.subject) for row in result}


async def _read(connection: AsyncConnection, ids: Sequence[UUID]) -> _Accepted:
    if not ids:
        return {}
    rows = await connection.exec_driver_sql(_READ_COMMANDS, {"ids": list(ids)})
    return {row.id: AcceptedCommand(row.id, row.type, row.accepted_at, row.subject) for row in rows}
