"""The data of events as JSON: a ``TypedDict`` for each shape, from which the AsyncAPI document is derived.

The type checker checks :mod:`tasks.events` against these declarations, and tests check published events.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypedDict

from models.enums import IncidentStatus
from models.json_fields import DateTime, Id, SchemaKeywords, Uuid
from models.serializers.inbox_item import NotificationJson

EntityType = type
"""A ``TypedDict`` class."""

Slug = Annotated[str, SchemaKeywords(description="A slug.")]


# --- what several events are about -----------------------------------------------------------------------------


class ActorInEventJson(TypedDict):
    """Who caused an event. ``id`` is null unless it is a person; the name of tocsin itself is ``tocsin``."""

    type: Literal["user", "service", "system"]
    id: Id | None
    name: str


class IncidentInEventJson(TypedDict):
    """An incident as it was after the change."""

    id: Id
    identifier: Id
    title: str
    status: IncidentStatus
    version: int


class AlertRuleInEventJson(TypedDict):
    """An alert rule as it was after the change."""

    id: Id
    name: str
    version: int


class AboutIncidentJson(TypedDict):
    """What every event of an incident has in its data."""

    incident: IncidentInEventJson
    actor: ActorInEventJson
    command: Uuid


class AboutAlertRuleJson(TypedDict):
    """What every event of an alert rule has in its data. ``incident`` is the one that is open as a result, if any."""

    incident: IncidentInEventJson | None
    alertRule: AlertRuleInEventJson
    actor: ActorInEventJson
    command: Uuid


class AboutCommandJson(TypedDict):
    """What an event of a command itself has in its data."""

    incident: IncidentInEventJson | None
    actor: ActorInEventJson | None
    command: Uuid


class AboutWebhookJson(TypedDict):
    """What an event of a webhook itself has in its data."""

    actor: ActorInEventJson
    command: Uuid


class AboutNotificationJson(TypedDict):
    """What an event of an inbox item has in its data. ``command`` is null: one command can notify many people."""

    incident: IncidentInEventJson
    actor: ActorInEventJson
    command: Uuid | None


# --- what changed ----------------------------------------------------------------------------------------------


class OpenedJson(TypedDict):
    """The incident's projects."""

    projects: list[Slug]


class CommentJson(TypedDict):
    """A comment and its id."""

    id: Id
    comment: str


class CommentedJson(TypedDict):
    """The comment that was posted or edited."""

    activity: CommentJson


class StatusActivityJson(TypedDict):
    """The activity that records a change of status, with its comment, if it has one."""

    id: Id
    comment: str | None


class StatusChangedJson(TypedDict):
    """The change of status."""

    activity: StatusActivityJson
    previousStatus: IncidentStatus
    status: IncidentStatus


class DeletedCommentJson(TypedDict):
    """The id of a deleted comment."""

    id: Id


class CommentDeletedJson(TypedDict):
    """The comment that was deleted."""

    activity: DeletedCommentJson


class PersonJson(TypedDict):
    """The id of the person who has seen the incident, was subscribed to it, or was unsubscribed."""

    user: Id


class MentionedJson(TypedDict):
    """The comment, and the ids of the people and teams that it mentions."""

    activity: CommentJson
    users: list[Id]
    teams: list[Id]


class TriggerInEventJson(TypedDict):
    """A trigger of an alert rule."""

    id: Id
    label: str


class TriggeredJson(TypedDict):
    """The trigger, and the value that fired or resolved it. ``value`` is null if the value says that there is none."""

    trigger: TriggerInEventJson
    project: Slug
    value: float | None
    timestamp: DateTime


class DeadJson(TypedDict):
    """The command's type, its failed attempts plus timeouts, and its last error."""

    type: str
    attempts: int
    error: str


class WebhookIdJson(TypedDict):
    """The id of a webhook."""

    id: Id


class WebhookTestedJson(TypedDict):
    """The webhook that is tested."""

    webhook: WebhookIdJson


class NotifiedJson(TypedDict):
    """The inbox item."""

    notification: NotificationJson
