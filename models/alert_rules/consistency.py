"""Consistency checks for the fields of an alert rule: pure functions that return an error message or ``None``.

The order and the messages are those of Sentry's alert rule API, and so is the tolerance for integers: "above 0" and
"below 1" have no integer in common, so a rule may alert above 0 and resolve below 1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from models.alert_rules.enums import CRITICAL, EVENT_TYPES, WARNING, Dataset, EventType, QueryType, ThresholdType

EQUAL_PERCENTAGE: Final = 100.0
"""The percentage at which a value equals its comparison value."""

TRIGGER_LABELS: Final = (CRITICAL, WARNING)
"""The labels of a rule's triggers, in the required order."""

_CRASH_RATE_MINUTES: Final = (30, 60, 120, 240, 720, 1440)
_FUNCTION: Final = re.compile(r"\w+\(.*\)(\s+as\s+\w+)?", re.IGNORECASE | re.DOTALL)
_COUNT: Final = re.compile(r"count(_unique)?\(", re.IGNORECASE)
_DIGITS: Final = 9
"""The number of decimal places to which a threshold is rounded when it is converted to or from a percentage."""


@dataclass(frozen=True, slots=True)
class RuleDraft:
    """The fields of a rule that must be consistent with one another, in user-facing units.

    ``thresholds`` holds (label, value) pairs.
    """

    query_type: QueryType = QueryType.ERROR
    dataset: Dataset = Dataset.EVENTS
    event_types: tuple[EventType, ...] = (EventType.ERROR,)
    aggregate: str = ""
    time_window: int = 1
    threshold_type: ThresholdType = ThresholdType.ABOVE
    resolve_threshold: float | None = None
    comparison_delta: int | None = None
    thresholds: tuple[tuple[str, float], ...] = ()

    def stored_threshold(self, shown: float | None) -> float | None:
        """Convert one of the draft's thresholds from user-facing to stored units."""
        return stored_threshold(self.threshold_type, is_comparison=self.comparison_delta is not None, shown=shown)


def query_error(draft: RuleDraft) -> str | None:
    """Return an error message if the dataset, the aggregate or the time window is invalid."""
    kind = draft.query_type
    if draft.dataset.query_type is not kind:
        known = sorted(dataset.name.lower() for dataset in Dataset if dataset.query_type is kind)
        return f"Invalid dataset for this query type. Valid datasets are {known}"
    if not _FUNCTION.fullmatch(draft.aggregate):
        return "Invalid Metric: Please pass a valid function for aggregation"
    if draft.dataset is Dataset.METRICS and draft.time_window not in _CRASH_RATE_MINUTES:
        return "Invalid Time Window: Allowed time windows for crash rate alerts are: 30min, 1h, 2h, 4h, 12h and 24h"
    return None


def trigger_count_error(triggers: Sequence[object]) -> str | None:
    """Return an error message if the number of triggers is invalid."""
    if not triggers:
        return "Must include at least one trigger"
    if len(triggers) > len(TRIGGER_LABELS):
        return "Must send 1 or 2 triggers - A critical trigger, and an optional warning trigger"
    return None


def event_types_error(draft: RuleDraft) -> str | None:
    """Return an error message if the event types are invalid for the kind of data that the rule queries."""
    known = EVENT_TYPES[draft.query_type]
    if set(draft.event_types) <= set(known):
        return None
    return f"Invalid event types for this dataset. Valid event types are {sorted(str(each) for each in known)}"


def label_error(labels: Sequence[object]) -> str | None:
    """Return an error message if the triggers' labels are invalid or in the wrong order."""
    for number, (label, expected) in enumerate(zip(labels, TRIGGER_LABELS, strict=False), start=1):
        if label != expected:
            return f'Trigger {number} must be labeled "{expected}"'
    return None


def threshold_error(draft: RuleDraft) -> str | None:
    """Return an error message if a value could both fire and resolve a trigger, or if thresholds are out of order."""
    side = draft.threshold_type.name.lower()
    sign = 1 if draft.threshold_type is ThresholdType.ABOVE else -1
    stored = {label: draft.stored_threshold(shown) or 0.0 for label, shown in draft.thresholds}
    resolve = draft.stored_threshold(draft.resolve_threshold)
    for label, threshold in stored.items():
        if resolve is not None and sign * resolve > sign * threshold + _tolerance(threshold, resolve):
            return f"{label} alert threshold must be {side} resolution threshold"
    if CRITICAL in stored and WARNING in stored and sign * stored[CRITICAL] < sign * stored[WARNING]:
        return f"Critical trigger must have an alert threshold {side} warning trigger"
    return None


def reach_error(draft: RuleDraft) -> str | None:
    """Return an error message if the rule could never act: if no possible value is beyond one of its thresholds.

    Percentages of a comparison value and counts are never below 0, and crash rates are between 0 and 100. As in
    Sentry, a comparison rule may ask for values that are exactly 100 % lower.
    """
    is_above, is_comparison = draft.threshold_type is ThresholdType.ABOVE, draft.comparison_delta is not None
    side = "above" if is_above else "below"
    for label, shown in draft.thresholds:
        if is_comparison and not is_above and shown > EQUAL_PERCENTAGE:
            return f"{label} alert threshold can never be reached: no value is more than 100 % lower than another"
        if _is_out_of_reach(draft, shown):
            return f"{label} alert threshold can never be reached: no value is {side} {shown:g}"
    resolve = draft.resolve_threshold
    if resolve is not None and is_comparison and is_above and resolve < -EQUAL_PERCENTAGE:
        return "Resolution threshold can never be reached: no value is more than 100 % lower than another"
    return None


def _is_out_of_reach(draft: RuleDraft, threshold: float) -> bool:
    if draft.comparison_delta is not None:
        return False
    if draft.threshold_type is ThresholdType.ABOVE:
        return draft.query_type is QueryType.CRASH_RATE and threshold > EQUAL_PERCENTAGE
    is_never_negative = draft.query_type is QueryType.CRASH_RATE or _COUNT.match(draft.aggregate)
    return bool(is_never_negative) and threshold <= 0


def stored_threshold(threshold_type: ThresholdType, *, is_comparison: bool, shown: float | None) -> float | None:
    """Convert a threshold from user-facing to stored units: in a comparison rule, to a percentage."""
    if shown is None or not is_comparison:
        return shown
    above = threshold_type is ThresholdType.ABOVE
    return round(EQUAL_PERCENTAGE + shown if above else EQUAL_PERCENTAGE - shown, _DIGITS)


def shown_threshold(threshold_type: ThresholdType, *, is_comparison: bool, stored: float | None) -> float | None:
    """Convert a threshold from stored to user-facing units: in a comparison rule, to a difference in percent."""
    if stored is None or not is_comparison:
        return stored
    above = threshold_type is ThresholdType.ABOVE
    return round(stored - EQUAL_PERCENTAGE if above else EQUAL_PERCENTAGE - stored, _DIGITS)


def _tolerance(threshold: float, resolve: float) -> int:
    return 1 if threshold.is_integer() and resolve.is_integer() else 0
