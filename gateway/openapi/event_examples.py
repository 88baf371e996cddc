"""One example of each event, built as the event itself is."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from models.enums import IncidentStatus, NotificationReason
from models.types import JSON
from tasks import events
from tasks.event_json import (
    AboutAlertRuleJson,
    AboutCommandJson,
    AboutIncidentJson,
    AboutNotificationJson,
    AboutWebhookJson,
)
from tasks.events import Event, cloud_event

_TIME: Final = datetime(2026, 11, 23, 11, 35, 57, 754598, UTC)
_EVENT_ID: Final = UUID("01a20830-fc2a-777a-930b-7054e159c667")
_COMMAND_ID: Final = UUID("01a20830-fc08-707b-a460-29f30c490563")
_COMMENT: Final = "Ana, can you look?"
_TITLE: Final = "Checkout answers slowly"

_INCIDENT: Final = {"id": "1", "identifier": "1", "title": _TITLE, "status": IncidentStatus.WARNING, "version": 2}
_RULE: Final = {"id": "5", "name": "Errors on checkout", "version": 1}
_PERSON: Final = {"type": "user", "id": "11", "name": "Mem"}
_TOCSIN: Final = {"type": "system", "id": None, "name": "tocsin"}
_COMMAND: Final = str(_COMMAND_ID)

_ABOUT: Final[Mapping[type, tuple[str, Mapping[str, JSON]]]] = {
    AboutIncidentJson: ("incidents/1", {"incident": _INCIDENT, "actor": _PERSON, "command": _COMMAND}),
    AboutAlertRuleJson: (
        "alert-rules/5",
        {"incident": None, "alertRule": _RULE, "actor": _PERSON, "command": _COMMAND},
    ),
    AboutCommandJson: (f"commands/{_COMMAND}", {"incident": None, "actor": None, "command": _COMMAND}),
    AboutWebhookJson: ("webhooks/3", {"actor": _PERSON, "command": _COMMAND}),
    AboutNotificationJson: ("notifications/17", {"incident": _INCIDENT, "actor": _TOCSIN, "command": None}),
}
"""The subject and the data that an event has because of what it is about."""

_EVENTS: Final[tuple[Event, ...]] = (
    events.IncidentOpened(projects=("p1",)),
    events.StatusChanged(activity=9, old=IncidentStatus.OPEN, new=IncidentStatus.WARNING, comment=None),
    events.Seen(user=12),
    events.Subscribed(user=12),
    events.Unsubscribed(user=12),
    events.CommentPosted(activity=7, comment=_COMMENT),
    events.CommentEdited(activity=7, comment=_COMMENT),
    events.CommentDeleted(activity=7),
    events.Mentioned(activity=7, comment=_COMMENT, users=(12,), teams=()),
    events.AlertRuleCreated(projects=("p1",)),
    events.AlertRuleUpdated(projects=("p1",)),
    events.AlertRuleDeleted(projects=("p1",)),
    events.TriggerFired(trigger=6, label="critical", project="p1", value=120.0, timestamp=_TIME),
    events.TriggerResolved(trigger=6, label="critical", project="p1", value=3.0, timestamp=_TIME),
    events.CommandDead(command_type="comment.post", attempts=5, error="The worker process died."),
    events.WebhookTested(webhook=3),
    events.NotificationCreated(
        item={
            "id": "17",
            "reason": NotificationReason.MENTION,
            "event": {"id": str(_EVENT_ID), "type": events.CommentPosted.type},
            "incident": {"identifier": "1", "title": _TITLE},
            "activity": {"id": "7"},
            "author": {"id": "11", "name": "Mem"},
            "link": "https://tocsin.example.org/organizations/acme/alerts/1/",
            "text": _COMMENT,
            "dateCreated": "2026-11-23T11:35:57.754598Z",
            "dateRead": None,
            "retracted": False,
        }
    ),
)


def _example(event: Event) -> dict[str, Any]:
    subject, about = _ABOUT[event.about_type]
    sequence = 0 if isinstance(event, events.WebhookTested) else 1
    return cloud_event(
        event,
        id=_EVENT_ID,
        organization="acme",
        subject=subject,
        sequence=sequence,
        time=_TIME,
        data=dict(about),
    )


EXAMPLES: Final[Mapping[str, dict[str, Any]]] = {event.type: _example(event) for event in _EVENTS}
"""A CloudEvent of each type."""
