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
class CatalogEntry:
    """What the house knows of a command.

    ``permission`` and ``method`` are those of its own route. ``subject`` names the line it stands in: commands of
    one subject are applied in the order of their acceptance. ``for_services`` marks what an organization's own
    program may do in its own name, and what is not ``for_people`` nobody else may; ``is_conditional`` marks what
    honours If-Match. ``in_project`` is the permission of the command's other address, the one of a project.
    """

    command_class: type[Command]
    permission: Permission
    method: str
    subject: Callable[[Any, int, int | None], str]
    for_services: bool = False
    for_people: bool = True
    is_conditional: bool = False
    project_permission: Permission | None = None

    def permission_of(self, command: Command) -> Permission:
        """The permission of the address that the command came by."""
        if self.project_permission is not None and getattr(command, "in_project", None) is not None:
            return self.project_permission
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


CATALOG: Final[dict[str, CatalogEntry]] = {
    entry.command_class.name: entry
    for entry in (
        CatalogEntry(OpenIncident, INCIDENTS, "POST", _organization, for_services=True),
        CatalogEntry(ReceiveAlerts, INCIDENTS, "POST", _organization, for_services=True, for_people=False),
        CatalogEntry(SetStatus, INCIDENT, "PUT", _incident, is_conditional=True),
        CatalogEntry(MarkSeen, INCIDENT, "POST", _incident),
        CatalogEntry(PostComment, INCIDENT, "POST", _incident),
        CatalogEntry(EditComment, INCIDENT, "PUT", _incident, is_conditional=True),
        CatalogEntry(DeleteComment, INCIDENT, "DELETE", _incident, is_conditional=True),
        CatalogEntry(Subscribe, INCIDENT, "POST", _incident),
        CatalogEntry(Unsubscribe, INCIDENT, "DELETE", _incident),
        CatalogEntry(ReadNotifications, INBOX, "POST", _person),
        CatalogEntry(CreateRule, ALERT_RULES, "POST", _organization, project_permission=PROJECT_ALERT_RULES),
        CatalogEntry(UpdateRule, ALERT_RULE, "PUT", _rule, is_conditional=True, project_permission=PROJECT_ALERT_RULE),
        CatalogEntry(
            DeleteRule, ALERT_RULE, "DELETE", _rule, is_conditional=True, project_permission=PROJECT_ALERT_RULE
        ),
        CatalogEntry(SnoozeRule, PROJECT_ALERT_RULES, "POST", _rule),
        CatalogEntry(UnsnoozeRule, PROJECT_ALERT_RULES, "DELETE", _rule),
        CatalogEntry(CreateTrigger, ALERT_RULES, "POST", _rule),
        CatalogEntry(UpdateTrigger, ALERT_RULES, "PUT", _rule),
        CatalogEntry(DeleteTrigger, ALERT_RULES, "DELETE", _rule),
        CatalogEntry(CreateAction, ALERT_RULES, "POST", _rule),
        CatalogEntry(UpdateAction, ALERT_RULES, "PUT", _rule),
        CatalogEntry(DeleteAction, ALERT_RULES, "DELETE", _rule),
        CatalogEntry(ObserveMetric, ALERT_RULES, "POST", _rule, for_services=True),
    )
}
"""Every command by its name on the wire."""
