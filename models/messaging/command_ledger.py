"""The command ledger: every accepted command, in order, with its outcome.

A row in the ledger is the commitment to apply a command. A message on a queue is only a hint that a row is waiting. The
statements in this module accept and finish a row. Claims are in :mod:`models.messaging.claims`, and failed attempts in
:mod:`models.messaging.attempts`.
docs/decisions/0001-ledger-and-hints.md has the measurements.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import BigInteger, Boolean, Column, Identity, Index, SmallInteger, Table, Text, Uuid, false, func, text
from sqlalchemy.dialects.postgresql import JSON as JSONType
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Connection

from models.base import METADATA, Timestamp, column_arrays, insert_statement, timestamp_column
from models.enums import CommandState, Lane
from models.messaging.subject import FOREIGN_RULE, INCIDENT_SUBJECT, SubjectKind

IS_WAITING: Final = f"state = '{CommandState.ACCEPTED}'"
"""The SQL condition for commands that have no outcome yet.

It is a literal, not a bound value: with a bound value, PostgreSQL's generic plan could not use the partial indexes.
"""

IS_DEFERRED: Final = "next_attempt_at IS NOT NULL"
"""The SQL condition for commands whose next attempt is scheduled."""

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
    Column("payload_version", SmallInteger, nullable=False, server_default="1"),
    # The version in the request's If-Match header, if it has one.
    Column("expected_version", BigInteger, nullable=True),
    Column("state", Text, nullable=False, server_default=CommandState.ACCEPTED.value),
    timestamp_column("accepted_at"),
    # The start of the transaction that recorded the outcome.
    timestamp_column("claimed_at", nullable=True),
    timestamp_column("finished_at", nullable=True),
    Column("attempts", SmallInteger, nullable=False, server_default="0"),
    # The number of timeouts, which do not count as attempts: see models.messaging.attempts.
    Column("timeouts", SmallInteger, nullable=False, server_default="0"),
    # Whether it was in a batch that ran out of time. It is then applied alone, to find out which command is slow.
    Column("is_alone", Boolean, nullable=False, server_default=false()),
    Column("next_attempt_at", Timestamp, nullable=True),
    Column("outcome_status", SmallInteger, nullable=True),
    Column("outcome_body", JSONType, nullable=True),
    # Of a refusal: the members that only its RFC 9457 form has, such as a more precise code.
    Column("outcome_problem", JSONType, nullable=True),
    Column("error", Text, nullable=True),
    # Of a dead command: see FINGERPRINT.
    Column("fingerprint", Text, nullable=True),
    Column("request_id", Text, nullable=True),
    Column("traceparent", Text, nullable=True),
)
Index(
    "commands_waiting_by_subject_idx",
    commands.c.subject,
    commands.c.seq,
    postgresql_where=text(IS_WAITING),
)
Index("commands_caller_idx", commands.c.caller, commands.c.seq)
Index("commands_waiting_by_lane_idx", commands.c.lane, commands.c.seq, postgresql_where=text(IS_WAITING))
Index("commands_retry_idx", commands.c.next_attempt_at, postgresql_where=text(f"{IS_WAITING} AND {IS_DEFERRED}"))

# For operators' searches: docs/decisions/0033-ops-reads.md. None of them has an entry for a command that waits, so
# acceptance does not pay for them, and the claim cannot be planned with them.
IS_ENDED: Final = f"state <> '{CommandState.ACCEPTED}'"
IS_UNSUCCESSFUL: Final = f"state IN ('{CommandState.REJECTED}', '{CommandState.DEAD}', '{CommandState.DISCARDED}')"
IS_DEAD: Final = f"state = '{CommandState.DEAD}'"
"""The SQL conditions of the indexes below."""
Index("commands_finished_idx", commands.c.finished_at, postgresql_where=text("finished_at IS NOT NULL"))
Index(
    "commands_by_user_idx",
    commands.c.user_id,
    commands.c.seq,
    postgresql_where=text(f"{IS_ENDED} AND user_id IS NOT NULL"),
)
Index(
    "commands_by_type_idx",
    commands.c.type,
    commands.c.organization_id,
    commands.c.seq,
    postgresql_where=text(IS_ENDED),
)
# Of subjects that are one incident's. Those of rules, to which observations belong, are shared by many incidents.
IS_OF_INCIDENT: Final = f"starts_with(subject, '{SubjectKind.INCIDENT}:')"
Index(
    "commands_by_subject_idx",
    commands.c.subject,
    commands.c.seq,
    postgresql_where=text(f"{IS_ENDED} AND {IS_OF_INCIDENT}"),
)
Index("commands_unsuccessful_idx", commands.c.state, commands.c.seq, postgresql_where=text(IS_UNSUCCESSFUL))
Index("commands_dead_idx", commands.c.fingerprint, commands.c.seq, postgresql_where=text(IS_DEAD))
TRACE_ID: Final = "split_part(traceparent, '-', 2)"
Index(
    "commands_trace_idx",
    func.split_part(commands.c.traceparent, text("'-'"), text("2")),
    postgresql_where=text("traceparent IS NOT NULL"),
)

idempotency_keys = Table(
    "idempotency_keys",
    METADATA,
    Column("caller", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("request_hash", Text, nullable=False),
    # A list of command ids as text: one key may cover a whole bulk request.
    Column("command_ids", JSONB, nullable=False),
    timestamp_column("date_created"),
)
Index("idempotency_keys_date_created_idx", idempotency_keys.c.date_created)


# --- accept ----------------------------------------------------------------------------------------------------


class NewCommand(NamedTuple):
    """A command to insert. ``payload`` is serialized JSON, and ``caller`` identifies who may read the outcome.

    ``expected_version`` is the resource's version as the caller last read it, or ``None`` to accept any version. If
    ``incident`` is the identifier of an existing incident in the organization, the command gets that incident's subject
    instead of ``subject``. ``payload_version`` is the version of the type's payload format.
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
    incident: int | None = None
    payload_version: int = 1


_SUBJECT: Final = f"""
coalesce((SELECT {INCIDENT_SUBJECT} FROM incidents i
          WHERE i.organization_id = u.organization_id AND i.identifier = u.incident),
         CASE WHEN {FOREIGN_RULE} THEN '{SubjectKind.COMMAND}:' || u.id ELSE u.subject END)
"""  # noqa: S608 - our own expression

ACCEPT_COMMANDS: Final = insert_statement(
    commands,
    tuple(name for name in NewCommand._fields if name != "incident"),
    "RETURNING id, accepted_at, subject",
    extra=(("incident", "bigint[]"),),
    computed=(("subject", _SUBJECT),),
    # This gives the transaction an id before it draws its first seq: see models.messaging.claims.propose_floor.
    condition="pg_current_xact_id() IS NOT NULL",
)
"""The statement that inserts commands and returns their subjects. Their ``seq`` increases in the order of the arrays.

An incident's subject never changes, so it is read when the command is accepted. A command about another organization's
rule, which will be refused, gets a subject of its own, so that it cannot delay the rule's commands.
"""


def accept_parameters(rows: Iterable[NewCommand]) -> Mapping[str, list[Any]]:
    """Return the parameters for :data:`ACCEPT_COMMANDS`."""
    return column_arrays(NewCommand._fields, rows)


def accept_commands(connection: Connection, rows: Sequence[NewCommand]) -> list[str]:
    """Accept follow-up commands, in the same transaction as the change that causes them. Return their subjects."""
    if not rows:
        return []
    return [row.subject for row in connection.exec_driver_sql(ACCEPT_COMMANDS, dict(accept_parameters(rows)))]


# --- record outcomes --------------------------------------------------------------------------------------------


class CommandOutcome(NamedTuple):
    """The final outcome of a command. ``body`` is serialized JSON, or ``None`` for a response without a body.

    ``problem`` is a JSON object with the members that only the RFC 9457 form of a refusal has.
    """

    id: UUID
    state: CommandState
    status: int
    body: str | None
    problem: str | None = None


_RECORD_OUTCOMES: Final = f"""
UPDATE commands c
SET state = o.state, outcome_status = o.status, outcome_body = o.body::json, outcome_problem = o.problem::json,
    finished_at = clock_timestamp(), claimed_at = greatest(now(), c.accepted_at), attempts = c.attempts + 1,
    next_attempt_at = NULL, error = NULL
FROM unnest(%(id)b::uuid[], %(state)b::text[], %(status)b::smallint[], %(body)b::text[], %(problem)b::text[])
    AS o(id, state, status, body, problem)
WHERE c.id = o.id AND c.{IS_WAITING}
"""  # noqa: S608 - our own condition


class CommandAlreadyFinished(Exception):
    """Raised when another process has finished a command of this batch, so that the batch must be rolled back."""


def record_outcomes(connection: Connection, outcomes: Sequence[CommandOutcome]) -> None:
    """Record the outcomes of a batch of commands.

    :raises CommandAlreadyFinished: when one of the commands already has an outcome.
    """
    parameters = dict(column_arrays(CommandOutcome._fields, outcomes))
    if connection.exec_driver_sql(_RECORD_OUTCOMES, parameters).rowcount != len(outcomes):
        raise CommandAlreadyFinished


# --- prune ------------------------------------------------------------------------------------------------------


# The state is not a condition of the subquery, so that a plan cannot read all waiting commands for each key.
_PRUNE_KEYS: Final = f"""
DELETE FROM idempotency_keys WHERE ctid = ANY(ARRAY(
    SELECT k.ctid FROM idempotency_keys k
    WHERE k.date_created < now() - make_interval(secs => %(seconds)s)
      AND (
          SELECT bool_or(c.{IS_WAITING}) FROM commands c
          WHERE c.id = ANY(ARRAY(SELECT jsonb_array_elements_text(k.command_ids)::uuid))
      ) IS NOT TRUE
    ORDER BY k.date_created LIMIT %(most)s
))
"""  # noqa: S608 - our own condition


def prune_idempotency_keys(connection: Connection, *, older_than_hours: float, most: int = 10_000) -> int:
    """Delete up to ``most`` idempotency keys that are older than ``older_than_hours``, oldest first.

    A key is kept as long as one of its commands is waiting, because a repeated request would add a second one. Return
    the number of deleted keys.
    """
    parameters = {"seconds": older_than_hours * 3600, "most": most}
    return connection.exec_driver_sql(_PRUNE_KEYS, parameters).rowcount
