"""Local times: the only module that converts between a person's wall clock and UTC.

The rules of the time zones come from the package ``tzdata``, whose version is pinned, and never from the operating
system or from PostgreSQL, which may know other rules. Every function takes and returns aware times in UTC, because
aware times in the same zone are compared by their wall clock (PEP 495). See docs/decisions/0030-local-times.md.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from functools import cache, lru_cache
from importlib import resources
from importlib.metadata import version
from typing import Final
from zoneinfo import ZoneInfo

DEFAULT_ZONE: Final = "UTC"

_DAY: Final = timedelta(days=1)
_HOUR: Final = timedelta(hours=1)
_NOT_ZONES: Final = frozenset({"localtime", "Factory"})


@lru_cache(maxsize=1)
def zone_names() -> frozenset[str]:
    """Return the names of the time zones that a person can have."""
    listed = resources.files("tzdata").joinpath("zones").read_text(encoding="utf-8").split()
    return frozenset(name for name in listed if name not in _NOT_ZONES and not name.startswith(("posix/", "right/")))


def tzdata_version() -> str:
    """Return the version of the time zone rules in use."""
    return version("tzdata")


@cache
def load_zone(name: str) -> ZoneInfo:
    """Return the time zone with one of :func:`zone_names`. For any other name, return UTC.

    A stored name may be unknown if an older release, or other rules, have accepted it.
    """
    known = name if name in zone_names() else DEFAULT_ZONE
    # ZoneInfo(name) would take the operating system's rules if there are any.
    with resources.files("tzdata").joinpath("zoneinfo", *known.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=known)


def next_hour(after: datetime) -> datetime:
    """Return the first full hour, counted in UTC, after ``after``.

    Counted on the wall clock, the hours of a night on which the clocks change would repeat or be left out.
    """
    return _utc(after).replace(minute=0, second=0, microsecond=0) + _HOUR


def next_daily(after: datetime, at: time, zone: str) -> datetime:
    """Return the first time after ``after`` at which the wall clock in the zone shows ``at``, once per date.

    A time that occurs twice, when the clocks are turned back, counts at its first occurrence. A time that does not
    occur, when they are turned forward, counts as much later as the gap is long: 02:30 as 03:30.
    """
    after, rules = _utc(after), load_zone(zone)
    today = after.astimezone(rules).date()
    # Yesterday, because a time in a gap that ends at midnight or later counts on the next date.
    days = (today + offset * _DAY for offset in range(-1, 4))
    return next(moment for day in days if (moment := _first(day, at, rules)) > after)


def quiet_until(moment: datetime, start: time, end: time, zone: str) -> datetime | None:
    """Return when the quiet hours that contain ``moment`` end, or ``None`` if it is not in quiet hours.

    Quiet hours last from ``start`` to ``end`` in the zone, beyond midnight if ``end`` is before ``start``. If the two
    are equal, there are none. They begin at the first occurrence of ``start`` and end at the last one of ``end``, so
    they are never interrupted.
    """
    if start == end:
        return None
    rules, ends = load_zone(zone), None
    at = _utc(moment)
    # On a night on which the clocks change, the end may lie in the next quiet hours.
    while (next_end := _end_of_quiet_hours(at, start, end, rules)) is not None:
        at = ends = next_end
    return ends


def describe(moment: datetime, zone: str) -> str:
    """Return the moment as a person in the zone reads it, to the minute and with the zone.

    >>> describe(datetime(2026, 11, 23, 10, 35, tzinfo=UTC), "Europe/Berlin")
    '23 Nov 2026, 11:35 CET'
    >>> describe(datetime(2026, 11, 23, 10, 35, tzinfo=UTC), "America/Sao_Paulo")
    '23 Nov 2026, 07:35 UTC-03'
    """
    local = _utc(moment).astimezone(load_zone(zone))
    name = local.tzname() or ""
    return f"{local.day} {local:%b %Y, %H:%M} {name if name.isalpha() else f'UTC{name}'}"


def _end_of_quiet_hours(moment: datetime, start: time, end: time, rules: ZoneInfo) -> datetime | None:
    today = moment.astimezone(rules).date()
    nights = _DAY if end < start else timedelta(0)
    for offset in range(-2, 2):
        day = today + offset * _DAY
        ends = _last(day + nights, end, rules)
        if _first(day, start, rules) <= moment < ends:
            return ends
    return None


def _first(day: date, at: time, rules: ZoneInfo) -> datetime:
    """Return when the wall clock shows ``at`` for the first time that day. In a gap, ``at`` is moved beyond it."""
    return datetime.combine(day, at, rules).astimezone(UTC)


def _last(day: date, at: time, rules: ZoneInfo) -> datetime:
    """Return when the wall clock shows ``at`` for the last time that day. In a gap, ``at`` is moved beyond it."""
    # In a gap it is fold 0 that yields the later time (PEP 495).
    return max(_first(day, at, rules), datetime.combine(day, at, rules).replace(fold=1).astimezone(UTC))


def _utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone: times are aware")
    return moment.astimezone(UTC)
