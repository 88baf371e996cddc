"""One plain function per command: facts in, changes and news out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tasks.commands import OpenIncident, PostComment, ReadNotifications, Unsubscribe
from workers.handlers.comments import post_comment
from workers.handlers.incidents import open_incident
from workers.handlers.notifications import read_notifications
from workers.handlers.subscriptions import unsubscribe
from workers.work import Answer, Work

Handler = Callable[[Any, Work], Answer]

HANDLERS: Final[dict[str, Handler]] = {
    OpenIncident.name: open_incident,
    PostComment.name: post_comment,
    Unsubscribe.name: unsubscribe,
    ReadNotifications.name: read_notifications,
}
"""Which function carries out which command."""
