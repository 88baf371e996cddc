"""What people do with their inbox."""

from __future__ import annotations

from tasks.commands.notifications import ReadNotifications
from workers.batch.context import Answer, Work


def read_notifications(ask: ReadNotifications, work: Work) -> Answer:
    """Mark the person's own unread items as read, and say how many there were."""
    unread = work.world.unread[work.author.id, work.organization.id]
    wanted = unread & set(ask.ids) if ask.ids is not None else {id_ for id_ in unread if id_ <= (ask.up_to or 0)}
    unread -= wanted
    work.changes.read.extend(wanted)
    return Answer(200, {"read": len(wanted)})
