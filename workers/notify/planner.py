"""The planner, which turns a batch of events into decisions, inbox items and deliveries, in one transaction.

For every person in an activity's audience, it makes one decision and, if they are to be notified, one inbox item and
one delivery per channel (:mod:`workers.notify.deliveries`). Planning an activity again changes nothing, except that a
stronger reason promotes the item (:mod:`workers.notify.inbox`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence, Set
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy.engine import Connection

from models.messaging import command_ledger
from models.messaging.command_ledger import NewCommand
from models.messaging.outbox import PLANNING, WaitingEvent, mark_processed
from models.messaging.trace import Trace
from models.notifications.access import IncidentFacts, load_incidents, load_people
from models.notifications.reasons import BY_STRENGTH
from models.notifications.stored_preferences import load_mutes
from models.notifications.suppression import MUTED, NO_ACCESS, Recipient, decide_notification
from tasks.commands.subscriptions import Unsubscribe
from tasks.events import CommentDeleted
from workers.follow_ups import make_follow_up
from workers.notify.audience import Audiences, NotifiableEvent, find_recipients
from workers.notify.deliveries import MessageRecipient, cancel_deliveries, plan_deliveries
from workers.notify.destinations import write_destination_deliveries
from workers.notify.inbox import RecipientDecision, write_notifications
from workers.notify.queries import load_audiences


class Planned(NamedTuple):
    """The result of planning: the number of decisions on inbox items, the follow-up commands' subjects, the deliveries.

    Hints for these subjects, and for the deliveries if there are any, are sent after the commit.
    """

    decisions: int
    subjects: list[str]
    deliveries: int = 0


NOTHING_PLANNED: Final = Planned(0, [])


def plan(connection: Connection, events: Sequence[WaitingEvent], *, window: timedelta, now: datetime) -> Planned:
    """Decide who is notified of the events, write decisions, inbox items, deliveries, and mark events as planned.

    Messages wait for ``window`` after the event, in case of an edit or a deletion. Everything happens in the caller's
    transaction.
    """
    notifiable = [parsed for event in events if (parsed := parse_event(event))]
    incidents = load_incidents(connection, {event.incident_id for event in notifiable})
    # Nobody is notified of an incident that has been deleted meanwhile.
    notifiable = [event for event in notifiable if event.incident_id in incidents]
    audiences = load_audiences(connection, notifiable)
    muted = load_mutes(connection, incidents)
    decided = strongest(_decide_all(connection, notifiable, incidents, audiences, muted))
    unsubscribes = unsubscribe_commands(decided, incidents, audiences)
    subjects = command_ledger.accept_commands(connection, unsubscribes)
    deliveries = write_destination_deliveries(connection, events, window=window)
    mark_processed(connection, PLANNING, [event.id for event in events])
    # Last, because other notifiers wait for the end of this transaction from here on.
    written = write_notifications(connection, decided)
    critical = {id_ for id_, incident in incidents.items() if incident.is_critical}
    recipients = [
        MessageRecipient(each, each.event.incident_id in critical, (each.event.incident_id, each.user_id) in muted)
        for each in decided
        if each.key in written or each.decision.rule == MUTED
    ]
    deliveries += plan_deliveries(connection, recipients, window=window, now=now)
    deleted = [event.activity_id for event in events if event.type == CommentDeleted.type]
    _retract(connection, deleted)
    cancel_deliveries(connection, deleted)
    return Planned(len(decided), subjects, deliveries)


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
        at=datetime.fromisoformat(body["time"]),
        mentioned_users=tuple(int(user) for user in data.get("users", ())),
        mentioned_teams=tuple(int(team) for team in data.get("teams", ())),
        trace=Trace(event.request_id, event.traceparent),
    )


def strongest(decided: Iterable[RecipientDecision]) -> list[RecipientDecision]:
    """Return one decision per activity and user: the one with the strongest rule, or the first of several equals."""
    kept: dict[tuple[int, int], RecipientDecision] = {}
    for each in decided:
        if each.key not in kept or _strength(each.decision.rule) > _strength(kept[each.key].decision.rule):
            kept[each.key] = each
    return list(kept.values())


_STRENGTH: Final = {reason.value: rank for rank, reason in enumerate(BY_STRENGTH, start=1)}


def _strength(rule: str) -> int:
    """Return a rule's strength: 1 or more for a reason to notify, and 0 for a rule that suppresses a notification."""
    return _STRENGTH.get(rule, 0)


def _decide_all(
    connection: Connection,
    events: Sequence[NotifiableEvent],
    incidents: dict[int, IncidentFacts],
    audiences: Audiences,
    muted: Set[tuple[int, int]],
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
                recipient = Recipient(
                    person,
                    reason,
                    user == event.actor_id,
                    incident.organization,
                    incident.projects,
                    is_muted=(event.incident_id, user) in muted,
                )
                yield RecipientDecision(first_event, user, decide_notification(recipient))


# --- writing ---------------------------------------------------------------------------------------------------------


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
