"""Numbers, durations and times as the operators' pages show them. ``static/console.js`` formats in the same way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from markupsafe import Markup

UNKNOWN: Final = "–"
"""What stands for a number that nobody knows."""

_UNITS: Final = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
_KILO: Final = 1_000


def number(value: float | None) -> str:
    """Return a number with separators between thousands.

    >>> number(1234567), number(None)
    ('1,234,567', '–')
    """
    return UNKNOWN if value is None else f"{round(value):,}"


def duration(seconds: float | None) -> str:
    """Return a duration in its two largest units, rounded down. Below ten seconds, it has a decimal.

    >>> duration(0), duration(0.44), duration(95), duration(7260), duration(90000), duration(None)
    ('0 s', '0.4 s', '1 min 35 s', '2 h 1 min', '1 d 1 h', '–')
    """
    if seconds is None:
        return UNKNOWN
    if seconds < 10:
        return f"{seconds:.1f} s" if seconds else "0 s"
    rest = int(seconds)
    for index, (unit, size) in enumerate(_UNITS[:-1]):
        if rest >= size:
            smaller, smaller_size = _UNITS[index + 1]
            second = rest % size // smaller_size
            return f"{rest // size} {unit} {second} {smaller}" if second else f"{rest // size} {unit}"
    return f"{rest} s"


def milliseconds(value: float | None) -> str:
    """Return a duration given in milliseconds.

    >>> milliseconds(13.24), milliseconds(0.61), milliseconds(1500), milliseconds(None)
    ('13 ms', '0.6 ms', '1.5 s', '–')
    """
    if value is None:
        return UNKNOWN
    if value >= _KILO:
        return duration(value / _KILO)
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def megabytes(size: int | None) -> str:
    """Return a size given in bytes.

    >>> megabytes(81_300_000), megabytes(None)
    ('81 MB', '–')
    """
    return UNKNOWN if size is None else f"{size / 1_000_000:,.0f} MB"


def ago(moment: str | datetime, now: datetime | None = None) -> Markup:
    """Return a ``time`` element that says how long ago, or in how long, a moment is. Its title is the moment.

    >>> print(ago("2026-11-29T10:00:00Z", datetime(2026, 11, 29, 10, 3, tzinfo=UTC)))
    <time class="ago" datetime="2026-11-29T10:00:00Z" title="29 Nov 2026, 10:00:00 UTC">3 min ago</time>
    """
    parsed = _parse(moment)
    seconds = ((now or datetime.now(UTC)) - parsed).total_seconds()
    words = duration(abs(seconds) if abs(seconds) < 60 else abs(seconds) // 60 * 60)
    text = f"{words} ago" if seconds >= 0 else f"in {words}"
    return _time("ago", parsed, text if abs(seconds) >= 1 else "now")


def at(moment: str | datetime) -> Markup:
    """Return a ``time`` element that shows a moment, to the second.

    >>> print(at("2026-11-29T10:00:00.25Z"))
    <time class="at" datetime="2026-11-29T10:00:00Z" title="29 Nov 2026, 10:00:00 UTC">29 Nov 2026, 10:00:00 UTC</time>
    """
    parsed = _parse(moment)
    return _time("at", parsed, _words(parsed))


def clock(moment: str | datetime) -> Markup:
    """Return a ``time`` element that shows the time of day of a moment, to the millisecond.

    >>> print(clock("2026-11-29T10:00:00.25Z"))
    <time class="clock" datetime="2026-11-29T10:00:00.250Z" title="29 Nov 2026, 10:00:00 UTC">10:00:00.250</time>
    """
    parsed = _parse(moment)
    stamp = f"{parsed:%Y-%m-%dT%H:%M:%S}.{parsed.microsecond // 1000:03}Z"
    return Markup('<time class="clock" datetime="{}" title="{}">{}</time>').format(
        stamp, _words(parsed), stamp[len("2026-11-29T") : -1]
    )


def day(moment: str | datetime) -> Markup:
    """Return a ``time`` element that shows the day of a moment, and that it is in UTC.

    >>> print(day("2026-11-29T10:00:00.25Z"))
    <time class="day" datetime="2026-11-29T10:00:00Z" title="29 Nov 2026, 10:00:00 UTC">29 Nov 2026, UTC</time>
    """
    parsed = _parse(moment)
    return _time("day", parsed, f"{parsed.day} {parsed:%b %Y}, UTC")


def words(name: str) -> str:
    """Return the name of a state or an action as words.

    >>> words("no_consumer"), words("hold.placed")
    ('no consumer', 'hold placed')
    """
    return name.replace("_", " ").replace(".", " ")


FILTERS: Final[Mapping[str, Callable[..., Any]]] = {
    "number": number,
    "duration": duration,
    "milliseconds": milliseconds,
    "megabytes": megabytes,
    "ago": ago,
    "at": at,
    "clock": clock,
    "day": day,
    "words": words,
}
"""The functions of this module that templates use as filters."""


def _parse(moment: str | datetime) -> datetime:
    parsed = moment if isinstance(moment, datetime) else datetime.fromisoformat(moment)
    return parsed.astimezone(UTC)


def _words(moment: datetime) -> str:
    return f"{moment.day} {moment:%b %Y, %H:%M:%S} UTC"


def _time(kind: str, moment: datetime, text: str) -> Markup:
    return Markup('<time class="{}" datetime="{}" title="{}">{}</time>').format(
        kind, f"{moment:%Y-%m-%dT%H:%M:%SZ}", _words(moment), text
    )
