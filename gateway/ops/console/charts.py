"""The charts of the overview: numbers per minute, summed up in steps, each with the table that it is drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from gateway.ops.console.formats import duration, number
from models.serializers.operations import SeriesJson


class Range(NamedTuple):
    """How far back charts go, and how long a step is."""

    name: str
    minutes: int
    step_minutes: int
    step: str


RANGES: Final[Mapping[str, Range]] = {
    "1h": Range("1 hour", 60, 1, "minute"),
    "24h": Range("24 hours", 24 * 60, 15, "15 minutes"),
    "7d": Range("7 days", 7 * 24 * 60, 2 * 60, "2 hours"),
    "30d": Range("30 days", 30 * 24 * 60, 6 * 60, "6 hours"),
}
"""The ranges by their name in the page's address."""

DEFAULT_RANGE: Final = "1h"


class ChartRow(NamedTuple):
    """A step: when it began, and each series' number, if it is known, with its text."""

    at: datetime
    values: list[tuple[float | None, str]]


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart and its table. ``format`` is the name of the format of its numbers in ``static/console.js``."""

    title: str
    names: tuple[str, ...]
    format: str
    rows: list[ChartRow]

    @property
    def is_empty(self) -> bool:
        """Whether nothing was recorded in this time."""
        return all(value is None for row in self.rows for value, _ in row.values)


_CHARTS: Final = (
    ("Commands accepted and finished", ("accepted", "finished"), "number", "per {step}"),
    ("Commands waiting", ("waiting",), "number", "at most, per {step}"),
    ("Age of the oldest waiting command", ("oldest",), "duration", "at most, per {step}"),
    ("Commands rejected and dead", ("rejected", "dead"), "number", "per {step}"),
    ("Deliveries", ("deliveries",), "number", "per {step}"),
)
_TEXTS: Final = {"number": number, "duration": duration}


def charts(series: SeriesJson, range_: Range) -> list[Chart]:
    """Return the charts of all series, whose steps must be those of the range. Their rows are newest first."""
    start, step = datetime.fromisoformat(series["start"]), timedelta(seconds=series["stepSeconds"])
    return [
        Chart(f"{title}, {per.format(step=range_.step)}", names, format_, _rows(series, start, step, names, format_))
        for title, names, format_, per in _CHARTS
    ]


def _rows(series: SeriesJson, start: datetime, step: timedelta, names: tuple[str, ...], format_: str) -> list[ChartRow]:
    numbers = zip(*(series["series"][name] for name in names), strict=True)
    text = _TEXTS[format_]
    rows = [
        ChartRow(start + index * step, [(value, text(value)) for value in values])
        for index, values in enumerate(numbers)
    ]
    return rows[::-1]
