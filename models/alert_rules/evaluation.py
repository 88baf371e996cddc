"""What a value means to a rule: which triggers it fires or resolves, and why it did not. No input, no output.

Facts in: what the rule says, where it stands on the project, which triggers hold an incident open, the value. Out
comes a verdict: the steps in their order, the reason if the value was ignored, and where the rule stands now. The
numbers and their order are Sentry's (docs/compatibility.md, chapter 8).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple

from models.alert_rules.alert_rule import COOL_DOWN, RESOLUTION_MINUTES, Definition, Trigger
from models.alert_rules.enums import CRITICAL, WARNING, QueryType, ThresholdType
from models.enums import IncidentStatus


class Ignored(StrEnum):
    """Why a value did nothing."""

    REPEATED = "repeated timestamp"
    OUT_OF_ORDER = "out of order"
    NO_VALUE = "no value"
    NO_BASELINE = "no comparison value"
    COOLING_DOWN = "cooling down"
    NOT_IN_PLAN = "performance-view is off"


@dataclass(frozen=True, slots=True)
class TriggerCounter:
    """One trigger between two values: how often in a row it was met, and missed while it burned.

    ``opened_at`` is when the newest incident that it held open was created.
    """

    alerts: int = 0
    resolves: int = 0
    opened_at: datetime | None = None

    def is_cooling(self, at: datetime) -> bool:
        """Whether its last incident is too young for it to fire again."""
        return self.opened_at is not None and at - self.opened_at <= COOL_DOWN


_NEVER_MET: Final = TriggerCounter()
NO_COUNTERS: Final[Mapping[int, TriggerCounter]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a rule stands on a project between two values; ``counters`` are by trigger id."""

    generation: int
    observed: int = 0
    last_timestamp: datetime | None = None
    counters: Mapping[int, TriggerCounter] = field(default_factory=lambda: NO_COUNTERS)

    def after(self, timestamp: datetime | None, counters: Mapping[int, TriggerCounter]) -> Progress:
        """Where it stands one value later."""
        return Progress(self.generation, self.observed + 1, timestamp, counters)

    def for_generation(self, generation: int) -> Progress:
        """The same, if the rule still says what it said then; else everything is counted anew."""
        return self if generation == self.generation else replace(self, generation=generation, counters=NO_COUNTERS)


@dataclass(frozen=True, slots=True)
class ActiveTriggers:
    """The open incident of a rule on a project: when it was created (``None`` if there is none), what holds it open."""

    opened_at: datetime | None = None
    active: frozenset[int] = frozenset()


class Observation(NamedTuple):
    """A value of a project. ``timestamp`` is what it is of, ``arrived_at`` when we heard of it."""

    project: str
    value: float | None
    timestamp: datetime
    arrived_at: datetime
    comparison_value: float | None = None


class TriggerTransition(NamedTuple):
    """A trigger fired, or was resolved. ``severity`` is what the incident comes to, ``None`` if that says nothing."""

    trigger: Trigger
    fired: bool
    severity: IncidentStatus | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a value does."""

    progress: Progress
    transitions: tuple[TriggerTransition, ...] = ()
    ignored: Ignored | None = None

    @property
    def fired(self) -> list[str]:
        """Labels of the triggers that fired."""
        return [step.trigger.label for step in self.transitions if step.fired]

    @property
    def resolved(self) -> list[str]:
        """Labels of the triggers that were resolved."""
        return [step.trigger.label for step in self.transitions if not step.fired]


def evaluate(said: Definition, progress: Progress, standing: ActiveTriggers, seen: Observation) -> Evaluation:
    """What the value does, trigger by trigger, in ascending order of their thresholds."""
    if (last := progress.last_timestamp) is not None and seen.timestamp <= last:
        return ignore(progress, Ignored.REPEATED if seen.timestamp == last else Ignored.OUT_OF_ORDER)
    if seen.value is None and said.query_type is QueryType.CRASH_RATE:
        anew = {id_: TriggerCounter(opened_at=each.opened_at) for id_, each in progress.counters.items()}
        return Evaluation(progress.after(seen.timestamp, anew), ignored=Ignored.NO_VALUE)
    measured = measure(said, seen)
    if measured is None:
        return ignore(progress, Ignored.NO_BASELINE)
    round_ = _Round(said, standing.opened_at, set(standing.active), seen.arrived_at)
    counters = dict(progress.counters)
    for trigger in sorted(said.triggers, key=lambda each: (each.threshold, each.id)):
        if seen.project not in trigger.excluded_projects:
            counters[trigger.id] = round_.pass_on(trigger, measured, counters.get(trigger.id, _NEVER_MET))
    cooling = Ignored.COOLING_DOWN if round_.was_cooling and not round_.transitions else None
    return Evaluation(progress.after(seen.timestamp, counters), tuple(round_.transitions), cooling)


def ignore(progress: Progress, why: Ignored) -> Evaluation:
    """The value is noted, and that is all."""
    return Evaluation(progress.after(progress.last_timestamp, progress.counters), ignored=why)


@dataclass(slots=True)
class _Round:
    """One value on its way through the triggers: what holds the incident open, as it goes."""

    said: Definition
    opened_at: datetime | None
    active: set[int]
    at: datetime
    transitions: list[TriggerTransition] = field(default_factory=list)
    was_cooling: bool = False

    def pass_on(self, trigger: Trigger, measured: float, counter: TriggerCounter) -> TriggerCounter:
        """What the value does to one trigger; how it counts from now on."""
        is_active = trigger.id in self.active
        alerts = counter.alerts + 1 if burns(self.said, trigger, measured) and not is_active else 0
        resolves = counter.resolves + 1 if is_out(self.said, trigger, measured) and is_active else 0
        counter = TriggerCounter(alerts, resolves, counter.opened_at)
        if alerts >= self.said.threshold_period:
            return self._fire(trigger, counter)
        return self._resolve(trigger, counter) if resolves >= self.said.threshold_period else counter

    def _fire(self, trigger: Trigger, counter: TriggerCounter) -> TriggerCounter:
        if counter.is_cooling(self.at):
            # It goes on counting: once cooled down, the next hit is enough.
            self.was_cooling = True
            return counter
        self.opened_at = self.opened_at or self.at
        self.active.add(trigger.id)
        self.transitions.append(TriggerTransition(trigger, fired=True, severity=severity(self.said, self.active)))
        return TriggerCounter(opened_at=self.opened_at)

    def _resolve(self, trigger: Trigger, counter: TriggerCounter) -> TriggerCounter:
        self.active.discard(trigger.id)
        if not self.active:
            self.opened_at = None
        self.transitions.append(TriggerTransition(trigger, fired=False, severity=severity(self.said, self.active)))
        return TriggerCounter(opened_at=counter.opened_at)


def measure(said: Definition, seen: Observation) -> float | None:
    """What is compared with thresholds: the value, or the per cent that it is of the past; ``None`` without a past."""
    value = seen.value or 0.0
    if said.comparison_delta is None:
        return value
    return value / seen.comparison_value * 100 if seen.comparison_value else None


def burns(said: Definition, trigger: Trigger, measured: float) -> bool:
    """Whether the value is beyond the threshold."""
    return _is_beyond(said, measured, trigger.threshold)


def is_out(said: Definition, trigger: Trigger, measured: float) -> bool:
    """Whether the value resolves the trigger: beyond the rule's own value for that, or back at the threshold.

    The rule's own value is for its single trigger, or for the warning. Nothing that burns is out.
    """
    if burns(said, trigger, measured):
        return False
    if said.resolve_threshold is None or not (len(said.triggers) == 1 or trigger.label == WARNING):
        return True
    return _is_beyond(said, said.resolve_threshold, measured)


def _is_beyond(said: Definition, value: float, line: float) -> bool:
    return value > line if said.threshold_type is ThresholdType.ABOVE else value < line


def severity(said: Definition, active: set[int]) -> IncidentStatus | None:
    """How bad it is while these triggers are active; closed without any, ``None`` if none of them says."""
    labels = {trigger.label for trigger in said.triggers if trigger.id in active}
    if not active:
        return IncidentStatus.CLOSED
    if CRITICAL in labels:
        return IncidentStatus.CRITICAL
    return IncidentStatus.WARNING if WARNING in labels else None


def window_start(said: Definition, timestamp: datetime) -> datetime:
    """When that began, or ended, of which a value tells: its window, and the values before it that had to agree."""
    minutes = said.time_window + RESOLUTION_MINUTES * (said.threshold_period - 1)
    return timestamp - timedelta(minutes=minutes)
