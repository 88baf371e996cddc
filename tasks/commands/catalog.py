"""One line per command: its message, what it needs, and which line of work it stands in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from models.policy import (
    ALERT_RULE,
    ALERT_RULES,
    INBOX,
    INCIDENT,
    INCIDENTS,
    PROJECT_ALERT_RULE,
    PROJECT_ALERT_RULES,
    Permission,
)
from tasks.commands.alert_rules import CreateRule, DeleteRule, UpdateRule
from tasks.commands.alertmanager import ReceiveAlerts
from tasks.commands.base import Command
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


@dataclass(frozen=True, slots=True)
class Entry:
    """What the house knows of a command.

    ``permission`` and ``method`` are those of its own route. ``subject`` names the line it stands in: commands of
    one subject are applied in the order of their acceptance. ``for_services`` marks what an organization's own
    program may do in its own name, and what is not ``for_people`` nobody else may; ``is_conditional`` marks what
    honours If-Match. ``in_project`` is the permission of the command's other address, the one of a project.
    """

    message: type[Command]
    permission: Permission
    method: str
    subject: Callable[[Any, int, int | None], str]
    for_services: bool = False
    for_people: bool = True
    is_conditional: bool = False
    in_project: Permission | None = None

    def permission_of(self, command: Command) -> Permission:
        """The permission of the address that the command came by."""
        if self.in_project is not None and getattr(command, "in_project", None) is not None:
            return self.in_project
        return self.permission

    def subject_of(self, command: Command, organization_id: int, user_id: int | None) -> str:
        """The subject of this command, from ids, not spellings."""
        return self.subject(command, organization_id, user_id)


def _incident(command: Any, organization_id: int, _user_id: int | None) -> str:
    # What has no number yet, or names none, stands in the organization's line.
    address: str = command.incident
    return f"incident:{organization_id}:{address}" if address.isdecimal() else f"org:{organization_id}"


def _organization(_command: Any, organization_id: int, _user_id: int | None) -> str:
    return f"org:{organization_id}"


def _rule(command: Any, organization_id: int, _user_id: int | None) -> str:
    rule: int = command.alert_rule
    return f"rule:{rule}" if rule else f"org:{organization_id}"


def _person(_command: Any, _organization_id: int, user_id: int | None) -> str:
    return f"user:{user_id}"


CATALOG: Final[dict[str, Entry]] = {
    entry.message.name: entry
    for entry in (
        Entry(OpenIncident, INCIDENTS, "POST", _organization, for_services=True),
        Entry(ReceiveAlerts, INCIDENTS, "POST", _organization, for_services=True, for_people=False),
        Entry(SetStatus, INCIDENT, "PUT", _incident, is_conditional=True),
        Entry(MarkSeen, INCIDENT, "POST", _incident),
        Entry(PostComment, INCIDENT, "POST", _incident),
        Entry(EditComment, INCIDENT, "PUT", _incident, is_conditional=True),
        Entry(DeleteComment, INCIDENT, "DELETE", _incident, is_conditional=True),
        Entry(Subscribe, INCIDENT, "POST", _incident),
        Entry(Unsubscribe, INCIDENT, "DELETE", _incident),
        Entry(ReadNotifications, INBOX, "POST", _person),
        Entry(CreateRule, ALERT_RULES, "POST", _organization, in_project=PROJECT_ALERT_RULES),
        Entry(UpdateRule, ALERT_RULE, "PUT", _rule, is_conditional=True, in_project=PROJECT_ALERT_RULE),
        Entry(DeleteRule, ALERT_RULE, "DELETE", _rule, is_conditional=True, in_project=PROJECT_ALERT_RULE),
        Entry(SnoozeRule, PROJECT_ALERT_RULES, "POST", _rule),
        Entry(UnsnoozeRule, PROJECT_ALERT_RULES, "DELETE", _rule),
        Entry(CreateTrigger, ALERT_RULES, "POST", _rule),
        Entry(UpdateTrigger, ALERT_RULES, "PUT", _rule),
        Entry(DeleteTrigger, ALERT_RULES, "DELETE", _rule),
        Entry(CreateAction, ALERT_RULES, "POST", _rule),
        Entry(UpdateAction, ALERT_RULES, "PUT", _rule),
        Entry(DeleteAction, ALERT_RULES, "DELETE", _rule),
        Entry(ObserveMetric, ALERT_RULES, "POST", _rule, for_services=True),
    )
}
"""Every command by its name on the wire."""
