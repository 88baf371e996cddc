"""The planner's messages to people: deliveries, and one decision per person, activity and channel.

The person's preferences decide whether and when a message is sent. Deliveries that are merged, because of a digest,
quiet hours or a storm, are sent in one message per person and channel once they are due. The number of statements does
not depend on the size of the batch, except that rows are written in chunks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy.engine import Connection

from models.base import column_arrays, insert_statement, new_id
from models.enums import DecisionOutcome
from models.notifications.access import Membership
from models.notifications.delivery import IS_UNCLAIMED, DeliveryState, deliveries, target_key
from models.notifications.notification import NewDecision, insert_decisions
from models.notifications.preferences import (
    STORM_WINDOW,
    Contact,
    Schedule,
)
from models.notifications.stored_preferences import RECENT_MESSAGES, load_contacts
from models.notifications.suppression import ALERT_ACTION, DELETED
from models.timestamps import iso_or_none
from workers.notify.inbox import RecipientDecision

ROWS_PER_STATEMENT: Final = 10_000
"""How many rows one statement writes at most, so that memory does not grow with the audience."""


class MessageRecipient(NamedTuple):
    """A person with a new or promoted inbox item, or one who would have it but has muted the incident."""

    decided: RecipientDecision
    is_critical: bool
    is_muted: bool


class _NewDelivery(NamedTuple):
    id: UUID
    organization_id: int
    incident_id: int
    activity_id: int
    event_id: UUID
    event_type: str
    channel: str
    user_id: int
    reason: str
    due_at: datetime | None
    is_merged: bool
    target_key: str


class _Message(NamedTuple):
    recipient: MessageRecipient
    channel: str
    scheduled: Schedule

    @property
    def key(self) -> tuple[int, int, str]:
        return (*self.recipient.decided.key, self.channel)


def plan_deliveries(
    connection: Connection, recipients: Sequence[MessageRecipient], *, window: timedelta, now: datetime
) -> int:
    """Write deliveries to the recipients, as far as their preferences allow, and the decisions about them.

    A message waits until ``window`` after its event. A delivery that is still waiting when a stronger reason promotes
    the inbox item takes that reason, and the earlier of the two times. One that has been sent is not sent again.

    Return the number of deliveries that were written.
    """
    if not recipients:
        return 0
    contacts = load_contacts(connection, {_membership(each) for each in recipients})
    sent = _load_recent(connection, contacts, now)
    messages = _schedule_all(recipients, contacts, sent, window, now)
    count = 0
    while chunk := list(islice(messages, ROWS_PER_STATEMENT)):
        written = _write_deliveries(connection, [each for each in chunk if each.scheduled.due_at is not None])
        effective = (each for each in chunk if each.scheduled.due_at is None or each.key in written)
        insert_decisions(connection, map(_decision, effective), _REPLACE_DECISION)
        count += len(written)
    return count


def cancel_deliveries(connection: Connection, deleted: Sequence[int], *, most: int) -> int:
    """Cancel up to ``most`` messages about deleted comments that have not been sent yet, and record that.

    Return how many were cancelled.
    """
    cancelled = connection.exec_driver_sql(_CANCEL, {"ids": list(deleted), "most": most})
    return int(cancelled.scalar_one())


def _schedule_all(
    recipients: Sequence[MessageRecipient],
    contacts: Mapping[Membership, Contact],
    sent: dict[tuple[int, str], int],
    window: timedelta,
    now: datetime,
) -> Iterator[_Message]:
    """Yield the decision on each channel. Messages that are sent at once count in ``sent`` for the next ones."""
    for recipient in recipients:
        event, user = recipient.decided.event, recipient.decided.user_id
        contact = contacts[_membership(recipient)]
        for channel in contact.channels:
            scheduled = contact.schedule(
                _reason(recipient),
                channel,
                earliest=max(event.at + window, now),
                is_critical=recipient.is_critical,
                is_muted=recipient.is_muted,
                sent_last_hour=sent[user, channel],
            )
            sent[user, channel] += scheduled.outcome is DecisionOutcome.PENDING
            yield _Message(recipient, channel.value, scheduled)


def _write_deliveries(connection: Connection, messages: Sequence[_Message]) -> set[tuple[int, int, str]]:
    """Insert or update deliveries, and return the activity, the user and the channel of each that was written."""
    if not messages:
        return set()
    rows = connection.exec_driver_sql(
        _INSERT_DELIVERIES, dict(column_arrays(_NewDelivery._fields, map(_delivery, messages)))
    )
    return {(row.activity_id, row.user_id, row.channel) for row in rows}


def _delivery(message: _Message) -> _NewDelivery:
    event, scheduled = message.recipient.decided.event, message.scheduled
    return _NewDelivery(
        id=new_id(),
        organization_id=event.organization_id,
        incident_id=event.incident_id,
        activity_id=event.activity_id,
        event_id=event.event_id,
        event_type=event.type,
        channel=message.channel,
        user_id=message.recipient.decided.user_id,
        reason=_reason(message.recipient),
        due_at=scheduled.due_at,
        is_merged=scheduled.is_merged,
        target_key=target_key(message.channel, event.organization_id),
    )


def _membership(recipient: MessageRecipient) -> Membership:
    return recipient.decided.event.organization_id, recipient.decided.user_id


def _reason(recipient: MessageRecipient) -> str:
    return str(recipient.decided.decision.rule)


def _decision(message: _Message) -> NewDecision:
    event, scheduled = message.recipient.decided.event, message.scheduled
    later = iso_or_none(scheduled.due_at) if scheduled.outcome is DecisionOutcome.DEFERRED else None
    return NewDecision(
        activity_id=event.activity_id,
        user_id=message.recipient.decided.user_id,
        channel=message.channel,
        incident_id=event.incident_id,
        event_id=event.event_id,
        outcome=scheduled.outcome,
        rule=scheduled.rule,
        detail="" if later is None else f"until {later}",
    )


# --- queries ---------------------------------------------------------------------------------------------------------


def _load_recent(
    connection: Connection, contacts: Mapping[Membership, Contact], now: datetime
) -> dict[tuple[int, str], int]:
    # The budget holds for a person, over all their organizations.
    pairs = {(user, channel.value) for (_, user), contact in contacts.items() for channel in contact.channels}
    parameters = {
        "users": [user for user, _ in pairs],
        "channels": [channel for _, channel in pairs],
        "since": now - STORM_WINDOW,
    }
    return {(row.user_id, row.channel): row.sent for row in connection.exec_driver_sql(RECENT_MESSAGES, parameters)}


_INSERT_DELIVERIES: Final = insert_statement(
    deliveries,
    _NewDelivery._fields,
    "ON CONFLICT (activity_id, user_id, channel, coalesce(destination_id, 0))"
    " WHERE action_id IS NULL AND user_id IS NOT NULL"
    " DO UPDATE SET reason = excluded.reason, due_at = least(deliveries.due_at, excluded.due_at),"
    " is_merged = deliveries.is_merged AND excluded.is_merged"
    f" WHERE deliveries.state = '{DeliveryState.PENDING}' AND deliveries.claimed_by IS NULL"
    " RETURNING activity_id, user_id, channel",
)

# The decision about an action of an alert rule, whose message is another one, is kept while that message waits.
_REPLACE_DECISION: Final = (
    "ON CONFLICT (activity_id, user_id, channel) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in ("event_id", "outcome", "rule", "detail", "at"))
    + f" WHERE excluded.outcome <> '{DecisionOutcome.SUPPRESSED}'"
    f" AND (notification_decisions.rule <> '{ALERT_ACTION}'"
    f" OR notification_decisions.outcome = '{DecisionOutcome.SUPPRESSED}')"
)

# A delivery that is being sent is left alone: its channel looks for the comment again.
_CANCEL: Final = f"""
WITH cancelled AS (
    UPDATE deliveries
    SET state = '{DeliveryState.CANCELLED}', finished_at = clock_timestamp(), detail = '{DELETED}'
    WHERE {IS_UNCLAIMED} AND id = ANY(ARRAY(
        SELECT id FROM deliveries
        WHERE activity_id = ANY(%(ids)s::bigint[]) AND action_id IS NULL AND user_id IS NOT NULL AND {IS_UNCLAIMED}
        LIMIT %(most)s
    ))
    RETURNING activity_id, user_id, channel
), recorded AS (
    UPDATE notification_decisions d
    SET outcome = '{DecisionOutcome.SUPPRESSED}', rule = '{DELETED}', detail = '', at = clock_timestamp()
    FROM cancelled c WHERE d.activity_id = c.activity_id AND d.user_id = c.user_id AND d.channel = c.channel
)
SELECT count(*) FROM cancelled
"""  # noqa: S608 - our own conditions
