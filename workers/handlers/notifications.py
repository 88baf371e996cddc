"""What people do with their inbox."""

from __future__ import annotations

from tasks.commands.notifications import ReadNotifications
from workers.batch.context import CommandContext, CommandResult


def read_notifications(command: ReadNotifications, context: CommandContext) -> CommandResult:
    """Mark the person's own unread items as read, and say how many there were."""
    unread = context.facts.unread[context.author.id, context.organization.id]
    wanted = (
        unread & set(command.ids) if command.ids is not None else {id_ for id_ in unread if id_ <= (command.up_to or 0)}
    )
    unread -= wanted
    context.changes.read_notifications.extend(wanted)
    return CommandResult(200, {"read": len(wanted)})
