"""Failures to apply commands: what is counted against each command, and the event for a command that is now dead."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

import orjson
from billiard.exceptions import SoftTimeLimitExceeded
from pydantic import ValidationError
from sqlalchemy.engine import Connection

from models.base import new_id
from models.database.errors import is_contention, is_timeout
from models.enums import CommandState
from models.messaging.attempts import FailedCommand, count_attempts, count_timeouts, postpone, reap_orphaned
from models.messaging.outbox import NewEvent, last_sequences, write_events
from tasks.events import CommandDead, cloud_event

WORKER_DIED: Final = "The worker process died while it applied this command."
CONTENTION_DELAY: Final = timedelta(seconds=1)
"""How long a command waits after contention with another transaction, which is no command's fault and never counted."""


class DeathReason(StrEnum):
    """Why a command died: its attempts ended in faults, in timeouts, or with the worker process."""

    FAULT = "fault"
    TIMEOUT = "timeout"
    WORKER_DIED = "worker_died"


def reason_of(error: Exception) -> DeathReason:
    """Return which kind of failure an error is."""
    is_late = is_timeout(error) or isinstance(error, SoftTimeLimitExceeded)
    return DeathReason.TIMEOUT if is_late else DeathReason.FAULT


def fail_orphaned(connection: Connection, worker: str) -> list[FailedCommand]:
    """Count a failed attempt for every command that was in flight in a worker that died."""
    orphaned = reap_orphaned(connection, worker)
    if not orphaned:
        return []
    return _bury(connection, count_attempts(connection, orphaned, error=WORKER_DIED), WORKER_DIED)


def fail_commands(connection: Connection, ids: Sequence[UUID], error: Exception) -> list[FailedCommand]:
    """Count a failed attempt or a timeout for each command, and emit CommandDead for those that are now dead.

    The error decides which of the two is counted. After contention nothing is counted, and the result is empty.
    """
    text = _describe(error)
    if is_contention(error):
        postpone(connection, ids, delay=CONTENTION_DELAY)
        return []
    count = count_timeouts if reason_of(error) is DeathReason.TIMEOUT else count_attempts
    return _bury(connection, count(connection, ids, error=text), text)


def _bury(connection: Connection, failed: list[FailedCommand], error: str) -> list[FailedCommand]:
    """Emit CommandDead for the commands that are now dead, and return all the commands."""
    dead = [command for command in failed if command.state == CommandState.DEAD]
    if not dead:
        return failed
    rows = connection.exec_driver_sql(
        "SELECT id, slug FROM organizations WHERE id = ANY(%(ids)s::bigint[])",
        {"ids": [command.organization_id for command in dead]},
    )
    slugs: dict[int | None, str] = {row.id: row.slug for row in rows}
    # A command dies more than once if it is put back into the ledger by hand.
    sequences = last_sequences(connection, [_event_subject(command) for command in dead])
    now = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
    events = []
    for command in dead:
        id_, subject = new_id(), _event_subject(command)
        sequence = sequences.get(subject, 0) + 1
        body = cloud_event(
            CommandDead(command_type=command.type, attempts=command.failures, error=error),
            id=id_,
            organization=slugs.get(command.organization_id, ""),
            subject=subject,
            sequence=sequence,
            time=now,
            data={"incident": None, "actor": None, "command": str(command.id)},
            traceparent=command.traceparent,
        )
        events.append(
            NewEvent(
                id=id_,
                organization_id=command.organization_id or 0,
                subject=subject,
                sequence=sequence,
                type=CommandDead.type,
                incident_id=None,
                activity_id=None,
                command_id=command.id,
                body=orjson.dumps(body).decode(),
                planned_at=now,
                request_id=command.request_id,
                traceparent=command.traceparent,
            )
        )
    write_events(connection, events)
    return failed


def _describe(error: Exception) -> str:
    """Return the error as operators see it in a dead letter: its type and its first line, at most 500 characters."""
    if isinstance(error, ValidationError):
        return f"The stored command cannot be read: {error.error_count()} of its fields are invalid."
    if isinstance(error, SoftTimeLimitExceeded):
        return "The command was not applied within the time limit of a task."
    first_line = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first_line}"[:500]


def _event_subject(command: FailedCommand) -> str:
    return f"commands/{command.id}"
