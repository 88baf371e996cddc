"""What can be asked about alert rules: to make and change them, to keep them silent, and to take in values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from tocsin_client.orders import Order


@dataclass(frozen=True)
class Action:
    """Whom a trigger tells: ``Action("email", "team", 3)``, ``Action("webhook", "specific", "https://…")``."""

    type: str
    """``email``, ``webhook`` or ``chat``."""
    target_type: str
    """``user`` or ``team`` of an email, ``specific`` of a webhook and a chat."""
    target_identifier: int | str


@dataclass(frozen=True)
class Trigger:
    """A threshold, in the unit of the rule's values, and whom crossing it tells."""

    label: str
    """``critical`` or ``warning``; a rule has the first, and may have the second."""
    alert_threshold: float
    actions: Sequence[Action] = ()


@dataclass(frozen=True, kw_only=True)
class _RuleWords(Order):
    """What a rule need not say."""

    resolve_threshold: float | None = None
    threshold_period: int | None = None
    """How many values in a row must cross a threshold; one, if nothing is said."""
    comparison_delta: int | None = None
    """Minutes: values are compared with those so long before, in percent."""
    dataset: str | None = None
    query_type: int | None = None
    event_types: Sequence[str] | None = None
    environment: str | None = None
    owner: str | None = None
    """``"user:12"`` or ``"team:1"``."""
    description: str | None = None


@dataclass(frozen=True)
class CreateAlertRule(_RuleWords):
    """Watch the values of a metric on one project (its slug); the outcome is the rule."""

    type: ClassVar[str] = "alert_rule.create"
    route: ClassVar[tuple[str, str] | None] = ("POST", "alert-rules/")

    name: str
    projects: Sequence[str]
    aggregate: str
    """``count()``, for example."""
    time_window: int
    """Minutes."""
    threshold_type: int
    """0 if values above the thresholds alert, 1 if those below do."""
    triggers: Sequence[Trigger]
    query: str = ""


@dataclass(frozen=True)
class UpdateAlertRule(_RuleWords):
    """Let a rule say something else; its open incidents end. What may be left out stays as it is."""

    type: ClassVar[str] = "alert_rule.update"
    route: ClassVar[tuple[str, str] | None] = ("PUT", "alert-rules/{alertRule}/")

    alert_rule: int | str
    aggregate: str
    query: str
    time_window: int
    threshold_type: int
    triggers: Sequence[Trigger]
    name: str | None = None
    projects: Sequence[str] | None = None


@dataclass(frozen=True)
class DeleteAlertRule(Order):
    """Watch something no more; the rule's open incidents end."""

    type: ClassVar[str] = "alert_rule.delete"
    route: ClassVar[tuple[str, str] | None] = ("DELETE", "alert-rules/{alertRule}/")

    alert_rule: int | str


@dataclass(frozen=True)
class SnoozeAlertRule(Order):
    """Keep a rule silent for ``target`` (``me`` or ``everyone``), until a time or until it is woken."""

    type: ClassVar[str] = "alert_rule.snooze"

    alert_rule: int | str
    target: str
    until: datetime | None = None


@dataclass(frozen=True)
class UnsnoozeAlertRule(Order):
    """Let a rule speak again to ``me`` or to ``everyone``; without a target, to both."""

    type: ClassVar[str] = "alert_rule.unsnooze"

    alert_rule: int | str
    target: str | None = None


@dataclass(frozen=True)
class ObserveMetric(Order):
    """A value of a rule's metric on a project (its slug). ``None`` says that nothing was counted.

    The outcome says what it ``fired`` and ``resolved``, or why it was ``ignored``, and the ``incident``.
    """

    type: ClassVar[str] = "metric.observe"
    route: ClassVar[tuple[str, str] | None] = ("POST", "alert-rules/{alertRule}/observations/")

    alert_rule: int | str
    project: str
    value: float | None
    timestamp: datetime
    comparison_value: float | None = None
    """The value so long before, of a rule that compares."""
