"""What a number of chat messages needs from the database, in a fixed number of queries."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Select, and_, or_, select, tuple_
from sqlalchemy.engine import Connection

from models.directory.tables import organizations, projects, users
from models.enums import ActivityType, IncidentStatus
from models.incidents.activity import activities
from models.incidents.incident import incidents
from models.incidents.subscription import subscriptions
from models.messaging.outbox import events
from models.notifications.access import IncidentFacts, Membership, load_incidents, load_people
from models.notifications.chat_destination import (
    ChatDestination,
    chat_destinations,
    destination_from_row,
    name_key,
)
from models.notifications.notification import notifications
from models.policy import Actor
from models.types import JSON, MAX_ID
from workers.deliver.channel import ClaimedDelivery


class IncidentDetails(NamedTuple):
    """What a message shows of an incident."""

    title: str
    status: IncidentStatus


class ActivityDetails(NamedTuple):
    """An activity as it is now, after all edits. ``actor`` is the name of the person who did it."""

    type: ActivityType
    actor: str | None
    value: str | None
    previous_value: str | None
    comment: str | None


class OrganizationNames(NamedTuple):
    """An organization's slug and name."""

    slug: str
    name: str


class InboxState(NamedTuple):
    """The state of the inbox item about an activity."""

    is_read: bool
    is_retracted: bool


class Destinations(NamedTuple):
    """The chat destinations of the deliveries: by id, by the name that a rule gives, and by person."""

    by_id: Mapping[tuple[int, int], ChatDestination]
    by_name: Mapping[tuple[int, str], ChatDestination]
    by_person: Mapping[tuple[int, int], ChatDestination]

    def find(self, delivery: ClaimedDelivery) -> ChatDestination | None:
        """Return the delivery's destination, or ``None`` if there is none now.

        A rule's action names a destination by its id or its name. A person's own destination gets nothing else.
        """
        organization = delivery.organization_id
        if delivery.destination_id is not None:
            found = self.by_id.get((organization, delivery.destination_id))
        elif delivery.user_id is not None:
            found = self.by_person.get((organization, delivery.user_id))
        else:
            target = delivery.target or ""
            by_id = self.by_id.get((organization, id_)) if (id_ := _as_id(target)) else None
            found = by_id or self.by_name.get((organization, name_key(target)))
        return found if found is None or found.user_id == delivery.user_id or _is_test(delivery) else None


class Facts(NamedTuple):
    """The facts by id. What has been deleted is missing. ``inbox`` and ``subscribed`` have pairs as keys."""

    destinations: Destinations
    organizations: dict[int, OrganizationNames]
    events: dict[UUID, Mapping[str, JSON]]
    access: dict[int, IncidentFacts]
    incidents: dict[int, IncidentDetails]
    people: dict[Membership, Actor]
    activities: dict[int, ActivityDetails]
    inbox: dict[tuple[int, int], InboxState]
    subscribed: set[tuple[int, int]]
    project_slugs: dict[int, str]


def load_facts(connection: Connection, deliveries: Sequence[ClaimedDelivery]) -> Facts:
    """Load the facts about the deliveries."""
    incident_ids = {each.incident_id for each in deliveries if each.incident_id is not None}
    personal = [each for each in deliveries if each.user_id is not None]
    return Facts(
        destinations=_load_destinations(connection, deliveries),
        organizations=_load_organizations(connection, {each.organization_id for each in deliveries}),
        events=_load_events(connection, {each.event_id for each in deliveries if each.event_id is not None}),
        access=load_incidents(connection, incident_ids),
        incidents=_load_incidents(connection, incident_ids),
        people=load_people(
            connection, {(each.organization_id, each.user_id) for each in personal if each.user_id is not None}
        ),
        activities=_load_activities(connection, {each.activity_id for each in deliveries if each.activity_id}),
        inbox=_load_inbox(
            connection, {(each.activity_id, each.user_id) for each in personal if each.activity_id and each.user_id}
        ),
        subscribed=_load_subscribed(
            connection, {(each.incident_id, each.user_id) for each in personal if each.incident_id and each.user_id}
        ),
        project_slugs=_load_project_slugs(connection, {each.project_id for each in deliveries if each.project_id}),
    )


def _load_destinations(connection: Connection, deliveries: Iterable[ClaimedDelivery]) -> Destinations:
    c = chat_destinations.c
    ids, names, people = set(), set(), set()
    for each in deliveries:
        if each.destination_id is not None:
            ids.add((each.organization_id, each.destination_id))
        elif each.user_id is not None:
            people.add((each.organization_id, each.user_id))
        elif each.target is not None:
            names.add((each.organization_id, name_key(each.target)))
            if id_ := _as_id(each.target):
                ids.add((each.organization_id, id_))
    rows = connection.execute(
        select(chat_destinations).where(
            or_(
                tuple_(c.organization_id, c.id).in_(ids),
                tuple_(c.organization_id, c.name_key).in_(names),
                and_(c.user_id.is_not(None), tuple_(c.organization_id, c.user_id).in_(people)),
            )
        )
    )
    found = [destination_from_row(row) for row in rows]
    return Destinations(
        by_id={(each.organization_id, each.id): each for each in found},
        by_name={(each.organization_id, each.name_key): each for each in found},
        by_person={(each.organization_id, each.user_id): each for each in found if each.user_id is not None},
    )


def _as_id(target: str) -> int | None:
    """Return the id that a rule's action gives as text."""
    if not (target.isascii() and target.isdigit() and len(target) <= len(str(MAX_ID))):
        return None
    id_ = int(target)
    return id_ if 0 < id_ <= MAX_ID else None


def _is_test(delivery: ClaimedDelivery) -> bool:
    return delivery.activity_id is None and delivery.incident_id is None


def _load_organizations(connection: Connection, ids: Collection[int]) -> dict[int, OrganizationNames]:
    query = select(organizations.c.id, organizations.c.slug, organizations.c.name).where(organizations.c.id.in_(ids))
    return {row.id: OrganizationNames(row.slug, row.name) for row in connection.execute(query)}


def _load_events(connection: Connection, ids: Collection[UUID]) -> dict[UUID, Mapping[str, JSON]]:
    """Return the data of events, by id."""
    rows = connection.execute(select(events.c.id, events.c.body).where(events.c.id.in_(ids)))
    return {row.id: row.body.get("data", {}) for row in rows}


def _load_incidents(connection: Connection, ids: Collection[int]) -> dict[int, IncidentDetails]:
    query = select(incidents.c.id, incidents.c.title, incidents.c.status).where(incidents.c.id.in_(ids))
    return {row.id: IncidentDetails(row.title, IncidentStatus(row.status)) for row in connection.execute(query)}


def _load_activities(connection: Connection, ids: Collection[int]) -> dict[int, ActivityDetails]:
    c = activities.c
    rows = connection.execute(
        select(c.id, c.type, c.value, c.previous_value, c.comment, users.c.name, users.c.username)
        .join_from(activities, users, users.c.id == c.user_id, isouter=True)
        .where(c.id.in_(ids))
    )
    return {
        row.id: ActivityDetails(
            ActivityType(row.type), row.name or row.username, row.value, row.previous_value, row.comment
        )
        for row in rows
    }


def _load_inbox(connection: Connection, items: Collection[tuple[int, int]]) -> dict[tuple[int, int], InboxState]:
    key = notifications.c.activity_id, notifications.c.user_id
    columns = notifications.c.date_read.is_not(None).label("is_read"), notifications.c.retracted
    rows = _rows(connection, select(*key, *columns), key, items)
    return {(row.activity_id, row.user_id): InboxState(row.is_read, row.retracted) for row in rows}


def _load_subscribed(connection: Connection, pairs: Collection[tuple[int, int]]) -> set[tuple[int, int]]:
    key = subscriptions.c.incident_id, subscriptions.c.user_id
    return {(row.incident_id, row.user_id) for row in _rows(connection, select(*key), key, pairs)}


def _rows(connection: Connection, query: Select[Any], key: Any, pairs: Collection[tuple[int, int]]) -> Sequence[Any]:
    return connection.execute(query.where(tuple_(*key).in_(list(pairs)))).all() if pairs else ()


def _load_project_slugs(connection: Connection, ids: Collection[int]) -> dict[int, str]:
    rows = connection.execute(select(projects.c.id, projects.c.slug).where(projects.c.id.in_(ids)))
    return {row.id: row.slug for row in rows}
