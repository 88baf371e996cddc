"""What a number of mails needs from the database, in a fixed number of queries."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Select, select, tuple_
from sqlalchemy.engine import Connection

from models.directory.tables import organizations, projects, users
from models.enums import ActivityType, IncidentStatus
from models.incidents.activity import activities
from models.incidents.incident import incidents
from models.incidents.subscription import subscriptions
from models.notifications.access import IncidentFacts, Membership, load_incidents, load_people
from models.notifications.notification import notifications
from models.notifications.preferences import Contact
from models.notifications.stored_preferences import load_contacts, load_mutes
from models.policy import Actor
from workers.deliver.channel import ClaimedDelivery


class IncidentDetails(NamedTuple):
    """The texts about an incident."""

    title: str
    status: IncidentStatus
    organization_name: str


class Account(NamedTuple):
    """A person's names and address."""

    username: str
    name: str
    email: str

    @property
    def display_name(self) -> str:
        """The name that other people see."""
        return self.name or self.username


class ActivityDetails(NamedTuple):
    """An activity as it is now, after all edits."""

    type: ActivityType
    user_id: int | None
    value: str | None
    previous_value: str | None
    comment: str | None


class InboxState(NamedTuple):
    """The state of the inbox item about an activity."""

    is_read: bool
    is_retracted: bool


class Facts(NamedTuple):
    """The facts by id. What has been deleted is missing. ``inbox``, ``subscribed`` and ``muted`` have pairs as keys.

    ``people`` have a role only if they are active members of the organization. The pairs are of an activity, or an
    incident, and a user.
    """

    access: dict[int, IncidentFacts]
    incidents: dict[int, IncidentDetails]
    people: dict[Membership, Actor]
    accounts: dict[int, Account]
    activities: dict[int, ActivityDetails]
    inbox: dict[tuple[int, int], InboxState]
    subscribed: set[tuple[int, int]]
    contacts: dict[Membership, Contact]
    muted: set[tuple[int, int]]
    project_slugs: dict[int, str]


def load_facts(connection: Connection, deliveries: Sequence[ClaimedDelivery]) -> Facts:
    """Load the facts about the deliveries."""
    incident_ids = {each.incident_id for each in deliveries if each.incident_id is not None}
    activity_ids = {each.activity_id for each in deliveries if each.activity_id is not None}
    memberships = {(each.organization_id, each.user_id) for each in deliveries if each.user_id is not None}
    recipients = {user_id for _, user_id in memberships}
    of_activities = _load_activities(connection, activity_ids)
    authors = {each.user_id for each in of_activities.values() if each.user_id is not None}
    items = {(a, u) for each in deliveries if (a := each.activity_id) is not None and (u := each.user_id) is not None}
    subscribers = {
        (i, u) for each in deliveries if (i := each.incident_id) is not None and (u := each.user_id) is not None
    }
    return Facts(
        access=load_incidents(connection, incident_ids),
        incidents=_load_incidents(connection, incident_ids),
        people=load_people(connection, memberships),
        accounts=_load_accounts(connection, recipients | authors),
        activities=of_activities,
        inbox=_load_inbox(connection, items),
        subscribed=_load_subscribed(connection, subscribers),
        contacts=load_contacts(connection, memberships),
        muted=load_mutes(connection, incident_ids),
        project_slugs=_load_project_slugs(
            connection, {each.project_id for each in deliveries if each.project_id is not None}
        ),
    )


def _load_incidents(connection: Connection, ids: Collection[int]) -> dict[int, IncidentDetails]:
    query = select(incidents.c.id, incidents.c.title, incidents.c.status, organizations.c.name).join_from(
        incidents, organizations
    )
    rows = connection.execute(query.where(incidents.c.id.in_(ids)))
    return {row.id: IncidentDetails(row.title, IncidentStatus(row.status), row.name) for row in rows}


def _load_accounts(connection: Connection, ids: Collection[int]) -> dict[int, Account]:
    query = select(users.c.id, users.c.username, users.c.name, users.c.email).where(users.c.id.in_(ids))
    return {row.id: Account(row.username, row.name, row.email) for row in connection.execute(query)}


def _load_activities(connection: Connection, ids: Collection[int]) -> dict[int, ActivityDetails]:
    columns = (activities.c[name] for name in ActivityDetails._fields)
    rows = connection.execute(select(activities.c.id, *columns).where(activities.c.id.in_(ids)))
    return {
        row.id: ActivityDetails(ActivityType(row.type), row.user_id, row.value, row.previous_value, row.comment)
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
