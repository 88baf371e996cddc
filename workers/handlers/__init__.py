"""One plain function per command: facts in, changes and news out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tasks.commands import (
    DeleteComment,
    EditComment,
    MarkSeen,
    OpenIncident,
    PostComment,
    ReadNotifications,
    ReceiveAlerts,
    SetStatus,
    Subscribe,
    Unsubscribe,
)
from workers.handlers.alertmanager import receive_alerts
from workers.handlers.comments import delete_comment, edit_comment, post_comment
from workers.handlers.incidents import mark_seen, open_incident, set_status
from workers.handlers.notifications import read_notifications
from workers.handlers.subscriptions import subscribe, unsubscribe
from workers.work import Answer, Work

Handler = Callable[[Any, Work], Answer]

HANDLERS: Final[dict[str, Handler]] = {
    OpenIncident.name: open_incident,
    ReceiveAlerts.name: receive_alerts,
    SetStatus.name: set_status,
    MarkSeen.name: mark_seen,
    PostComment.name: post_comment,
    EditComment.name: edit_comment,
    DeleteComment.name: delete_comment,
    Subscribe.name: subscribe,
    Unsubscribe.name: unsubscribe,
    ReadNotifications.name: read_notifications,
}
"""Which function carries out which command."""
