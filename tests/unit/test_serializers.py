"""Serialization of the parts that entities share: enum values, timestamps, people and activities."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from enum import IntEnum

import pytest

from models.directory.tables import Person
from models.enums import ActivityType, IncidentStatus, IncidentType, StatusMethod
from models.incidents.activity import Activity
from models.serializers.directory import person_json
from models.serializers.incidents import activity_json
from models.timestamps import iso

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
IN_PARIS = timezone(timedelta(hours=1))


@pytest.mark.parametrize(
    ("moment", "written"),
    [
        (NOON, "2026-11-23T12:00:00Z"),
        (NOON.replace(microsecond=4500), "2026-11-23T12:00:00.004500Z"),
        (NOON.astimezone(IN_PARIS), "2026-11-23T12:00:00Z"),
    ],
)
def test_a_timestamp_is_written_in_utc_with_microseconds_unless_they_are_zero(moment: datetime, written: str) -> None:
    assert iso(moment) == written


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        (IncidentStatus, {"OPEN": 1, "CLOSED": 2, "WARNING": 10, "CRITICAL": 20}),
        (StatusMethod, {"MANUAL": 1, "RULE_UPDATED": 2, "RULE_TRIGGERED": 3}),
        (IncidentType, {"DETECTED": 0, "ALERT_TRIGGERED": 2}),
        (ActivityType, {"CREATED": 1, "STATUS_CHANGE": 2, "COMMENT": 3, "DETECTED": 4}),
    ],
)
def test_enum_values_match_sentrys_api(kind: type[IntEnum], numbers: dict[str, int]) -> None:
    assert {each.name: each.value for each in kind} == numbers


def test_every_status_has_a_display_label() -> None:
    assert [status.label for status in IncidentStatus] == ["Open", "Resolved", "Warning", "Critical"]


def test_a_person_has_the_fields_of_a_full_user_in_sentrys_api_and_no_secrets() -> None:
    person = person_json(Person(11, "mem", "Mem", "mem@x.test", True, False, NOON))

    assert person is not None
    assert set(person) == {
        "id", "name", "username", "email", "avatarUrl", "isActive", "hasPasswordAuth", "isManaged", "dateJoined",
        "lastLogin", "has2fa", "lastActive", "isSuperuser", "isStaff", "experiments", "emails", "avatar",
    }  # fmt: skip
    assert (person["id"], person["name"], person["username"], person["email"]) == ("11", "Mem", "mem", "mem@x.test")


def test_an_activity_without_an_author_has_a_null_user() -> None:
    activity = Activity(7, 1, None, ActivityType.DETECTED, NOON)

    written = activity_json(activity, identifier=3, user=None)

    assert written == {
        "id": "7", "incidentIdentifier": "3", "user": None, "type": 4, "value": None, "previousValue": None,
        "comment": None, "dateCreated": "2026-11-23T12:00:00Z", "version": 1,
    }  # fmt: skip
