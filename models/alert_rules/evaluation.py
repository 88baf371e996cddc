"""Evaluate an observed value against an alert rule: which triggers fire or are resolved, or why the value is ignored.

The functions are pure. Their input is the rule's definition, its progress on the project, the triggers that keep an
incident open, and the observation. The result is the new progress and the ordered transitions. The calculations and
their order are the same as in Sentry (docs/compatibility.md, chapter 8).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple

from models.alert_rules.alert_rule import RESOLUTION_MINUTES, Definition, Trigger
from models.alert_rules.enums import CRITICAL, WARNING, QueryType, ThresholdType
from models.enums import IncidentStatus

COOLDOWN: Final = timedelta(minutes=10)
"""A trigger cannot fire again for a project until its latest incident there is this old."""


class Ignored(StrEnum):
    """The reason why a value was ignored."""

    REPEATED = "repeated timestamp"
    OUT_OF_ORDER = "out of order"
    NO_VALUE = "no value"
    NO_BASELINE = "no comparison value"
    COOLING_DOWN = "cooling down"
    NOT_IN_PLAN = "performance-view is off"


@dataclass(frozen=True, slots=True)
class TriggerCounter:
    """A trigger's state, kept from one observed value to the next.

    ``alerts`` counts consecutive values that breached the threshold while the trigger was inactive. ``resolves`` counts
    consecutive values that met the condition for resolving it while it was active. ``opened_at`` is the creation time
    of the trigger's latest incident.
    """

    alerts: int = 0
    resolves: int = 0
    opened_at: datetime | None = None

    def is_cooling(self, at: datetime) -> bool:
        """Return whether the trigger's latest incident is too recent for the trigger to fire again."""
        return self.opened_at is not None and at - self.opened_at <= COOLDOWN


_NEW_COUNTER: Final = TriggerCounter()
NO_COUNTERS: Final[Mapping[int, TriggerCounter]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Progress:
    """A rule's evaluation state for a project, kept from one observed value to the next.

    ``observed`` is the number of values observed so far, and ``counters`` maps trigger ids to their counters.
    """

    generation: int
    observed: int = 0
    last_timestamp: datetime | None = None
    counters: Mapping[int, TriggerCounter] = field(default_factory=lambda: NO_COUNTERS)

    def advance(self, timestamp: datetime | None, counters: Mapping[int, TriggerCounter]) -> Progress:
        """Return the progress after one more value."""
        return Progress(self.generation, self.observed + 1, timestamp, counters)

    def for_generation(self, generation: int) -> Progress:
        """Return the progress for this generation. Counters from another generation are dropped."""
        return self if generation == self.generation else replace(self, generation=generation, counters=NO_COUNTERS)


@dataclass(frozen=True, slots=True)
class ActiveTriggers:
    """The triggers that keep a rule's incident on a project open.

    ``active`` holds the ids of the triggers. ``opened_at`` is when the incident was created, or ``None`` if none is
    open.
    """

    opened_at: datetime | None = None
    active: frozenset[int] = frozenset()


class Observation(NamedTuple):
    """A value that was observed on a project (a slug) at ``timestamp`` and accepted at ``arrived_at``."""

    project: str
    value: float | None
    timestamp: datetime
    arrived_at: datetime
    comparison_value: float | None = None


class TriggerTransition(NamedTuple):
    """The firing or resolution of a trigger. ``severity`` is the incident's new status, see :func:`severity`."""

    trigger: Trigger
    fired: bool
    severity: IncidentStatus | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of evaluating a value: the new progress, and either the transitions or why the value was ignored."""

    progress: Progress
    transitions: tuple[TriggerTransition, ...] = ()
    ignored: Ignored | None = None

    @property
    def fired(self) -> list[str]:
        """The labels of the triggers that fired."""
        return [step.trigger.label for step in self.transitions if step.fired]

    @property
    def resolved(self) -> list[str]:
        """The labels of the triggers that were resolved."""
        return [step.trigger.label for step in self.transitions if not step.fired]


def evaluate(
    definition: Definition, progress: Progress, active: ActiveTriggers, observation: Observation
) -> Evaluation:
    """Evaluate a value against every trigger, in ascending order of threshold."""
    if (last := progress.last_timestamp) is not None and observation.timestamp <= last:
        return ignore(progress, Ignored.REPEATED if observation.timestamp == last else Ignored.OUT_OF_ORDER)
    if observation.value is None and definition.query_type is QueryType.CRASH_RATE:
        reset = {id_: TriggerCounter(opened_at=each.opened_at) for id_, each in progress.counters.items()}
        return Evaluation(progress.advance(observation.timestamp, reset), ignored=Ignored.NO_VALUE)
    measured = measure(definition, observation)
    if measured is None:
        return ignore(progress, Ignored.NO_BASELINE)
    evaluator = _Evaluator(definition, active.opened_at, set(active.active), observation.arrived_at)
    counters = dict(progress.counters)
    for trigger in sorted(definition.triggers, key=lambda each: (each.threshold, each.id)):
        if observation.project not in trigger.excluded_projects:
            counters[trigger.id] = evaluator.apply_to(trigger, measured, counters.get(trigger.id, _NEW_COUNTER))
    cooling = Ignored.COOLING_DOWN if evaluator.was_cooling and not evaluator.transitions else None
    return Evaluation(progress.advance(observation.timestamp, counters), tuple(evaluator.transitions), cooling)


def ignore(progress: Progress, reason: Ignored) -> Evaluation:
    """Return the evaluation of a value that is ignored. The value is still counted."""
    return Evaluation(progress.advance(progress.last_timestamp, progress.counters), ignored=reason)


@dataclass(slots=True)
class _Evaluator:
    """An evaluator that applies one value to each trigger in turn and tracks which triggers keep the incident open."""

    definition: Definition
    opened_at: datetime | None
    active: set[int]
    at: datetime
    transitions: list[TriggerTransition] = field(default_factory=list)
    was_cooling: bool = False

    def apply_to(self, trigger: Trigger, measured: float, counter: TriggerCounter) -> TriggerCounter:
        """Apply the value to a trigger and return its new counter."""
        is_active = trigger.id in self.active
        alerts = counter.alerts + 1 if breaches(self.definition, trigger, measured) and not is_active else 0
        resolves = counter.resolves + 1 if is_resolved_by(self.definition, trigger, measured) and is_active else 0
        counter = TriggerCounter(alerts, resolves, counter.opened_at)
        if alerts >= self.definition.threshold_period:
            return self._fire(trigger, counter)
        return self._resolve(trigger, counter) if resolves >= self.definition.threshold_period else counter

    def _fire(self, trigger: Trigger, counter: TriggerCounter) -> TriggerCounter:
        if counter.is_cooling(self.at):
            # The counter keeps counting, so that the first breach after the cooldown is enough to fire.
            self.was_cooling = True
            return counter
        self.opened_at = self.opened_at or self.at
        self.active.add(trigger.id)
        self.transitions.append(TriggerTransition(trigger, fired=True, severity=severity(self.definition, self.active)))
        return TriggerCounter(opened_at=self.opened_at)

    def _resolve(self, trigger: Trigger, counter: TriggerCounter) -> TriggerCounter:
        self.active.discard(trigger.id)
        if not self.active:
            self.opened_at = None
        self.transitions.append(
            TriggerTransition(trigger, fired=False, severity=severity(self.definition, self.active))
        )
        return TriggerCounter(opened_at=counter.opened_at)


def measure(definition: Definition, observation: Observation) -> float | None:
    """Return the number to compare with thresholds: the value, or its percentage of the comparison value.

    Return ``None`` for a comparison rule if the comparison value is missing or zero.
    """
    value = observation.value or 0.0
    if definition.comparison_delta is None:
        return value
    return value / observation.comparison_value * 100 if observation.comparison_value else None


def breaches(definition: Definition, trigger: Trigger, measured: float) -> bool:
    """Return whether the value is beyond the trigger's threshold."""
    return _is_beyond(definition, measured, trigger.threshold)


def is_resolved_by(definition: Definition, trigger: Trigger, measured: float) -> bool:
    """Return whether the value resolves the trigger. A value that breaches the threshold never does.

    If the rule has a resolve threshold, it applies to the rule's only trigger, or to the warning trigger. Any other
    trigger is resolved by every value that does not breach its threshold.
    """
    if breaches(definition, trigger, measured):
        return False
    if definition.resolve_threshold is None or not (len(definition.triggers) == 1 or trigger.label == WARNING):
        return True
    return _is_beyond(definition, definition.resolve_threshold, measured)


def _is_beyond(definition: Definition, value: float, threshold: float) -> bool:
    return value > threshold if definition.threshold_type is ThresholdType.ABOVE else value < threshold


def severity(definition: Definition, active: set[int]) -> IncidentStatus | None:
    """Return the incident status that results from the active triggers. ``active`` holds their ids.

    The status is ``CLOSED`` if no trigger is active, and ``None`` if no active trigger is in the definition.
    """
    labels = {trigger.label for trigger in definition.triggers if trigger.id in active}
    if not active:
        return IncidentStatus.CLOSED
    if CRITICAL in labels:
        return IncidentStatus.CRITICAL
    return IncidentStatus.WARNING if WARNING in labels else None


def window_start(definition: Definition, timestamp: datetime) -> datetime:
    """Return when a condition began that has just been met by enough consecutive values.

    ``timestamp`` is that of the last of these ``threshold_period`` values. The condition began at the start of the
    first value's time window.
    """
    minutes = definition.time_window + RESOLUTION_MINUTES * (definition.threshold_period - 1)
    return timestamp - timedelta(minutes=minutes)
