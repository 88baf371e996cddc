"""The catalog of commands: the class, the permissions and the subjects of each command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

from models.enums import Lane
from models.messaging.subject import Subject
from models.permissions import (
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


class Touch(Enum):
    """A kind of subject, other than its own, that a command touches.

    The subjects themselves are determined only when the command is claimed.
    """

    ORGANIZATION = auto()
    """The organization in which the command may open an incident."""
    NAMED_RULE = auto()
    """The alert rule for which the command opens an incident."""
    INCIDENT_OF_KEY = auto()
    """The open incident whose deduplication key the command names."""
    INCIDENTS_OF_RULE = auto()
    """Every open incident of the command's alert rule."""
    RULE_OF_REOPENED = auto()
    """The alert rule of the incident that the command reopens. The rule must not open another incident meanwhile."""


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A command's entry in the catalog, which holds what is known about the command before it is applied.

    ``permission`` and ``method`` belong to the command's endpoint, and ``project_permission`` belongs to its project
    endpoint, if that requires another permission. ``subject`` takes the command, the organization id and the user id,
    and returns the command's subject. ``also`` lists the kinds of other subjects that the command touches.
    ``for_services`` tells whether services may submit the command in their own name, ``for_people`` whether people may
    submit it, and ``is_conditional`` whether it honours If-Match. ``lane`` is the queue on which its hint travels when
    it is submitted alone; the items of a bulk request travel on ``bulk``.
    """

    command_class: type[Command]
    permission: Permission
    method: str
    subject: Callable[[Any, int, int | None], Subject]
    also: tuple[Touch, ...] = ()
    for_services: bool = False
    for_people: bool = True
    is_conditional: bool = False
    project_permission: Permission | None = None
    lane: Lane = Lane.COMMANDS

    def permission_of(self, command: Command) -> Permission:
        """Return the permission that is required by the endpoint that received the command."""
        if self.project_permission is not None and getattr(command, "in_project", None) is not None:
            return self.project_permission
        return self.permission

    def subject_of(self, command: Command, organization_id: int, user_id: int | None) -> Subject:
        """Return the command's subject, within which order is kept. It is fixed when the command is accepted."""
        return self.subject(command, organization_id, user_id)


def _incident(command: Any, organization_id: int, _user_id: int | None) -> Subject:
    reference: str = command.incident
    if reference.isdecimal():
        return Subject.incident(organization_id, int(reference))
    # The reference is a deduplication key, whose incident is not known yet, or names no incident.
    return Subject.organization(organization_id)


def _organization(_command: Any, organization_id: int, _user_id: int | None) -> Subject:
    return Subject.organization(organization_id)


def _rule(command: Any, organization_id: int, _user_id: int | None) -> Subject:
    rule_id: int = command.alert_rule
    return Subject.rule(rule_id) if rule_id else Subject.organization(organization_id)


def _user(_command: Any, organization_id: int, user_id: int | None) -> Subject:
    return Subject.organization(organization_id) if user_id is None else Subject.user(user_id)


_BY_KEY = (Touch.INCIDENT_OF_KEY,)
_OPENING = (Touch.NAMED_RULE, Touch.INCIDENT_OF_KEY)
_CHANGING_STATUS = (Touch.INCIDENT_OF_KEY, Touch.RULE_OF_REOPENED)
_OBSERVING = (Touch.ORGANIZATION, Touch.INCIDENTS_OF_RULE)

CATALOG: Final[dict[str, CatalogEntry]] = {
    entry.command_class.name: entry
    for entry in (
        CatalogEntry(OpenIncident, INCIDENTS, "POST", _organization, _OPENING, for_services=True),
        CatalogEntry(ReceiveAlerts, INCIDENTS, "POST", _organization, _BY_KEY, for_services=True, for_people=False),
        CatalogEntry(SetStatus, INCIDENT, "PUT", _incident, _CHANGING_STATUS, is_conditional=True),
        CatalogEntry(MarkSeen, INCIDENT, "POST", _incident, _BY_KEY),
        CatalogEntry(PostComment, INCIDENT, "POST", _incident, _BY_KEY),
        CatalogEntry(EditComment, INCIDENT, "PUT", _incident, _BY_KEY, is_conditional=True),
        CatalogEntry(DeleteComment, INCIDENT, "DELETE", _incident, _BY_KEY, is_conditional=True),
        CatalogEntry(Subscribe, INCIDENT, "POST", _incident, _BY_KEY),
        CatalogEntry(Unsubscribe, INCIDENT, "DELETE", _incident, _BY_KEY),
        CatalogEntry(ReadNotifications, INBOX, "POST", _user),
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
        CatalogEntry(ObserveMetric, ALERT_RULES, "POST", _rule, _OBSERVING, for_services=True),
    )
}
"""The catalog entry for every command, by the command's name on the wire."""
