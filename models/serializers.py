"""Entity → JSON, as callers see it: used by the worker's outcomes and the gateway's reads alike.

Ids are strings, times ISO 8601 in UTC with microseconds where they are not zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from models.alert_rules.serializers import RuleReferences, RuleSnapshot, discover_query, rule_json
from models.directory.tables import Person
from models.enums import JSON, ActivityType, CommandState, IncidentStatus
from models.incidents.activity import Activity
from models.incidents.incident import Incident
from models.timestamps import iso, iso_or_none


def person_brief(person: Person) -> dict[str, JSON]:
    """A person in a list: who they are, no more."""
    return {"id": str(person.id), "name": person.name, "username": person.username, "email": person.email}


def person_json(person: Person | None) -> dict[str, JSON] | None:
    """A person as Sentry's full user object; tocsin keeps no passwords, avatars or logins, and says so."""
    if person is None:
        return None
    return person_brief(person) | {
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


def activity_json(activity: Activity, *, identifier: int, user: Person | None) -> dict[str, JSON]:
    """An activity; ``user`` is its author, ``None`` for tocsin itself."""
    return {
        "id": str(activity.id),
        "incidentIdentifier": str(identifier),
        "user": person_json(user),
        "type": activity.type,
        "value": activity.value,
        "previousValue": activity.previous_value,
        "comment": activity.comment,
        "dateCreated": iso(activity.date_added),
        "version": activity.version,
    }


class IncidentRule(NamedTuple):
    """The rule that found an incident, as it was then; ``is_snoozed`` for the reader, now."""

    snapshot: RuleSnapshot
    names: RuleReferences
    is_snoozed: bool

    def to_json(self, *, shows_original: bool) -> JSON:
        """The rule inside its incident."""
        return rule_json(self.snapshot, self.names, is_snoozed=self.is_snoozed, shows_original=shows_original)


def incident_json(
    incident: Incident,
    *,
    projects: Sequence[str],
    activities: Sequence[JSON] | None = None,
    seen_by: Sequence[tuple[Person, datetime]] | None = None,
    viewer: int | None = None,
    alert_rule: IncidentRule | None = None,
    shows_original: bool = False,
) -> dict[str, JSON]:
    """An incident as lists show it; ``seen_by`` is most recent first, ``viewer`` the reader's user id."""
    return {
        "id": str(incident.id),
        "identifier": str(incident.identifier),
        "organizationId": str(incident.organization_id),
        "projects": list(projects),
        "alertRule": None if alert_rule is None else alert_rule.to_json(shows_original=shows_original),
        "activities": None if activities is None else list(activities),
        "seenBy": None
        if seen_by is None
        else [(person_json(person) or {}) | {"lastSeen": iso(last_seen)} for person, last_seen in seen_by],
        "hasSeen": None if seen_by is None else any(person.id == viewer for person, _ in seen_by),
        "status": incident.status,
        "statusMethod": incident.status_method,
        "type": incident.type,
        "title": incident.title,
        "dateStarted": iso(incident.date_started),
        "dateDetected": iso(incident.date_detected),
        "dateCreated": iso(incident.date_added),
        # To the minute: what the incident API that we give back has always answered.
        "dateClosed": iso_or_none(incident.date_closed and incident.date_closed.replace(second=0, microsecond=0)),
        "version": incident.version,
    }


def incident_details(
    incident: Incident,
    *,
    projects: Sequence[str],
    seen_by: Sequence[tuple[Person, datetime]],
    viewer: int | None,
    is_subscribed: bool,
    alert_rule: IncidentRule | None,
) -> dict[str, JSON]:
    """An incident by itself. Without a rule there is no query to discover."""
    shown = incident_json(
        incident, projects=projects, seen_by=seen_by, viewer=viewer, alert_rule=alert_rule, shows_original=True
    )
    return shown | {
        "isSubscribed": is_subscribed,
        "discoverQuery": "" if alert_rule is None else discover_query(alert_rule.snapshot.definition),
    }


def incident_in_event(incident: Incident) -> dict[str, JSON]:
    """An incident inside an event."""
    return {
        "id": str(incident.id),
        "identifier": str(incident.identifier),
        "title": incident.title,
        "status": incident.status,
        "version": incident.version,
    }


def command_json(command: Mapping[str, Any], *, organization: str | None) -> dict[str, JSON]:
    """The command resource, from a row of the ledger."""
    state = CommandState(command["state"])
    finished = command["outcome_status"] is not None
    return {
        "id": str(command["id"]),
        "type": command["type"],
        "status": state,
        "organization": organization,
        "acceptedAt": iso(command["accepted_at"]),
        "finishedAt": iso_or_none(command["finished_at"]),
        "attempts": command["attempts"],
        "heldBy": None,
        "outcome": {"status": command["outcome_status"], "body": command["outcome_body"]} if finished else None,
        "error": command["error"],
    }


def organization_json(row: Mapping[str, Any]) -> dict[str, JSON]:
    """An organization, from its row."""
    return {
        "id": str(row["id"]),
        "slug": row["slug"],
        "name": row["name"],
        "features": sorted(row["features"]),
        "options": {name: row[name] for name in ("open_membership", "alerts_member_write", "events_member_admin")},
    }


def team_or_project_json(row: Mapping[str, Any]) -> dict[str, JSON]:
    """A team or a project, from its row."""
    return {"id": str(row["id"]), "slug": row["slug"], "name": row["name"], "status": row["status"]}


def member_json(member_id: int, *, role: str, person: Person, teams: Iterable[str]) -> dict[str, JSON]:
    """A member of an organization; ``teams`` are slugs."""
    return {"id": str(member_id), "role": role, "user": person_brief(person), "teams": sorted(teams)}


def notification_json(row: Any) -> dict[str, JSON]:
    """An item of the inbox, from its row."""
    return {
        "id": str(row.id),
        "reason": row.reason,
        "event": {"id": str(row.event_id), "type": row.event_type},
        "incident": {"identifier": str(row.identifier), "title": row.title},
        "activity": {"id": str(row.activity_id)},
        "text": "" if row.retracted else _text_of(row),
        "dateCreated": iso(row.date_created),
        "dateRead": iso_or_none(row.date_read),
        "retracted": row.retracted,
    }


def _text_of(row: Any) -> str:
    # The comment as it stands now is what people want to read, so an edit shows here too.
    if row.activity_type == ActivityType.STATUS_CHANGE and not row.comment:
        old, new = (IncidentStatus(int(value)).label for value in (row.previous_value, row.value))
        return f"changed status from {old} to {new}"
    return row.comment or ""
