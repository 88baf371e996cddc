"""Events, which record what commands have changed.

An event object holds only what changed. :func:`cloud_event` adds its id, subject, sequence number and time to make a
CloudEvent 1.0 in structured JSON, which is the same on the exchange and in server-sent events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Final
from uuid import UUID

from models.enums import IncidentStatus
from models.serializers.inbox_item import NotificationJson
from models.timestamps import iso
from models.types import JSON
from tasks.event_json import (
    AboutAlertRuleJson,
    AboutCommandJson,
    AboutIncidentJson,
    AboutNotificationJson,
    AboutWebhookJson,
    CommentDeletedJson,
    CommentedJson,
    DeadJson,
    EntityType,
    MentionedJson,
    NotifiedJson,
    OpenedJson,
    PersonJson,
    StatusChangedJson,
    TriggeredJson,
    WebhookTestedJson,
)

SEQUENCE_DIGITS: Final = 20
"""The number of digits in a sequence number, which is padded with zeros so that it sorts correctly as text."""


class Event:
    """Base class of all events.

    ``type`` is the name on the wire. The notifier plans notifications only if ``notifies_people`` is true.
    """

    type: ClassVar[str]
    about_type: ClassVar[EntityType]
    """The ``TypedDict`` of what the event has in its data because of what it is about."""
    data_type: ClassVar[EntityType]
    """The ``TypedDict`` that :meth:`data` returns."""
    notifies_people: ClassVar[bool] = False

    @property
    def activity_id(self) -> int | None:
        """The id of the activity that the event is about, if any.

        Notifications for all events about an activity are planned together.
        """
        return None

    def data(self) -> Mapping[str, object]:
        """Return what the event adds to the CloudEvent's ``data``."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class IncidentOpened(Event):
    """An incident was opened."""

    type: ClassVar[str] = "incident.opened"
    about_type: ClassVar[EntityType] = AboutIncidentJson
    data_type: ClassVar[EntityType] = OpenedJson

    projects: tuple[str, ...]

    def data(self) -> OpenedJson:
        """Return the projects' slugs."""
        return {"projects": list(self.projects)}


@dataclass(frozen=True, slots=True)
class StatusChanged(Event):
    """An incident's status changed."""

    type: ClassVar[str] = "incident.status_changed"
    about_type: ClassVar[EntityType] = AboutIncidentJson
    data_type: ClassVar[EntityType] = StatusChangedJson
    notifies_people: ClassVar[bool] = True

    activity: int
    old: IncidentStatus
    new: IncidentStatus
    comment: str | None

    @property
    def activity_id(self) -> int:
        """The id of the activity that records the change."""
        return self.activity

    def data(self) -> StatusChangedJson:
        """Return the activity with its comment, and the old and the new status."""
        return {
            "activity": {"id": str(self.activity), "comment": self.comment},
            "previousStatus": self.old,
            "status": self.new,
        }


@dataclass(frozen=True, slots=True)
class Seen(Event):
    """A person has seen an incident."""

    type: ClassVar[str] = "incident.seen"
    about_type: ClassVar[EntityType] = AboutIncidentJson
    data_type: ClassVar[EntityType] = PersonJson

    user: int

    def data(self) -> PersonJson:
        """Return the person's id."""
        return {"user": str(self.user)}


@dataclass(frozen=True, slots=True)
class CommentPosted(Event):
    """A comment was posted."""

    type: ClassVar[str] = "incident.comment_posted"
    about_type: ClassVar[EntityType] = AboutIncidentJson
    data_type: ClassVar[EntityType] = CommentedJson
    notifies_people: ClassVar[bool] = True

    activity: int
    comment: str

    @property
    def activity_id(self) -> int:
        """The comment's id."""
        return self.activity

    def data(self) -> CommentedJson:
        """Return the comment and its id."""
        return {"activity": {"id": str(self.activity), "comment": self.comment}}


@dataclass(frozen=True, slots=True)
class CommentEdited(CommentPosted):
    """A comment's text was replaced. ``incident.mentioned`` follows if it mentions somebody for the first time."""

    type: ClassVar[str] = "incident.comment_edited"


@dataclass(frozen=True, slots=True)
class CommentDeleted(Event):
    """A comment was deleted, so its notifications are retracted."""

    type: ClassVar[str] = "incident.comment_deleted"
    about_type: ClassVar[EntityType] = AboutIncidentJson
    data_type: ClassVar[EntityType] = CommentDeletedJson
    notifies_people: ClassVar[bool] = True

    activity: int

    @property
    def activity_id(self) -> int:
        """The deleted comment's id."""
        return self.activity

    def data(self) -> CommentDeletedJson:
        """Return the comment's id."""
        return {"activity": {"id": str(self.activity)}}


@dataclass(frozen=True, slots=True)
class Mentioned(Event):
    """A comment mentions people or teams. ``users`` holds the ids of the people who are mentioned individually."""

    type: ClassVar[str] = "incident.mentioned"
    about_type: ClassVar[EntityType] = AboutIncidentJson
    data_type: ClassVar[EntityType] = MentionedJson
    notifies_people: ClassVar[bool] = True

    activity: int
    comment: str
    users: tuple[int, ...]
    teams: tuple[int, ...]

    @property
    def activity_id(self) -> int:
        """The comment's id."""
        return self.activity

    def data(self) -> MentionedJson:
        """Return the comment and the ids of the people and teams that it mentions."""
        return {
            "activity": {"id": str(self.activity), "comment": self.comment},
            "users": [str(user) for user in self.users],
            "teams": [str(team) for team in self.teams],
        }


@dataclass(frozen=True, slots=True)
class Subscribed(Seen):
    """A person was subscribed to an incident."""

    type: ClassVar[str] = "incident.subscribed"


@dataclass(frozen=True, slots=True)
class Unsubscribed(Seen):
    """A person was unsubscribed from an incident."""

    type: ClassVar[str] = "incident.unsubscribed"


@dataclass(frozen=True, slots=True)
class AlertRuleCreated(Event):
    """An alert rule was created. ``projects`` holds the slugs of the rule's projects."""

    type: ClassVar[str] = "alert_rule.created"
    about_type: ClassVar[EntityType] = AboutAlertRuleJson
    data_type: ClassVar[EntityType] = OpenedJson

    projects: tuple[str, ...]

    def data(self) -> OpenedJson:
        """Return the projects' slugs."""
        return {"projects": list(self.projects)}


@dataclass(frozen=True, slots=True)
class AlertRuleUpdated(AlertRuleCreated):
    """An alert rule was updated."""

    type: ClassVar[str] = "alert_rule.updated"


@dataclass(frozen=True, slots=True)
class AlertRuleDeleted(AlertRuleCreated):
    """An alert rule was deleted."""

    type: ClassVar[str] = "alert_rule.deleted"


@dataclass(frozen=True, slots=True)
class TriggerFired(Event):
    """A value fired an alert rule's trigger. ``project`` is a slug, and ``timestamp`` is the value's timestamp."""

    type: ClassVar[str] = "alert_trigger.fired"
    about_type: ClassVar[EntityType] = AboutAlertRuleJson
    data_type: ClassVar[EntityType] = TriggeredJson

    trigger: int
    label: str
    project: str
    value: float | None
    timestamp: datetime

    def data(self) -> TriggeredJson:
        """Return the trigger and the value."""
        return {
            "trigger": {"id": str(self.trigger), "label": self.label},
            "project": self.project,
            "value": self.value,
            "timestamp": iso(self.timestamp),
        }


@dataclass(frozen=True, slots=True)
class TriggerResolved(TriggerFired):
    """A value resolved an alert rule's trigger."""

    type: ClassVar[str] = "alert_trigger.resolved"


@dataclass(frozen=True, slots=True)
class CommandDead(Event):
    """A command is now a dead letter. ``attempts`` is the sum of its failed attempts and timeouts."""

    type: ClassVar[str] = "command.dead"
    about_type: ClassVar[EntityType] = AboutCommandJson
    data_type: ClassVar[EntityType] = DeadJson

    command_type: str
    attempts: int
    error: str

    def data(self) -> DeadJson:
        """Return the command's type, its failed attempts plus timeouts, and its last error."""
        return {"type": self.command_type, "attempts": self.attempts, "error": self.error}


@dataclass(frozen=True, slots=True)
class WebhookTested(Event):
    """Somebody tests a webhook. The event is sent only to this webhook, never to the exchange."""

    type: ClassVar[str] = "webhook.test"
    about_type: ClassVar[EntityType] = AboutWebhookJson
    data_type: ClassVar[EntityType] = WebhookTestedJson

    webhook: int

    def data(self) -> WebhookTestedJson:
        """Return the webhook's id."""
        return {"webhook": {"id": str(self.webhook)}}


@dataclass(frozen=True, slots=True)
class NotificationCreated(Event):
    """A person has a new inbox item. The event is sent only to the person's streams, never to the exchange."""

    type: ClassVar[str] = "notification.created"
    about_type: ClassVar[EntityType] = AboutNotificationJson
    data_type: ClassVar[EntityType] = NotifiedJson

    item: NotificationJson

    def data(self) -> NotifiedJson:
        """Return the item in the form in which the inbox returns it."""
        return {"notification": self.item}


AUDIENCE_EVENTS: Final[tuple[type[Event], ...]] = (CommentPosted, StatusChanged, Mentioned)
"""The events that have an audience. The others that the notifier reads only change what it has already told."""

EVENTS: Final[dict[str, type[Event]]] = {
    event.type: event
    for event in (
        IncidentOpened,
        StatusChanged,
        Seen,
        Subscribed,
        Unsubscribed,
        CommentPosted,
        CommentEdited,
        CommentDeleted,
        Mentioned,
        AlertRuleCreated,
        AlertRuleUpdated,
        AlertRuleDeleted,
        TriggerFired,
        TriggerResolved,
        CommandDead,
        WebhookTested,
        NotificationCreated,
    )
}
"""Every event class, by the event's name on the wire."""

UNPUBLISHED: Final = frozenset({WebhookTested.type, NotificationCreated.type})
"""The types of the events that only one recipient gets, so that nobody can ask for them."""


def cloud_event(
    event: Event,
    *,
    id: UUID,  # noqa: A002 - CloudEvents' own name
    organization: str,
    subject: str,
    sequence: int,
    time: datetime,
    data: dict[str, JSON],
    traceparent: str | None = None,
) -> dict[str, JSON]:
    """Return the event as a CloudEvent.

    ``subject`` is a path like ``incidents/12``, and ``sequence`` counts the subject's events. ``data`` is merged with
    the event's own data. ``traceparent``, if given, becomes the attribute of that name, which CloudEvents' Distributed
    Tracing extension defines.
    """
    trace = {} if traceparent is None else {"traceparent": traceparent}
    return {
        "specversion": "1.0",
        "id": str(id),
        "source": f"/organizations/{organization}",
        "subject": subject,
        "type": event.type,
        "time": iso(time),
        "sequence": f"{sequence:0{SEQUENCE_DIGITS}d}",
        "partitionkey": subject,
        "datacontenttype": "application/json",
        **trace,
        "data": {**data, **event.data()},
    }
