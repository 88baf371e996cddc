"""The handler for the inbox: it marks items as read."""

from __future__ import annotations

from tasks.commands.notifications import ReadNotifications
from workers.batch import needs
from workers.batch.context import CommandContext, CommandResult
from workers.batch.handler import handles


@handles(ReadNotifications, needs.inbox)
def read_notifications(command: ReadNotifications, context: CommandContext) -> CommandResult:
    """Mark a person's unread inbox items as read: those with the given ids, or all up to an id. Return their number."""
    unread = context.facts.unread[context.author.id, context.organization.id]
    selected = (
        unread & set(command.ids) if command.ids is not None else {id_ for id_ in unread if id_ <= (command.up_to or 0)}
    )
    unread -= selected
    context.changes.read_notifications.extend(selected)
    return CommandResult(200, {"read": len(selected)})
