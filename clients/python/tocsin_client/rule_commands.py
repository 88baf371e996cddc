"""Commands about alert rules: create, change, delete and snooze a rule, and observe values of its metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from tocsin_client.commands import Command


@dataclass(frozen=True)
class Action:
    """A recipient to notify: ``Action("email", "team", 3)``, ``Action("webhook", "specific", "https://…")``."""

    type: str
    """``email``, ``webhook`` or ``chat``."""
    target_type: str
    """``user`` or ``team`` for an email, ``specific`` for a webhook or a chat message."""
    target_identifier: int | str


@dataclass(frozen=True)
class Trigger:
    """A threshold, in the unit of the rule's metric, and the actions that run when it is crossed."""

    label: str
    """``critical`` or ``warning``. Every rule has a critical trigger; the warning is optional."""
    alert_threshold: float
    actions: Sequence[Action] = ()


@dataclass(frozen=True, kw_only=True)
class _OptionalRuleFields(Command):
    resolve_threshold: float | None = None
    threshold_period: int | None = None
    """The number of consecutive values that must cross a threshold. The default is 1."""
    comparison_delta: int | None = None
    """In minutes. If set, each value is compared as a percentage of the value from this long ago."""
    dataset: str | None = None
    query_type: int | None = None
    event_types: Sequence[str] | None = None
    environment: str | None = None
    owner: str | None = None
    """``"user:12"`` or ``"team:1"``."""
    description: str | None = None


@dataclass(frozen=True)
class CreateAlertRule(_OptionalRuleFields):
    """Create a rule for a metric of one project, given by its slug. The outcome's body is the rule."""

    type: ClassVar[str] = "alert_rule.create"
    route: ClassVar[tuple[str, str] | None] = ("POST", "alert-rules/")

    name: str
    projects: Sequence[str]
    aggregate: str
    """For example ``count()``."""
    time_window: int
    """In minutes."""
    threshold_type: int
    """0 if values above a threshold trigger the rule, 1 if values below it do."""
    triggers: Sequence[Trigger]
    query: str = ""


@dataclass(frozen=True)
class UpdateAlertRule(_OptionalRuleFields):
    """Change a rule and close its open incidents. Optional fields that are not set keep their values."""

    type: ClassVar[str] = "alert_rule.update"
    route: ClassVar[tuple[str, str] | None] = ("PUT", "alert-rules/{alertRule}/")

    alert_rule: int | str
    aggregate: str
    query: str
    time_window: int
    """In minutes."""
    threshold_type: int
    """0 if values above a threshold trigger the rule, 1 if values below it do."""
    triggers: Sequence[Trigger]
    name: str | None = None
    projects: Sequence[str] | None = None


@dataclass(frozen=True)
class DeleteAlertRule(Command):
    """Delete a rule and close its open incidents."""

    type: ClassVar[str] = "alert_rule.delete"
    route: ClassVar[tuple[str, str] | None] = ("DELETE", "alert-rules/{alertRule}/")

    alert_rule: int | str


@dataclass(frozen=True)
class SnoozeAlertRule(Command):
    """Suppress a rule's notifications for ``target`` (``me`` or ``everyone``), until ``until`` if it is set."""

    type: ClassVar[str] = "alert_rule.snooze"

    alert_rule: int | str
    target: str
    until: datetime | None = None


@dataclass(frozen=True)
class UnsnoozeAlertRule(Command):
    """End a rule's snooze for ``target`` (``me`` or ``everyone``), or both snoozes if no target is set."""

    type: ClassVar[str] = "alert_rule.unsnooze"

    alert_rule: int | str
    target: str | None = None


@dataclass(frozen=True)
class ObserveMetric(Command):
    """Submit a value of a rule's metric for a project, given by its slug. ``None`` means that nothing was counted.

    The outcome's body lists the triggers that ``fired`` and ``resolved``, or the reason why the value was ``ignored``,
    and contains the rule's ``incident``.
    """

    type: ClassVar[str] = "metric.observe"
    route: ClassVar[tuple[str, str] | None] = ("POST", "alert-rules/{alertRule}/observations/")

    alert_rule: int | str
    project: str
    value: float | None
    timestamp: datetime
    comparison_value: float | None = None
    """The value from ``comparison_delta`` minutes earlier. Only for a rule that has a ``comparison_delta``."""
