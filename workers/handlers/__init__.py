"""One plain function per command: facts in, changes and news out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tasks.commands.alert_rules import CreateRule, DeleteRule, UpdateRule
from tasks.commands.alertmanager import ReceiveAlerts
from tasks.commands.comments import DeleteComment, EditComment, PostComment
from tasks.commands.incidents import MarkSeen, OpenIncident, SetStatus
from tasks.commands.notifications import ReadNotifications
from tasks.commands.observations import ObserveMetric
from tasks.commands.snoozes import SnoozeRule, UnsnoozeRule
from tasks.commands.subscriptions import Subscribe, Unsubscribe
from tasks.commands.triggers import (
    CreateAction,
    CreateTrigger,
    DeleteAction,
    DeleteTrigger,
    UpdateAction,
    UpdateTrigger,
)
from workers.batch.context import CommandContext, CommandResult
from workers.handlers.alert_rules import create_rule, delete_rule, update_rule
from workers.handlers.alertmanager import receive_alerts
from workers.handlers.comments import delete_comment, edit_comment, post_comment
from workers.handlers.incidents import mark_seen, open_incident, set_status
from workers.handlers.notifications import read_notifications
from workers.handlers.observations import observe_metric
from workers.handlers.snoozes import snooze_rule, unsnooze_rule
from workers.handlers.subscriptions import subscribe, unsubscribe
from workers.handlers.triggers import (
    create_action,
    create_trigger,
    delete_action,
    delete_trigger,
    update_action,
    update_trigger,
)

Handler = Callable[[Any, CommandContext], CommandResult]

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
    CreateRule.name: create_rule,
    UpdateRule.name: update_rule,
    DeleteRule.name: delete_rule,
    SnoozeRule.name: snooze_rule,
    UnsnoozeRule.name: unsnooze_rule,
    CreateTrigger.name: create_trigger,
    UpdateTrigger.name: update_trigger,
    DeleteTrigger.name: delete_trigger,
    CreateAction.name: create_action,
    UpdateAction.name: update_action,
    DeleteAction.name: delete_action,
    ObserveMetric.name: observe_metric,
}
"""Which function carries out which command."""
