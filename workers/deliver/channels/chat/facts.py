"""What chat messages need from the database besides :mod:`workers.deliver.facts`, in a fixed number of queries."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import and_, or_, select, tuple_
from sqlalchemy.engine import Connection

from models.directory.tables import organizations
from models.messaging.outbox import events
from models.notifications.chat_destination import (
    ChatDestination,
    chat_destinations,
    destination_from_row,
    name_key,
)
from models.types import JSON, MAX_ID
from workers.deliver.channel import ActivityDetails, ClaimedDelivery
from workers.deliver.facts import Facts, load_facts


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


class ChatFacts(NamedTuple):
    """The facts about chat messages: what every channel needs, the destinations, and events by id.

    ``organization_names`` has the organizations of tests, by id. What has been deleted is missing.
    """

    shared: Facts
    destinations: Destinations
    organization_names: Mapping[int, str]
    events: dict[UUID, Mapping[str, JSON]]


def load_chat_facts(
    connection: Connection, deliveries: Sequence[ClaimedDelivery], activities: Mapping[int, ActivityDetails]
) -> ChatFacts:
    """Load the facts about the deliveries, whose activities have been loaded."""
    return ChatFacts(
        shared=load_facts(connection, deliveries, activities),
        destinations=_load_destinations(connection, deliveries),
        organization_names=_load_organization_names(
            connection, {each.organization_id for each in deliveries if _is_test(each)}
        ),
        events=_load_events(connection, {each.event_id for each in deliveries if each.event_id is not None}),
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


def _load_organization_names(connection: Connection, ids: Collection[int]) -> dict[int, str]:
    if not ids:
        return {}
    rows = connection.execute(select(organizations.c.id, organizations.c.name).where(organizations.c.id.in_(ids)))
    return {row.id: row.name for row in rows}


def _load_events(connection: Connection, ids: Collection[UUID]) -> dict[UUID, Mapping[str, JSON]]:
    """Return the data of events, by id."""
    rows = connection.execute(select(events.c.id, events.c.body).where(events.c.id.in_(ids)))
    return {row.id: row.body.get("data", {}) for row in rows}
