"""Every event: the news that others may want to hear.

CloudEvents 1.0 in structured JSON, one body for the bus, for server-sent events and for webhooks. An event says
what changed; :func:`cloud_event` adds who, where and in which order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Final
from uuid import UUID

from models.enums import JSON, IncidentStatus
from models.timestamps import iso

SEQUENCE_DIGITS: Final = 20
"""Sequences are zero-padded, so that they sort as text."""


class Event:
    """Something that happened. ``type`` is its name on the wire; ``notifies_people`` whether the notifier plans it."""

    type: ClassVar[str]
    notifies_people: ClassVar[bool] = False

    @property
    def activity_id(self) -> int | None:
        """The activity that this event tells of; all events of one activity are planned together."""
        return None

    def data(self) -> dict[str, JSON]:
        """What changed, beside the incident, the actor and the command."""
        return {}


@dataclass(frozen=True, slots=True)
class IncidentOpened(Event):
    """An incident was opened."""

    type: ClassVar[str] = "incident.opened"

    projects: tuple[str, ...]

    def data(self) -> dict[str, JSON]:
        """Slugs of the projects concerned."""
        return {"projects": list(self.projects)}


@dataclass(frozen=True, slots=True)
class StatusChanged(Event):
    """An incident got better or worse, or was closed or reopened."""

    type: ClassVar[str] = "incident.status_changed"
    notifies_people: ClassVar[bool] = True

    activity: int
    old: IncidentStatus
    new: IncidentStatus
    comment: str | None

    @property
    def activity_id(self) -> int:
        """The change of status."""
        return self.activity

    def data(self) -> dict[str, JSON]:
        """From what, to what, and why."""
        return {
            "activity": {"id": str(self.activity), "comment": self.comment},
            "previousStatus": self.old,
            "status": self.new,
        }


@dataclass(frozen=True, slots=True)
class Seen(Event):
    """Someone has seen an incident."""

    type: ClassVar[str] = "incident.seen"

    user: int

    def data(self) -> dict[str, JSON]:
        """Who."""
        return {"user": str(self.user)}


@dataclass(frozen=True, slots=True)
class CommentPosted(Event):
    """Someone said something."""

    type: ClassVar[str] = "incident.comment_posted"
    notifies_people: ClassVar[bool] = True

    activity: int
    comment: str

    @property
    def activity_id(self) -> int:
        """The comment."""
        return self.activity

    def data(self) -> dict[str, JSON]:
        """The comment as it was written."""
        return {"activity": {"id": str(self.activity), "comment": self.comment}}


@dataclass(frozen=True, slots=True)
class CommentEdited(CommentPosted):
    """Someone said something else instead; ``incident.mentioned`` follows if it mentions someone new."""

    type: ClassVar[str] = "incident.comment_edited"


@dataclass(frozen=True, slots=True)
class CommentDeleted(Event):
    """A comment was taken back: what people were told of it is retracted."""

    type: ClassVar[str] = "incident.comment_deleted"
    notifies_people: ClassVar[bool] = True

    activity: int

    @property
    def activity_id(self) -> int:
        """The comment that is gone."""
        return self.activity

    def data(self) -> dict[str, JSON]:
        """Which."""
        return {"activity": {"id": str(self.activity)}}


@dataclass(frozen=True, slots=True)
class Mentioned(Event):
    """People or teams were mentioned; ``users`` are those named one by one."""

    type: ClassVar[str] = "incident.mentioned"
    notifies_people: ClassVar[bool] = True

    activity: int
    comment: str
    users: tuple[int, ...]
    teams: tuple[int, ...]

    @property
    def activity_id(self) -> int:
        """The comment that mentions."""
        return self.activity

    def data(self) -> dict[str, JSON]:
        """Who was mentioned, and where."""
        return {
            "activity": {"id": str(self.activity), "comment": self.comment},
            "users": [str(user) for user in self.users],
            "teams": [str(team) for team in self.teams],
        }


@dataclass(frozen=True, slots=True)
class Subscribed(Seen):
    """Someone asked to hear of an incident."""

    type: ClassVar[str] = "incident.subscribed"


@dataclass(frozen=True, slots=True)
class Unsubscribed(Seen):
    """Someone hears no more of an incident."""

    type: ClassVar[str] = "incident.unsubscribed"


@dataclass(frozen=True, slots=True)
class AlertRuleCreated(Event):
    """Something is watched; ``projects`` are slugs."""

    type: ClassVar[str] = "alert_rule.created"

    projects: tuple[str, ...]

    def data(self) -> dict[str, JSON]:
        """Slugs of the projects concerned."""
        return {"projects": list(self.projects)}


@dataclass(frozen=True, slots=True)
class AlertRuleUpdated(AlertRuleCreated):
    """A rule says something else, or tells others."""

    type: ClassVar[str] = "alert_rule.updated"


@dataclass(frozen=True, slots=True)
class AlertRuleDeleted(AlertRuleCreated):
    """Something is watched no more."""

    type: ClassVar[str] = "alert_rule.deleted"


@dataclass(frozen=True, slots=True)
class TriggerFired(Event):
    """A value fired a trigger of a rule."""

    type: ClassVar[str] = "alert_trigger.fired"

    trigger: int
    label: str
    project: str
    value: float | None
    timestamp: datetime

    def data(self) -> dict[str, JSON]:
        """Which trigger, and the value that did it."""
        return {
            "trigger": {"id": str(self.trigger), "label": self.label},
            "project": self.project,
            "value": self.value,
            "timestamp": iso(self.timestamp),
        }


@dataclass(frozen=True, slots=True)
class TriggerResolved(TriggerFired):
    """A value resolved a trigger of a rule."""

    type: ClassVar[str] = "alert_trigger.resolved"


@dataclass(frozen=True, slots=True)
class CommandDead(Event):
    """A fault outlived its retries: the command lies in the dead letters."""

    type: ClassVar[str] = "command.dead"

    command_type: str
    attempts: int
    error: str

    def data(self) -> dict[str, JSON]:
        """What died, of what."""
        return {"type": self.command_type, "attempts": self.attempts, "error": self.error}


@dataclass(frozen=True, slots=True)
class NotificationCreated(Event):
    """Somebody has a new item in their inbox: told on their own streams, never on the bus."""

    type: ClassVar[str] = "notification.created"

    item: Mapping[str, JSON]

    def data(self) -> dict[str, JSON]:
        """The item, as the inbox has it."""
        return {"notification": dict(self.item)}


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
        NotificationCreated,
    )
}
"""Every event by its name on the wire."""


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
    """The event as it goes out. ``subject`` is ``incidents/12`` and the like; ``data`` comes before what changed.

    ``traceparent``, where there is one, becomes the attribute of CloudEvents' Distributed Tracing extension.
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
        "data": data | event.data(),
    }
