"""What mails need from the database besides :mod:`workers.deliver.facts`, in a fixed number of queries."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

from sqlalchemy.engine import Connection

from models.notifications.access import Membership
from models.notifications.preferences import Contact
from models.notifications.stored_preferences import load_contacts, load_mutes
from workers.deliver.channel import ActivityDetails, ClaimedDelivery
from workers.deliver.facts import Facts, load_facts


class Account(NamedTuple):
    """A person's name and address."""

    name: str
    email: str


class MailFacts(NamedTuple):
    """The facts about mails: what every channel needs, and the recipients.

    ``accounts`` are by user id, ``contacts`` by organization id and user id. ``muted`` has pairs of an incident and a
    user.
    """

    shared: Facts
    accounts: Mapping[int, Account]
    contacts: Mapping[Membership, Contact]
    muted: Collection[tuple[int, int]]


def load_mail_facts(
    connection: Connection, deliveries: Sequence[ClaimedDelivery], activities: Mapping[int, ActivityDetails]
) -> MailFacts:
    """Load the facts about the deliveries, whose activities have been loaded."""
    memberships = {(each.organization_id, each.user_id) for each in deliveries if each.user_id is not None}
    return MailFacts(
        shared=load_facts(connection, deliveries, activities),
        accounts=_load_accounts(connection, {user_id for _, user_id in memberships}),
        contacts=load_contacts(connection, memberships),
        muted=load_mutes(connection, {each.incident_id for each in deliveries if each.incident_id is not None}),
    )


def _load_accounts(connection: Connection, ids: Collection[int]) -> dict[int, Account]:
    rows = connection.exec_driver_sql(_ACCOUNTS, {"ids": list(ids)})
    return {row.id: Account(row.name, row.email) for row in rows}


_ACCOUNTS: Final = "SELECT id, name, email FROM users WHERE id = ANY(%(ids)b::bigint[])"
