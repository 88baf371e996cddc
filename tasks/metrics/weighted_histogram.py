"""A histogram that takes many values at once."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

from prometheus_client import Histogram

WAIT_BUCKETS_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
"""The buckets for a time that may include an outage."""


class WeightedHistogram(Histogram):
    """A histogram that takes many values at once: each alone would cost several microseconds if it is shared."""

    def observe_all(self, values: Iterable[float], *, times: int = 1) -> None:
        """Observe each of the values so many times."""
        counts: dict[int, int] = {}
        total = 0.0
        for value in values:
            bucket = bisect_left(self._upper_bounds, value)
            counts[bucket] = counts.get(bucket, 0) + times
            total += value * times
        if counts:
            self._sum.inc(total)
        for bucket, count in counts.items():
            self._buckets[bucket].inc(count)
