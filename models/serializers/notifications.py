"""Inbox items as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, TypedDict

from models.enums import (
    ActivityType,
    DecisionOutcome,
    IncidentStatus,
)
from models.json_fields import DateTime, Id, Uuid
from models.notifications.explanation import ExplainedDecision
from models.notifications.preferences import (
    MESSAGE_REASONS,
    PERSONAL_CHANNELS,
    DigestInterval,
    Mode,
    Preferences,
)
from models.serializers.inbox_item import NotificationJson
from models.timestamps import iso, iso_or_none


class DecisionJson(TypedDict):
    """A decision on whether a person is notified of an activity.

    ``activity`` and ``event`` are ids, and ``explanation`` is a sentence. ``at`` is ``None`` if nothing is recorded.
    """

    activity: Id
    event: Uuid
    channel: str
    outcome: DecisionOutcome
    rule: str
    detail: str
    explanation: str
    at: DateTime | None


class DecisionListJson(TypedDict):
    """Decisions, newest first."""

    decisions: list[DecisionJson]


class ModesJson(TypedDict):
    """How a person wants to hear of something, by channel."""

    email: Mode
    chat: Mode


class ChannelsJson(TypedDict):
    """How a person wants to hear of something, by reason and channel."""

    mention: ModesJson
    team_mention: ModesJson
    subscribed: ModesJson
    alert_action: ModesJson


class DigestJson(TypedDict):
    """When digests are sent. ``at`` counts for daily ones, in the person's time zone."""

    every: DigestInterval
    at: str


class QuietHoursJson(TypedDict):
    """A person's quiet hours, in their time zone."""

    start: str
    end: str


class PreferencesJson(TypedDict):
    """A person's preferences for messages. ``mutedIncidents`` holds the ids of incidents that are muted without end."""

    channels: ChannelsJson
    digest: DigestJson
    quietHours: QuietHoursJson | None
    mutedIncidents: list[Id]


class MuteJson(TypedDict):
    """A muted incident. ``until`` is null if the mute has no end."""

    until: DateTime | None


def preferences_json(preferences: Preferences, muted_incidents: Iterable[int]) -> PreferencesJson:
    """Serialize a person's preferences, with everything that they have not set."""
    quiet = preferences.quiet_hours
    channels: Any = {
        reason: {channel.value: preferences.mode(reason, channel) for channel in PERSONAL_CHANNELS}
        for reason in MESSAGE_REASONS
    }
    return {
        "channels": channels,
        "digest": {"every": preferences.digest.every, "at": f"{preferences.digest.at:%H:%M}"},
        "quietHours": None if quiet is None else {"start": f"{quiet.start:%H:%M}", "end": f"{quiet.end:%H:%M}"},
        "mutedIncidents": [str(id_) for id_ in muted_incidents],
    }


def mute_json(until: datetime | None) -> MuteJson:
    """Serialize a muted incident."""
    return {"until": iso_or_none(until)}


def notification_json(row: Any, organization_url: str) -> NotificationJson:
    """Serialize a notification from its row. Links start with ``organization_url``, which ends with the slug."""
    return {
        "id": str(row.id),
        "reason": row.reason,
        "event": {"id": str(row.event_id), "type": row.event_type},
        "incident": {"identifier": str(row.identifier), "title": row.title},
        "activity": {"id": str(row.activity_id)},
        "author": None if row.author_id is None else {"id": str(row.author_id), "name": row.author_name},
        "link": f"{organization_url}/alerts/{row.identifier}/",
        "text": "" if row.retracted else _notification_text(row),
        "dateCreated": iso(row.date_created),
        "dateRead": iso_or_none(row.date_read),
        "retracted": row.retracted,
    }


def decisions_json(decisions: Iterable[ExplainedDecision]) -> DecisionListJson:
    """Serialize decisions, in the given order."""
    return {"decisions": [_decision_json(decision) for decision in decisions]}


def _decision_json(decision: ExplainedDecision) -> DecisionJson:
    return {
        "activity": str(decision.activity_id),
        "event": str(decision.event_id),
        "channel": decision.channel,
        "outcome": decision.outcome,
        "rule": decision.rule,
        "detail": decision.detail,
        "explanation": decision.explanation,
        "at": iso_or_none(decision.at),
    }


def _notification_text(row: Any) -> str:
    # The current comment, so that an edit also changes notifications that were sent before it.
    if row.activity_type == ActivityType.STATUS_CHANGE and not row.comment:
        old, new = (IncidentStatus(int(value)).label for value in (row.previous_value, row.value))
        return f"changed status from {old} to {new}"
    return row.comment or ""
