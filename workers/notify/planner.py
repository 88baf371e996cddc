"""The planner, which turns events into decisions, inbox items and deliveries.

For every person in an activity's audience, it makes one decision and, if they are to be notified, one inbox item and
one delivery per channel (:mod:`workers.notify.deliveries`). Planning an activity again changes nothing, except that a
stronger reason promotes the item (:mod:`workers.notify.inbox`).

A batch of events is planned in one transaction, as long as it concerns few people. The events of a subject with more
people are left to :mod:`workers.notify.fan_out`, which plans them in parts, each in a transaction of its own.
"""

from __future__ import annotations

import json
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from datetime import datetime, timedelta
from itertools import groupby
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy.engine import Connection

from models.enums import NotificationReason
from models.messaging import command_ledger
from models.messaging.command_ledger import NewCommand
from models.messaging.outbox import PLANNING, EventSubject, WaitingEvent, mark_processed
from models.messaging.trace import Trace
from models.notifications.access import IncidentFacts, load_incidents, load_people
from models.notifications.reasons import BY_STRENGTH, strongest_reasons
from models.notifications.stored_preferences import load_mutes
from models.notifications.suppression import MUTED, NO_ACCESS, Recipient, decide_notification
from tasks.commands.subscriptions import Unsubscribe
from tasks.events import CommentDeleted
from workers.follow_ups import make_follow_up
from workers.notify.audience import NotifiableEvent, find_recipients, find_users, largest_audience
from workers.notify.deliveries import MessageRecipient, cancel_deliveries, plan_deliveries
from workers.notify.destinations import write_destination_deliveries
from workers.notify.inbox import RecipientDecision, write_notifications
from workers.notify.queries import count_items, load_audiences, select_subscribed

PEOPLE_PER_TRANSACTION: Final = 1_000
"""About how many people one transaction notifies at most, because others wait for it, and memory grows with it."""


class Planned(NamedTuple):
    """The result of planning: the number of decisions on inbox items, the follow-up commands' subjects, the deliveries.

    ``events`` is the number of events that are marked as planned. Hints for these subjects, and for the deliveries if
    there are any, are sent after the commit. ``large`` names the subjects whose events were left because they concern
    more people than one transaction may notify. ``is_interrupted`` is whether events of other subjects were left for
    the next batch, because this one concerned enough people.
    """

    decisions: int = 0
    subjects: Sequence[str] = ()
    deliveries: int = 0
    large: Sequence[EventSubject] = ()
    is_interrupted: bool = False
    events: int = 0

    def __add__(self, other: Planned) -> Planned:  # type: ignore[override] # not a concatenation
        """Return the result of planning both."""
        return Planned(
            self.decisions + other.decisions,
            [*self.subjects, *other.subjects],
            self.deliveries + other.deliveries,
            [*self.large, *other.large],
            self.is_interrupted or other.is_interrupted,
            self.events + other.events,
        )


NOTHING_PLANNED: Final = Planned()

Addressed = tuple[NotifiableEvent, Mapping[int, NotificationReason]]
"""An event, and the people in its audience, each with the reason to notify them."""


def plan(connection: Connection, events: Sequence[WaitingEvent], *, window: timedelta, now: datetime) -> Planned:
    """Decide who is notified of the events, write decisions, inbox items, deliveries, and mark events as planned.

    Messages wait for ``window`` after the event, in case of an edit or a deletion. Everything happens in the caller's
    transaction. Events that concern too many people for it are left unplanned.
    """
    notifiable = [parsed for event in events if (parsed := parse_event(event))]
    audiences = load_audiences(connection, notifiable)
    sizes = {event.event_id: largest_audience(event, audiences) for event in notifiable}
    if deleted := _deleted_activities(events):
        items = count_items(connection, deleted, most=PEOPLE_PER_TRANSACTION + 1)
        sizes |= {
            event.id: items[event.activity_id]
            for event in events
            if event.type == CommentDeleted.type and event.activity_id in items
        }
    selection = _select(events, sizes)
    ids = {event.id for event in selection.events}
    addressed = [(event, find_recipients(event, audiences)) for event in notifiable if event.event_id in ids]
    people = _decide(connection, addressed)
    deliveries = write_destination_deliveries(connection, selection.events, window=window)
    mark_processed(connection, PLANNING, list(ids))
    # Last, because other notifiers wait for the end of this transaction from here on.
    planned = _write(connection, people, window=window, now=now)
    while _retract(connection, selection.events):
        pass
    return planned + Planned(
        deliveries=deliveries,
        large=selection.large,
        is_interrupted=selection.is_interrupted,
        events=len(selection.events),
    )


# --- in parts --------------------------------------------------------------------------------------------------------


def divide(connection: Connection, events: Sequence[WaitingEvent]) -> Iterator[list[Addressed]]:
    """Divide the audience of one activity's events into parts, each for :func:`plan_part`.

    All reasons to notify a person are in the same part, so that the strongest one wins. The parts have the audience of
    this moment. Whether a person may still be notified is decided when their part is planned.
    """
    notifiable = [parsed for event in events if (parsed := parse_event(event))]
    audiences = load_audiences(connection, notifiable)
    users = [
        (event, {reason: array("q", sorted(users)) for reason, users in find_users(event, audiences).items()})
        for event in notifiable
    ]
    return _parts(users, PEOPLE_PER_TRANSACTION)


_SortedUsers = Mapping[NotificationReason, Sequence[int]]


def _parts(users: Sequence[tuple[NotifiableEvent, _SortedUsers]], size: int) -> Iterator[list[Addressed]]:
    """Yield the parts one by one. Only arrays of ids are kept meanwhile, 8 bytes for each user and reason."""
    people = array("q", sorted({user for _, by_reason in users for each in by_reason.values() for user in each}))
    for start in range(0, len(people), size):
        part = people[start : start + size]
        yield [(event, strongest_reasons(_between(part[0], part[-1], by_reason))) for event, by_reason in users]


def _between(first: int, last: int, users: _SortedUsers) -> dict[NotificationReason, Sequence[int]]:
    return {reason: each[bisect_left(each, first) : bisect_right(each, last)] for reason, each in users.items()}


def plan_part(connection: Connection, part: Sequence[Addressed], *, window: timedelta, now: datetime) -> Planned:
    """Decide about a part of an audience, and write decisions, inbox items and deliveries in the caller's transaction.

    The events remain unplanned.
    """
    return _write(connection, _decide(connection, part), window=window, now=now)


def retract_part(connection: Connection, events: Sequence[WaitingEvent]) -> bool:
    """Retract inbox items and cancel messages of as many people as a part has, if the comment has been deleted.

    Return whether there may be more of them.
    """
    return _retract(connection, events)


def finish(connection: Connection, events: Sequence[WaitingEvent], *, window: timedelta) -> Planned:
    """Mark one activity's events as planned, after all parts of their audience, and write what concerns no person."""
    deliveries = write_destination_deliveries(connection, events, window=window)
    mark_processed(connection, PLANNING, [event.id for event in events])
    return Planned(deliveries=deliveries, events=len(events))


# --- deciding --------------------------------------------------------------------------------------------------------


class _Selection(NamedTuple):
    """The events that a transaction plans. The other fields are those of :class:`Planned`."""

    events: list[WaitingEvent]
    large: list[EventSubject]
    is_interrupted: bool


def _select(events: Sequence[WaitingEvent], sizes: Mapping[UUID, int]) -> _Selection:
    """Select the events of whole subjects, up to :data:`PEOPLE_PER_TRANSACTION`.

    ``sizes`` says how many people events concern at most. A subject's events are planned in order, so all of them are
    left if they concern too many.
    """
    selected: list[WaitingEvent] = []
    large: list[EventSubject] = []
    is_interrupted, total = False, 0
    for subject, group in groupby(events, key=lambda event: (event.organization_id, event.subject)):
        of_subject = list(group)
        size = sum(sizes.get(event.id, 0) for event in of_subject)
        if size > PEOPLE_PER_TRANSACTION:
            large.append(subject)
        elif total + size > PEOPLE_PER_TRANSACTION:
            is_interrupted = True
        else:
            selected += of_subject
            total += size
    return _Selection(selected, large, is_interrupted)


class _Decided(NamedTuple):
    """The decisions about people, with the facts that decide about their messages."""

    decisions: list[RecipientDecision]
    critical: Set[int]
    muted: Set[tuple[int, int]]
    unsubscribes: list[NewCommand]


def _decide(connection: Connection, addressed: Sequence[Addressed]) -> _Decided:
    incidents = load_incidents(connection, {event.incident_id for event, _ in addressed})
    # Nobody is notified of an incident that has been deleted meanwhile.
    addressed = [(event, reasons) for event, reasons in addressed if event.incident_id in incidents]
    muted = load_mutes(connection, incidents)
    decisions = strongest(_decide_all(connection, addressed, incidents, muted))
    return _Decided(
        decisions,
        critical={id_ for id_, incident in incidents.items() if incident.is_critical},
        muted=muted,
        unsubscribes=_unsubscribe_commands(connection, decisions, incidents),
    )


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
    addressed: Sequence[Addressed],
    incidents: dict[int, IncidentFacts],
    muted: Set[tuple[int, int]],
) -> Iterator[RecipientDecision]:
    people = load_people(
        connection, {(event.organization_id, user) for event, reasons in addressed for user in reasons}
    )
    first_events: dict[int, NotifiableEvent] = {}
    for event, reasons in addressed:
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


def _unsubscribe_commands(
    connection: Connection, decided: Iterable[RecipientDecision], incidents: dict[int, IncidentFacts]
) -> list[NewCommand]:
    """Return commands that unsubscribe each subscriber who has lost access to an incident."""
    without_access = {
        (each.event.incident_id, each.user_id): each.event.trace for each in decided if each.decision.rule == NO_ACCESS
    }
    return [
        _unsubscribe(incidents[incident], user, without_access[incident, user])
        for incident, user in sorted(select_subscribed(connection, without_access))
    ]


def _unsubscribe(incident: IncidentFacts, user_id: int, trace: Trace) -> NewCommand:
    command = Unsubscribe(incident=str(incident.identifier))
    return make_follow_up(command, organization_id=incident.organization.id, user_id=user_id, trace=trace)


# --- writing ---------------------------------------------------------------------------------------------------------


def _write(connection: Connection, decided: _Decided, *, window: timedelta, now: datetime) -> Planned:
    subjects = command_ledger.accept_commands(connection, decided.unsubscribes)
    written = write_notifications(connection, decided.decisions)
    recipients = [
        MessageRecipient(
            each, each.event.incident_id in decided.critical, (each.event.incident_id, each.user_id) in decided.muted
        )
        for each in decided.decisions
        if each.key in written or each.decision.rule == MUTED
    ]
    deliveries = plan_deliveries(connection, recipients, window=window, now=now)
    return Planned(len(decided.decisions), subjects, deliveries)


def _retract(connection: Connection, events: Sequence[WaitingEvent]) -> bool:
    """Mark inbox items of deleted comments as retracted, which keeps them in the inbox, and cancel messages about them.

    Return whether there may be more of them, because one statement changes at most :data:`PEOPLE_PER_TRANSACTION`.
    """
    deleted = _deleted_activities(events)
    if not deleted:
        return False
    most = PEOPLE_PER_TRANSACTION
    retracted = connection.exec_driver_sql(_RETRACT, {"ids": deleted, "most": most}).rowcount
    return max(retracted, cancel_deliveries(connection, deleted, most=most)) >= most


def _deleted_activities(events: Iterable[WaitingEvent]) -> list[int]:
    return [
        event.activity_id for event in events if event.type == CommentDeleted.type and event.activity_id is not None
    ]


_RETRACT: Final = """
UPDATE notifications SET retracted = true WHERE id = ANY(ARRAY(
    SELECT id FROM notifications WHERE activity_id = ANY(%(ids)s::bigint[]) AND NOT retracted LIMIT %(most)s
))
"""


def by_activity(events: Iterable[WaitingEvent]) -> list[list[WaitingEvent]]:
    """Group the events by activity, in the order of each activity's first event.

    An event without an activity is a group of its own.
    """
    groups: dict[int | UUID, list[WaitingEvent]] = {}
    for event in events:
        groups.setdefault(event.activity_id or event.id, []).append(event)
    return list(groups.values())
