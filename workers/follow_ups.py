"""System commands, which follow from other commands and from events."""

from __future__ import annotations

from models.base import new_id
from models.enums import CallerKind
from models.messaging.command_ledger import NewCommand
from models.messaging.trace import NO_TRACE, Trace
from tasks.commands.base import Command
from tasks.commands.catalog import CATALOG, CommandSubmission


def make_follow_up(
    command: Command, *, organization_id: int, user_id: int | None = None, trace: Trace = NO_TRACE
) -> NewCommand:
    """Make the ledger row for a system command.

    ``user_id`` is the id of the person whom the command concerns. ``trace`` is the trace of the command or event that
    led to it.
    """
    entry, id_ = CATALOG[command.name], new_id()
    subject = entry.subject(command, CommandSubmission(organization_id, user_id, id_))
    return NewCommand(
        id=id_,
        type=command.name,
        subject=str(subject),
        lane=entry.lane,
        organization_id=organization_id,
        token_id=None,
        user_id=user_id,
        caller=CallerKind.SYSTEM,
        payload=command.to_payload(),
        request_id=trace.request_id,
        traceparent=trace.traceparent,
        incident=subject.number,
        payload_version=command.payload_version,
    )
