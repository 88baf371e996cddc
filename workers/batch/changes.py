"""The changes that a batch makes. Handlers collect them, and :mod:`workers.batch.write` writes them all at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from models.alert_rules.alert_rule import AlertRule, Definition, RuleActivityType, Snooze
from models.alert_rules.evaluation import Progress
from models.enums import SubscriptionReason
from models.incidents.activity import Activity
from models.incidents.incident import Incident
from models.messaging.command_ledger import NewCommand
from models.messaging.outbox import NewEvent
from models.notifications.chat_destination import ChatDestination, NewTestMessage
from models.notifications.delivery import NewDelivery
from models.notifications.notification import NewDecision
from models.notifications.webhook import NewWebhookDelivery, Webhook
from models.types import JSON
from workers.batch.inbox_facts import Inbox
from workers.batch.rule_facts import TriggerState


class ArchivedGeneration(NamedTuple):
    """An alert rule's definition in a generation that has ended, kept for the incidents opened in that generation."""

    rule_id: int
    generation: int
    definition: Definition
    date_modified: datetime


class NewRuleActivity(NamedTuple):
    """A new entry in an alert rule's history."""

    rule_id: int
    user_id: int | None
    type: RuleActivityType
    date_added: datetime


@dataclass(slots=True)
class RuleChanges:
    """The changes to alert rules.

    ``updated`` maps ids to the rules whose rows change, and ``purged`` holds the ids of rules whose rows are deleted.
    ``environments`` holds pairs of organization id and name. Snoozes are keyed by rule id and user id, which is
    ``None`` if the snooze is for everyone.
    """

    created: list[AlertRule] = field(default_factory=list)
    updated: dict[int, AlertRule] = field(default_factory=dict)
    archived_generations: list[ArchivedGeneration] = field(default_factory=list)
    purged: list[int] = field(default_factory=list)
    activities: list[NewRuleActivity] = field(default_factory=list)
    environments: set[tuple[int, str]] = field(default_factory=set)
    snoozes: dict[tuple[int, int | None], Snooze] = field(default_factory=dict)
    ended_snoozes: set[tuple[int, int | None]] = field(default_factory=set)


class TriggerStateChange(NamedTuple):
    """A trigger's new state in an incident."""

    incident_id: int
    trigger_id: int
    state: TriggerState
    at: datetime


class NewObservation(NamedTuple):
    """An observation to record: the ``number``-th for its rule and project.

    ``slot`` is its place in the ring of kept observations, and ``result`` describes its effects in JSON.
    """

    rule_id: int
    project_id: int
    slot: int
    number: int
    timestamp: datetime
    value: float | None
    comparison_value: float | None
    result: JSON
    accepted_at: datetime


@dataclass(slots=True)
class ObservationChanges:
    """The changes that observations make.

    ``progress`` is keyed by rule id and project id, ``observations`` by rule id, project id and slot in the ring of
    kept observations, and ``trigger_states`` by incident id and trigger id.
    """

    progress: dict[tuple[int, int], Progress] = field(default_factory=dict)
    observations: dict[tuple[int, int, int], NewObservation] = field(default_factory=dict)
    trigger_states: dict[tuple[int, int], TriggerStateChange] = field(default_factory=dict)


@dataclass(slots=True)
class WebhookChanges:
    """The changes to webhooks, by id, with the deliveries of tests, and the ids of deliveries to send again."""

    created: dict[int, Webhook] = field(default_factory=dict)
    updated: dict[int, Webhook] = field(default_factory=dict)
    deleted: set[int] = field(default_factory=set)
    tests: list[NewWebhookDelivery] = field(default_factory=list)
    redelivered: set[UUID] = field(default_factory=set)


@dataclass(slots=True)
class ChatChanges:
    """The changes to chat destinations, by id, with the deliveries of tests."""

    created: dict[int, ChatDestination] = field(default_factory=dict)
    updated: dict[int, ChatDestination] = field(default_factory=dict)
    deleted: set[int] = field(default_factory=set)
    tests: list[NewTestMessage] = field(default_factory=list)


class ReadSlice(NamedTuple):
    """The part of an inbox that a batch marks as read: the first ``most`` unread items up to the id ``up_to``."""

    up_to: int
    most: int


class Mute(NamedTuple):
    """A muted incident. ``until`` is ``None`` if the mute has no end."""

    until: datetime | None


@dataclass(slots=True)
class PreferenceChanges:
    """The changes to a person's preferences, which then have this version.

    ``document`` is ``None`` if only muted incidents have changed. ``mutes`` is keyed by incident id; the value is
    ``None`` if the incident is no longer muted.
    """

    version: int = 0
    document: dict[str, JSON] | None = None
    mutes: dict[int, Mute | None] = field(default_factory=dict)


@dataclass(slots=True)
class Changes:
    """The changes that a batch makes, in the order in which they were made.

    ``activities`` holds each activity with its notification UUID. ``seen``, ``subscribed`` and ``unsubscribed`` are
    keyed by incident id and user id, ``preferences`` by user id. ``unsubscribed``, which is written first, holds
    everyone who unsubscribed at any time during the batch; ``subscribed`` holds the new subscriptions at its end.
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
    read_slices: dict[Inbox, ReadSlice] = field(default_factory=dict)
    preferences: dict[int, PreferenceChanges] = field(default_factory=dict)
    rules: RuleChanges = field(default_factory=RuleChanges)
    observed: ObservationChanges = field(default_factory=ObservationChanges)
    webhooks: WebhookChanges = field(default_factory=WebhookChanges)
    chat: ChatChanges = field(default_factory=ChatChanges)
    decisions: list[NewDecision] = field(default_factory=list)
    deliveries: list[NewDelivery] = field(default_factory=list)
    follow_ups: list[NewCommand] = field(default_factory=list)
    events: list[NewEvent] = field(default_factory=list)

    @property
    def has_deliveries(self) -> bool:
        """Whether the batch writes deliveries, or has some sent again."""
        return bool(self.deliveries or self.webhooks.tests or self.webhooks.redelivered)
