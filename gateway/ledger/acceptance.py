"""Concurrent commands → one insert, one commit, one hint.

What arrives while the previous commit is in flight goes together. Keys of repetitions live in the same transaction as
the commands they cover, so that two gateways agree on who came first.
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
from models.database.engine import is_transient, sqlstate
from models.enums import Lane
from models.messaging.command_ledger import ACCEPT_COMMANDS, NewCommand, accept_parameters, idempotency_keys
from models.messaging.trace import request_ids
from models.refusals import IdempotencyKeyReused, Refusal, Unavailable

ATTEMPTS: Final = 3
"""How often a batch is tried when it met a deadlock or a connection that broke."""

_UNIQUE: Final = "23505"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Key:
    """A key that a caller gave: which commands of the request it covers, and a digest of what was asked."""

    name: str
    digest: str
    places: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Submission:
    """The commands of one request, about to be accepted; all or none are."""

    rows: tuple[NewCommand, ...]
    keys: tuple[Key, ...] = ()


class Accepted(NamedTuple):
    """A command in the ledger. ``is_replay`` says that an earlier request brought it there."""

    id: UUID
    type: str
    accepted_at: datetime
    is_replay: bool = False


class Hints(Protocol):
    """Whoever tells the workers; it neither blocks nor raises."""

    def publish(self, lane: Lane, subjects: Iterable[str]) -> None:
        """Say that these subjects have work."""


_Answer = tuple[Accepted, ...]

_KEY_COLUMNS: Final = ("caller", "key", "request_hash", "command_ids")
_INSERT_KEYS: Final = insert_statement(idempotency_keys, _KEY_COLUMNS, "ON CONFLICT DO NOTHING")
_NAMED: Final = "FROM unnest(%(callers)b::text[], %(keys)b::text[]) AS n(caller, key)"
_READ_KEYS: Final = (
    f"SELECT k.caller, k.key, k.request_hash, k.command_ids {_NAMED}"
    " JOIN idempotency_keys k ON k.caller = n.caller AND k.key = n.key"
)
_FORGET_KEYS: Final = (
    "DELETE FROM idempotency_keys k USING unnest(%(callers)b::text[], %(keys)b::text[]) AS n(caller, key)"
    " WHERE k.caller = n.caller AND k.key = n.key"
)
_REWRITE_KEY: Final = (
    "UPDATE idempotency_keys SET command_ids = %(ids)s::jsonb WHERE caller = %(caller)s AND key = %(key)s"
)
_READ_COMMANDS: Final = "SELECT id, type, accepted_at FROM commands WHERE id = ANY(%(ids)b::uuid[])"


class CommandAcceptor:
    """Takes commands into the ledger; an answer means that they are committed."""

    def __init__(self, engine: AsyncEngine, hints: Hints, *, seconds: float, in_flight: int = 1) -> None:
        self._engine = engine
        # Without keys the insert is one statement, which needs no transaction around it.
        self._bare = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._hints = hints
        self._batcher: Batcher[Submission, _Answer] = Batcher(
            self._accept_batch, max_size=500, timeout_seconds=seconds, max_in_flight=in_flight
        )

    async def accept(self, application: Submission, *, deadline: float) -> tuple[Accepted, ...]:
        """Take the commands of a request, or find those that an equal request with the same key brought.

        :raises KeyReused: a key covers another request; nothing was accepted.
        :raises Unavailable: the database did not take it in time; it may have taken it nevertheless.
        """
        return await self._batcher.submit(application, deadline=deadline)

    async def stop(self) -> None:
        """Let what is in flight end."""
        await self._batcher.stop()

    async def _accept_batch(self, applications: list[Submission]) -> Sequence[_Answer | Exception]:
        answers: list[_Answer | Exception] = [Unavailable()] * len(applications)
        todo = list(range(len(applications)))
        while todo:
            turn = _Turn(applications, todo)
            results = await self._accept_together([applications[place] for place in turn.leaders])
            for place, result in zip(turn.leaders, results, strict=True):
                answers[place] = result
            for place, leader in turn.followers.items():
                answers[place] = _replayed(answers[leader])
            todo = turn.later
        return answers

    async def _accept_together(self, applications: list[Submission]) -> Sequence[_Answer | Exception]:
        for attempt in range(ATTEMPTS):
            try:
                return await self._try(applications, again=attempt > 0)
            except DBAPIError as fault:
                if is_transient(fault) or (attempt and sqlstate(fault) == _UNIQUE):
                    continue
                if len(applications) == 1:
                    return [fault]
                # One of them holds what the database cannot take: one by one, only that one fails.
                return [(await self._accept_together([application]))[0] for application in applications]
            except Exception as fault:
                raise (Unavailable() if is_transient(fault) else fault) from fault
        raise Unavailable

    async def _try(self, applications: list[Submission], *, again: bool) -> list[_Answer | Exception]:
        started = time.perf_counter()
        if any(application.keys for application in applications) or again:
            async with self._engine.begin() as connection:
                answers, rows = await self._with_keys(connection, applications, again=again)
        else:
            rows = [row for application in applications for row in application.rows]
            async with self._bare.connect() as connection:
                dates = await _insert(connection, rows)
            answers = [_fresh(application.rows, dates) for application in applications]
        self._hint(rows)
        log.info(
            "commands.accepted",
            commands=len(rows),
            ms=round((time.perf_counter() - started) * 1000, 1),
            request_ids=request_ids(row.request_id for row in rows),
        )
        return answers

    async def _with_keys(
        self, connection: AsyncConnection, applications: list[Submission], *, again: bool
    ) -> tuple[list[_Answer | Exception], list[NewCommand]]:
        stored = await _claim_keys(connection, applications)
        decisions = [_decide(application, stored) for application in applications]
        await _forget_keys(connection, applications, decisions)
        await _rewrite_keys(connection, applications, decisions)
        rows = [row for decision in decisions for row in decision.rows]
        ours = {row.id for row in rows}
        replays = [id_ for decision in decisions for id_ in decision.ids if id_ not in ours]
        # After a connection broke nobody knows whether the commit came through: look before inserting again.
        known = await _read(connection, [*replays, *(ours if again else ())])
        missing = [row for row in rows if row.id not in known]
        dates = await _insert(connection, missing) if missing else {}
        dates |= {id_: found.accepted_at for id_, found in known.items()}
        return [decision.answer(dates, known) for decision in decisions], rows

    def _hint(self, rows: Iterable[NewCommand]) -> None:
        subjects: dict[Lane, dict[str, None]] = {}
        for row in rows:
            subjects.setdefault(row.lane, {})[row.subject] = None
        for lane, names in subjects.items():
            self._hints.publish(lane, names)


# --- requests of one batch that share keys ---------------------------------------------------------------------


class _Turn:
    """Who of a batch can go now: requests whose keys differ lead, equal ones follow, others come later."""

    def __init__(self, applications: Sequence[Submission], places: Iterable[int]) -> None:
        self.leaders: list[int] = []
        self.followers: dict[int, int] = {}
        self.later: list[int] = []
        owners: dict[tuple[str, str], int] = {}
        for place in places:
            application = applications[place]
            names = {(application.rows[0].caller, key.name) for key in application.keys}
            taken = {owners[name] for name in names if name in owners}
            if not taken:
                owners |= dict.fromkeys(names, place)
                self.leaders.append(place)
            elif len(taken) == 1 and applications[leader := taken.pop()].keys == application.keys:
                self.followers[place] = leader
            else:
                self.later.append(place)


def _replayed(answer: _Answer | Exception) -> _Answer | Exception:
    if isinstance(answer, Exception):
        return answer
    return tuple(accepted._replace(is_replay=True) for accepted in answer)


# --- keys ------------------------------------------------------------------------------------------------------


class _Stored(NamedTuple):
    digest: str
    ids: tuple[UUID, ...]


_StoredKeys = Mapping[tuple[str, str], _Stored]


@dataclass(slots=True)
class _Decision:
    """What becomes of one request: its rows to insert and the ids of its answer, or a refusal."""

    rows: tuple[NewCommand, ...] = ()
    ids: tuple[UUID, ...] = ()
    refusal: Refusal | None = None
    forget: list[str] = field(default_factory=list)
    rewrite: list[Key] = field(default_factory=list)

    def answer(self, dates: Mapping[UUID, datetime], known: Mapping[UUID, Accepted]) -> _Answer | Exception:
        if self.refusal:
            return self.refusal
        own = {row.id: row for row in self.rows}
        return tuple(
            Accepted(id_, own[id_].type, dates[id_]) if id_ in own else known[id_]._replace(is_replay=True)
            for id_ in self.ids
        )


def _decide(application: Submission, stored: _StoredKeys) -> _Decision:
    caller = application.rows[0].caller
    ids = [row.id for row in application.rows]
    found = [(key, stored[caller, key.name]) for key in application.keys]
    ours = [key for key, kept in found if set(kept.ids) <= set(ids) and kept.digest == key.digest]
    others = [(key, kept) for key, kept in found if key not in ours]
    if any(kept.digest != key.digest for key, kept in others):
        return _Decision(refusal=IdempotencyKeyReused(), forget=[key.name for key in ours])
    for key, kept in others:
        for place, id_ in zip(key.places, kept.ids, strict=True):
            ids[place] = id_
    rows = tuple(row for row, id_ in zip(application.rows, ids, strict=True) if row.id == id_)
    # A key that is new remembers what its commands turned out to be.
    rewrite = [key for key in ours if any(ids[place] != application.rows[place].id for place in key.places)]
    return _Decision(rows=rows, ids=tuple(ids), rewrite=rewrite)


async def _claim_keys(connection: AsyncConnection, applications: Sequence[Submission]) -> _StoredKeys:
    # Sorted, so that two gateways rarely wait for each other in a circle.
    rows = sorted(
        (application.rows[0].caller, key.name, key.digest, _ids_text(application, key.places))
        for application in applications
        for key in application.keys
    )
    if not rows:
        return {}
    await connection.exec_driver_sql(_INSERT_KEYS, dict(column_arrays(_KEY_COLUMNS, rows)))
    # A later statement: it sees what others committed while ours waited for them.
    names = {"callers": [row[0] for row in rows], "keys": [row[1] for row in rows]}
    kept = await connection.exec_driver_sql(_READ_KEYS, names)
    return {
        (row.caller, row.key): _Stored(row.request_hash, tuple(UUID(each) for each in row.command_ids)) for row in kept
    }


async def _forget_keys(
    connection: AsyncConnection, applications: Sequence[Submission], decisions: Sequence[_Decision]
) -> None:
    names = [
        (application.rows[0].caller, name)
        for application, decision in zip(applications, decisions, strict=True)
        for name in decision.forget
    ]
    if names:
        await connection.exec_driver_sql(
            _FORGET_KEYS, {"callers": [caller for caller, _ in names], "keys": [key for _, key in names]}
        )


async def _rewrite_keys(
    connection: AsyncConnection, applications: Sequence[Submission], decisions: Sequence[_Decision]
) -> None:
    for application, decision in zip(applications, decisions, strict=True):
        for key in decision.rewrite:
            ids = [str(decision.ids[place]) for place in key.places]
            await connection.exec_driver_sql(
                _REWRITE_KEY,
                {"ids": orjson.dumps(ids).decode(), "caller": application.rows[0].caller, "key": key.name},
            )


def _ids_text(application: Submission, places: Iterable[int]) -> str:
    return orjson.dumps([str(application.rows[place].id) for place in places]).decode()


# --- commands --------------------------------------------------------------------------------------------------


async def _insert(connection: AsyncConnection, rows: Sequence[NewCommand]) -> dict[UUID, datetime]:
    result = await connection.exec_driver_sql(ACCEPT_COMMANDS, dict(accept_parameters(rows)))
    return {row.id: row.accepted_at for row in result}


async def _read(connection: AsyncConnection, ids: Sequence[UUID]) -> dict[UUID, Accepted]:
    if not ids:
        return {}
    rows = await connection.exec_driver_sql(_READ_COMMANDS, {"ids": list(ids)})
    return {row.id: Accepted(row.id, row.type, row.accepted_at) for row in rows}


def _fresh(rows: Iterable[NewCommand], dates: Mapping[UUID, datetime]) -> _Answer:
    return tuple(Accepted(row.id, row.type, dates[row.id]) for row in rows)
