"""What the words of a rule must be to fit together. No input, no output.

The order and the sentences are those of the incident API that tocsin gives back; so is the slack between whole numbers:
"above 0" and "below 1" share no whole number, so a rule may alert and resolve there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from models.alert_rules.enums import CRITICAL, EVENT_TYPES, WARNING, Dataset, EventType, QueryType, ThresholdType

ALL_OF_THE_PAST: Final = 100.0
"""A value that equals the past is this per cent of it."""

TRIGGER_LABELS: Final = (CRITICAL, WARNING)
"""How the triggers of a rule are labeled, in their order."""

_CRASH_RATE_MINUTES: Final = (30, 60, 120, 240, 720, 1440)
_FUNCTION: Final = re.compile(r"\w+\(.*\)(\s+as\s+\w+)?", re.IGNORECASE | re.DOTALL)
_DIGITS: Final = 9
"""Decimals that a threshold keeps when it is turned from a difference into a per cent of the past, and back."""


@dataclass(frozen=True, slots=True)
class RuleDraft:
    """What of a rule has to fit together; ``thresholds`` are labels with what people wrote, differences included."""

    query_type: QueryType = QueryType.ERROR
    dataset: Dataset = Dataset.EVENTS
    event_types: tuple[EventType, ...] = (EventType.ERROR,)
    aggregate: str = ""
    time_window: int = 1
    threshold_type: ThresholdType = ThresholdType.ABOVE
    resolve_threshold: float | None = None
    comparison_delta: int | None = None
    thresholds: tuple[tuple[str, float], ...] = ()

    def stored(self, shown: float | None) -> float | None:
        """A threshold as it is kept: for a comparison a per cent of the past, else as it was written."""
        return stored_threshold(self.threshold_type, is_comparison=self.comparison_delta is not None, shown=shown)


def query_error(saying: RuleDraft) -> str | None:
    """What is wrong with what is watched."""
    kind = saying.query_type
    if saying.dataset.query_type is not kind:
        known = sorted(dataset.name.lower() for dataset in Dataset if dataset.query_type is kind)
        return f"Invalid dataset for this query type. Valid datasets are {known}"
    if not _FUNCTION.fullmatch(saying.aggregate):
        return "Invalid Metric: Please pass a valid function for aggregation"
    if saying.dataset is Dataset.METRICS and saying.time_window not in _CRASH_RATE_MINUTES:
        return "Invalid Time Window: Allowed time windows for crash rate alerts are: 30min, 1h, 2h, 4h, 12h and 24h"
    return None


def trigger_count_error(triggers: Sequence[object]) -> str | None:
    """What is wrong with how many triggers there are."""
    if not triggers:
        return "Must include at least one trigger"
    if len(triggers) > len(TRIGGER_LABELS):
        return "Must send 1 or 2 triggers - A critical trigger, and an optional warning trigger"
    return None


def event_types_error(saying: RuleDraft) -> str | None:
    """What is wrong with what is counted."""
    known = EVENT_TYPES[saying.query_type]
    if set(saying.event_types) <= set(known):
        return None
    return f"Invalid event types for this dataset. Valid event types are {sorted(str(each) for each in known)}"


def label_error(labels: Sequence[object]) -> str | None:
    """What is wrong with how the triggers are called."""
    for place, (label, expected) in enumerate(zip(labels, TRIGGER_LABELS, strict=False), start=1):
        if label != expected:
            return f'Trigger {place} must be labeled "{expected}"'
    return None


def threshold_error(saying: RuleDraft) -> str | None:
    """What is wrong with where it alerts and where it resolves: no value may do both."""
    side = saying.threshold_type.name.lower()
    sign = 1 if saying.threshold_type is ThresholdType.ABOVE else -1
    stored = {label: saying.stored(shown) or 0.0 for label, shown in saying.thresholds}
    resolve = saying.stored(saying.resolve_threshold)
    for label, threshold in stored.items():
        if resolve is not None and sign * resolve > sign * threshold + _slack(threshold, resolve):
            return f"{label} alert threshold must be {side} resolution threshold"
    if CRITICAL in stored and WARNING in stored and sign * stored[CRITICAL] < sign * stored[WARNING]:
        return f"Critical trigger must have an alert threshold {side} warning trigger"
    return None


def stored_threshold(threshold_type: ThresholdType, *, is_comparison: bool, shown: float | None) -> float | None:
    """A threshold as it is kept; the other way round of :func:`shown_threshold`."""
    if shown is None or not is_comparison:
        return shown
    above = threshold_type is ThresholdType.ABOVE
    return round(ALL_OF_THE_PAST + shown if above else ALL_OF_THE_PAST - shown, _DIGITS)


def shown_threshold(threshold_type: ThresholdType, *, is_comparison: bool, stored: float | None) -> float | None:
    """A threshold as people write it: for a comparison the difference from the past."""
    if stored is None or not is_comparison:
        return stored
    above = threshold_type is ThresholdType.ABOVE
    return round(stored - ALL_OF_THE_PAST if above else ALL_OF_THE_PAST - stored, _DIGITS)


def _slack(threshold: float, resolve: float) -> int:
    return 1 if threshold.is_integer() and resolve.is_integer() else 0
