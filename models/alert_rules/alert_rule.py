"""Alert rules: which values they observe, when they open an incident, and whom they notify.

A rule is a single row that holds the whole definition as a document. A change that ends the rule's incidents starts a
new *generation*. Earlier definitions are kept in a separate table, and an incident refers to the generation in which it
began. Therefore a rule is never copied, and an incident never moves to another rule
(docs/decisions/0015-alert-rules-as-documents.md). Enums have the same numbers as in Sentry.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Final

from pydantic import BaseModel, ConfigDict
from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from models.alert_rules.enums import ActionType, QueryType, TargetType, ThresholdType
from models.base import METADATA, Timestamp, foreign_key, id_column

MAX_RULES: Final = 1000
"""The maximum number of live rules per organization."""

RESOLUTION_MINUTES: Final = 1
"""The interval between a rule's observed values, in minutes."""


# --- states -----------------------------------------------------------------------------------------------------


class RuleStatus(IntEnum):
    """A rule's status. ``PENDING`` is a rule in use, and ``SNAPSHOT`` is a deleted rule or an earlier generation."""

    PENDING = 0
    SNAPSHOT = 4
    DISABLED = 5


class TriggerStatus(IntEnum):
    """A trigger's status: ``ACTIVE`` while the trigger keeps an incident open."""

    ACTIVE = 0
    RESOLVED = 1


class RuleActivityType(IntEnum):
    """The kind of change that an entry in a rule's activity log records."""

    CREATED = 1
    DELETED = 2
    UPDATED = 3
    SNAPSHOT = 6


# --- definitions ------------------------------------------------------------------------------------------------


class _FrozenModel(BaseModel):
    model_config = ConfigDict(frozen=True)


class Action(_FrozenModel):
    """A notification that a trigger sends.

    ``target`` is the id of a user or a team, or an address on the channel ``type``.
    """

    id: int
    type: ActionType
    target_type: TargetType
    target: str
    date_added: datetime


class Trigger(_FrozenModel):
    """A threshold and its actions. In a comparison rule, ``threshold`` is a percentage of the comparison value."""

    id: int
    label: str
    threshold: float
    date_added: datetime
    actions: tuple[Action, ...] = ()
    excluded_projects: tuple[str, ...] = ()


class Definition(_FrozenModel):
    """A rule's definition, which is stored in its row as JSON.

    Times are in minutes. ``environment`` is a name, at most one owner is set, and triggers are ordered by label.
    """

    name: str
    query_type: QueryType
    dataset: str
    query: str
    aggregate: str
    event_types: tuple[str, ...]
    time_window: int
    environment: str | None
    threshold_type: ThresholdType
    resolve_threshold: float | None
    threshold_period: int
    comparison_delta: int | None
    monitor_type: int = 0
    activation_condition: int | None = None
    description: str | None = None
    owner_user: int | None = None
    owner_team: int | None = None
    include_all_projects: bool = False
    excluded_projects: tuple[str, ...] = ()
    triggers: tuple[Trigger, ...] = ()

    @property
    def actions(self) -> Iterator[Action]:
        """The actions of all triggers."""
        return (action for trigger in self.triggers for action in trigger.actions)

    def trigger(self, id_: int) -> Trigger | None:
        """Return the trigger with this id, or ``None`` if the rule has no such trigger."""
        return next((trigger for trigger in self.triggers if trigger.id == id_), None)

    def with_triggers(self, triggers: Iterable[Trigger]) -> Definition:
        """Return a copy of the definition with these triggers, ordered by label: critical before warning."""
        return self.model_copy(update={"triggers": tuple(sorted(triggers, key=lambda each: (each.label, each.id)))})


@dataclass(slots=True)
class AlertRule:
    """An alert rule. ``projects`` holds ids.

    ``version`` increases with every change, ``generation`` only with changes that end the rule's incidents.
    """

    id: int
    organization_id: int
    status: RuleStatus
    version: int
    generation: int
    event_sequence: int
    created_by: int | None
    definition: Definition
    date_added: datetime
    date_modified: datetime
    projects: frozenset[int] = field(default_factory=frozenset)

    @property
    def is_live(self) -> bool:
        """Whether the rule has not been deleted."""
        return self.status is not RuleStatus.SNAPSHOT

    def amend(self, definition: Definition, *, at: datetime) -> None:
        """Change the definition without ending the rule's incidents, for example to notify other people."""
        self.definition = definition
        self.version += 1
        self.date_modified = max(self.date_modified, at)

    def redefine(self, definition: Definition, *, at: datetime) -> None:
        """Change the definition and start a new generation, which ends the incidents of the previous one."""
        self.amend(definition, at=at)
        self.generation += 1

    def delete(self, *, at: datetime) -> None:
        """Mark the rule as deleted. Its incidents still show the rule."""
        self.amend(self.definition, at=at)
        self.status = RuleStatus.SNAPSHOT

    def next_event_sequence(self) -> int:
        """Return the sequence number of the next event about this rule: 1, 2, 3, …"""
        self.event_sequence += 1
        return self.event_sequence


@dataclass(frozen=True, slots=True)
class Snooze:
    """A snooze that mutes a rule's notifications for one person, or for everyone if ``user_id`` is ``None``.

    ``owner_id`` is the creator. If ``until`` is ``None``, the snooze never expires.
    """

    rule_id: int
    user_id: int | None
    owner_id: int | None
    until: datetime | None
    date_added: datetime

    def is_active(self, at: datetime) -> bool:
        """Return whether the snooze is still in effect. Expired rows are kept until they are replaced."""
        return self.until is None or at < self.until


# --- tables ----------------------------------------------------------------------------------------------------

IS_LIVE: Final = f"status <> {RuleStatus.SNAPSHOT:d}"
"""The SQL condition for live rules. It is a literal, because a partial index requires its predicate in the SQL."""

alert_rules = Table(
    "alert_rules",
    METADATA,
    id_column(),
    foreign_key("organization_id", "organizations.id"),
    Column("status", SmallInteger, nullable=False, server_default="0"),
    Column("version", BigInteger, nullable=False, server_default="1"),
    Column("generation", BigInteger, nullable=False, server_default="1"),
    Column("event_sequence", BigInteger, nullable=False, server_default="0"),
    Column("created_by", BigInteger, ForeignKey("users.id", ondelete="SET NULL"), nullable=True),
    Column("definition", JSONB, nullable=False),
    Column("date_added", Timestamp, nullable=False),
    Column("date_modified", Timestamp, nullable=False),
)
Index(
    "alert_rules_live_idx",
    alert_rules.c.organization_id,
    alert_rules.c.date_added,
    alert_rules.c.id,
    postgresql_where=text(IS_LIVE),
)

alert_rule_projects = Table(
    "alert_rule_projects",
    METADATA,
    foreign_key("rule_id", "alert_rules.id", primary_key=True),
    foreign_key("project_id", "projects.id", primary_key=True),
)
Index("alert_rule_projects_project_id_idx", alert_rule_projects.c.project_id)

alert_rule_generations = Table(
    "alert_rule_generations",
    METADATA,
    foreign_key("rule_id", "alert_rules.id", primary_key=True),
    Column("generation", BigInteger, primary_key=True),
    Column("definition", JSONB, nullable=False),
    Column("date_modified", Timestamp, nullable=False),
)
"""The table for the definitions of rules' earlier generations."""

alert_rule_activities = Table(
    "alert_rule_activities",
    METADATA,
    id_column(),
    foreign_key("rule_id", "alert_rules.id"),
    Column("user_id", BigInteger, ForeignKey("users.id", ondelete="SET NULL"), nullable=True),
    Column("type", SmallInteger, nullable=False),
    Column("date_added", Timestamp, nullable=False),
)
Index("alert_rule_activities_rule_id_idx", alert_rule_activities.c.rule_id)

environments = Table(
    "environments",
    METADATA,
    foreign_key("organization_id", "organizations.id", primary_key=True),
    Column("name", Text, primary_key=True),
)
"""The table for every environment that a rule has ever named."""

alert_rule_snoozes = Table(
    "alert_rule_snoozes",
    METADATA,
    id_column(),
    foreign_key("rule_id", "alert_rules.id"),
    foreign_key("user_id", "users.id", nullable=True),
    Column("owner_id", BigInteger, ForeignKey("users.id", ondelete="SET NULL"), nullable=True),
    Column("until", Timestamp, nullable=True),
    Column("date_added", Timestamp, nullable=False),
)
# At most one snooze per person, and one for everyone.
Index(
    "alert_rule_snoozes_scope_key",
    alert_rule_snoozes.c.rule_id,
    func.coalesce(alert_rule_snoozes.c.user_id, 0),
    unique=True,
)

alert_rule_progress = Table(
    "alert_rule_progress",
    METADATA,
    foreign_key("rule_id", "alert_rules.id", primary_key=True),
    foreign_key("project_id", "projects.id", primary_key=True),
    Column("generation", BigInteger, nullable=False),
    Column("observed", BigInteger, nullable=False, server_default="0"),
    Column("last_timestamp", Timestamp, nullable=True),
    # By trigger id: consecutive breaches, consecutive resolving values, and the time of the trigger's latest incident.
    Column("counters", JSONB, nullable=False, server_default="{}"),
)
"""The table for each rule's evaluation state per project, kept from one observed value to the next."""

KEPT_OBSERVATIONS: Final = 500
"""The number of observations kept per rule and project. A new observation replaces the oldest."""

alert_rule_observations = Table(
    "alert_rule_observations",
    METADATA,
    foreign_key("rule_id", "alert_rules.id", primary_key=True),
    foreign_key("project_id", "projects.id", primary_key=True),
    # The slot in a ring buffer: the observation's number modulo KEPT_OBSERVATIONS.
    Column("slot", Integer, primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("timestamp", Timestamp, nullable=False),
    Column("value", Double, nullable=True),
    Column("comparison_value", Double, nullable=True),
    # {"fired": […], "resolved": […], "incident": identifier or null, "counted": {…}, "ignored": reason or absent}
    Column("result", JSONB, nullable=False),
    Column("accepted_at", Timestamp, nullable=False),
)

incident_triggers = Table(
    "incident_triggers",
    METADATA,
    foreign_key("incident_id", "incidents.id", primary_key=True),
    # No foreign key: a trigger is part of its rule's definition and has no row of its own.
    Column("trigger_id", BigInteger, primary_key=True, autoincrement=False),
    Column("label", Text, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("date_added", Timestamp, nullable=False),
    Column("date_modified", Timestamp, nullable=False),
)
"""The table for the triggers that keep an incident open or once did."""
