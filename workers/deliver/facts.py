"""What messages about incidents need from the database, for any number of deliveries in a fixed number of queries.

The statements take arrays, so that they are prepared once per connection.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

from sqlalchemy.engine import Connection

from models.enums import ActivityType, NotificationReason
from models.notifications.access import IncidentFacts, Membership, load_incidents, load_people
from models.notifications.delivery import DeliveryState
from models.notifications.suppression import NO_ACCESS, READ, UNSUBSCRIBED
from models.policy import Actor, may_read
from workers.deliver.channel import ActivityDetails, ClaimedDelivery, Withheld


class Facts(NamedTuple):
    """The facts by id. What has been deleted is missing.

    ``people`` have a role only if they are active members of the organization. ``read`` has pairs of an activity and a
    user who has read their inbox item about it, ``subscribed`` pairs of an incident and a user. Only those pairs are
    loaded that a delivery is about.
    """

    incidents: Mapping[int, IncidentFacts]
    people: Mapping[Membership, Actor]
    activities: Mapping[int, ActivityDetails]
    read: Collection[tuple[int, int]]
    subscribed: Collection[tuple[int, int]]
    project_slugs: Mapping[int, str]


def load_facts(
    connection: Connection, deliveries: Sequence[ClaimedDelivery], activities: Mapping[int, ActivityDetails]
) -> Facts:
    """Load the facts about the deliveries, whose activities have been loaded."""
    personal = [(each, each.user_id) for each in deliveries if each.user_id is not None]
    subscribed = [
        (each.incident_id, user)
        for each, user in personal
        if each.reason == NotificationReason.SUBSCRIBED and each.incident_id is not None
    ]
    return Facts(
        incidents=load_incidents(connection, {each.incident_id for each in deliveries if each.incident_id is not None}),
        people=load_people(connection, {(each.organization_id, user) for each, user in personal}),
        activities=activities,
        read=_load_pairs(
            connection, _READ, [(each.activity_id, user) for each, user in personal if each.activity_id is not None]
        ),
        subscribed=_load_pairs(connection, _SUBSCRIBED, subscribed),
        project_slugs=_load_project_slugs(
            connection, {each.project_id for each in deliveries if each.project_id is not None}
        ),
    )


def load_activities(connection: Connection, ids: Collection[int]) -> dict[int, ActivityDetails]:
    """Return activities by id."""
    rows = connection.exec_driver_sql(_ACTIVITIES, {"ids": list(ids)}) if ids else ()
    return {
        row.id: ActivityDetails(ActivityType(row.type), row.actor, row.value, row.previous_value, row.comment)
        for row in rows
    }


def withhold_from_person(delivery: ClaimedDelivery, user_id: int, facts: Facts) -> Withheld | None:
    """Return why a delivery about an incident is not sent to a person, or ``None`` if it may be.

    The person may have lost access since it was planned. A notification is also in the inbox, where it may have been
    read; an action of an alert rule is not there.
    """
    incident = facts.incidents[delivery.incident_id or 0]
    person = facts.people.get((delivery.organization_id, user_id))
    if person is None or not may_read(person, incident.organization, incident.projects):
        return Withheld(DeliveryState.SUPPRESSED, NO_ACCESS)
    if delivery.action_id is not None:
        return None
    if (delivery.activity_id or 0, user_id) in facts.read:
        return Withheld(DeliveryState.SUPPRESSED, READ)
    is_subscribed = (delivery.incident_id or 0, user_id) in facts.subscribed
    if delivery.reason == NotificationReason.SUBSCRIBED and not is_subscribed:
        return Withheld(DeliveryState.SUPPRESSED, UNSUBSCRIBED)
    return None


def _load_pairs(connection: Connection, statement: str, pairs: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
    if not pairs:
        return set()
    ids, users = zip(*pairs, strict=True)
    rows = connection.exec_driver_sql(statement, {"ids": list(ids), "users": list(users)})
    return {(row.id, row.user_id) for row in rows}


def _load_project_slugs(connection: Connection, ids: Collection[int]) -> dict[int, str]:
    rows = connection.exec_driver_sql(_PROJECT_SLUGS, {"ids": list(ids)}) if ids else ()
    return {row.id: row.slug for row in rows}


_ACTIVITIES: Final = """
SELECT a.id, a.type, a.value, a.previous_value, a.comment, coalesce(nullif(u.name, ''), u.username) AS actor
FROM incident_activities a LEFT JOIN users u ON u.id = a.user_id
WHERE a.id = ANY(%(ids)b::bigint[])
"""

_READ: Final = """
SELECT n.activity_id AS id, n.user_id
FROM unnest(%(ids)b::bigint[], %(users)b::bigint[]) AS w(id, user_id)
JOIN notifications n ON n.activity_id = w.id AND n.user_id = w.user_id
WHERE n.date_read IS NOT NULL
"""

_SUBSCRIBED: Final = """
SELECT s.incident_id AS id, s.user_id
FROM unnest(%(ids)b::bigint[], %(users)b::bigint[]) AS w(id, user_id)
JOIN incident_subscriptions s ON s.incident_id = w.id AND s.user_id = w.user_id
"""

_PROJECT_SLUGS: Final = "SELECT id, slug FROM projects WHERE id = ANY(%(ids)b::bigint[])"
