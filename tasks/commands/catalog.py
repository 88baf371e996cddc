"""The catalog of commands: the class, the permissions and the subject of each command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID

from models.enums import Lane
from models.messaging.command_type import versioned_type
from models.messaging.subject import Subject
from models.permissions import (
    ALERT_RULE,
    ALERT_RULES,
    CHAT_DESTINATIONS,
    INBOX,
    INCIDENT,
    INCIDENTS,
    PREFERENCES,
    PROJECT_ALERT_RULE,
    PROJECT_ALERT_RULES,
    WEBHOOKS,
    Permission,
)
from models.types import MAX_ID
from tasks.commands.alert_rules import CreateRule, DeleteRule, UpdateRule
from tasks.commands.alertmanager import ReceiveAlerts
from tasks.commands.base import Command
from tasks.commands.chat_destinations import (
    CreateChatDestination,
    DeleteChatDestination,
    SendTestMessage,
    UpdateChatDestination,
)
from tasks.commands.comments import DeleteComment, EditComment, PostComment
from tasks.commands.fields import dedup_key_of
from tasks.commands.incidents import MarkSeen, OpenIncident, SetStatus
from tasks.commands.mutes import MuteIncident, UnmuteIncident
from tasks.commands.notifications import ReadNotifications
from tasks.commands.observations import ObserveMetric
from tasks.commands.preferences import ReplacePreferences
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
from tasks.commands.webhooks import (
    CreateWebhook,
    DeleteWebhook,
    Redeliver,
    RotateSecret,
    SendTestEvent,
    UpdateWebhook,
)


class CommandSubmission(NamedTuple):
    """The ids of a command and of its submitter.

    ``user_id`` is the person who submits the command, or on whose behalf it is submitted. ``organization_id`` is 0 if
    the command concerns no organization.
    """

    organization_id: int
    user_id: int | None
    command_id: UUID


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A command's entry in the catalog, which holds what is known about the command before it is applied.

    ``permission`` and ``method`` belong to the command's endpoint, and ``project_permission`` belongs to its project
    endpoint, if that requires another permission. ``subject`` takes the command and its :class:`CommandSubmission`, and
    returns the command's subject. ``for_services`` tells whether services may submit the command in their own name,
    ``for_people`` whether people may submit it, and ``is_conditional`` whether it honours If-Match. ``is_personal``
    tells that it concerns the person alone and no organization, so that only the token's own scopes count. ``lane`` is
    the queue on which its hint travels when it is submitted alone; the items of a bulk request travel on ``bulk``.
    """

    command_class: type[Command]
    permission: Permission
    method: str
    subject: Callable[[Any, CommandSubmission], Subject]
    for_services: bool = False
    for_people: bool = True
    is_conditional: bool = False
    is_personal: bool = False
    project_permission: Permission | None = None
    lane: Lane = Lane.COMMANDS

    def permission_of(self, command: Command) -> Permission:
        """Return the permission that is required by the endpoint that received the command."""
        if self.project_permission is not None and getattr(command, "in_project", None) is not None:
            return self.project_permission
        return self.permission


def _incident(command: Any, submission: CommandSubmission) -> Subject:
    reference: str = command.incident
    if reference.isdecimal():
        return Subject.incident(submission.organization_id, int(reference))
    if (key := dedup_key_of(reference)) is not None:
        return Subject.dedup_key(submission.organization_id, key)
    return Subject.command(submission.command_id)  # The reference names no incident.


def _new_incident(command: Any, submission: CommandSubmission) -> Subject:
    if command.alert_rule is not None:
        return _rule(command, submission)
    return _incident_of_key(command, submission)


def _incident_of_key(command: Any, submission: CommandSubmission) -> Subject:
    if command.dedup_key is not None:
        return Subject.dedup_key(submission.organization_id, command.dedup_key)
    return Subject.command(submission.command_id)


def _rule(command: Any, submission: CommandSubmission) -> Subject:
    rule_id: int = command.alert_rule
    # No rule has another id.
    return Subject.rule(rule_id) if 0 < rule_id <= MAX_ID else Subject.command(submission.command_id)


def _organization(_command: Any, submission: CommandSubmission) -> Subject:
    return Subject.organization(submission.organization_id)


def _user(_command: Any, submission: CommandSubmission) -> Subject:
    user_id = submission.user_id
    return Subject.command(submission.command_id) if user_id is None else Subject.user(user_id)


CATALOG: Final[dict[str, CatalogEntry]] = {
    entry.command_class.name: entry
    for entry in (
        CatalogEntry(OpenIncident, INCIDENTS, "POST", _new_incident, for_services=True),
        CatalogEntry(ReceiveAlerts, INCIDENTS, "POST", _incident_of_key, for_services=True, for_people=False),
        CatalogEntry(SetStatus, INCIDENT, "PUT", _incident, is_conditional=True),
        CatalogEntry(MarkSeen, INCIDENT, "POST", _incident),
        CatalogEntry(PostComment, INCIDENT, "POST", _incident),
        CatalogEntry(EditComment, INCIDENT, "PUT", _incident, is_conditional=True),
        CatalogEntry(DeleteComment, INCIDENT, "DELETE", _incident, is_conditional=True),
        CatalogEntry(Subscribe, INCIDENT, "POST", _incident),
        CatalogEntry(Unsubscribe, INCIDENT, "DELETE", _incident),
        CatalogEntry(MuteIncident, INCIDENT, "POST", _user),
        CatalogEntry(UnmuteIncident, INCIDENT, "DELETE", _user),
        CatalogEntry(ReadNotifications, INBOX, "POST", _user),
        CatalogEntry(ReplacePreferences, PREFERENCES, "PUT", _user, is_conditional=True, is_personal=True),
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
        CatalogEntry(CreateWebhook, WEBHOOKS, "POST", _organization, for_services=True),
        CatalogEntry(UpdateWebhook, WEBHOOKS, "PUT", _organization, for_services=True, is_conditional=True),
        CatalogEntry(DeleteWebhook, WEBHOOKS, "DELETE", _organization, for_services=True, is_conditional=True),
        CatalogEntry(RotateSecret, WEBHOOKS, "POST", _organization, for_services=True),
        CatalogEntry(SendTestEvent, WEBHOOKS, "POST", _organization, for_services=True),
        CatalogEntry(Redeliver, WEBHOOKS, "POST", _organization, for_services=True),
        CatalogEntry(CreateChatDestination, CHAT_DESTINATIONS, "POST", _organization, for_services=True),
        CatalogEntry(
            UpdateChatDestination, CHAT_DESTINATIONS, "PUT", _organization, for_services=True, is_conditional=True
        ),
        CatalogEntry(
            DeleteChatDestination, CHAT_DESTINATIONS, "DELETE", _organization, for_services=True, is_conditional=True
        ),
        CatalogEntry(SendTestMessage, CHAT_DESTINATIONS, "POST", _organization, for_services=True),
    )
}
"""The catalog entry for every command, by the command's name on the wire."""

KNOWN_TYPES: Final = frozenset(
    versioned_type(name, version)
    for name, entry in CATALOG.items()
    for version in range(1, entry.command_class.payload_version + 1)
)
"""The types and payload versions that this release can apply. Others wait for the workers of a newer release."""
