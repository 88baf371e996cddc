"""The handler for the inbox: it marks items as read."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from models.incidents.incident import Incident
from models.refusals import NotFound
from models.types import MAX_ID
from tasks.commands.notifications import ReadNotifications
from workers.batch import needs
from workers.batch.changes import ReadSlice
from workers.batch.context import CommandContext, CommandResult
from workers.batch.handler import handles

ITEMS_PER_COMMAND: Final = 10_000
"""How many items a command marks at most, so that no transaction takes seconds. Follow-up commands mark the others."""


@handles(ReadNotifications, needs.inbox)
def read_notifications(command: ReadNotifications, context: CommandContext) -> CommandResult:
    """Mark a person's unread inbox items as read: those with the given ids, up to an id, about an incident, or all.

    Return their number, including those that follow-up commands mark later.
    """
    unread = context.facts.unread[_inbox(context)]
    if command.ids is not None:
        read = _mark(unread.mark_named(command.ids), context)
    elif command.incident is not None:
        read = _mark(unread.mark_incident(_incident(command.incident, context).id), context)
    else:
        read = _mark_up_to(MAX_ID if command.all else command.up_to or 0, context)
    return CommandResult(200, {"read": read})


def _incident(reference: str, context: CommandContext) -> Incident:
    # The command's subject is the person and not the incident: nothing about the incident changes.
    incident = context.facts.find_incident(context.organization.id, reference)
    if incident is None:
        raise NotFound
    context.require_access(incident)
    return incident


def _mark(ids: Collection[int], context: CommandContext) -> int:
    read = sorted(ids)
    context.changes.read_notifications.extend(read[:ITEMS_PER_COMMAND])
    if rest := read[ITEMS_PER_COMMAND:]:
        _continue_later(ReadNotifications.model_validate({"ids": rest}), context)
    return len(read)


def _mark_up_to(up_to: int, context: CommandContext) -> int:
    inbox = _inbox(context)
    count, last_id = context.facts.unread[inbox].mark_up_to(up_to)
    if count:
        # Several commands of the batch may mark items of the same inbox. They share a slice.
        earlier = context.changes.read_slices.get(inbox, ReadSlice(0, 0))
        share = min(count, ITEMS_PER_COMMAND - earlier.most)
        context.changes.read_slices[inbox] = ReadSlice(max(earlier.up_to, last_id), earlier.most + share)
        if count > share:
            # The follow-up marks items up to the last one that exists now, so that later ones stay unread.
            _continue_later(ReadNotifications(upTo=last_id), context)
    return count


def _continue_later(command: ReadNotifications, context: CommandContext) -> None:
    context.follow_up(command, user_id=context.author.id)


def _inbox(context: CommandContext) -> tuple[int, int]:
    return context.author.id, context.organization.id
