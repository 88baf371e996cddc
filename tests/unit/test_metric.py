"""What a value means to a rule: tables of values, and what holds for any."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.alert_rules.alert_rule import Definition, QueryType, ThresholdType
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
class Life:
    """A rule on a project, from value to value: a minute apart in their own time, ``pace`` apart in ours."""

    said: Definition
    pace: timedelta = HOUR
    progress: Progress = field(default_factory=lambda: Progress(generation=1))
    standing: ActiveTriggers = field(default_factory=ActiveTriggers)
    moments: int = 0

    def see(self, value: float | None, **facts: Any) -> Evaluation:
        self.moments += 1
        known = {
            "project": "p1",
            "timestamp": START + self.moments * MINUTE,
            "arrived_at": START + self.moments * self.pace,
        }
        seen = Observation(value=value, **known | facts)
        verdict = evaluate(self.said, self.progress, self.standing, seen)
        self.progress = verdict.progress
        self.standing = after(self.standing, verdict, seen.arrived_at)
        return verdict

    def tell(self, values: Iterable[float | None]) -> list[str]:
        """What each value does, in short: ``+critical`` fires, ``-critical`` resolves."""
        return [in_short(self.see(value)) for value in values]


def after(standing: ActiveTriggers, verdict: Evaluation, at: datetime) -> ActiveTriggers:
    """What is open after the steps, as plainly as can be."""
    active, opened_at = set(standing.active), standing.opened_at
    for step in verdict.transitions:
        if step.fired:
            active.add(step.trigger.id)
            opened_at = opened_at or at
        else:
            active.remove(step.trigger.id)
            opened_at = opened_at if active else None
    return ActiveTriggers(opened_at, frozenset(active))


def in_short(verdict: Evaluation) -> str:
    return " ".join(("+" if step.fired else "-") + step.trigger.label for step in verdict.transitions)


def two(**says: Any) -> Definition:
    """Warning above 50, critical above 100; mirrored where it is about falling below."""
    if says.get("threshold_type") is BELOW:
        return a_definition(a_trigger("critical", 50), a_trigger("warning", 100), **says)
    return a_definition(a_trigger("critical", 100), a_trigger("warning", 50), **says)


@pytest.mark.parametrize(
    ("said", "values", "expected"),
    [
        # One trigger, critical above 100.
        (a_definition(), [100, 100.1, 101, 100], ["", "+critical", "", "-critical"]),
        (a_definition(threshold_type=BELOW), [100, 99.9, 99, 100], ["", "+critical", "", "-critical"]),
        # With a value of its own to resolve: strictly beyond it.
        (a_definition(resolve_threshold=40), [101, 100, 41, 40, 39], ["+critical", "", "", "", "-critical"]),
        (
            a_definition(threshold_type=BELOW, resolve_threshold=200),
            [99, 100, 200, 201],
            ["+critical", "", "", "-critical"],
        ),
        # Zero is a value like any other.
        (a_definition(resolve_threshold=0), [101, 1, 0, -1], ["+critical", "", "", "-critical"]),
        # Legal with whole numbers, above 0 and out below 1: what burns is not out.
        (a_definition(a_trigger(threshold=0), resolve_threshold=1), [0.5, 0.5, 0], ["+critical", "", "-critical"]),
        # Two triggers, in ascending order of their thresholds.
        (two(), [60, 120, 80, 10], ["+warning", "+critical", "-critical", "-warning"]),
        (two(), [120, 10], ["+warning +critical", "-warning -critical"]),
        (two(threshold_type=BELOW), [80, 20, 80, 110], ["+warning", "+critical", "-critical", "-warning"]),
        (two(threshold_type=BELOW), [20, 110], ["+critical +warning", "-critical -warning"]),
        # The rule's own value is for the warning; the critical trigger is out at its threshold.
        (two(resolve_threshold=20), [120, 100, 30, 20, 19], ["+warning +critical", "-critical", "", "", "-warning"]),
        # Null is nothing counted.
        (a_definition(), [101, None], ["+critical", "-critical"]),
        (a_definition(threshold_type=BELOW), [None], ["+critical"]),
    ],
)
def test_a_value_fires_and_resolves_as_the_thresholds_say(
    said: Definition, values: Sequence[float | None], expected: list[str]
) -> None:
    assert Life(said).tell(values) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([101, 101, 101], ["", "", "+critical"]),
        # A miss begins the count anew; so does a value that neither burns nor is out.
        ([101, 101, 50, 101, 101, 101], ["", "", "", "", "", "+critical"]),
        ([101, 101, 101, 10, 10, 10], ["", "", "+critical", "", "", "-critical"]),
        ([101, 101, 101, 10, 10, 50, 10, 10, 10], ["", "", "+critical", "", "", "", "", "", "-critical"]),
        ([101, 101, 101, 10, 10, 101, 10, 10, 10], ["", "", "+critical", "", "", "", "", "", "-critical"]),
    ],
)
def test_it_takes_as_many_hits_in_a_row_as_the_period_says(values: list[float], expected: list[str]) -> None:
    assert Life(a_definition(resolve_threshold=40, threshold_period=3)).tell(values) == expected


def test_of_two_triggers_that_are_crossed_at_once_each_step_says_how_bad_it_is_then() -> None:
    life = Life(two())

    up, down = life.see(120), life.see(10)

    assert [step.severity for step in up.transitions] == [WARNING, CRITICAL]
    assert [step.severity for step in down.transitions] == [CRITICAL, CLOSED]
    assert (up.fired, up.resolved, down.fired, down.resolved) == (
        ["warning", "critical"], [], [], ["warning", "critical"],
    )  # fmt: skip


def test_a_label_that_is_neither_warning_nor_critical_says_nothing_of_how_bad_it_is() -> None:
    said = a_definition(a_trigger("critical", 100), a_trigger("curious", 50))

    assert [step.severity for step in Life(said).see(120).transitions] == [None, CRITICAL]


# --- what is ignored -------------------------------------------------------------------------------------------


def test_a_timestamp_that_is_not_newer_is_ignored_with_its_reason_and_counts_nothing() -> None:
    life = Life(a_definition(threshold_period=2))
    life.see(101, timestamp=START)

    repeated = life.see(101, timestamp=START)
    older = life.see(101, timestamp=START - MINUTE)
    newer = life.see(101, timestamp=START + MINUTE)

    assert (repeated.ignored, older.ignored, newer.ignored) == (
        Ignored.REPEATED,
        Ignored.OUT_OF_ORDER,
        None,
    )
    assert (repeated.transitions, older.transitions, newer.fired) == ((), (), ["critical"])
    assert (older.progress.last_timestamp, older.progress.observed) == (START, 3)


def test_no_crash_rate_is_no_value_and_begins_every_count_anew() -> None:
    life = Life(a_definition(query_type=QueryType.CRASH_RATE, threshold_type=BELOW, threshold_period=2))
    life.see(99)

    silent = life.see(None)

    assert silent.ignored is Ignored.NO_VALUE
    assert silent.progress.last_timestamp == START + 2 * MINUTE
    assert life.tell([99, 99]) == ["", "+critical"]


@pytest.mark.parametrize("past", [None, 0, 0.0, -0.0])
def test_without_a_past_to_compare_with_nothing_is_counted(past: float | None) -> None:
    life = Life(a_definition(comparison_delta=60))

    verdict = life.see(1000, comparison_value=past)

    assert (verdict.ignored, verdict.transitions) == (Ignored.NO_BASELINE, ())
    assert verdict.progress.last_timestamp is None


@pytest.mark.parametrize(
    ("value", "past", "fires"),
    [(20.1, 10, True), (20, 10, False), (None, 10, False), (-30, -10, True), (1e308, 1e-308, True)],
)
def test_a_comparison_is_in_per_cent_of_the_past(value: float | None, past: float, fires: bool) -> None:
    life = Life(a_definition(a_trigger(threshold=200), comparison_delta=60))

    assert bool(life.see(value, comparison_value=past).fired) is fires


def test_what_is_ignored_out_of_hand_is_noted_and_nothing_else() -> None:
    verdict = ignore(Progress(1, observed=4, last_timestamp=START), Ignored.NOT_IN_PLAN)

    assert (verdict.ignored, verdict.transitions) == (Ignored.NOT_IN_PLAN, ())
    assert (verdict.progress.observed, verdict.progress.last_timestamp) == (5, START)


def test_a_project_that_a_trigger_excludes_does_not_move_it() -> None:
    said = a_definition(a_trigger("critical", 100, excluded_projects=("p1",)), a_trigger("warning", 50))

    assert Life(said).tell([120, 10]) == ["+warning", "-warning"]


# --- cooling down ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after_minutes", "expected"), [(0, ""), (9.9, ""), (10, ""), (10.1, "+critical"), (24 * 60 + 5, "+critical")]
)
def test_ten_minutes_of_our_time_after_the_incident_was_created_its_trigger_may_fire_again(
    after_minutes: float, expected: str
) -> None:
    life = Life(a_definition())
    life.see(101, arrived_at=START)
    life.see(1, arrived_at=START)

    again = life.see(101, arrived_at=START + timedelta(minutes=after_minutes))

    assert in_short(again) == expected
    assert again.ignored is (None if expected else Ignored.COOLING_DOWN)


def test_what_arrives_while_it_cools_down_still_counts() -> None:
    life = Life(a_definition(threshold_period=2), pace=timedelta(seconds=100))
    life.tell([101, 101, 1, 1])

    assert [life.see(101).ignored for _ in range(3)] == [None, Ignored.COOLING_DOWN, Ignored.COOLING_DOWN]
    assert in_short(life.see(101, arrived_at=START + HOUR)) == "+critical"


def test_the_clock_is_that_of_the_incident_and_not_of_the_trigger() -> None:
    life = Life(two())
    life.see(60, arrived_at=START)
    life.see(120, arrived_at=START + 9 * MINUTE)
    life.see(60, arrived_at=START + 10 * MINUTE)

    assert in_short(life.see(120, arrived_at=START + 11 * MINUTE)) == "+critical"


def test_a_trigger_that_did_not_hold_the_young_incident_open_fires_at_once() -> None:
    life = Life(two(), pace=MINUTE)

    assert life.tell([60, 120]) == ["+warning", "+critical"]


def test_a_trigger_that_cools_down_is_not_the_reason_where_another_one_acts() -> None:
    life = Life(two(), pace=MINUTE)
    life.tell([60, 10])

    both = life.see(120)

    assert (in_short(both), both.ignored) == ("+critical", None)


def test_another_generation_of_the_rule_counts_anew_and_still_takes_no_older_value() -> None:
    life = Life(a_definition(), pace=MINUTE)
    life.tell([101, 1])

    life.progress = life.progress.for_generation(2)

    assert life.see(101, timestamp=START).ignored is Ignored.OUT_OF_ORDER
    assert in_short(life.see(101)) == "+critical"
    assert life.progress.generation == 2


# --- when it began ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("window", "period", "minutes"), [(1, 1, 1), (10, 1, 10), (10, 3, 12), (1440, 20, 1459)])
def test_it_began_a_window_and_the_other_hits_of_the_period_ago(window: int, period: int, minutes: int) -> None:
    said = a_definition(time_window=window, threshold_period=period)

    assert window_start(said, START) == START - timedelta(minutes=minutes)


# --- whatever comes --------------------------------------------------------------------------------------------

VALUES = st.lists(st.none() | st.sampled_from([0, 30, 50, 75, 100, 150]) | st.floats(-200, 200), max_size=40)
DEFINITIONS = st.builds(
    two,
    threshold_type=st.sampled_from(ThresholdType),
    threshold_period=st.integers(1, 4),
    resolve_threshold=st.none() | st.sampled_from([20, 75, 120]),
) | st.builds(a_definition, threshold_type=st.sampled_from(ThresholdType), threshold_period=st.integers(1, 4))
PACES = st.sampled_from([timedelta(seconds=30), 4 * MINUTE, HOUR])


@given(DEFINITIONS, PACES, VALUES)
def test_no_trigger_fires_twice_without_being_resolved_nor_the_other_way_round(
    said: Definition, pace: timedelta, values: list[float | None]
) -> None:
    life = Life(said, pace)
    steps = [step for value in values for step in life.see(value).transitions]

    for trigger in said.triggers:
        turns = [step.fired for step in steps if step.trigger == trigger]
        assert turns == [place % 2 == 0 for place in range(len(turns))]


@given(DEFINITIONS, PACES, VALUES)
def test_how_bad_it_is_is_the_worst_of_what_is_active(
    said: Definition, pace: timedelta, values: list[float | None]
) -> None:
    life = Life(said, pace)
    active: set[str] = set()
    for step in (step for value in values for step in life.see(value).transitions):
        active = active | {step.trigger.label} if step.fired else active - {step.trigger.label}
        worst = CRITICAL if "critical" in active else WARNING if active else CLOSED
        assert step.severity is worst


@given(DEFINITIONS, PACES, VALUES)
def test_steps_go_up_the_thresholds_and_a_value_does_one_thing_to_a_trigger(
    said: Definition, pace: timedelta, values: list[float | None]
) -> None:
    life = Life(said, pace)
    for value in values:
        passed = [step.trigger.threshold for step in life.see(value).transitions]
        assert passed == sorted(set(passed))


@given(DEFINITIONS, PACES, VALUES)
def test_no_trigger_fires_within_ten_minutes_of_its_last_incident(
    said: Definition, pace: timedelta, values: list[float | None]
) -> None:
    life = Life(said, pace)
    incidents: dict[int, datetime] = {}
    for number, value in enumerate(values, start=1):
        at = START + number * pace
        for step in life.see(value).transitions:
            if step.fired:
                assert step.trigger.id not in incidents or at - incidents[step.trigger.id] > timedelta(minutes=10)
                incidents[step.trigger.id] = life.standing.opened_at or at


@given(DEFINITIONS, VALUES, st.randoms(use_true_random=False))
def test_values_that_come_again_or_too_late_change_nothing(
    said: Definition, values: list[float | None], chance: Any
) -> None:
    plain, pestered = Life(said), Life(said)
    for number, value in enumerate(values, start=1):
        facts = {"timestamp": START + number * MINUTE, "arrived_at": START + number * HOUR}
        expected = plain.see(value, **facts)
        assert in_short(pestered.see(value, **facts)) == in_short(expected)
        late = {**facts, "timestamp": START + chance.randint(0, number) * MINUTE}
        assert pestered.see(chance.choice([0, 75, 150]), **late).ignored in (
            Ignored.REPEATED,
            Ignored.OUT_OF_ORDER,
        )
    assert pestered.progress.counters == plain.progress.counters


@given(DEFINITIONS, PACES, VALUES)
def test_every_value_is_numbered(said: Definition, pace: timedelta, values: list[float | None]) -> None:
    life = Life(said, pace)

    assert [life.see(value).progress.observed for value in values] == list(range(1, len(values) + 1))
