"""Functions that claim a batch of commands from the ledger, and count attempts for failed and orphaned commands.

They all run in the caller's transaction. Advisory locks are released when it ends, even if the process dies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple
from uuid import UUID

import orjson
from sqlalchemy.engine import Connection

from models.base import new_id
from models.enums import CommandState
from models.messaging.attempts import FailedCommand, reap_orphaned, record_failed_attempt
from models.messaging.command_ledger import (
    ClaimedCommand,
    lock_subjects,
    read_due_commands,
    try_lock_subjects,
)
from models.messaging.outbox import NewEvent, write_events
from tasks.events import CommandDead, cloud_event
from workers.apply.limits import COMMANDS_PER_BATCH, OBSERVATIONS_PER_RULE, SUBJECTS_PER_BATCH, commands_per_subject

WORKER_DIED: Final = "The worker process died while it applied this command."


class Claim(NamedTuple):
    """The commands to apply in one batch, and the subjects whose commands are to be applied one by one.

    Each of these subjects is mapped to the last ``seq`` to apply. It has a command that failed before, so its commands
    are applied alone: otherwise, others might fail with them.
    """

    batch: list[ClaimedCommand]
    suspects: dict[str, int]


def claim(connection: Connection, hinted: Sequence[str]) -> Claim:
    """Lock subjects, hinted ones first, and read their waiting commands.

    Reading takes a second statement, because the first one's snapshot is older than its locks.
    """
    subjects = lock_subjects(connection, hinted, share=SUBJECTS_PER_BATCH)
    if not subjects:
        return Claim([], {})
    limits = {subject: commands_per_subject(subject) for subject in subjects}
    extra = OBSERVATIONS_PER_RULE if OBSERVATIONS_PER_RULE in limits.values() else 0
    due = read_due_commands(connection, limits, most=COMMANDS_PER_BATCH + extra)
    suspects = last_by_subject([command for command in due if command.attempts])
    return Claim([command for command in due if command.subject not in suspects], suspects)


def claim_next(connection: Connection, subject: str) -> ClaimedCommand | None:
    """Return a subject's first command if no other worker holds the subject and the command may be applied now."""
    if not try_lock_subjects(connection, [subject]):
        return None
    due = read_due_commands(connection, {subject: 1}, most=1)
    return due[0] if due else None


def last_by_subject(commands: Sequence[ClaimedCommand]) -> dict[str, int]:
    """Return the last ``seq`` of each subject among these commands, which must be sorted by ``seq``."""
    return {command.subject: command.seq for command in commands}


def fail_orphaned(connection: Connection, worker: str) -> list[FailedCommand]:
    """Count a failed attempt for every command that was in flight in a worker that died."""
    orphaned = reap_orphaned(connection, worker)
    return fail_commands(connection, orphaned, error=WORKER_DIED) if orphaned else []


def fail_commands(connection: Connection, ids: Sequence[UUID], *, error: str) -> list[FailedCommand]:
    """Count a failed attempt for each command, and emit CommandDead for those that have no attempts left."""
    failed = record_failed_attempt(connection, ids, error=error)
    dead = [command for command in failed if command.state == CommandState.DEAD]
    if dead:
        _emit_dead(connection, dead, error)
    return failed


def _emit_dead(connection: Connection, dead: Sequence[FailedCommand], error: str) -> None:
    rows = connection.exec_driver_sql(
        "SELECT id, slug FROM organizations WHERE id = ANY(%(ids)s::bigint[])",
        {"ids": [command.organization_id for command in dead]},
    )
    slugs: dict[int | None, str] = {row.id: row.slug for row in rows}
    now = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
    events = []
    for command in dead:
        id_, subject = new_id(), f"commands/{command.id}"
        body = cloud_event(
            CommandDead(command_type=command.type, attempts=command.attempts, error=error),
            id=id_,
            organization=slugs.get(command.organization_id, ""),
            subject=subject,
            sequence=1,
            time=now,
            data={"incident": None, "actor": None, "command": str(command.id)},
            traceparent=command.traceparent,
        )
        events.append(
            NewEvent(
                id=id_,
                organization_id=command.organization_id or 0,
                subject=subject,
                sequence=1,
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
