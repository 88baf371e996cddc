"""Planning: events in, decisions and inbox items out, for many events in one transaction.

Everyone an activity concerns gets one decision, and one inbox item if they are told. Planning an activity again
changes nothing, except that a stronger reason replaces a weaker one on an item that is still unread.
Other channels will add their due rows where the inbox rows are written.
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
    """One person's verdict. ``telling`` is the first event of the activity: the one people read of."""

    event: NotifiableEvent
    user_id: int
    verdict: NotificationDecision


def plan(connection: Connection, events: Sequence[WaitingEvent]) -> list[str]:
    """Decide who is told of these events, write it down, and mark them planned, all in the caller's transaction.

    Returns the subjects of commands that follow from it; hint at them after the commit.
    """
    tellings = [telling for event in events if (telling := parse_event(event))]
    incidents = load_incidents(connection, {telling.incident_id for telling in tellings})
    # Of an incident that is gone there is nothing to tell.
    tellings = [telling for telling in tellings if telling.incident_id in incidents]
    circles = load_audiences(connection, tellings)
    decided = strongest(_decide_all(connection, tellings, incidents, circles))
    _write_decisions(connection, decided)
    _write_inbox(connection, [each for each in decided if each.verdict.outcome is DecisionOutcome.DELIVERED])
    _retract(connection, [event.activity_id for event in events if event.type == CommentDeleted.type])
    goodbyes = _unsubscriptions(decided, incidents, circles)
    command_ledger.accept_commands(connection, goodbyes)
    mark_processed(connection, PLANNING, [event.id for event in events])
    return [goodbye.subject for goodbye in goodbyes]


def parse_event(event: WaitingEvent) -> NotifiableEvent | None:
    """What the event has to say to people; none if no person did it, or it is about no activity of an incident."""
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
        trace=Trace(event.request_id, body.get("traceparent")),
    )


def strongest(decided: Iterable[RecipientDecision]) -> list[RecipientDecision]:
    """One decision per activity and person: the strongest, and of equals the first."""
    kept: dict[tuple[int, int], RecipientDecision] = {}
    for each in decided:
        key = (each.event.activity_id, each.user_id)
        if key not in kept or _strength(each.verdict.rule) > _strength(kept[key].verdict.rule):
            kept[key] = each
    return list(kept.values())


_BY_STRENGTH: Final = [reason.value for reason in sorted(NotificationReason, key=lambda reason: reason.strength)]
_STRENGTH: Final = {reason: place for place, reason in enumerate(_BY_STRENGTH, start=1)}


def _strength(rule: str) -> int:
    """Higher wins; what suppresses gives way to every reason."""
    return _STRENGTH.get(rule, 0)


def _decide_all(
    connection: Connection, tellings: Sequence[NotifiableEvent], incidents: dict[int, IncidentFacts], circles: Audiences
) -> Iterator[RecipientDecision]:
    audiences = [(telling, find_recipients(telling, circles)) for telling in tellings]
    people = load_people(connection, {(telling.organization_id, user) for telling, each in audiences for user in each})
    first: dict[int, NotifiableEvent] = {}
    for telling, audience in audiences:
        lead = first.setdefault(telling.activity_id, telling)
        incident = incidents[telling.incident_id]
        for user, reason in audience.items():
            person = people.get((telling.organization_id, user))
            if person is not None:
                case = Recipient(person, reason, user == telling.actor_id, incident.organization, incident.projects)
                yield RecipientDecision(lead, user, decide_notification(case))


# --- what is written -------------------------------------------------------------------------------------------

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
            telling.activity_id,
            user_id,
            Channel.INBOX.value,
            telling.incident_id,
            telling.event_id,
            verdict.outcome.value,
            str(verdict.rule),
        )
        for telling, user_id, verdict in decided
    ]
    if rows:
        connection.exec_driver_sql(_WRITE_DECISIONS, dict(column_arrays(_DECISION, rows)))


def _write_inbox(connection: Connection, told: Collection[RecipientDecision]) -> None:
    rows = [
        (
            telling.organization_id,
            user_id,
            telling.incident_id,
            telling.activity_id,
            telling.event_id,
            telling.type,
            str(verdict.rule),
        )
        for telling, user_id, verdict in told
    ]
    if rows:
        connection.exec_driver_sql(_WRITE_INBOX, dict(column_arrays(_ITEM, rows)))


def _retract(connection: Connection, deleted: list[int | None]) -> None:
    """What people were told of a comment that is gone stays in their inbox, as retracted."""
    if deleted:
        connection.exec_driver_sql(
            "UPDATE notifications SET retracted = true WHERE activity_id = ANY(%(ids)s::bigint[])", {"ids": deleted}
        )


def _unsubscriptions(
    decided: Iterable[RecipientDecision], incidents: dict[int, IncidentFacts], circles: Audiences
) -> list[NewCommand]:
    """Who may not read an incident any more and subscribed to it is unsubscribed by a command, each once."""
    without_access = {
        (each.event.incident_id, each.user_id): each.event.trace for each in decided if each.verdict.rule == NO_ACCESS
    }
    subscribed = {incident: set(circles.subscribers.get(incident, ())) for incident, _ in without_access}
    return [
        _unsubscribe(incidents[incident], user, trace)
        for (incident, user), trace in sorted(without_access.items())
        if user in subscribed[incident]
    ]


def _unsubscribe(incident: IncidentFacts, user_id: int, trace: Trace) -> NewCommand:
    order = Unsubscribe(incident=str(incident.identifier))
    return make_follow_up(order, organization_id=incident.organization.id, user_id=user_id, trace=trace)


def by_activity(events: Iterable[WaitingEvent]) -> list[list[WaitingEvent]]:
    """Events of one activity together, in the order in which the first of each came."""
    groups: dict[int | UUID, list[WaitingEvent]] = {}
    for event in events:
        groups.setdefault(event.activity_id or event.id, []).append(event)
    return list(groups.values())
