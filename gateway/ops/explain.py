"""Why people were, or were not, notified of what happened on an incident, for operators.

There are two questions: what was decided about one person (:func:`explain_incident`), and who was told of one comment
or change (:func:`explain_activity`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, TypedDict

from sqlalchemy import select
from sqlalchemy.engine import Connection

from gateway.reads.notification_decisions import MAX_DECISIONS
from models.directory.tables import users
from models.enums import ActivityType, Channel, DecisionOutcome
from models.incidents.activity import activities
from models.incidents.incident import incidents
from models.messaging.outbox import events
from models.notifications.access import load_incidents, load_people
from models.notifications.derivation import (
    ActivityEvent,
    IncidentAccess,
    activity_event_from_row,
    explain_activities,
    select_activity_events,
    select_decisions,
)
from models.notifications.explanation import DECISION_COLUMNS, ExplainedDecision, decision_from_row
from models.notifications.notification import decisions
from models.operations.commands import find_organization, find_user
from models.operations.keyset import Entry, Listing, Window
from models.refusals import InvalidFields, NotFound
from models.serializers.notifications import DecisionJson, DecisionListJson, decisions_json
from models.timestamps import iso
from tasks.events import AUDIENCE_EVENTS

ACTIVITIES_SHOWN: Final = 100

_AUDIENCE_TYPES: Final = tuple(event.type for event in AUDIENCE_EVENTS)


class IncidentIds(NamedTuple):
    """An incident: the ids of its organization and its own, and its number."""

    organization: int
    incident: int
    identifier: int


class ActivityJson(TypedDict):
    """Something that happened on an incident. ``text`` is null for viewers, and if nobody wrote any."""

    id: str
    type: str
    author: str | None
    at: str
    text: str | None


class PersonDecisionsJson(TypedDict):
    """What was decided about a person and an activity, the decision that counts first.

    ``told`` says whether any channel has told the person.
    """

    username: str
    name: str
    told: bool
    decisions: list[DecisionJson]


def find_incident(connection: Connection, organization: str, identifier: int) -> IncidentIds:
    """Return the ids of an organization's incident, by its number.

    :raises InvalidFields: there is no such organization or incident.
    """
    organization_id = find_organization(connection, organization)
    if organization_id is None:
        raise InvalidFields({"organization": ["There is no such organization."]})
    incident_id: int | None = connection.execute(
        select(incidents.c.id).where(
            incidents.c.organization_id == organization_id, incidents.c.identifier == identifier
        )
    ).scalar()
    if incident_id is None:
        raise InvalidFields({"incident": ["This organization has no such incident."]})
    return IncidentIds(organization_id, incident_id, identifier)


def find_person(connection: Connection, user: str) -> int:
    """Return the id of a person, by a username or an id.

    :raises InvalidFields: there is no such person.
    """
    user_id = find_user(connection, user)
    if user_id is None:
        raise InvalidFields({"user": ["There is no such user."]})
    return user_id


def explain_incident(connection: Connection, organization: str, identifier: int, user: str) -> DecisionListJson:
    """Return the decisions about a person, a username or an id, and an incident, newest first.

    :raises NotFound: there is no such organization, incident or user.
    """
    try:
        ids = find_incident(connection, organization, identifier)
        user_id = find_person(connection, user)
    except InvalidFields:
        raise NotFound from None
    return explain_person(connection, ids, user_id)


def explain_person(connection: Connection, ids: IncidentIds, user_id: int) -> DecisionListJson:
    """Return the decisions about a person and an incident, newest first."""
    # The events first: see explain_activities.
    own_events = _events(connection, ids)
    rows = connection.execute(select_decisions(ids.incident, user_id)).all()
    recorded = {user_id: list(map(decision_from_row, rows))}
    found = _explain(connection, ids, own_events, recorded, [user_id])[user_id]
    return decisions_json(found[:MAX_DECISIONS])


def list_activities(connection: Connection, ids: IncidentIds, *, with_texts: bool) -> list[ActivityJson]:
    """Return what happened on an incident, newest first."""
    rows = connection.execute(
        select(activities, users.c.username)
        .outerjoin(users, users.c.id == activities.c.user_id)
        .where(activities.c.incident_id == ids.incident)
        .order_by(activities.c.date_added.desc(), activities.c.id.desc())
        .limit(ACTIVITIES_SHOWN)
    )
    return [
        {
            "id": str(row.id),
            "type": ActivityType(row.type).name.lower(),
            "author": row.username,
            "at": iso(row.date_added),
            "text": row.comment if with_texts else None,
        }
        for row in rows
    ]


def explain_activity(
    connection: Connection, ids: IncidentIds, activity: int, window: Window, *, only_untold: bool = False
) -> Listing[PersonDecisionsJson]:
    """Return what was decided about an activity and each member of the organization, by username.

    People who have left and about whom something was decided are included. The key of a row is
    ``(lower-case username,)``.

    :param only_untold: leave out those whom any channel has told.
    :raises InvalidFields: the incident has no such activity.
    """
    is_known = connection.execute(
        select(activities.c.id).where(activities.c.id == activity, activities.c.incident_id == ids.incident)
    ).scalar()
    # The events first: see explain_activities.
    own_events = _events(connection, ids, activity)
    if is_known is None and not own_events:
        raise InvalidFields({"comment": ["This incident has no such comment or change."]})
    forward, direction = ("<", "DESC") if window.backwards else (">", "ASC")
    statement = _PEOPLE.format(
        operator=forward + ("=" if window.includes else ""),
        direction=direction,
        untold=_IS_UNTOLD if only_untold else "true",
    )
    parameters = {
        "organization": ids.organization,
        "activity": activity,
        "key": None if window.key is None else window.key[0],
        "limit": window.limit,
    }
    people = connection.exec_driver_sql(statement, parameters).all()
    user_ids = [person.id for person in people]
    rows = connection.execute(
        select(*DECISION_COLUMNS, decisions.c.user_id)
        .where(decisions.c.activity_id == activity, decisions.c.user_id.in_(user_ids))
        .order_by(decisions.c.at.desc(), decisions.c.channel)
    )
    recorded: dict[int, list[ExplainedDecision]] = defaultdict(list)
    for row in rows:
        recorded[row.user_id].append(decision_from_row(row))
    explained = _explain(connection, ids, own_events, recorded, user_ids)
    return Listing([Entry((person.key,), _person_json(person, explained[person.id])) for person in people])


_IS_UNTOLD: Final = f"""
NOT EXISTS (
    SELECT FROM notification_decisions d
    WHERE d.activity_id = %(activity)s AND d.user_id = u.id AND d.outcome = '{DecisionOutcome.DELIVERED}'
)
"""

_PEOPLE: Final = """
SELECT u.id, u.username, u.name, lower(u.username) AS key FROM users u
WHERE u.id IN (
    SELECT m.user_id FROM members m WHERE m.organization_id = %(organization)s
    UNION SELECT d.user_id FROM notification_decisions d WHERE d.activity_id = %(activity)s
)
AND (%(key)s::text IS NULL OR lower(u.username) {operator} %(key)s::text) AND {untold}
ORDER BY lower(u.username) {direction} LIMIT %(limit)s
"""


def _events(connection: Connection, ids: IncidentIds, activity: int | None = None) -> list[ActivityEvent]:
    query = select_activity_events(ids.organization, ids.identifier, ids.incident, _AUDIENCE_TYPES)
    if activity is not None:
        query = query.where(events.c.activity_id == activity)
    return list(map(activity_event_from_row, connection.execute(query)))


def _explain(
    connection: Connection,
    ids: IncidentIds,
    own_events: Sequence[ActivityEvent],
    recorded: dict[int, list[ExplainedDecision]],
    user_ids: Iterable[int],
) -> dict[int, list[ExplainedDecision]]:
    """Return the decisions about each person, newest first."""
    incident = load_incidents(connection, {ids.incident})[ids.incident]
    access = IncidentAccess(incident.organization, incident.projects)
    people = load_people(connection, {(ids.organization, user_id) for user_id in user_ids})
    return {
        user_id: [
            decision
            for explained in explain_activities(own_events, recorded.get(user_id, []), person, access)
            for decision in explained.decisions
        ]
        for (_, user_id), person in people.items()
    }


def _person_json(person: Any, found: Sequence[ExplainedDecision]) -> PersonDecisionsJson:
    return {
        "username": person.username,
        "name": person.name,
        "told": any(decision.outcome is DecisionOutcome.DELIVERED for decision in found),
        "decisions": sorted(decisions_json(found)["decisions"], key=by_weight),
    }


def by_weight(decision: DecisionJson) -> tuple[bool, bool]:
    """Return a sort key. What has told the person counts most, then the inbox: other channels follow it."""
    return decision["outcome"] is not DecisionOutcome.DELIVERED, decision["channel"] != Channel.INBOX
