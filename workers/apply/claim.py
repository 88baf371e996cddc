"""What a batch takes from the ledger, and how it knows that another worker died.

Everything here runs inside the batch's transaction: its advisory locks end with it, whatever happens to the process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple
from uuid import UUID

import orjson
from sqlalchemy.engine import Connection

from models.base import new_id
from models.enums import CommandState
from models.messaging.command_ledger import (
    ClaimedCommand,
    FailedCommand,
    WaitingCommands,
    lock_subjects,
    read_waiting_commands,
    reap_orphaned,
    record_failed_attempt,
    try_lock_subjects,
)
from models.messaging.outbox import NewEvent, write_events
from tasks.events import CommandDead, cloud_event
from workers.apply.ordering import last_by_subject, read_subjects, select_applicable

SUBJECTS_PER_BATCH: Final = 64
"""A fair share: with several workers, no one takes every subject that waits."""

WORKER_DIED: Final = "The worker process died while it had this command in hand."


class Claim(NamedTuple):
    """What a batch may apply at once, and the lines to take one by one, each with the last ``seq`` that needs it.

    A line with a command that was tried before is such a line: nothing else shall fail with it.
    """

    batch: list[ClaimedCommand]
    suspects: dict[str, int]


def claim(connection: Connection, hinted: Sequence[str]) -> Claim:
    """Lock subjects, the hinted first, and read what waits on them, in two statements (`command_ledger`)."""
    subjects = lock_subjects(connection, hinted, share=SUBJECTS_PER_BATCH)
    if not subjects:
        return Claim([], {})
    waiting = read_subjects(connection, subjects)
    suspects = last_by_subject([command for command in waiting.due if command.attempts])
    calm = WaitingCommands([each for each in waiting.due if each.subject not in suspects], waiting.paused_at)
    return Claim(select_applicable(connection, calm, locked=set(subjects) - suspects.keys()), suspects)


def claim_next(connection: Connection, subject: str) -> ClaimedCommand | None:
    """The first command of one subject alone, if it is free and due."""
    if not try_lock_subjects(connection, [subject]):
        return None
    waiting = read_waiting_commands(connection, {subject: 1}, most=1)
    whole = select_applicable(connection, waiting, locked={subject})
    return whole[0] if whole else None


def fail_orphaned(connection: Connection, worker: str) -> list[FailedCommand]:
    """Count an attempt for every command that a dead worker had in hand."""
    left = reap_orphaned(connection, worker)
    return fail_commands(connection, left, error=WORKER_DIED) if left else []


def fail_commands(connection: Connection, ids: Sequence[UUID], *, error: str) -> list[FailedCommand]:
    """Count a failed attempt of these commands; those it was the last of are announced as dead."""
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
            )
        )
    write_events(connection, events)
