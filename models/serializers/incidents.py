"""Incidents, activities and subscribers as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, NotRequired, TypedDict

from models.alert_rules.serializers import (
    AlertRuleDetailsJson,
    AlertRuleJson,
    RuleReferences,
    RuleSnapshot,
    discover_query,
    rule_json,
)
from models.directory.tables import Person
from models.enums import (
    ActivityType,
    Channel,
    DecisionOutcome,
    IncidentStatus,
    NotificationReason,
    SubscriptionReason,
)
from models.incidents.activity import Activity
from models.incidents.incident import Incident
from models.json_fields import DateTime, Id
from models.notifications.preferences import Schedule
from models.serializers.directory import UserBriefJson, UserJson, person_brief_json, person_json
from models.timestamps import iso, iso_or_none
from models.types import JSON


class ActivityJson(TypedDict):
    """An activity on an incident. ``user`` is null if the activity was tocsin's own."""

    id: Id
    incidentIdentifier: Id
    user: UserJson | None
    type: ActivityType
    value: str | None
    previousValue: str | None
    comment: str | None
    dateCreated: DateTime
    version: int


def activity_json(activity: Activity, *, identifier: int, user: Person | None) -> ActivityJson:
    """Serialize an activity. ``user`` is its author, or ``None`` for tocsin itself."""
    return {
        "id": str(activity.id),
        "incidentIdentifier": str(identifier),
        "user": None if user is None else person_json(user),
        "type": activity.type,
        "value": activity.value,
        "previousValue": activity.previous_value,
        "comment": activity.comment,
        "dateCreated": iso(activity.date_added),
        "version": activity.version,
    }


class IncidentRule(NamedTuple):
    """An incident's alert rule, as it was in the generation that opened the incident.

    ``is_snoozed`` says whether the rule is currently snoozed for the reader.
    """

    snapshot: RuleSnapshot
    references: RuleReferences
    is_snoozed: bool

    def to_json(self, *, shows_original: bool) -> AlertRuleJson:
        """Serialize the rule as part of its incident."""
        return rule_json(self.snapshot, self.references, is_snoozed=self.is_snoozed, shows_original=shows_original)


class SeenByJson(UserJson):
    """A user who has seen an incident, with the time at which they last saw it."""

    lastSeen: DateTime


class _IncidentFields(TypedDict):
    id: Id
    identifier: Id
    organizationId: Id
    projects: list[str]
    alertRule: AlertRuleJson | None
    activities: list[ActivityJson] | None
    status: IncidentStatus
    statusMethod: int
    type: int
    title: str
    dateStarted: DateTime
    dateDetected: DateTime
    dateCreated: DateTime
    dateClosed: DateTime | None
    version: int


class IncidentJson(_IncidentFields):
    """An incident in a list. ``seenBy`` (most recent first) and ``activities`` are null unless they were requested."""

    seenBy: list[SeenByJson] | None
    hasSeen: bool | None


class IncidentDetailsJson(_IncidentFields):
    """A single incident."""

    seenBy: list[SeenByJson]
    hasSeen: bool
    isSubscribed: bool
    discoverQuery: str


class ExpandedAlertRuleJson(AlertRuleJson):
    """An alert rule in a list. ``latestIncident`` is present only if the ``expand`` query parameter names it."""

    latestIncident: NotRequired[IncidentJson | None]


class ExpandedAlertRuleDetailsJson(AlertRuleDetailsJson):
    """A single alert rule. ``latestIncident`` is present only if the ``expand`` query parameter names it."""

    latestIncident: NotRequired[IncidentJson | None]


def incident_json(
    incident: Incident,
    *,
    projects: Sequence[str],
    activities: Sequence[ActivityJson] | None = None,
    seen_by: Sequence[tuple[Person, datetime]] | None = None,
    viewer: int | None = None,
    alert_rule: IncidentRule | None = None,
    shows_original: bool = False,
) -> IncidentJson:
    """Serialize an incident for a list.

    ``projects`` holds slugs, ``seen_by`` is ordered with the most recent first, and ``viewer`` is the reader's user id.
    """
    return {
        "id": str(incident.id),
        "identifier": str(incident.identifier),
        "organizationId": str(incident.organization_id),
        "projects": list(projects),
        "alertRule": None if alert_rule is None else alert_rule.to_json(shows_original=shows_original),
        "activities": None if activities is None else list(activities),
        "seenBy": None if seen_by is None else _seen_by_json(seen_by),
        "hasSeen": None if seen_by is None else any(person.id == viewer for person, _ in seen_by),
        "status": incident.status,
        "statusMethod": incident.status_method,
        "type": incident.type,
        "title": incident.title,
        "dateStarted": iso(incident.date_started),
        "dateDetected": iso(incident.date_detected),
        "dateCreated": iso(incident.date_added),
        # Truncated to the minute, as in Sentry's incident API.
        "dateClosed": iso_or_none(incident.date_closed and incident.date_closed.replace(second=0, microsecond=0)),
        "version": incident.version,
    }


def incident_details_json(
    incident: Incident,
    *,
    projects: Sequence[str],
    seen_by: Sequence[tuple[Person, datetime]],
    viewer: int | None,
    is_subscribed: bool,
    alert_rule: IncidentRule | None,
) -> IncidentDetailsJson:
    """Serialize a single incident. The parameters are as for :func:`incident_json`."""
    return {
        **incident_json(incident, projects=projects, alert_rule=alert_rule, shows_original=True),
        "seenBy": _seen_by_json(seen_by),
        "hasSeen": any(person.id == viewer for person, _ in seen_by),
        "isSubscribed": is_subscribed,
        "discoverQuery": "" if alert_rule is None else discover_query(alert_rule.snapshot.definition),
    }


def _seen_by_json(seen_by: Sequence[tuple[Person, datetime]]) -> list[SeenByJson]:
    return [{**person_json(person), "lastSeen": iso(last_seen)} for person, last_seen in seen_by]


def incident_in_event(incident: Incident) -> dict[str, JSON]:
    """Serialize an incident for an event's data."""
    return {
        "id": str(incident.id),
        "identifier": str(incident.identifier),
        "title": incident.title,
        "status": incident.status,
        "version": incident.version,
    }


class SubscriberJson(TypedDict):
    """A subscriber to an incident."""

    user: UserBriefJson
    reason: SubscriptionReason


def subscriber_json(person: Person, reason: SubscriptionReason) -> SubscriberJson:
    """Serialize a subscriber to an incident."""
    return {"user": person_brief_json(person), "reason": reason}


class PreviewChannelJson(TypedDict):
    """What a person would get on a channel: its outcome, the rule that decides it, and the time at which it is sent.

    ``at`` is null if nothing is sent.
    """

    channel: Channel
    outcome: DecisionOutcome
    rule: str
    at: DateTime | None


class PreviewRecipientJson(TypedDict):
    """A person whom a comment would notify."""

    user: UserBriefJson
    reason: NotificationReason
    channels: list[PreviewChannelJson]


def preview_recipient_json(
    person: Person, reason: NotificationReason, channels: Mapping[Channel, Schedule]
) -> PreviewRecipientJson:
    """Serialize a person whom a comment would notify."""
    return {
        "user": person_brief_json(person),
        "reason": reason,
        "channels": [
            {
                "channel": channel,
                "outcome": planned.outcome,
                "rule": planned.rule,
                "at": iso_or_none(planned.due_at),
            }
            for channel, planned in channels.items()
        ],
    }
