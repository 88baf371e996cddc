"""The ledger: every command that was accepted, in order, with its outcome.

A row here is the promise; a message on a queue is only a hint that a row is waiting. The statements of this
file are the whole life of a row: accept, claim, settle, retry, and counting the attempts of a process that died.
See docs/decisions/0001-ledger-and-hints.md for what was measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import BigInteger, Column, Identity, Index, SmallInteger, Table, Text, Uuid, text
from sqlalchemy.dialects.postgresql import JSON as JSONType
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Connection

from models.base import METADATA, Timestamp, column_arrays, insert_statement, moment_column
from models.enums import JSON, CommandState, Lane
from models.messaging.trace import Trace

MAX_ATTEMPTS: Final = 5
BACK_OFF: Final = tuple(timedelta(seconds=seconds) for seconds in (0.2, 1, 5, 15))
"""How long a command waits after its 1st, 2nd, 3rd and 4th failed attempt; after the 5th it is dead."""

commands = Table(
    "commands",
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("seq", BigInteger, Identity(always=True), nullable=False, unique=True),
    Column("type", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("lane", Text, nullable=False),
    Column("organization_id", BigInteger, nullable=True),
    Column("token_id", BigInteger, nullable=True),
    Column("user_id", BigInteger, nullable=True),
    Column("caller", Text, nullable=False),
    Column("payload", JSONB, nullable=False),
    # The version that If-Match names, where the caller sent it.
    Column("expected_version", BigInteger, nullable=True),
    Column("state", Text, nullable=False, server_default=CommandState.ACCEPTED.value),
    moment_column("accepted_at"),
    moment_column("finished_at", nullable=True),
    Column("attempts", SmallInteger, nullable=False, server_default="0"),
    Column("next_attempt_at", Timestamp, nullable=True),
    Column("outcome_status", SmallInteger, nullable=True),
    Column("outcome_body", JSONType, nullable=True),
    Column("error", Text, nullable=True),
    Column("request_id", Text, nullable=True),
    Column("traceparent", Text, nullable=True),
)
Index(
    "commands_waiting_by_subject_idx",
    commands.c.subject,
    commands.c.seq,
    postgresql_where=text("state = 'accepted'"),
)
Index("commands_waiting_idx", commands.c.seq, postgresql_where=text("state = 'accepted'"))

idempotency_keys = Table(
    "idempotency_keys",
    METADATA,
    Column("caller", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("request_hash", Text, nullable=False),
    # A list of command ids as text: one key may cover a whole bulk request.
    Column("command_ids", JSONB, nullable=False),
    moment_column("date_created"),
)
Index("idempotency_keys_date_created_idx", idempotency_keys.c.date_created)

hands = Table(
    "batches_in_hand",
    METADATA,
    Column("worker", Text, primary_key=True),
    Column("commands", JSONB, nullable=False),
    # A server that was restarted broke off the batch itself: no attempt counts then.
    moment_column("server_started"),
    moment_column("since"),
)


# --- accept ----------------------------------------------------------------------------------------------------


class NewCommand(NamedTuple):
    """A row about to be accepted. ``payload`` is a string of JSON; ``caller`` names who may read the outcome.

    ``expected_version`` is that of the resource the caller means to change, ``None`` if any will do.
    """

    id: UUID
    type: str
    subject: str
    lane: Lane
    organization_id: int | None
    token_id: int | None
    user_id: int | None
    caller: str
    payload: str
    expected_version: int | None = None
    request_id: str | None = None
    traceparent: str | None = None


ACCEPT_COMMANDS: Final = insert_statement(commands, NewCommand._fields, "RETURNING id, accepted_at")
"""Insert commands in order; identities rise with the order of the arrays."""


def accept_parameters(rows: Iterable[NewCommand]) -> Mapping[str, list[Any]]:
    """The parameters of :data:`ACCEPT_COMMANDS`."""
    return column_arrays(NewCommand._fields, rows)


def accept_commands(connection: Connection, rows: Sequence[NewCommand]) -> None:
    """Accept commands inside the caller's transaction, as follow-ups of what it does."""
    if rows:
        connection.exec_driver_sql(ACCEPT_COMMANDS, dict(accept_parameters(rows)))


# --- claim -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClaimedCommand:
    """A command in a worker's hands. ``payload`` is parsed JSON."""

    id: UUID
    seq: int
    type: str
    subject: str
    organization_id: int | None
    token_id: int | None
    user_id: int | None
    payload: JSON
    accepted_at: datetime
    attempts: int
    expected_version: int | None
    request_id: str | None
    traceparent: str | None

    @property
    def trace(self) -> Trace:
        """The request that the command came with."""
        return Trace(self.request_id, self.traceparent)


_LOCK_SUBJECTS: Final = """
WITH hinted AS MATERIALIZED (
    SELECT h.subject, 0 AS turn, waiting.seq
    FROM unnest(%(hinted)s::text[]) AS h(subject)
    CROSS JOIN LATERAL (
        SELECT c.seq FROM commands c WHERE c.subject = h.subject AND c.state = 'accepted' ORDER BY c.seq LIMIT 1
    ) AS waiting
), oldest AS MATERIALIZED (
    SELECT window_.subject, 1 AS turn, min(window_.seq) AS seq
    FROM (SELECT c.subject, c.seq FROM commands c WHERE c.state = 'accepted' ORDER BY c.seq LIMIT %(window)s) AS window_
    GROUP BY window_.subject
), candidates AS MATERIALIZED (
    SELECT subject FROM (SELECT * FROM hinted UNION ALL SELECT * FROM oldest) AS both_
    GROUP BY subject ORDER BY min(turn), min(seq) LIMIT %(candidates)s
)
SELECT subject FROM candidates
WHERE pg_try_advisory_xact_lock(hashtextextended('apply:' || subject, 0))
LIMIT %(share)s
"""

_READ_SUBJECTS: Final = """
SELECT c.id, c.seq, c.type, c.subject, c.organization_id, c.token_id, c.user_id, c.payload, c.accepted_at, c.attempts,
       c.expected_version, c.request_id, c.traceparent, coalesce(c.next_attempt_at > now(), false) AS not_due
FROM unnest(%(subjects)s::text[], %(most_of_each)s::bigint[]) AS s(subject, most)
CROSS JOIN LATERAL (
    SELECT * FROM commands WHERE subject = s.subject AND state = 'accepted' ORDER BY seq LIMIT s.most
) AS c
ORDER BY c.seq
LIMIT %(most)s
"""


def lock_subjects(connection: Connection, hinted: Sequence[str], *, share: int, window: int = 1000) -> list[str]:
    """Lock up to ``share`` subjects with waiting commands until the transaction ends: hinted ones first, then oldest.

    Reading what waits on them must be a **later** statement: this one's snapshot is older than its locks.
    """
    rows = connection.exec_driver_sql(
        _LOCK_SUBJECTS, {"hinted": list(hinted), "window": window, "candidates": 4 * share, "share": share}
    )
    return [row.subject for row in rows]


def try_lock_subjects(connection: Connection, subjects: Sequence[str]) -> set[str]:
    """Lock those of the subjects that nobody else has in hand, and say which."""
    rows = connection.exec_driver_sql(
        "SELECT s.subject FROM unnest(%(subjects)s::text[]) AS s(subject)"
        " WHERE pg_try_advisory_xact_lock(hashtextextended('apply:' || s.subject, 0))",
        {"subjects": list(subjects)},
    )
    return {row.subject for row in rows}


AFTER_LAST_SEQ: Final = 2**63
"""After every ``seq``."""


class WaitingCommands(NamedTuple):
    """What waits on some subjects: what is due, in order of ``seq``, and at which ``seq`` a subject has to pause.

    ``through`` is the last ``seq`` that was looked at: there may be more behind it.
    """

    due: list[ClaimedCommand]
    paused_at: dict[str, int]
    read_through: int = AFTER_LAST_SEQ


def read_waiting_commands(connection: Connection, subjects: Mapping[str, int], *, most: int) -> WaitingCommands:
    """The waiting commands of locked subjects: of each its longest prefix that is due, no longer than is said here."""
    rows = connection.exec_driver_sql(
        _READ_SUBJECTS,
        {"subjects": list(subjects), "most_of_each": list(subjects.values()), "most": most},
    ).all()
    waiting = WaitingCommands([], {}, rows[-1].seq if len(rows) == most else AFTER_LAST_SEQ)
    for *fields, not_due in rows:
        command = ClaimedCommand(*fields)
        if not_due:
            waiting.paused_at.setdefault(command.subject, command.seq)
        if command.subject not in waiting.paused_at:
            waiting.due.append(command)
    return waiting


# --- settle ----------------------------------------------------------------------------------------------------


class CommandOutcome(NamedTuple):
    """A command's final outcome; ``body`` is a string of JSON, ``None`` for an answer without one."""

    id: UUID
    state: CommandState
    status: int
    body: str | None


_SETTLE: Final = """
UPDATE commands c
SET state = o.state, outcome_status = o.status, outcome_body = o.body::json, finished_at = clock_timestamp(),
    attempts = c.attempts + 1, next_attempt_at = NULL, error = NULL
FROM unnest(%(id)b::uuid[], %(state)b::text[], %(status)b::smallint[], %(body)b::text[]) AS o(id, state, status, body)
WHERE c.id = o.id AND c.state = 'accepted'
"""


class LostRace(Exception):
    """A command in this batch was finished by someone else: the batch must be rolled back."""


def record_outcomes(connection: Connection, outcomes: Sequence[CommandOutcome]) -> None:
    """Record outcomes.

    :raises LostRace: one of the commands was not waiting any more.
    """
    parameters = dict(column_arrays(CommandOutcome._fields, outcomes))
    if connection.exec_driver_sql(_SETTLE, parameters).rowcount != len(outcomes):
        raise LostRace


# --- retry -----------------------------------------------------------------------------------------------------

_COUNT_ATTEMPTS: Final = """
UPDATE commands c
SET attempts = c.attempts + 1, error = %(error)s,
    state = CASE WHEN c.attempts + 1 >= %(most)s THEN 'dead' ELSE 'accepted' END,
    finished_at = CASE WHEN c.attempts + 1 >= %(most)s THEN clock_timestamp() END,
    next_attempt_at = CASE WHEN c.attempts + 1 < %(most)s
        THEN clock_timestamp() + make_interval(secs => (%(back_off)s::float8[])[c.attempts + 1]) END
WHERE c.id = ANY(%(ids)s::uuid[]) AND c.state = 'accepted'
RETURNING c.id, c.type, c.subject, c.organization_id, c.state, c.attempts, c.request_id, c.traceparent
"""


class FailedCommand(NamedTuple):
    """A command after a failed attempt; ``state`` is ``dead`` after the fifth."""

    id: UUID
    type: str
    subject: str
    organization_id: int | None
    state: str
    attempts: int
    request_id: str | None
    traceparent: str | None

    @property
    def trace(self) -> Trace:
        """The request that the command came with."""
        return Trace(self.request_id, self.traceparent)


def record_failed_attempt(connection: Connection, ids: Sequence[UUID], *, error: str) -> list[FailedCommand]:
    """Count a failed attempt of each command that still waits; it waits for its back-off or is dead."""
    rows = connection.exec_driver_sql(
        _COUNT_ATTEMPTS,
        {
            "ids": list(ids),
            "error": error,
            "most": MAX_ATTEMPTS,
            "back_off": [pause.total_seconds() for pause in BACK_OFF],
        },
    )
    return [FailedCommand(*row) for row in rows]


def postpone(connection: Connection, ids: Sequence[UUID], *, seconds: float) -> None:
    """Let commands wait without counting an attempt: the fault was not theirs."""
    connection.exec_driver_sql(
        "UPDATE commands SET next_attempt_at = clock_timestamp() + make_interval(secs => %(seconds)s)"
        " WHERE id = ANY(%(ids)s::uuid[]) AND state = 'accepted'",
        {"ids": list(ids), "seconds": seconds},
    )


# --- the batch in hand -----------------------------------------------------------------------------------------


def record_in_flight(connection: Connection, worker: str, ids: Sequence[UUID]) -> None:
    """Write down, in a transaction of its own, which commands a worker is about to try."""
    connection.exec_driver_sql(
        "INSERT INTO batches_in_hand (worker, commands, server_started, since)"
        " VALUES (%(worker)s, to_jsonb(%(ids)s::uuid[]), pg_postmaster_start_time(), clock_timestamp())"
        " ON CONFLICT (worker) DO UPDATE SET commands = excluded.commands, server_started = excluded.server_started,"
        " since = excluded.since",
        {"worker": worker, "ids": list(ids)},
    )


def clear_in_flight(connection: Connection, worker: str) -> None:
    """Nothing is in this worker's hands."""
    connection.exec_driver_sql("DELETE FROM batches_in_hand WHERE worker = %(worker)s", {"worker": worker})


def lock_worker(connection: Connection, worker: str) -> None:
    """Lock this worker's row for the transaction: who can lock it instead knows that the batch broke off."""
    connection.exec_driver_sql(
        "SELECT pg_advisory_xact_lock(hashtextextended('hand:' || %(worker)s, 0))", {"worker": worker}
    )


def reap_orphaned(connection: Connection, worker: str) -> list[UUID]:
    """The commands that dead workers had in hand; their rows are taken away in this transaction.

    A worker in mid-batch holds its lock, so a row whose lock is free was left by a process that died, or by one
    that has committed: then its commands no longer wait, and counting does nothing.
    """
    rows = connection.exec_driver_sql(
        "DELETE FROM batches_in_hand WHERE worker IN ("
        " SELECT worker FROM batches_in_hand WHERE worker <> %(worker)s"
        " AND pg_try_advisory_xact_lock(hashtextextended('hand:' || worker, 0)))"
        " RETURNING commands, server_started >= pg_postmaster_start_time() AS counts",
        {"worker": worker},
    )
    return [UUID(each) for row in rows if row.counts for each in row.commands]


# --- prune ------------------------------------------------------------------------------------------------------


def prune_idempotency_keys(connection: Connection, *, older_than_hours: float, most: int = 10_000) -> int:
    """Forget idempotency keys that are old enough, the oldest ``most`` of them; say how many."""
    return connection.exec_driver_sql(
        "DELETE FROM idempotency_keys WHERE ctid = ANY(ARRAY("
        " SELECT ctid FROM idempotency_keys WHERE date_created < now() - make_interval(secs => %(seconds)s)"
        " ORDER BY date_created LIMIT %(most)s))",
        {"seconds": older_than_hours * 3600, "most": most},
    ).rowcount
