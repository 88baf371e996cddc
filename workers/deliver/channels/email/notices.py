"""Mails about a webhook or a chat destination that tocsin has disabled: who still gets one, and what it says."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from sqlalchemy import Select, null, select
from sqlalchemy.engine import Connection

from models.directory.tables import members, organizations, users
from models.enums import DestinationStatus, DisabledReason, WebhookStatus
from models.notifications import chat_destination, webhook
from models.notifications.chat_destination import chat_destinations
from models.notifications.delivery import DeliveryState
from models.notifications.mailbox import InvalidAddress, Mailbox, make_mailbox
from models.notifications.suppression import DELETED, NO_ACCESS, NO_ADDRESS
from models.notifications.webhook import webhooks
from models.role_scopes import GLOBAL_ROLES
from workers.deliver.channel import ClaimedDelivery, Withheld

NOTICE_EVENTS: Final = frozenset({webhook.DISABLED_EVENT, chat_destination.DISABLED_EVENT})
"""The event types of deliveries that become such mails."""

_GLOBAL_ROLES: Final = frozenset(role.value for role in GLOBAL_ROLES)


class NoticeText(NamedTuple):
    """What a mail says, and to whom."""

    recipient: Mailbox
    subject: str
    paragraphs: tuple[str, ...]


class NoticeFacts(NamedTuple):
    """The destinations by event type and id, the organizations by id, and the members by organization and user id."""

    destinations: dict[tuple[str | None, int | None], Any]
    organizations: dict[int, Any]
    people: dict[tuple[int, int | None], Any]


def load_notice_facts(connection: Connection, notices: Sequence[ClaimedDelivery]) -> NoticeFacts:
    """Load the facts about the deliveries."""
    destinations: dict[tuple[str | None, int | None], Any] = {}
    for event_type, query in _DESTINATIONS.items():
        ids = {each.destination_id for each in notices if each.event_type == event_type}
        if ids:
            rows = connection.execute(query.where(query.selected_columns.id.in_(ids)))
            destinations |= {(event_type, row.id): row for row in rows}
    organization_ids = {each.organization_id for each in notices}
    columns = members.c.organization_id, members.c.user_id, members.c.role, users.c.name, users.c.email
    is_wanted = (
        members.c.organization_id.in_(organization_ids),
        members.c.user_id.in_({each.user_id for each in notices}),
        users.c.is_active,
    )
    people = connection.execute(select(*columns).join_from(members, users).where(*is_wanted))
    named = select(organizations.c.id, organizations.c.slug, organizations.c.name)
    return NoticeFacts(
        destinations,
        {row.id: row for row in connection.execute(named.where(organizations.c.id.in_(organization_ids)))},
        {(row.organization_id, row.user_id): row for row in people},
    )


def compose_notice(delivery: ClaimedDelivery, facts: NoticeFacts, public_url: str) -> NoticeText | Withheld:
    """Return what the mail says, or why it is not sent: who may not see the destination is not told."""
    destination = facts.destinations.get((delivery.event_type, delivery.destination_id))
    if destination is None:
        return Withheld(DeliveryState.CANCELLED, DELETED)
    if not destination.is_disabled:
        return Withheld(DeliveryState.CANCELLED, DELETED, "it has been enabled again")
    person = facts.people.get((delivery.organization_id, delivery.user_id))
    is_own = destination.user_id is not None and destination.user_id == delivery.user_id
    if person is None or not (is_own or person.role in _GLOBAL_ROLES):
        return Withheld(DeliveryState.SUPPRESSED, NO_ACCESS)
    if not person.email.strip():
        return Withheld(DeliveryState.SUPPRESSED, NO_ADDRESS)
    try:
        recipient = make_mailbox(person.name, person.email)
    except InvalidAddress as error:
        return Withheld(DeliveryState.FAILED, NO_ADDRESS, str(error))
    organization = facts.organizations[delivery.organization_id]
    kind, path = _KINDS[str(delivery.event_type)]
    address = f"{public_url}/api/0/organizations/{organization.slug}/{path}/{destination.id}/"
    enable = f'To enable it again, send PUT {{"status": "active"}} to {address}'
    if delivery.event_type == webhook.DISABLED_EVENT:
        enable += " What was withheld meanwhile can be sent again from its list of deliveries."
    cause = "it is your own" if is_own else f"you are a manager or an owner of {organization.name}"
    return NoticeText(
        recipient,
        f"{kind} disabled: {_shown(destination)}",
        (
            f"{organization.name} has a {kind.lower()} to which tocsin sends nothing any more: {_shown(destination)}.",
            _reason(destination),
            enable,
            f"You get this mail because {cause}.",
        ),
    )


def _shown(destination: Any) -> str:
    """Return what may be shown: of a webhook its host, because the rest of a URL may contain a secret."""
    return str(urlsplit(destination.url).hostname if destination.name is None else destination.name)


def _reason(destination: Any) -> str:
    since = "" if destination.failing_since is None else f" since {_time(destination.failing_since)}"
    if destination.disabled_reason == DisabledReason.GONE:
        return f"It answered 410 Gone, which means that nothing is wanted there any more. It has failed{since}."
    return f"It has failed{since}, for five days without a success."


def _time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


_KINDS: Final = {
    webhook.DISABLED_EVENT: ("Webhook", "webhooks"),
    chat_destination.DISABLED_EVENT: ("Chat destination", "chat-destinations"),
}

_DESTINATIONS: Final[dict[str, Select[Any]]] = {
    webhook.DISABLED_EVENT: select(
        webhooks.c.id,
        webhooks.c.url,
        null().label("name"),
        null().label("user_id"),
        webhooks.c.failing_since,
        webhooks.c.disabled_reason,
        (webhooks.c.status == WebhookStatus.DISABLED.value).label("is_disabled"),
    ),
    chat_destination.DISABLED_EVENT: select(
        chat_destinations.c.id,
        null().label("url"),
        chat_destinations.c.name,
        chat_destinations.c.user_id,
        chat_destinations.c.failing_since,
        null().label("disabled_reason"),
        (chat_destinations.c.status == DestinationStatus.DISABLED.value).label("is_disabled"),
    ),
}
