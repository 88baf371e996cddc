"""The planner's writes: inbox items and the decisions about them.

A person has one inbox item per activity. A stronger reason promotes the item: it becomes unread and gets a new id, as
if it had just been inserted, so that readers who remember an id or follow a stream learn of it. An equal or weaker
reason changes nothing.

The ids of an organization's items become visible in ascending order, however many notifiers run: whoever has seen an
item has seen, or could have seen, every item with a lower id. See docs/decisions/0023-inbox-order.md.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy.engine import Connection

from models.base import column_arrays, insert_statement
from models.enums import Channel, DecisionOutcome
from models.notifications.notification import NewDecision, insert_decisions, notifications
from models.notifications.reasons import BY_STRENGTH
from models.notifications.suppression import NotificationDecision
from workers.notify.audience import NotifiableEvent


class RecipientDecision(NamedTuple):
    """The decision about one user. ``event`` is the activity's first event, to which the inbox item refers."""

    event: NotifiableEvent
    user_id: int
    decision: NotificationDecision

    @property
    def key(self) -> tuple[int, int]:
        """The activity's id and the user's id."""
        return self.event.activity_id, self.user_id

    @property
    def is_delivered(self) -> bool:
        """Whether the user is to have an inbox item."""
        return self.decision.outcome is DecisionOutcome.DELIVERED


class _NewItem(NamedTuple):
    organization_id: int
    user_id: int
    incident_id: int
    activity_id: int
    event_id: UUID
    event_type: str
    reason: str


def write_notifications(connection: Connection, decided: Sequence[RecipientDecision]) -> set[tuple[int, int]]:
    """Write the inbox items that the decisions deliver, and record the decisions that took effect.

    ``decided`` has at most one decision per activity and user. A delivery takes effect if it inserts or promotes an
    item, and then replaces an earlier decision. A suppression is recorded if it is the first decision.

    Return the activity and the user of each item that was inserted or promoted.
    """
    written = _write_items(connection, [_item(each) for each in decided if each.is_delivered])
    effective = [each for each in decided if not each.is_delivered or each.key in written]
    insert_decisions(connection, map(_decision, effective), _REPLACE_DECISION)
    return written


def _write_items(connection: Connection, items: Sequence[_NewItem]) -> set[tuple[int, int]]:
    """Insert or promote the items, and return the activity and the user of each item that was inserted or promoted."""
    if not items:
        return set()
    _lock_inboxes(connection, {item.organization_id for item in items})
    rows = connection.exec_driver_sql(_WRITE_ITEMS, dict(column_arrays(_NewItem._fields, items)))
    return {(row.activity_id, row.user_id) for row in rows}


def _lock_inboxes(connection: Connection, organizations: Set[int]) -> None:
    """Lock the organizations' inboxes until the transaction ends, after waiting for other notifiers that hold them.

    The ids are assigned in a later statement. They are greater than those of all earlier holders, whose items are
    visible by then. The locks are taken in ascending order, so that notifiers cannot deadlock.
    """
    connection.exec_driver_sql(
        "SELECT pg_advisory_xact_lock(hashtextextended('inbox:' || o.id, 0)) FROM unnest(%(ids)s::bigint[]) AS o(id)",
        {"ids": sorted(organizations)},
    )


def _item(decided: RecipientDecision) -> _NewItem:
    event = decided.event
    return _NewItem(
        organization_id=event.organization_id,
        user_id=decided.user_id,
        incident_id=event.incident_id,
        activity_id=event.activity_id,
        event_id=event.event_id,
        event_type=event.type,
        reason=str(decided.decision.rule),
    )


def _decision(decided: RecipientDecision) -> NewDecision:
    event, decision = decided.event, decided.decision
    return NewDecision(
        activity_id=event.activity_id,
        user_id=decided.user_id,
        channel=Channel.INBOX.value,
        incident_id=event.incident_id,
        event_id=event.event_id,
        outcome=decision.outcome,
        rule=str(decision.rule),
        detail="",
    )


_REASONS: Final = "ARRAY[" + ", ".join(f"'{reason.value}'" for reason in BY_STRENGTH) + "]"

# All columns that an insert would set, including defaults: the id, the dates, and the columns that streams follow.
_PROMOTED: Final = (
    "id",
    "event_id",
    "event_type",
    "reason",
    "date_created",
    "date_read",
    "written_by",
    "written_after",
)

_WRITE_ITEMS: Final = insert_statement(
    notifications,
    _NewItem._fields,
    f"ON CONFLICT (activity_id, user_id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _PROMOTED)}"
    f" WHERE array_position({_REASONS}, excluded.reason)"
    f" > coalesce(array_position({_REASONS}, {notifications.name}.reason), 0)"
    " RETURNING activity_id, user_id",
)

_REPLACED: Final = ("event_id", "outcome", "rule", "detail", "at")

_REPLACE_DECISION: Final = (
    "ON CONFLICT (activity_id, user_id, channel)"
    f" DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _REPLACED)}"
    f" WHERE excluded.outcome = '{DecisionOutcome.DELIVERED.value}'"
)
