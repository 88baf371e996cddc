"""Helpers for tests of operations: dead commands, and steps of a requeue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update

from models.incidents.activity import activities
from models.messaging.command_ledger import commands
from models.operations.dead import DeadSelection
from models.operations.requeue import advance_requeue, read_operation, start_requeue
from models.serializers.operations import BulkOperationJson
from tests.faults.ledger import a_comment_command, end_back_off
from tests.harness import Harness


def accept_comments(harness: Harness, count: int, **identity: Any) -> list[UUID]:
    """Accept comments with the texts 0, 1, 2, … on one incident."""
    return [harness.accept(a_comment_command(f"{number}"), **identity) for number in range(count)]


def poison(harness: Harness, ids: Sequence[UUID]) -> dict[UUID, Any]:
    """Make these commands fail whenever they are applied; return their payloads, for :func:`cure`."""
    with harness.engine.begin() as connection:
        rows = connection.execute(select(commands.c.id, commands.c.payload).where(commands.c.id.in_(ids)))
        payloads = {row.id: row.payload for row in rows}
        connection.execute(update(commands).where(commands.c.id.in_(ids)).values(payload={"incident": "1"}))
    return payloads


def cure(harness: Harness, payloads: dict[UUID, Any]) -> None:
    """Give commands their payloads back."""
    with harness.engine.begin() as connection:
        for id_, payload in payloads.items():
            connection.execute(update(commands).where(commands.c.id == id_).values(payload=payload))


def apply_until_dead(harness: Harness) -> None:
    """Apply every command as often as it takes for those that always fail to be dead."""
    while _are_waiting(harness):
        harness.apply()
        end_back_off(harness)


def _are_waiting(harness: Harness) -> bool:
    with harness.engine.connect() as connection:
        return (
            connection.execute(select(commands.c.id).where(commands.c.state == "accepted").limit(1)).scalar()
            is not None
        )


def bury(harness: Harness, ids: Sequence[UUID], error: str = "ValueError: no such thing") -> None:
    """Make these commands dead, as if every attempt had failed with this error."""
    values = {
        "state": "dead",
        "attempts": 5,
        "error": error,
        "finished_at": func.clock_timestamp(),
        "fingerprint": func.left(func.md5(commands.c.type.concat(error)), 16),
    }
    with harness.engine.begin() as connection:
        connection.execute(update(commands).where(commands.c.id.in_(ids)).values(values))


def requeue(harness: Harness, selection: DeadSelection, **options: Any) -> BulkOperationJson:
    with harness.engine.begin() as connection:
        return start_requeue(connection, selection, reason="fixed", by="terminal:ana", **options)


def advance(harness: Harness) -> bool:
    """Carry out one step of a requeue; return whether there is one."""
    with harness.engine.begin() as connection:
        return advance_requeue(connection) is not None


def operation(harness: Harness, started: BulkOperationJson) -> BulkOperationJson:
    with harness.engine.connect() as connection:
        return read_operation(connection, int(started["id"]))


def comments_in_order(harness: Harness) -> list[str]:
    """Return the comments on all incidents, in the order in which they were applied."""
    with harness.engine.connect() as connection:
        query = select(activities.c.comment).where(activities.c.comment.is_not(None)).order_by(activities.c.id)
        return [str(comment) for comment in connection.execute(query).scalars()]
