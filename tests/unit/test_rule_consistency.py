"""Validation of alert rules, and conversion between shown and stored comparison thresholds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.alert_rules.consistency import (
    RuleDraft,
    event_types_error,
    label_error,
    query_error,
    reach_error,
    shown_threshold,
    stored_threshold,
    threshold_error,
    trigger_count_error,
)
from models.alert_rules.enums import EVENT_TYPES, Dataset, EventType, QueryType, ThresholdType

ABOVE, BELOW = ThresholdType.ABOVE, ThresholdType.BELOW
DRAFT = RuleDraft(aggregate="count()", thresholds=(("critical", 100.0),))
WHOLE = st.integers(-1000, 1000)
HALVES = st.integers(-1000, 1000).map(lambda number: number / 2)

DATASETS = """
dataset          kind         names of the datasets of its kind
events           ERROR        ['events']
transactions     PERFORMANCE  ['performancemetrics', 'transactions']
generic_metrics  PERFORMANCE  ['performancemetrics', 'transactions']
metrics          CRASH_RATE   ['metrics']
"""


def rows() -> list[tuple[Dataset, QueryType, str]]:
    lines = [line.split(maxsplit=2) for line in DATASETS.strip().splitlines()[1:]]
    return [(Dataset(dataset), QueryType[kind], names) for dataset, kind, names in lines]


@pytest.mark.parametrize(("dataset", "kind", "_names"), rows())
@pytest.mark.parametrize("asked", QueryType)
def test_a_dataset_is_valid_only_for_its_query_type(
    dataset: Dataset, kind: QueryType, _names: str, asked: QueryType
) -> None:
    draft = replace(DRAFT, dataset=dataset, query_type=asked, time_window=60)
    known = next(names for _, each, names in rows() if each is asked)

    sentence = query_error(draft)

    assert sentence == (None if kind is asked else f"Invalid dataset for this query type. Valid datasets are {known}")


@pytest.mark.parametrize("minutes", [1, 29, 30, 60, 90, 120, 240, 720, 1439, 1440])
def test_crash_rate_rules_allow_only_certain_time_windows(minutes: int) -> None:
    draft = replace(DRAFT, dataset=Dataset.METRICS, query_type=QueryType.CRASH_RATE, time_window=minutes)

    sentence = query_error(draft)

    assert (sentence is None) is (minutes in (30, 60, 120, 240, 720, 1440))
    assert query_error(replace(DRAFT, time_window=minutes)) is None


@pytest.mark.parametrize(
    ("aggregate", "fits"),
    [
        ("count()", True),
        ("p95(transaction.duration)", True),
        ("count_unique(tags[sentry:user])", True),
        ("percentage(sessions_crashed, sessions) AS _crash_rate_alert_aggregate", True),
        ("percentage(a, b) as c", True),
        ("count", False),
        ("123", False),
        ("count() + 1", False),
        ("(count)", False),
    ],
)
def test_an_aggregate_must_be_a_function_call(aggregate: str, fits: bool) -> None:
    sentence = query_error(replace(DRAFT, aggregate=aggregate))

    assert sentence == (None if fits else "Invalid Metric: Please pass a valid function for aggregation")


@pytest.mark.parametrize("kind", QueryType)
@pytest.mark.parametrize("event_type", EventType)
def test_event_types_must_match_the_query_type(kind: QueryType, event_type: EventType) -> None:
    sentence = event_types_error(replace(DRAFT, query_type=kind, event_types=(event_type,)))

    known = sorted(each.value for each in EVENT_TYPES[kind])
    fits = event_type.value in known
    assert sentence == (None if fits else f"Invalid event types for this dataset. Valid event types are {known}")


def test_a_rule_has_a_critical_and_optionally_a_warning_trigger() -> None:
    assert [bool(trigger_count_error([0] * count)) for count in range(4)] == [True, False, False, True]
    assert label_error(["critical"]) is label_error(["critical", "warning"]) is None
    assert label_error(["warning", "critical"]) == 'Trigger 1 must be labeled "critical"'
    assert label_error(["critical", None]) == 'Trigger 2 must be labeled "warning"'


@given(threshold=WHOLE, resolve=WHOLE, side=st.sampled_from(ThresholdType))
def test_with_integer_thresholds_no_integer_both_alerts_and_resolves(
    threshold: int, resolve: int, side: ThresholdType
) -> None:
    draft = replace(
        DRAFT, threshold_type=side, resolve_threshold=float(resolve), thresholds=(("critical", float(threshold)),)
    )
    values = range(min(threshold, resolve) - 2, max(threshold, resolve) + 3)
    both = [value for value in values if breaches(value, threshold, side) and resolves(value, resolve, side)]

    assert bool(threshold_error(draft)) is bool(both)


@given(threshold=HALVES, resolve=HALVES, side=st.sampled_from(ThresholdType))
def test_with_fractional_thresholds_no_value_both_alerts_and_resolves(
    threshold: float, resolve: float, side: ThresholdType
) -> None:
    threshold, resolve = threshold + 0.25, resolve + 0.25
    draft = replace(DRAFT, threshold_type=side, resolve_threshold=resolve, thresholds=(("critical", threshold),))
    between = (threshold + resolve) / 2

    both = breaches(between, threshold, side) and resolves(between, resolve, side)

    assert bool(threshold_error(draft)) is both


@given(critical=HALVES, warning=HALVES, side=st.sampled_from(ThresholdType))
def test_thresholds_are_valid_only_if_every_critical_value_is_also_a_warning(
    critical: float, warning: float, side: ThresholdType
) -> None:
    draft = replace(DRAFT, threshold_type=side, thresholds=(("critical", critical), ("warning", warning)))
    values = [critical - 0.25, critical + 0.25, warning - 0.25, warning + 0.25]

    without = [each for each in values if breaches(each, critical, side) and not breaches(each, warning, side)]

    assert bool(threshold_error(draft)) is bool(without)


@given(shown=HALVES, side=st.sampled_from(ThresholdType), is_comparison=st.booleans())
def test_a_stored_threshold_is_shown_as_entered(shown: float, side: ThresholdType, is_comparison: bool) -> None:
    stored = stored_threshold(side, is_comparison=is_comparison, shown=shown)

    assert shown_threshold(side, is_comparison=is_comparison, stored=stored) == shown
    if is_comparison:
        assert stored == (100 + shown if side is ABOVE else 100 - shown)


def test_a_small_difference_is_shown_without_rounding_errors() -> None:
    stored = stored_threshold(ABOVE, is_comparison=True, shown=0.1)

    assert shown_threshold(ABOVE, is_comparison=True, stored=stored) == 0.1


@pytest.mark.parametrize("side", ThresholdType)
def test_comparison_thresholds_are_validated_as_stored(side: ThresholdType) -> None:
    # A difference of 50 from the past value is more severe than one of 40, in either direction.
    near, far = ("warning", 40.0), ("critical", 50.0)
    draft = replace(DRAFT, threshold_type=side, comparison_delta=60, resolve_threshold=10.0)

    assert threshold_error(replace(draft, thresholds=(far, near))) is None
    assert threshold_error(replace(draft, thresholds=(("critical", 40.0), ("warning", 50.0)))) == (
        f"Critical trigger must have an alert threshold {side.name.lower()} warning trigger"
    )
    assert threshold_error(replace(draft, thresholds=(far,), resolve_threshold=60.0)) == (
        f"critical alert threshold must be {side.name.lower()} resolution threshold"
    )


@pytest.mark.parametrize(
    ("draft", "message"),
    [
        (
            {"threshold_type": BELOW, "comparison_delta": 60, "thresholds": (("critical", 150.0),)},
            "critical alert threshold can never be reached: no value is more than 100 % lower than another",
        ),
        (
            {"threshold_type": BELOW, "comparison_delta": 60, "thresholds": (("critical", 90.0), ("warning", 100.5))},
            "warning alert threshold can never be reached: no value is more than 100 % lower than another",
        ),
        (
            {"comparison_delta": 60, "resolve_threshold": -150.0},
            "Resolution threshold can never be reached: no value is more than 100 % lower than another",
        ),
        (
            {"threshold_type": BELOW, "aggregate": "count_unique(user)", "thresholds": (("critical", 0.0),)},
            "critical alert threshold can never be reached: no value is below 0",
        ),
        (
            {"query_type": QueryType.CRASH_RATE, "aggregate": "percentage(a, b)", "thresholds": (("critical", 101.0),)},
            "critical alert threshold can never be reached: no value is above 101",
        ),
    ],
)
def test_a_rule_that_could_never_act_is_invalid(draft: dict[str, Any], message: str) -> None:
    assert reach_error(replace(DRAFT, **draft)) == message


@pytest.mark.parametrize(
    "draft",
    [
        {"threshold_type": BELOW, "comparison_delta": 60},
        {"comparison_delta": 60, "thresholds": (("critical", 150.0),), "resolve_threshold": -50.0},
        {"threshold_type": BELOW, "aggregate": "avg(measurements.balance)", "thresholds": (("critical", -5.0),)},
        {"threshold_type": BELOW, "thresholds": (("critical", 0.5),)},
        {"threshold_type": ABOVE, "thresholds": (("critical", -1.0),)},
    ],
)
def test_a_rule_that_some_value_sets_off_is_valid(draft: dict[str, Any]) -> None:
    assert reach_error(replace(DRAFT, **draft)) is None


def breaches(value: float, threshold: float, side: ThresholdType) -> bool:
    return value > threshold if side is ABOVE else value < threshold


def resolves(value: float, resolve: float, side: ThresholdType) -> bool:
    return value < resolve if side is ABOVE else value > resolve
