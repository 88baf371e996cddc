"""Serializers for entities in JSON, as callers see them.

The worker uses them for command outcomes and events, the gateway for reads. Ids are strings. Timestamps are ISO 8601 in
UTC, with microseconds unless they are zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, NamedTuple, NotRequired, TypedDict

from models.alert_rules.evaluation import Evaluation, Ignored
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
    CommandState,
    IncidentStatus,
    NotificationReason,
    ObjectStatus,
    Role,
    SubscriptionReason,
)
from models.incidents.activity import Activity
from models.incidents.incident import Incident
from models.json_fields import DateTime, Id, SchemaKeywords, Uuid
from models.timestamps import iso, iso_or_none
from models.types import JSON

# --- people and organizations ----------------------------------------------------------------------------------


class UserBriefJson(TypedDict):
    """A user in a list."""

    id: Id
    name: str
    username: str
    email: str


class EmailJson(TypedDict):
    """A user's e-mail address."""

    id: Id
    email: str
    is_verified: bool


class AvatarJson(TypedDict):
    """A user's avatar."""

    avatarType: str
    avatarUuid: str | None
    avatarUrl: str | None


class UserJson(UserBriefJson):
    """A user, with every field of Sentry's user object."""

    avatarUrl: str | None
    isActive: bool
    hasPasswordAuth: bool
    isManaged: bool
    dateJoined: DateTime
    lastLogin: DateTime | None
    has2fa: bool
    lastActive: DateTime | None
    isSuperuser: bool
    isStaff: bool
    experiments: dict[str, JSON]
    emails: list[EmailJson]
    avatar: AvatarJson


def person_brief_json(person: Person) -> UserBriefJson:
    """Serialize a person for a list."""
    return {"id": str(person.id), "name": person.name, "username": person.username, "email": person.email}


def person_json(person: Person) -> UserJson:
    """Serialize a person as Sentry's user object. tocsin does not store passwords, avatars or logins."""
    return {
        **person_brief_json(person),
        "avatarUrl": None,
        "isActive": person.is_active,
        "hasPasswordAuth": False,
        "isManaged": False,
        "dateJoined": iso(person.date_joined),
        "lastLogin": None,
        "has2fa": False,
        "lastActive": None,
        "isSuperuser": person.is_superuser,
        "isStaff": False,
        "experiments": {},
        "emails": [{"id": str(person.id), "email": person.email, "is_verified": True}] if person.email else [],
        "avatar": {"avatarType": "letter_avatar", "avatarUuid": None, "avatarUrl": None},
    }


class OrganizationOptionsJson(TypedDict):
    """The organization settings on which the policy depends."""

    open_membership: bool
    alerts_member_write: bool
    events_member_admin: bool


class OrganizationJson(TypedDict):
    """An organization, with its features sorted."""

    id: Id
    slug: str
    name: str
    features: list[str]
    options: OrganizationOptionsJson


def organization_json(row: Mapping[str, Any]) -> OrganizationJson:
    """Serialize an organization from its row."""
    return {
        "id": str(row["id"]),
        "slug": row["slug"],
        "name": row["name"],
        "features": sorted(row["features"]),
        "options": {
            "open_membership": row["open_membership"],
            "alerts_member_write": row["alerts_member_write"],
            "events_member_admin": row["events_member_admin"],
        },
    }


class TeamOrProjectJson(TypedDict):
    """A team or a project."""

    id: Id
    slug: str
    name: str
    status: ObjectStatus


def team_or_project_json(row: Mapping[str, Any]) -> TeamOrProjectJson:
    """Serialize a team or a project from its row."""
    return {"id": str(row["id"]), "slug": row["slug"], "name": row["name"], "status": row["status"]}


class MemberJson(TypedDict):
    """A member of an organization. ``teams`` holds sorted slugs."""

    id: Id
    role: Role
    user: UserBriefJson
    teams: list[str]


def member_json(member_id: int, *, role: Role, person: Person, teams: Iterable[str]) -> MemberJson:
    """Serialize a member of an organization. ``teams`` holds slugs."""
    return {"id": str(member_id), "role": role, "user": person_brief_json(person), "teams": sorted(teams)}


# --- incidents -------------------------------------------------------------------------------------------------


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


class PreviewRecipientJson(TypedDict):
    """A person whom a comment would notify."""

    user: UserBriefJson
    reason: NotificationReason


def preview_recipient_json(person: Person, reason: NotificationReason) -> PreviewRecipientJson:
    """Serialize a person whom a comment would notify."""
    return {"user": person_brief_json(person), "reason": reason}


# --- observations ----------------------------------------------------------------------------------------------


class ObservedJson(TypedDict):
    """The result of an observation: the labels of the triggers that fired or were resolved, and the rule's incident."""

    fired: list[str]
    resolved: list[str]
    incident: IncidentJson | None
    ignored: NotRequired[Ignored]


def observed_json(evaluation: Evaluation, *, incident: IncidentJson | None) -> ObservedJson:
    """Serialize the result of an observation. ``incident`` is the rule's incident after the observation."""
    serialized: ObservedJson = {"fired": evaluation.fired, "resolved": evaluation.resolved, "incident": incident}
    if evaluation.ignored is not None:
        serialized["ignored"] = evaluation.ignored
    return serialized


class TriggerCountJson(TypedDict):
    """A trigger's counts of consecutive values: those that breached its threshold, and those that resolved it."""

    alerts: int
    resolves: int


class ObservationJson(TypedDict):
    """A stored observation and its result."""

    project: str
    value: float | None
    comparisonValue: float | None
    timestamp: DateTime
    dateCreated: DateTime
    fired: list[str]
    resolved: list[str]
    ignored: Ignored | None
    incidentIdentifier: Id | None
    counted: Annotated[
        dict[str, TriggerCountJson],
        SchemaKeywords(
            description="By trigger label: how many times in a row the threshold was met, and was not met while the"
            " trigger was active."
        ),
    ]


def observation_json(row: Any) -> ObservationJson:
    """Serialize a stored observation from its row."""
    result = row.result
    return {
        "project": row.slug,
        "value": row.value,
        "comparisonValue": row.comparison_value,
        "timestamp": iso(row.timestamp),
        "dateCreated": iso(row.accepted_at),
        "fired": result["fired"],
        "resolved": result["resolved"],
        "ignored": result.get("ignored"),
        "incidentIdentifier": result["incident"],
        "counted": result["counted"],
    }


# --- notifications ---------------------------------------------------------------------------------------------


class EventReferenceJson(TypedDict):
    """The event that caused a notification."""

    id: Uuid
    type: str


class IncidentReferenceJson(TypedDict):
    """The incident that a notification refers to."""

    identifier: Id
    title: str


class ActivityReferenceJson(TypedDict):
    """The activity that a notification refers to."""

    id: Id


class NotificationJson(TypedDict):
    """A notification in a person's inbox."""

    id: Id
    reason: NotificationReason
    event: EventReferenceJson
    incident: IncidentReferenceJson
    activity: ActivityReferenceJson
    text: str
    dateCreated: DateTime
    dateRead: DateTime | None
    retracted: bool


def notification_json(row: Any) -> NotificationJson:
    """Serialize a notification from its row."""
    return {
        "id": str(row.id),
        "reason": row.reason,
        "event": {"id": str(row.event_id), "type": row.event_type},
        "incident": {"identifier": str(row.identifier), "title": row.title},
        "activity": {"id": str(row.activity_id)},
        "text": "" if row.retracted else _notification_text(row),
        "dateCreated": iso(row.date_created),
        "dateRead": iso_or_none(row.date_read),
        "retracted": row.retracted,
    }


def _notification_text(row: Any) -> str:
    # The current comment, so that an edit also changes notifications that were sent before it.
    if row.activity_type == ActivityType.STATUS_CHANGE and not row.comment:
        old, new = (IncidentStatus(int(value)).label for value in (row.previous_value, row.value))
        return f"changed status from {old} to {new}"
    return row.comment or ""


# --- commands --------------------------------------------------------------------------------------------------


class OutcomeJson(TypedDict):
    """A command's outcome: the HTTP status and the response body."""

    status: int
    body: Any


class CommandJson(TypedDict):
    """A command and, once it is finished, its outcome. ``organization`` is a slug."""

    id: Uuid
    type: str
    status: CommandState
    organization: str | None
    acceptedAt: DateTime
    finishedAt: DateTime | None
    attempts: int
    heldBy: str | None
    outcome: OutcomeJson | None
    error: str | None


def command_json(command: Mapping[str, Any], *, organization: str | None) -> CommandJson:
    """Serialize a command from its row in the ledger. ``organization`` is a slug."""
    is_finished = command["outcome_status"] is not None
    return {
        "id": str(command["id"]),
        "type": command["type"],
        "status": CommandState(command["state"]),
        "organization": organization,
        "acceptedAt": iso(command["accepted_at"]),
        "finishedAt": iso_or_none(command["finished_at"]),
        "attempts": command["attempts"],
        "heldBy": None,
        "outcome": {"status": command["outcome_status"], "body": command["outcome_body"]} if is_finished else None,
        "error": command["error"],
    }
