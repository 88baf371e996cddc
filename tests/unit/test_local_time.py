"""Local times: digests and quiet hours on the wall clock of the person's zone, on every kind of night."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, time, timedelta
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.local_time import load_zone, next_daily, next_hour, quiet_until, tzdata_version, zone_names

HALF_PAST_TWO = time(2, 30)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# --- zones -----------------------------------------------------------------------------------------------------------


def test_the_rules_are_those_of_the_pinned_package() -> None:
    # Rules from before 2026 put Vancouver at UTC-8 in winter, which makes this 17:00.
    assert next_daily(utc("2026-12-01 00:00"), time(9), "America/Vancouver") == utc("2026-12-01 16:00")
    assert tuple(map(int, tzdata_version().split("."))) >= (2026, 1)


def test_the_rules_of_the_operating_system_are_not_used(tmp_path: Path) -> None:
    # zoneinfo's search path stands for the operating system: its Vancouver has Tokyo's rules.
    (tmp_path / "America").mkdir()
    rules = resources.files("tzdata").joinpath("zoneinfo", "Asia", "Tokyo").read_bytes()
    (tmp_path / "America" / "Vancouver").write_bytes(rules)
    script = (
        "from datetime import UTC, datetime, time\n"
        "from zoneinfo import ZoneInfo\n"
        "from models.local_time import next_daily\n"
        "at = datetime(2026, 12, 1, tzinfo=UTC)\n"
        "print(at.astimezone(ZoneInfo('America/Vancouver')).hour, next_daily(at, time(9), 'America/Vancouver').hour)\n"
    )

    found = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONTZPATH": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
    )

    assert found.stdout.split() == ["9", "16"]


def test_the_names_are_those_of_time_zones() -> None:
    assert {
        "UTC",
        "Europe/Berlin",
        "America/Argentina/Buenos_Aires",
        "Etc/GMT+3",
        "Australia/Lord_Howe",
    } <= zone_names()
    strange = {
        "localtime",
        "Factory",
        "America",
        "tzdata.zi",
        "posix/UTC",
        "right/UTC",
        "europe/berlin",
        "FOO+3",
        "../x",
        "",
    }
    assert zone_names().isdisjoint(strange)


def test_every_name_can_be_loaded() -> None:
    assert [name for name in zone_names() if load_zone(name).key != name] == []


@pytest.mark.parametrize("name", ["America", "x" * 300, "a\0b", "../x", "tzdata.zi", "Mars/Dune", "/etc/passwd", ""])
def test_an_unknown_stored_name_counts_as_utc(name: str) -> None:
    assert load_zone(name).key == "UTC"


# --- digests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "at", "zone", "expected"),
    [
        ("2026-07-01 06:59", "09:00", "Europe/Berlin", "2026-07-01 07:00"),
        # Not again at the very moment.
        ("2026-07-01 07:00", "09:00", "Europe/Berlin", "2026-07-02 07:00"),
        # Nine o'clock stays nine o'clock when the clocks change.
        ("2026-03-28 12:00", "09:00", "Europe/Berlin", "2026-03-29 07:00"),
        ("2026-10-24 12:00", "09:00", "Europe/Berlin", "2026-10-25 08:00"),
        # Autumn: the first 02:30 of two, and then not the second one.
        ("2026-10-24 23:00", "02:30", "Europe/Berlin", "2026-10-25 00:30"),
        ("2026-10-25 00:30", "02:30", "Europe/Berlin", "2026-10-26 01:30"),
        ("2026-10-25 01:15", "02:30", "Europe/Berlin", "2026-10-26 01:30"),
        # Spring: there is no 02:30, but a 03:30.
        ("2026-03-28 23:00", "02:30", "Europe/Berlin", "2026-03-29 01:30"),
        ("2026-03-29 01:30", "02:30", "Europe/Berlin", "2026-03-30 00:30"),
        # Days that begin at one o'clock.
        ("2026-04-23 12:00", "00:00", "Africa/Cairo", "2026-04-23 22:00"),
        ("2026-04-23 22:00", "00:00", "Africa/Cairo", "2026-04-24 21:00"),
        ("2026-03-28 12:00", "00:00", "Asia/Beirut", "2026-03-28 22:00"),
        ("2026-03-28 22:00", "00:00", "Asia/Beirut", "2026-03-29 21:00"),
        ("2025-03-08 12:00", "00:00", "America/Havana", "2025-03-09 05:00"),
        ("2025-03-09 05:00", "00:00", "America/Havana", "2025-03-10 04:00"),
        ("2025-09-06 12:00", "00:00", "America/Santiago", "2025-09-07 04:00"),
        ("2025-09-07 04:00", "00:00", "America/Santiago", "2025-09-08 03:00"),
        # 30 December 2011 never was in Apia: one digest for the 29th, the next for the 31st.
        ("2011-12-29 12:00", "09:00", "Pacific/Apia", "2011-12-29 19:00"),
        ("2011-12-29 19:00", "09:00", "Pacific/Apia", "2011-12-30 19:00"),
        ("2011-12-30 19:00", "09:00", "Pacific/Apia", "2011-12-31 19:00"),
        # Lord Howe turns its clocks by half an hour.
        ("2026-04-04 12:00", "01:45", "Australia/Lord_Howe", "2026-04-04 14:45"),
        ("2026-04-04 14:45", "01:45", "Australia/Lord_Howe", "2026-04-05 15:15"),
        ("2026-10-03 12:00", "02:15", "Australia/Lord_Howe", "2026-10-03 15:45"),
        ("2026-10-03 15:45", "02:15", "Australia/Lord_Howe", "2026-10-04 15:15"),
        # In Nuuk the hour before midnight is left out.
        ("2026-03-28 12:00", "23:30", "America/Nuuk", "2026-03-29 01:30"),
        ("2026-03-29 01:10", "23:30", "America/Nuuk", "2026-03-29 01:30"),
        ("2026-03-29 01:30", "23:30", "America/Nuuk", "2026-03-30 00:30"),
    ],
)  # fmt: skip
def test_a_daily_digest_is_sent_once_per_date(after: str, at: str, zone: str, expected: str) -> None:
    found = next_daily(utc(after), time.fromisoformat(at), zone)

    assert (found, found.tzinfo) == (utc(expected), UTC)


@pytest.mark.parametrize(
    ("first", "last", "hours"),
    [("2026-10-25 00:00", "2026-10-26 00:00", 25), ("2026-03-29 00:00", "2026-03-30 00:00", 23)],
)
def test_there_is_an_hourly_digest_for_each_hour_of_a_night_on_which_the_clocks_change(
    first: str, last: str, hours: int
) -> None:
    berlin = load_zone("Europe/Berlin")
    at = datetime.fromisoformat(first).replace(tzinfo=berlin).astimezone(UTC)
    end = datetime.fromisoformat(last).replace(tzinfo=berlin).astimezone(UTC)

    sent = []
    while (at := next_hour(at)) <= end:
        sent.append(at)

    assert len(sent) == len(set(sent)) == hours


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        next_hour(datetime(2026, 1, 1))  # noqa: DTZ001 - on purpose


def test_times_of_the_same_zone_are_compared_in_utc() -> None:
    # On the wall clock, the first 02:45 is later than the second 02:15, which is when the digest was sent.
    berlin = load_zone("Europe/Berlin")
    second = datetime(2026, 10, 25, 2, 15, tzinfo=berlin, fold=1)

    assert next_daily(second, HALF_PAST_TWO, "Europe/Berlin") == utc("2026-10-26 01:30")


# --- quiet hours -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moment", "hours", "zone", "ends"),
    [
        ("2026-07-01 19:59", "22:00-07:00", "Europe/Berlin", None),
        ("2026-07-01 20:00", "22:00-07:00", "Europe/Berlin", "2026-07-02 05:00"),
        ("2026-07-02 04:59", "22:00-07:00", "Europe/Berlin", "2026-07-02 05:00"),
        ("2026-07-02 05:00", "22:00-07:00", "Europe/Berlin", None),
        ("2026-07-02 11:00", "12:00-14:00", "Europe/Berlin", "2026-07-02 12:00"),
        ("2026-07-02 12:00", "12:00-14:00", "Europe/Berlin", None),
        # 23:30 is in quiet hours beyond midnight, though it is not between 22:00 and 07:00.
        ("2026-07-01 23:30", "22:00-07:00", "UTC", "2026-07-02 07:00"),
        # The nights of the change are an hour longer and shorter.
        ("2026-10-24 21:00", "22:00-07:00", "Europe/Berlin", "2026-10-25 06:00"),
        ("2026-03-28 22:00", "22:00-07:00", "Europe/Berlin", "2026-03-29 05:00"),
        # Quiet hours that end at 02:30 end at the second one, and are not interrupted.
        ("2026-10-25 00:15", "22:00-02:30", "Europe/Berlin", "2026-10-25 01:30"),
        ("2026-10-25 00:45", "22:00-02:30", "Europe/Berlin", "2026-10-25 01:30"),
        ("2026-10-25 01:30", "22:00-02:30", "Europe/Berlin", None),
        # Those that start at 02:30 start at the first one.
        ("2026-10-25 00:30", "02:30-07:00", "Europe/Berlin", "2026-10-25 06:00"),
        ("2026-10-25 01:10", "02:30-07:00", "Europe/Berlin", "2026-10-25 06:00"),
        # In spring there is no 02:30, but a 03:30.
        ("2026-03-29 01:15", "22:00-02:30", "Europe/Berlin", "2026-03-29 01:30"),
        ("2026-03-29 01:15", "02:30-07:00", "Europe/Berlin", None),
        ("2026-03-29 01:30", "02:30-07:00", "Europe/Berlin", "2026-03-29 05:00"),
        # Both ends are in the hour that is left out, so nothing of them remains.
        ("2026-03-29 01:15", "02:10-02:50", "Europe/Berlin", "2026-03-29 01:50"),
        # The end at the second 02:15 lies in the next quiet hours, which have begun at the first 02:45.
        ("2026-10-25 00:10", "02:45-02:15", "Europe/Berlin", "2026-10-26 01:15"),
        ("2026-07-01 20:00", "22:00-22:00", "Europe/Berlin", None),
        # Days without midnight, without the whole day, and with a change by half an hour.
        ("2026-04-23 21:30", "23:00-00:00", "Africa/Cairo", "2026-04-23 22:00"),
        ("2026-04-23 22:30", "00:00-06:00", "Africa/Cairo", "2026-04-24 03:00"),
        ("2011-12-30 09:00", "22:00-07:00", "Pacific/Apia", "2011-12-30 17:00"),
        ("2026-04-04 14:50", "01:00-01:45", "Australia/Lord_Howe", "2026-04-04 15:15"),
    ],
)  # fmt: skip
def test_quiet_hours_begin_and_end_on_the_wall_clock(moment: str, hours: str, zone: str, ends: str | None) -> None:
    start, end = map(time.fromisoformat, hours.split("-"))

    assert quiet_until(utc(moment), start, end, zone) == (ends and utc(ends))


# --- properties ------------------------------------------------------------------------------------------------------

moments = st.integers(min_value=1_420_000_000, max_value=2_080_000_000).map(lambda at: datetime.fromtimestamp(at, UTC))
zones = st.sampled_from(sorted(zone_names()))
clock_times = st.times().map(lambda at: at.replace(second=0, microsecond=0))


@given(after=moments, at=clock_times, zone=zones)
def test_the_next_daily_digest_is_later_and_within_two_days(after: datetime, at: time, zone: str) -> None:
    found = next_daily(after, at, zone)

    # Kiritimati and others that move the date line leave out at most one day.
    assert after < found <= after + timedelta(hours=50)


@given(after=moments, at=clock_times, zone=zones)
def test_two_daily_digests_are_never_in_the_same_night(after: datetime, at: time, zone: str) -> None:
    first = next_daily(after, at, zone)

    second = next_daily(first, at, zone)

    assert second - first >= timedelta(hours=20)


@given(after=moments, at=clock_times, zone=zones)
def test_a_daily_digest_is_found_from_every_moment_before_it(after: datetime, at: time, zone: str) -> None:
    found = next_daily(after, at, zone)

    assert next_daily(found - timedelta(microseconds=1), at, zone) == found


@given(after=moments)
def test_an_hourly_digest_is_at_the_next_full_hour(after: datetime) -> None:
    found = next_hour(after)

    assert after < found <= after + timedelta(hours=1)
    assert (found.minute, found.second, found.microsecond) == (0, 0, 0)


@given(moment=moments, start=clock_times, end=clock_times, zone=zones)
def test_quiet_hours_end_later_and_outside_quiet_hours(moment: datetime, start: time, end: time, zone: str) -> None:
    if start == end:
        return
    ends = quiet_until(moment, start, end, zone)

    assert ends is None or (ends > moment and quiet_until(ends, start, end, zone) is None)


@given(moment=moments, start=clock_times, end=clock_times)
def test_in_a_zone_without_changes_quiet_hours_follow_the_clock(moment: datetime, start: time, end: time) -> None:
    if start == end:
        return
    clock = moment.time()
    is_quiet = start <= clock < end if start < end else clock >= start or clock < end

    assert (quiet_until(moment, start, end, "UTC") is not None) == is_quiet
