"""The changes that a batch makes: collected by handlers, written at once by :mod:`workers.batch.write`."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from models.alert_rules.alert_rule import AlertRule, Definition, RuleActivityType, Snooze
from models.alert_rules.evaluation import Progress
from models.enums import JSON, DecisionOutcome, SubscriptionReason
from models.incidents.activity import Activity
from models.incidents.incident import Incident
from models.messaging.command_ledger import NewCommand
from models.messaging.outbox import NewEvent
from models.notifications.delivery import NewDelivery
from workers.batch.rule_facts import TriggerState


@dataclass(slots=True)
class RuleChanges:
    """What a batch does to alert rules. ``moved`` are those whose row has changed; ``purged`` leave nothing behind."""

    created: list[AlertRule] = field(default_factory=list)
    updated: dict[int, AlertRule] = field(default_factory=dict)
    archived_generations: list[tuple[int, int, Definition, datetime]] = field(default_factory=list)
    purged: list[int] = field(default_factory=list)
    activities: list[tuple[int, int | None, RuleActivityType, datetime]] = field(default_factory=list)
    environments: set[tuple[int, str]] = field(default_factory=set)
    snoozes: dict[tuple[int, int | None], Snooze] = field(default_factory=dict)
    ended_snoozes: set[tuple[int, int | None]] = field(default_factory=set)


class TriggerStateChange(NamedTuple):
    """What became of a trigger that holds, or held, an incident open."""

    incident_id: int
    trigger_id: int
    state: TriggerState
    at: datetime


class NewObservation(NamedTuple):
    """An observation for the record; ``result`` is what it did."""

    rule_id: int
    project_id: int
    number: int
    timestamp: datetime
    value: float | None
    comparison_value: float | None
    result: JSON
    accepted_at: datetime


@dataclass(slots=True)
class ObservationChanges:
    """What values leave behind: where rules stand, by rule and project; what each value did, the last on its place."""

    progress: dict[tuple[int, int], Progress] = field(default_factory=dict)
    observations: dict[tuple[int, int, int], NewObservation] = field(default_factory=dict)
    trigger_states: dict[tuple[int, int], TriggerStateChange] = field(default_factory=dict)


class NewDecision(NamedTuple):
    """Whether a person is told of an activity by a channel, and by which rule."""

    activity_id: int
    user_id: int
    channel: str
    incident_id: int
    event_id: UUID
    outcome: DecisionOutcome
    rule: str
    detail: str


@dataclass(slots=True)
class Changes:
    """What a batch leaves behind, in the order in which it happened.

    Who unsubscribed at any time in it loses the standing subscription first; ``subscribed`` is what holds at its end.
    """

    opened: list[Incident] = field(default_factory=list)
    updated: dict[int, Incident] = field(default_factory=dict)
    activities: list[tuple[Activity, UUID]] = field(default_factory=list)
    edited_comments: dict[int, Activity] = field(default_factory=dict)
    deleted_comments: list[int] = field(default_factory=list)
    seen: dict[tuple[int, int], datetime] = field(default_factory=dict)
    subscribed: dict[tuple[int, int], tuple[SubscriptionReason, datetime]] = field(default_factory=dict)
    unsubscribed: set[tuple[int, int]] = field(default_factory=set)
    read_notifications: list[int] = field(default_factory=list)
    rules: RuleChanges = field(default_factory=RuleChanges)
    observed: ObservationChanges = field(default_factory=ObservationChanges)
    decisions: list[NewDecision] = field(default_factory=list)
    deliveries: list[NewDelivery] = field(default_factory=list)
    follow_ups: list[NewCommand] = field(default_factory=list)
    events: list[NewEvent] = field(default_factory=list)
