"""Why a person was, or was not, notified of an incident's comments and status changes.

Decisions are recorded for the people in an activity's audience only. For anyone else, the decision is derived from the
activity's events and from who may read the incident now.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy import Text, cast, select
from sqlalchemy.engine import Connection

from models.enums import Channel, DecisionOutcome, NotificationReason
from models.messaging.outbox import WaitingEvent, events
from models.notifications.access import IncidentFacts, load_incidents, load_people
from models.notifications.explanation import (
    DECISION_COLUMNS,
    NO_AUTHOR,
    NOT_PLANNED,
    NOT_SUBSCRIBED,
    ExplainedDecision,
    decision_from_row,
)
from models.notifications.notification import decisions
from models.notifications.suppression import AUTHOR, NotificationDecision, Recipient, decide_notification
from models.policy import Actor
from workers.notify.audience import AUDIENCES
from workers.notify.planner import parse_event


class ExplainedActivity(NamedTuple):
    """An activity with the decisions about one person, newest first. ``type`` is that of the activity's first event.

    ``type`` is ``None`` if the activity has no event.
    """

    activity_id: int
    type: str | None
    decisions: list[ExplainedDecision]


class _PlannableEvent(NamedTuple):
    event: WaitingEvent
    is_planned: bool


def explain_incident(connection: Connection, incident_id: int, user_id: int) -> list[ExplainedActivity]:
    """Return the incident's activities that notify people or about which decisions are recorded, newest first.

    Each has at least one decision about the user. The incident and the user must exist.
    """
    incident = load_incidents(connection, {incident_id})[incident_id]
    membership = (incident.organization.id, user_id)
    person = load_people(connection, {membership})[membership]
    # The events first: a notifier may commit in between, and what it has planned it has also decided.
    by_activity = _load_events(connection, incident_id, incident)
    recorded = _load_decisions(connection, incident_id, user_id)
    explained = []
    for activity in sorted(recorded.keys() | by_activity.keys(), reverse=True):
        own_events, own_decisions = by_activity.get(activity, []), recorded.get(activity, [])
        if own_events and not any(each.channel == Channel.INBOX for each in own_decisions):
            own_decisions = [*own_decisions, _derive(activity, own_events, person, incident)]
        explained.append(ExplainedActivity(activity, own_events[0].event.type if own_events else None, own_decisions))
    return explained


def _derive(
    activity: int, own_events: Sequence[_PlannableEvent], person: Actor, incident: IncidentFacts
) -> ExplainedDecision:
    outcome, rule = _decide(own_events, person, incident)
    return ExplainedDecision(activity, own_events[0].event.id, Channel.INBOX, outcome, rule, "", None)


def _decide(own_events: Sequence[_PlannableEvent], person: Actor, incident: IncidentFacts) -> NotificationDecision:
    """Return why no decision on an inbox item is recorded for the person and the activity with these events."""
    notifiable = [parsed for each in own_events if (parsed := parse_event(each.event))]
    if not notifiable:
        return NotificationDecision(DecisionOutcome.SUPPRESSED, NO_AUTHOR)
    # Before the access, because it cannot have changed since.
    if notifiable[0].actor_id == person.user_id:
        return NotificationDecision(DecisionOutcome.SUPPRESSED, AUTHOR)
    as_subscriber = Recipient(person, NotificationReason.SUBSCRIBED, False, incident.organization, incident.projects)
    decision = decide_notification(as_subscriber)
    if decision.outcome is DecisionOutcome.SUPPRESSED:
        return decision
    if not all(each.is_planned for each in own_events):
        return NotificationDecision(DecisionOutcome.PENDING, NOT_PLANNED)
    return NotificationDecision(DecisionOutcome.SUPPRESSED, NOT_SUBSCRIBED)


# --- queries ---------------------------------------------------------------------------------------------------------

_NOTIFYING_TYPES: Final = tuple(type_ for type_, sources in AUDIENCES.items() if sources)
_EVENT_COLUMNS: Final = tuple(
    cast(events.c.body, Text).label("body") if name == "body" else events.c[name] for name in WaitingEvent._fields
)


def _load_decisions(connection: Connection, incident_id: int, user_id: int) -> dict[int, list[ExplainedDecision]]:
    """Return the recorded decisions about a person and an incident, newest first, by activity id."""
    found: dict[int, list[ExplainedDecision]] = defaultdict(list)
    rows = connection.execute(
        select(*DECISION_COLUMNS)
        .where(decisions.c.user_id == user_id, decisions.c.incident_id == incident_id)
        .order_by(decisions.c.at.desc(), decisions.c.channel)
    )
    for row in rows:
        found[row.activity_id].append(decision_from_row(row))
    return found


def _load_events(connection: Connection, incident_id: int, incident: IncidentFacts) -> dict[int, list[_PlannableEvent]]:
    """Return the incident's events that notify people, in sequence, by activity id."""
    found: dict[int, list[_PlannableEvent]] = defaultdict(list)
    rows = connection.execute(
        select(*_EVENT_COLUMNS, events.c.planned_at.is_not(None).label("is_planned"))
        .where(
            # The index needs organization and subject; an incident's id alone would read all events.
            events.c.organization_id == incident.organization.id,
            events.c.subject == f"incidents/{incident.identifier}",
            events.c.incident_id == incident_id,
            events.c.type.in_(_NOTIFYING_TYPES),
            events.c.activity_id.is_not(None),
        )
        .order_by(events.c.sequence)
    )
    for row in rows:
        *values, is_planned = row
        event = WaitingEvent._make(values)
        found[row.activity_id].append(_PlannableEvent(event, is_planned))
    return found
