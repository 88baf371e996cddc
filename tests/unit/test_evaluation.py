"""Evaluation of observed values: tables of values for single rules, and properties for arbitrary values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.alert_rules.alert_rule import Definition
from models.alert_rules.enums import QueryType, ThresholdType
from models.alert_rules.evaluation import (
    ActiveTriggers,
    Evaluation,
    Ignored,
    Observation,
    Progress,
    evaluate,
    ignore,
    window_start,
)
from models.enums import IncidentStatus
from tests.builders import a_definition, a_trigger

START = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
WARNING, CRITICAL, CLOSED = IncidentStatus.WARNING, IncidentStatus.CRITICAL, IncidentStatus.CLOSED
ABOVE, BELOW = ThresholdType.ABOVE, ThresholdType.BELOW


@dataclass
class ObservedProject:
    """A rule on one project, with its evaluation state. Timestamps are a minute apart, arrivals ``pace`` apart."""

    definition: Definition
    pace: timedelta = HOUR
    progress: Progress = field(default_factory=lambda: Progress(generation=1))
    active: ActiveTriggers = field(default_factory=ActiveTriggers)
    minutes: int = 0

    def observe(self, value: float | None, **facts: Any) -> Evaluation:
        self.minutes += 1
        defaults: dict[str, Any] = {
            "project": "p1",
            "timestamp": START + self.minutes * MINUTE,
            "arrived_at": START + self.minutes * self.pace,
        }
        observation = Observation(value=value, **defaults | facts)
        evaluation = evaluate(self.definition, self.progress, self.active, observation)
        self.progress = evaluation.progress
        self.active = active_after(self.active, evaluation, observation.arrived_at)
        return evaluation

    def observe_all(self, values: Iterable[float | None]) -> list[str]:
        """Observe the values; return a summary of each: ``+critical`` for fired, ``-critical`` for resolved."""
        return [summary(self.observe(value)) for value in values]


def active_after(before: ActiveTriggers, evaluation: Evaluation, at: datetime) -> ActiveTriggers:
    """Return the triggers that are active after an evaluation, according to the simplest possible model."""
    active, opened_at = set(before.active), before.opened_at
    for step in evaluation.transitions:
        if step.fired:
            active.add(step.trigger.id)
            opened_at = opened_at or at
        else:
            active.remove(step.trigger.id)
            opened_at = opened_at if active else None
    return ActiveTriggers(opened_at, frozenset(active))


def summary(evaluation: Evaluation) -> str:
    return " ".join(("+" if step.fired else "-") + step.trigger.label for step in evaluation.transitions)


def two_triggers(**fields: Any) -> Definition:
    """Return a definition with thresholds 50 for warning and 100 for critical, swapped for ``BELOW``."""
    if fields.get("threshold_type") is BELOW:
        return a_definition(a_trigger("critical", 50), a_trigger("warning", 100), **fields)
    return a_definition(a_trigger("critical", 100), a_trigger("warning", 50), **fields)


@pytest.mark.parametrize(
    ("definition", "values", "expected"),
    [
        # One trigger, critical above 100.
        (a_definition(), [100, 100.1, 101, 100], ["", "+critical", "", "-critical"]),
        (a_definition(threshold_type=BELOW), [100, 99.9, 99, 100], ["", "+critical", "", "-critical"]),
        # With a resolve threshold, which the value must pass and not only reach.
        (a_definition(resolve_threshold=40), [101, 100, 41, 40, 39], ["+critical", "", "", "", "-critical"]),
        (
            a_definition(threshold_type=BELOW, resolve_threshold=200),
            [99, 100, 200, 201],
            ["+critical", "", "", "-critical"],
        ),
        # A resolve threshold of zero differs from no resolve threshold.
        (a_definition(resolve_threshold=0), [101, 1, 0, -1], ["+critical", "", "", "-critical"]),
        # Valid for integers (alert above 0, resolve below 1): a fraction between them alerts and does not resolve.
        (a_definition(a_trigger(threshold=0), resolve_threshold=1), [0.5, 0.5, 0], ["+critical", "", "-critical"]),
        # Two triggers, in ascending order of their thresholds.
        (two_triggers(), [60, 120, 80, 10], ["+warning", "+critical", "-critical", "-warning"]),
        (two_triggers(), [120, 10], ["+warning +critical", "-warning -critical"]),
        (two_triggers(threshold_type=BELOW), [80, 20, 80, 110], ["+warning", "+critical", "-critical", "-warning"]),
        (two_triggers(threshold_type=BELOW), [20, 110], ["+critical +warning", "-critical -warning"]),
        # The rule's resolve threshold applies to the warning; the critical trigger resolves at its own threshold.
        (
            two_triggers(resolve_threshold=20),
            [120, 100, 30, 20, 19],
            ["+warning +critical", "-critical", "", "", "-warning"],
        ),
        # Null counts as zero.
        (a_definition(), [101, None], ["+critical", "-critical"]),
        (a_definition(threshold_type=BELOW), [None], ["+critical"]),
    ],
)
def test_values_fire_and_resolve_triggers_at_their_thresholds(
    definition: Definition, values: Sequence[float | None], expected: list[str]
) -> None:
    assert ObservedProject(definition).observe_all(values) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([101, 101, 101], ["", "", "+critical"]),
        # A miss resets the counter, and so does a value that neither alerts nor resolves.
        ([101, 101, 50, 101, 101, 101], ["", "", "", "", "", "+critical"]),
        ([101, 101, 101, 10, 10, 10], ["", "", "+critical", "", "", "-critical"]),
        ([101, 101, 101, 10, 10, 50, 10, 10, 10], ["", "", "+critical", "", "", "", "", "", "-critical"]),
        ([101, 101, 101, 10, 10, 101, 10, 10, 10], ["", "", "+critical", "", "", "", "", "", "-critical"]),
    ],
)
def test_a_trigger_needs_as_many_consecutive_hits_as_its_threshold_period(
    values: list[float], expected: list[str]
) -> None:
    assert ObservedProject(a_definition(resolve_threshold=40, threshold_period=3)).observe_all(values) == expected


def test_each_transition_reports_the_resulting_severity() -> None:
    project = ObservedProject(two_triggers())

    up, down = project.observe(120), project.observe(10)

    assert [step.severity for step in up.transitions] == [WARNING, CRITICAL]
    assert [step.severity for step in down.transitions] == [CRITICAL, CLOSED]
    assert (up.fired, up.resolved, down.fired, down.resolved) == (
        ["warning", "critical"], [], [], ["warning", "critical"],
    )  # fmt: skip


def test_a_trigger_that_is_neither_warning_nor_critical_has_no_severity() -> None:
    definition = a_definition(a_trigger("critical", 100), a_trigger("curious", 50))

    assert [step.severity for step in ObservedProject(definition).observe(120).transitions] == [None, CRITICAL]


# --- ignored observations --------------------------------------------------------------------------------------


def test_a_repeated_or_older_timestamp_is_ignored_and_not_counted() -> None:
    project = ObservedProject(a_definition(threshold_period=2))
    project.observe(101, timestamp=START)

    repeated = project.observe(101, timestamp=START)
    older = project.observe(101, timestamp=START - MINUTE)
    newer = project.observe(101, timestamp=START + MINUTE)

    assert (repeated.ignored, older.ignored, newer.ignored) == (Ignored.REPEATED, Ignored.OUT_OF_ORDER, None)
    assert (repeated.transitions, older.transitions, newer.fired) == ((), (), ["critical"])
    assert (older.progress.last_timestamp, older.progress.observed) == (START, 3)


def test_a_missing_crash_rate_is_ignored_and_resets_the_counters() -> None:
    project = ObservedProject(a_definition(query_type=QueryType.CRASH_RATE, threshold_type=BELOW, threshold_period=2))
    project.observe(99)

    silent = project.observe(None)

    assert silent.ignored is Ignored.NO_VALUE
    assert silent.progress.last_timestamp == START + 2 * MINUTE
    assert project.observe_all([99, 99]) == ["", "+critical"]


@pytest.mark.parametrize("past", [None, 0, 0.0, -0.0])
def test_without_a_comparison_value_nothing_is_counted(past: float | None) -> None:
    project = ObservedProject(a_definition(comparison_delta=60))

    evaluation = project.observe(1000, comparison_value=past)

    assert (evaluation.ignored, evaluation.transitions) == (Ignored.NO_BASELINE, ())
    assert evaluation.progress.last_timestamp is None


@pytest.mark.parametrize(
    ("value", "past", "fires"),
    [(20.1, 10, True), (20, 10, False), (None, 10, False), (-30, -10, True), (1e308, 1e-308, True)],
)
def test_a_comparison_is_a_percentage_of_the_past_value(value: float | None, past: float, fires: bool) -> None:
    project = ObservedProject(a_definition(a_trigger(threshold=200), comparison_delta=60))

    assert bool(project.observe(value, comparison_value=past).fired) is fires


def test_an_ignored_observation_changes_only_the_observation_number() -> None:
    evaluation = ignore(Progress(1, observed=4, last_timestamp=START), Ignored.NOT_IN_PLAN)

    assert (evaluation.ignored, evaluation.transitions) == (Ignored.NOT_IN_PLAN, ())
    assert (evaluation.progress.observed, evaluation.progress.last_timestamp) == (5, START)


def test_a_trigger_ignores_the_values_of_an_excluded_project() -> None:
    definition = a_definition(a_trigger("critical", 100, excluded_projects=("p1",)), a_trigger("warning", 50))

    assert ObservedProject(definition).observe_all([120, 10]) == ["+warning", "-warning"]


# --- cooldown --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after_minutes", "expected"), [(0, ""), (9.9, ""), (10, ""), (10.1, "+critical"), (24 * 60 + 5, "+critical")]
)
def test_a_trigger_fires_again_only_ten_minutes_after_its_incident_was_created(
    after_minutes: float, expected: str
) -> None:
    project = ObservedProject(a_definition())
    project.observe(101, arrived_at=START)
    project.observe(1, arrived_at=START)

    again = project.observe(101, arrived_at=START + timedelta(minutes=after_minutes))

    assert summary(again) == expected
    assert again.ignored is (None if expected else Ignored.COOLING_DOWN)


def test_values_that_arrive_during_the_cooldown_still_count_as_consecutive_hits() -> None:
    project = ObservedProject(a_definition(threshold_period=2), pace=timedelta(seconds=100))
    project.observe_all([101, 101, 1, 1])

    assert [project.observe(101).ignored for _ in range(3)] == [None, Ignored.COOLING_DOWN, Ignored.COOLING_DOWN]
    assert summary(project.observe(101, arrived_at=START + HOUR)) == "+critical"


def test_the_cooldown_starts_when_the_incident_opens_and_not_when_the_trigger_fires() -> None:
    project = ObservedProject(two_triggers())
    project.observe(60, arrived_at=START)
    project.observe(120, arrived_at=START + 9 * MINUTE)
    project.observe(60, arrived_at=START + 10 * MINUTE)

    assert summary(project.observe(120, arrived_at=START + 11 * MINUTE)) == "+critical"


def test_a_trigger_that_was_not_active_in_a_recent_incident_fires_at_once() -> None:
    project = ObservedProject(two_triggers(), pace=MINUTE)

    assert project.observe_all([60, 120]) == ["+warning", "+critical"]


def test_the_cooldown_is_not_reported_if_another_trigger_fires() -> None:
    project = ObservedProject(two_triggers(), pace=MINUTE)
    project.observe_all([60, 10])

    both = project.observe(120)

    assert (summary(both), both.ignored) == ("+critical", None)


def test_a_new_generation_resets_the_counters_but_not_the_last_timestamp() -> None:
    project = ObservedProject(a_definition(), pace=MINUTE)
    project.observe_all([101, 1])

    project.progress = project.progress.for_generation(2)

    assert project.observe(101, timestamp=START).ignored is Ignored.OUT_OF_ORDER
    assert summary(project.observe(101)) == "+critical"
    assert project.progress.generation == 2


# --- start of the incident -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("window", "period", "minutes"), [(1, 1, 1), (10, 1, 10), (10, 3, 12), (1440, 20, 1459)])
def test_an_incident_starts_one_time_window_before_the_first_consecutive_hit(
    window: int, period: int, minutes: int
) -> None:
    definition = a_definition(time_window=window, threshold_period=period)

    assert window_start(definition, START) == START - timedelta(minutes=minutes)


# --- properties ------------------------------------------------------------------------------------------------

VALUES = st.lists(st.none() | st.sampled_from([0, 30, 50, 75, 100, 150]) | st.floats(-200, 200), max_size=40)
DEFINITIONS = st.builds(
    two_triggers,
    threshold_type=st.sampled_from(ThresholdType),
    threshold_period=st.integers(1, 4),
    resolve_threshold=st.none() | st.sampled_from([20, 75, 120]),
) | st.builds(a_definition, threshold_type=st.sampled_from(ThresholdType), threshold_period=st.integers(1, 4))
PACES = st.sampled_from([timedelta(seconds=30), 4 * MINUTE, HOUR])


@given(DEFINITIONS, PACES, VALUES)
def test_each_trigger_alternates_between_firing_and_resolving(
    definition: Definition, pace: timedelta, values: list[float | None]
) -> None:
    project = ObservedProject(definition, pace)
    steps = [step for value in values for step in project.observe(value).transitions]

    for trigger in definition.triggers:
        fired = [step.fired for step in steps if step.trigger == trigger]
        assert fired == [index % 2 == 0 for index in range(len(fired))]


@given(DEFINITIONS, PACES, VALUES)
def test_the_severity_is_the_worst_of_the_active_triggers(
    definition: Definition, pace: timedelta, values: list[float | None]
) -> None:
    project = ObservedProject(definition, pace)
    active: set[str] = set()
    for step in (step for value in values for step in project.observe(value).transitions):
        active = active | {step.trigger.label} if step.fired else active - {step.trigger.label}
        worst = CRITICAL if "critical" in active else WARNING if active else CLOSED
        assert step.severity is worst


@given(DEFINITIONS, PACES, VALUES)
def test_a_value_changes_each_trigger_once_in_ascending_threshold_order(
    definition: Definition, pace: timedelta, values: list[float | None]
) -> None:
    project = ObservedProject(definition, pace)
    for value in values:
        thresholds = [step.trigger.threshold for step in project.observe(value).transitions]
        assert thresholds == sorted(set(thresholds))


@given(DEFINITIONS, PACES, VALUES)
def test_no_trigger_fires_within_ten_minutes_of_its_last_incident(
    definition: Definition, pace: timedelta, values: list[float | None]
) -> None:
    project = ObservedProject(definition, pace)
    incidents: dict[int, datetime] = {}
    for number, value in enumerate(values, start=1):
        at = START + number * pace
        for step in project.observe(value).transitions:
            if step.fired:
                assert step.trigger.id not in incidents or at - incidents[step.trigger.id] > timedelta(minutes=10)
                incidents[step.trigger.id] = project.active.opened_at or at


@given(DEFINITIONS, VALUES, st.randoms(use_true_random=False))
def test_repeated_and_late_values_change_nothing(
    definition: Definition, values: list[float | None], random: Any
) -> None:
    plain, disturbed = ObservedProject(definition), ObservedProject(definition)
    for number, value in enumerate(values, start=1):
        facts = {"timestamp": START + number * MINUTE, "arrived_at": START + number * HOUR}
        expected = plain.observe(value, **facts)
        assert summary(disturbed.observe(value, **facts)) == summary(expected)
        late = {**facts, "timestamp": START + random.randint(0, number) * MINUTE}
        assert disturbed.observe(random.choice([0, 75, 150]), **late).ignored in (
            Ignored.REPEATED,
            Ignored.OUT_OF_ORDER,
        )
    assert disturbed.progress.counters == plain.progress.counters


@given(DEFINITIONS, PACES, VALUES)
def test_every_value_gets_the_next_observation_number(
    definition: Definition, pace: timedelta, values: list[float | None]
) -> None:
    project = ObservedProject(definition, pace)

    assert [project.observe(value).progress.observed for value in values] == list(range(1, len(values) + 1))
