"""The planner, which turns a batch of events into notification decisions and inbox items, in one transaction.

For every person in an activity's audience, it makes one decision and, if they are to be notified, one inbox item.
Planning an activity again changes nothing, except that a stronger reason replaces a weaker one in the decision and in
an unread item.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy.engine import Connection

from models.base import column_arrays, insert_statement
from models.enums import Channel, DecisionOutcome, NotificationReason
from models.messaging import command_ledger
from models.messaging.command_ledger import NewCommand
from models.messaging.outbox import PLANNING, WaitingEvent, mark_processed
from models.messaging.trace import Trace
from models.notifications.notification import decisions, notifications
from models.notifications.suppression import NO_ACCESS, NotificationDecision, Recipient, decide_notification
from tasks.commands.subscriptions import Unsubscribe
from tasks.events import CommentDeleted
from workers.follow_ups import make_follow_up
from workers.notify.audience import Audiences, NotifiableEvent, find_recipients
from workers.notify.queries import IncidentFacts, load_audiences, load_incidents, load_people


class RecipientDecision(NamedTuple):
    """The decision about one user. ``event`` is the activity's first event, to which the inbox item refers."""

    event: NotifiableEvent
    user_id: int
    decision: NotificationDecision


class Planned(NamedTuple):
    """The result of planning: the number of decisions written, and the subjects of the follow-up commands.

    Hints for these subjects are sent after the commit.
    """

    decisions: int
    subjects: list[str]


NOTHING_PLANNED: Final = Planned(0, [])


def plan(connection: Connection, events: Sequence[WaitingEvent]) -> Planned:
    """Decide who is notified of the events, write decisions and inbox items, and mark the events as planned.

    Everything happens in the caller's transaction.
    """
    notifiable = [parsed for event in events if (parsed := parse_event(event))]
    incidents = load_incidents(connection, {event.incident_id for event in notifiable})
    # Nobody is notified of an incident that has been deleted meanwhile.
    notifiable = [event for event in notifiable if event.incident_id in incidents]
    audiences = load_audiences(connection, notifiable)
    decided = strongest(_decide_all(connection, notifiable, incidents, audiences))
    _write_decisions(connection, decided)
    _write_inbox(connection, [each for each in decided if each.decision.outcome is DecisionOutcome.DELIVERED])
    _retract(connection, [event.activity_id for event in events if event.type == CommentDeleted.type])
    unsubscribes = unsubscribe_commands(decided, incidents, audiences)
    command_ledger.accept_commands(connection, unsubscribes)
    mark_processed(connection, PLANNING, [event.id for event in events])
    return Planned(len(decided), [command.subject for command in unsubscribes])


def parse_event(event: WaitingEvent) -> NotifiableEvent | None:
    """Return an event in the form needed for planning.

    Return ``None`` if the event is not about a person's activity on an incident.
    """
    body = json.loads(event.body)
    data = body["data"]
    actor = data.get("actor")
    if actor is None or actor["type"] != "user" or event.incident_id is None or event.activity_id is None:
        return None
    return NotifiableEvent(
        event_id=event.id,
        type=event.type,
        organization_id=event.organization_id,
        incident_id=event.incident_id,
        activity_id=event.activity_id,
        actor_id=int(actor["id"]),
        mentioned_users=tuple(int(user) for user in data.get("users", ())),
        mentioned_teams=tuple(int(team) for team in data.get("teams", ())),
        trace=Trace(event.request_id, event.traceparent),
    )


def strongest(decided: Iterable[RecipientDecision]) -> list[RecipientDecision]:
    """Return one decision per activity and user: the one with the strongest rule, or the first of several equals."""
    kept: dict[tuple[int, int], RecipientDecision] = {}
    for each in decided:
        key = (each.event.activity_id, each.user_id)
        if key not in kept or _strength(each.decision.rule) > _strength(kept[key].decision.rule):
            kept[key] = each
    return list(kept.values())


_BY_STRENGTH: Final = [reason.value for reason in sorted(NotificationReason, key=lambda reason: reason.strength)]
_STRENGTH: Final = {reason: rank for rank, reason in enumerate(_BY_STRENGTH, start=1)}


def _strength(rule: str) -> int:
    """Return a rule's strength: 1 or more for a reason to notify, and 0 for a rule that suppresses a notification."""
    return _STRENGTH.get(rule, 0)


def _decide_all(
    connection: Connection,
    events: Sequence[NotifiableEvent],
    incidents: dict[int, IncidentFacts],
    audiences: Audiences,
) -> Iterator[RecipientDecision]:
    recipients = [(event, find_recipients(event, audiences)) for event in events]
    people = load_people(
        connection, {(event.organization_id, user) for event, reasons in recipients for user in reasons}
    )
    first_events: dict[int, NotifiableEvent] = {}
    for event, reasons in recipients:
        first_event = first_events.setdefault(event.activity_id, event)
        incident = incidents[event.incident_id]
        for user, reason in reasons.items():
            person = people.get((event.organization_id, user))
            if person is not None:
                recipient = Recipient(person, reason, user == event.actor_id, incident.organization, incident.projects)
                yield RecipientDecision(first_event, user, decide_notification(recipient))


# --- writing ---------------------------------------------------------------------------------------------------------

_DECISION: Final = ("activity_id", "user_id", "channel", "incident_id", "event_id", "outcome", "rule")
_ITEM: Final = ("organization_id", "user_id", "incident_id", "activity_id", "event_id", "event_type", "reason")


def _is_stronger(table: str, column: str) -> str:
    order = "ARRAY[" + ", ".join(f"'{reason}'" for reason in _BY_STRENGTH) + "]"
    new, old = (f"coalesce(array_position({order}, {row}.{column}), 0)" for row in ("excluded", table))
    return f"{new} > {old}"


_WRITE_DECISIONS: Final = insert_statement(
    decisions,
    _DECISION,
    "ON CONFLICT (activity_id, user_id, channel) DO UPDATE"
    " SET event_id = excluded.event_id, outcome = excluded.outcome, rule = excluded.rule, at = excluded.at"
    f" WHERE {_is_stronger(decisions.name, 'rule')}",
)
_WRITE_INBOX: Final = insert_statement(
    notifications,
    _ITEM,
    "ON CONFLICT (activity_id, user_id) DO UPDATE SET reason = excluded.reason"
    f" WHERE {notifications.name}.date_read IS NULL AND {_is_stronger(notifications.name, 'reason')}",
)


def _write_decisions(connection: Connection, decided: Collection[RecipientDecision]) -> None:
    rows = [
        (
            event.activity_id,
            user_id,
            Channel.INBOX.value,
            event.incident_id,
            event.event_id,
            decision.outcome.value,
            str(decision.rule),
        )
        for event, user_id, decision in decided
    ]
    if rows:
        connection.exec_driver_sql(_WRITE_DECISIONS, dict(column_arrays(_DECISION, rows)))


def _write_inbox(connection: Connection, delivered: Collection[RecipientDecision]) -> None:
    rows = [
        (
            event.organization_id,
            user_id,
            event.incident_id,
            event.activity_id,
            event.event_id,
            event.type,
            str(decision.rule),
        )
        for event, user_id, decision in delivered
    ]
    if rows:
        connection.exec_driver_sql(_WRITE_INBOX, dict(column_arrays(_ITEM, rows)))


def _retract(connection: Connection, deleted: list[int | None]) -> None:
    """Mark the inbox items of deleted comments as retracted; they stay in the inbox."""
    if deleted:
        connection.exec_driver_sql(
            "UPDATE notifications SET retracted = true WHERE activity_id = ANY(%(ids)s::bigint[])", {"ids": deleted}
        )


def unsubscribe_commands(
    decided: Iterable[RecipientDecision], incidents: dict[int, IncidentFacts], audiences: Audiences
) -> list[NewCommand]:
    """Return commands that unsubscribe each subscriber who has lost access to an incident."""
    without_access = {
        (each.event.incident_id, each.user_id): each.event.trace for each in decided if each.decision.rule == NO_ACCESS
    }
    subscribed = {incident: set(audiences.subscribers.get(incident, ())) for incident, _ in without_access}
    return [
        _unsubscribe(incidents[incident], user, trace)
        for (incident, user), trace in sorted(without_access.items())
        if user in subscribed[incident]
    ]


def _unsubscribe(incident: IncidentFacts, user_id: int, trace: Trace) -> NewCommand:
    command = Unsubscribe(incident=str(incident.identifier))
    return make_follow_up(command, organization_id=incident.organization.id, user_id=user_id, trace=trace)


def by_activity(events: Iterable[WaitingEvent]) -> list[list[WaitingEvent]]:
    """Group the events by activity, in the order of each activity's first event.

    An event without an activity is a group of its own.
    """
    groups: dict[int | UUID, list[WaitingEvent]] = {}
    for event in events:
        groups.setdefault(event.activity_id or event.id, []).append(event)
    return list(groups.values())
