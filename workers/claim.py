"""What a batch takes from the ledger, and how it knows that another worker died.

Everything here runs inside the batch's transaction: its advisory locks end with it, whatever happens to the process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

import orjson
from sqlalchemy.engine import Connection

from models.base import new_id
from models.command import (
    ClaimedCommand,
    FailedCommand,
    broken_off,
    count_attempt,
    lock_subjects,
    read_commands,
    try_lock,
)
from models.event import NewEvent, write_events
from models.vocabulary import CommandState
from tasks.events import CommandDead, cloud_event

SUBJECTS_PER_BATCH: Final = 64
"""A fair share: with several workers, no one takes every subject that waits."""

COMMANDS_PER_SUBJECT: Final = 50
COMMANDS_PER_BATCH: Final = 200

DIED: Final = "The worker process died while it had this command in hand."


def claim(connection: Connection, hinted: Sequence[str]) -> list[ClaimedCommand]:
    """Lock subjects, the hinted first, and read what waits on them; in two statements, see models/command.py."""
    subjects = lock_subjects(connection, hinted, share=SUBJECTS_PER_BATCH)
    if not subjects:
        return []
    claimed = read_commands(connection, subjects, per_subject=COMMANDS_PER_SUBJECT, most=COMMANDS_PER_BATCH)
    return _with_those_before(connection, claimed, locked=set(subjects))


def claim_next(connection: Connection, subject: str) -> ClaimedCommand | None:
    """The first command of one subject alone, if it is free and due."""
    if not try_lock(connection, [subject]):
        return None
    claimed = read_commands(connection, [subject], per_subject=1, most=1)
    whole = _with_those_before(connection, claimed, locked={subject})
    return whole[0] if whole else None


def count_the_broken_off(connection: Connection, worker: str) -> list[FailedCommand]:
    """Count an attempt for every command that a dead worker had in hand."""
    left = broken_off(connection, worker)
    return fail(connection, left, error=DIED) if left else []


def fail(connection: Connection, ids: Sequence[UUID], *, error: str) -> list[FailedCommand]:
    """Count a failed attempt of these commands; those it was the last of are announced as dead."""
    failed = count_attempt(connection, ids, error=error)
    dead = [command for command in failed if command.state == CommandState.DEAD]
    if dead:
        _announce_dead(connection, dead, error)
    return failed


def _with_those_before(
    connection: Connection, claimed: list[ClaimedCommand], *, locked: set[str]
) -> list[ClaimedCommand]:
    """Keep the order of an incident that some address by number, in its line, and some by its key.

    The latter, and those that open one under that key, stand in their organization's line. What was asked earlier in
    the incident's own line is taken along; if that line is not free, or too long for this batch, they wait for the
    next round. The other way round, a command in the incident's line waits for those by key that came before it and
    are not in this batch.
    """
    addressed = _addressed_by_key(connection, claimed)
    lines = set(addressed.values()) - locked
    free = try_lock(connection, sorted(lines)) if lines else set()
    before = (
        read_commands(connection, sorted(free), per_subject=COMMANDS_PER_SUBJECT, most=COMMANDS_PER_BATCH)
        if free
        else []
    )
    together = sorted({command.seq: command for command in (*claimed, *before)}.values(), key=lambda each: each.seq)
    earlier_by_key = _waiting_by_key(connection, together)
    taken: list[ClaimedCommand] = []
    met: set[int] = set()
    stopped: set[str] = set()
    for command in together:
        line = addressed.get(command.id)
        waits = line is not None and line not in locked and (line not in free or _reaches_not(before, line, command))
        # Those by key that this batch takes have come before: it goes in order of `seq`.
        unmet = [seq for seq in earlier_by_key.get(command.subject, ()) if seq < command.seq and seq not in met]
        if waits or unmet:
            stopped.add(command.subject)
        if command.subject not in stopped:
            taken.append(command)
            met.add(command.seq)
    return taken


def _waiting_by_key(connection: Connection, commands: Sequence[ClaimedCommand]) -> dict[str, list[int]]:
    """For each incident's line: the ``seq`` of what waits in its organization's line and addresses it by key."""
    subjects = sorted({command.subject for command in commands if command.subject.startswith("incident:")})
    if not subjects:
        return {}
    rows = connection.exec_driver_sql(
        "SELECT s.subject, array_agg(c.seq) AS seqs FROM unnest(%(subjects)s::text[]) AS s(subject)"
        " JOIN incidents i ON i.organization_id = split_part(s.subject, ':', 2)::bigint"
        " AND i.identifier = split_part(s.subject, ':', 3)::bigint AND i.dedup_key IS NOT NULL AND i.status <> 2"
        " JOIN commands c ON c.subject = 'org:' || i.organization_id AND c.state = 'accepted'"
        " AND (c.payload->>'incident' = 'dedup:' || i.dedup_key OR c.payload->>'dedup_key' = i.dedup_key)"
        " GROUP BY s.subject",
        {"subjects": subjects},
    )
    return {row.subject: row.seqs for row in rows}


def _reaches_not(before: Sequence[ClaimedCommand], line: str, command: ClaimedCommand) -> bool:
    """Whether more may wait on the line, before the command, than was read."""
    read = [each.seq for each in before if each.subject == line]
    return len(read) == COMMANDS_PER_SUBJECT and read[-1] < command.seq


def _addressed_by_key(connection: Connection, claimed: Sequence[ClaimedCommand]) -> dict[UUID, str]:
    """Of the commands that find an incident by key: the line of the incident that is open under it."""
    keys = {command.id: (command.organization_id, key) for command in claimed if (key := _key_of(command)) is not None}
    if not keys:
        return {}
    wanted = list(set(keys.values()))
    rows = connection.exec_driver_sql(
        "SELECT i.organization_id, i.dedup_key, i.identifier"
        " FROM unnest(%(organizations)s::bigint[], %(keys)s::text[]) AS w(organization_id, key)"
        " JOIN incidents i ON i.organization_id = w.organization_id AND md5(i.dedup_key) = md5(w.key)"
        " AND i.dedup_key = w.key AND i.status <> 2",
        {"organizations": [organization for organization, _ in wanted], "keys": [key for _, key in wanted]},
    )
    lines = {(row.organization_id, row.dedup_key): f"incident:{row.organization_id}:{row.identifier}" for row in rows}
    return {id_: lines[key] for id_, key in keys.items() if key in lines}


def _key_of(command: ClaimedCommand) -> str | None:
    """The key by which a command finds its incident: its address is ``dedup:KEY``, or it opens one under a key."""
    address = command.payload.get("incident", "")
    key: str | None = command.payload.get("dedup_key")
    return address.removeprefix("dedup:") if address.startswith("dedup:") else key


def _announce_dead(connection: Connection, dead: Sequence[FailedCommand], error: str) -> None:
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
            )
        )
    write_events(connection, events)
