"""The explanation of all of an incident's activities for one person, for the gateway and `tocsin explain` alike.

Decisions are recorded for the people in an activity's audience only. For anyone else, the decision is derived from the
activity's events and from who may read the incident now. The functions are pure; the two programs run the statements,
each with its own kind of connection.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Select, Text, cast, select

from models.enums import Channel, DecisionOutcome, NotificationReason
from models.messaging.outbox import events
from models.notifications.explanation import (
    DECISION_COLUMNS,
    NO_AUTHOR,
    NOT_PLANNED,
    NOT_SUBSCRIBED,
    ExplainedDecision,
)
from models.notifications.notification import decisions
from models.notifications.suppression import AUTHOR, NotificationDecision, Recipient, decide_notification
from models.policy import Actor, OrganizationFacts, ProjectFacts


class ExplainedActivity(NamedTuple):
    """An activity with the decisions about one person, newest first. ``type`` is that of the activity's first event.

    ``type`` is ``None`` if the activity has no event.
    """

    activity_id: int
    type: str | None
    decisions: list[ExplainedDecision]


class ActivityEvent(NamedTuple):
    """An event about an activity. ``author_id`` is the person who caused it, or ``None`` if no person did."""

    id: UUID
    type: str
    activity_id: int
    author_id: int | None
    is_planned: bool


class IncidentAccess(NamedTuple):
    """The facts that decide who may read an incident."""

    organization: OrganizationFacts
    projects: tuple[ProjectFacts, ...]


def explain_activities(
    activity_events: Iterable[ActivityEvent],
    recorded: Iterable[ExplainedDecision],
    person: Actor,
    incident: IncidentAccess,
) -> list[ExplainedActivity]:
    """Return the activities that have an event or a decision, newest first, each with at least one decision.

    The events must have been read before the decisions: a notifier may commit in between, and what it has planned it
    has also decided.

    :param activity_events: the incident's events that notify people, in sequence.
    :param recorded: the recorded decisions about the person and the incident, newest first.
    """
    by_activity: dict[int, list[ActivityEvent]] = defaultdict(list)
    for event in activity_events:
        by_activity[event.activity_id].append(event)
    known: dict[int, list[ExplainedDecision]] = defaultdict(list)
    for decision in recorded:
        known[decision.activity_id].append(decision)
    explained = []
    for activity in sorted(known.keys() | by_activity.keys(), reverse=True):
        own_events, own_decisions = by_activity.get(activity, []), known.get(activity, [])
        if own_events and not any(each.channel == Channel.INBOX for each in own_decisions):
            own_decisions = [*own_decisions, _derive(own_events, person, incident)]
        explained.append(ExplainedActivity(activity, own_events[0].type if own_events else None, own_decisions))
    return explained


def _derive(own_events: Sequence[ActivityEvent], person: Actor, incident: IncidentAccess) -> ExplainedDecision:
    first = own_events[0]
    outcome, rule = _decide(own_events, person, incident)
    return ExplainedDecision(first.activity_id, first.id, Channel.INBOX, outcome, rule, "", None)


def _decide(own_events: Sequence[ActivityEvent], person: Actor, incident: IncidentAccess) -> NotificationDecision:
    """Return why no decision on an inbox item is recorded for the person and the activity with these events."""
    authors = [each.author_id for each in own_events if each.author_id is not None]
    if not authors:
        return NotificationDecision(DecisionOutcome.SUPPRESSED, NO_AUTHOR)
    # Before the access, because it cannot have changed since.
    if authors[0] == person.user_id:
        return NotificationDecision(DecisionOutcome.SUPPRESSED, AUTHOR)
    as_subscriber = Recipient(person, NotificationReason.SUBSCRIBED, False, incident.organization, incident.projects)
    decision = decide_notification(as_subscriber)
    if decision.outcome is DecisionOutcome.SUPPRESSED:
        return decision
    if not all(each.is_planned for each in own_events):
        return NotificationDecision(DecisionOutcome.PENDING, NOT_PLANNED)
    return NotificationDecision(DecisionOutcome.SUPPRESSED, NOT_SUBSCRIBED)


# --- statements ------------------------------------------------------------------------------------------------------


def select_decisions(incident_id: int, user_id: int) -> Select[Any]:
    """Return the statement for the recorded decisions about a person and an incident, newest first."""
    return (
        select(*DECISION_COLUMNS)
        .where(decisions.c.user_id == user_id, decisions.c.incident_id == incident_id)
        .order_by(decisions.c.at.desc(), decisions.c.channel)
    )


def select_activity_events(
    organization_id: int, identifier: int, incident_id: int, notifying_types: Collection[str]
) -> Select[Any]:
    """Return the statement for an incident's events of these types, in sequence (:func:`activity_event_from_row`)."""
    return (
        select(
            events.c.id,
            events.c.type,
            events.c.activity_id,
            cast(events.c.body, Text).label("body"),
            events.c.planned_at.is_not(None).label("is_planned"),
        )
        .where(
            # The index needs organization and subject; an incident's id alone would read all events.
            events.c.organization_id == organization_id,
            events.c.subject == f"incidents/{identifier}",
            events.c.incident_id == incident_id,
            events.c.type.in_(notifying_types),
            events.c.activity_id.is_not(None),
        )
        .order_by(events.c.sequence)
    )


def activity_event_from_row(row: Any) -> ActivityEvent:
    """Build an event from a row of :func:`select_activity_events`."""
    actor = json.loads(row.body)["data"].get("actor")
    author_id = int(actor["id"]) if actor is not None and actor["type"] == "user" else None
    return ActivityEvent(row.id, row.type, row.activity_id, author_id, row.is_planned)
