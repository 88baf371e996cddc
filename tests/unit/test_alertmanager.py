"""Parsing Alertmanager's webhook payloads into commands: payloads from a real Alertmanager, and invalid ones."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.api.alertmanager import UNKNOWN_VERSION, parse_alert_group
from models.enums import AlertState
from models.refusals import BodyTooLarge, InvalidFields
from models.types import JSON
from tasks.commands.alertmanager import ReceiveAlerts
from tests.alertmanager import (
    ESCALATED,
    FIRING,
    GROUP_KEY,
    GROUPED_BY_ALL_LABELS,
    PARTLY_RESOLVED,
    RESOLVED,
    WITHOUT_NAME,
    WITHOUT_PROJECT,
    payload,
    payload_without,
)

REQUIRED, NOT_NULL = "This field is required.", "This field may not be null."
BLANK, NO_STRING = "This field may not be blank.", "Not a valid string."
STATES = "Valid values: firing, resolved."
NO_DATE = (
    "Datetime has wrong format. Use one of these formats instead: YYYY-MM-DDThh:mm[:ss[.uuuuuu]][+HH:MM|-HH:MM|Z]."
)


def alert(status: str = "firing", **labels: str) -> dict[str, Any]:
    return {"status": status, "labels": labels, "startsAt": "2026-01-02T03:04:05Z"}


def parsed(body: dict[str, JSON], **options: Any) -> ReceiveAlerts:
    command = parse_alert_group(body, **options)
    assert command is not None
    return command


def group(*alerts: JSON, **fields: JSON) -> dict[str, JSON]:
    """Return a minimal payload; without `alerts`, with one firing alert."""
    return {"version": "4", "groupKey": "{}:{}", "status": "firing", "alerts": list(alerts or [alert()])} | fields


@pytest.mark.parametrize(
    ("name", "state", "project", "severity", "title", "key"),
    [
        (FIRING, "firing", "p1", "warning", "Checkout answers slowly", GROUP_KEY),
        (ESCALATED, "firing", "p1", "critical", "Checkout answers slowly", GROUP_KEY),
        (PARTLY_RESOLVED, "firing", "p1", "critical", "Checkout answers slowly", GROUP_KEY),
        (RESOLVED, "resolved", "p1", "critical", "Checkout answers slowly", GROUP_KEY),
        (GROUPED_BY_ALL_LABELS, "firing", None, None, "Bare (all=yes)", '{}/{all="yes"}:{alertname="Bare", all="yes"}'),
        (WITHOUT_PROJECT, "firing", None, None, "NoProject", '{}:{alertname="NoProject"}'),
        (WITHOUT_NAME, "firing", None, None, "Alert", "{}:{}"),
    ],
)
def test_a_real_payload_becomes_one_command(
    name: str, state: str, project: str | None, severity: str | None, title: str, key: str
) -> None:
    command = parsed(payload(name))

    assert (command.state, command.project, command.severity) == (state, project, severity)
    assert (command.title, command.dedup_key) == (title, key)


@pytest.mark.parametrize(
    ("name", "began"),
    [
        (FIRING, "2026-11-26T23:08:57.835124+00:00"),
        (ESCALATED, "2026-11-26T23:08:58.871100+00:00"),
        (PARTLY_RESOLVED, "2026-11-26T23:08:58.871100+00:00"),
        (RESOLVED, None),
    ],
)
def test_the_incident_starts_with_the_earliest_alert_still_firing(name: str, began: str | None) -> None:
    starts_at = parsed(payload(name)).starts_at

    assert (None if starts_at is None else starts_at.isoformat()) == began


def test_start_times_are_compared_across_time_zones_and_missing_ones_are_ignored() -> None:
    starts = ("2026-01-02T12:00:00+02:00", "2026-01-02T11:00:00Z", None, "0001-01-01T00:00:00Z")

    command = parsed(group(*(alert() | {"startsAt": start} for start in starts)))

    assert command.starts_at is not None
    assert command.starts_at.isoformat() == "2026-01-02T10:00:00+00:00"


@pytest.mark.parametrize(
    ("common", "alerts", "severity"),
    [
        ({"severity": "critical"}, [alert(severity="warning")], "critical"),
        (
            {},
            [alert("resolved", severity="critical"), alert(severity="info"), alert(severity="WARNING"), alert()],
            "warning",
        ),
        ({}, [alert(severity="warning"), alert(severity="Critical")], "critical"),
        ({}, [alert(severity="page"), alert(severity="info")], "page"),
        ({}, [alert("resolved", severity="critical"), alert()], None),
        ({"severity": " "}, [alert(severity="")], None),
    ],
    ids=[
        "common label",
        "most severe",
        "other case",
        "no known severity",
        "firing alert without the label",
        "blank label",
    ],
)
def test_the_severity_is_that_of_the_most_severe_firing_alert(
    common: dict[str, str], alerts: list[JSON], severity: str | None
) -> None:
    assert parsed(group(*alerts, commonLabels=common)).severity == severity


@pytest.mark.parametrize(
    ("fields", "title"),
    [
        ({"commonAnnotations": {"summary": " Disk full\n on db-1 "}}, "Disk full on db-1"),
        ({"commonAnnotations": {"summary": "  ", "description": "x"}}, "Alert"),
        ({"commonLabels": {"alertname": "DiskFull"}}, "DiskFull"),
        (
            {
                "groupLabels": {"alertname": "DiskFull", "job": "db", "cluster": "eu"},
                "commonLabels": {"alertname": "DiskFull"},
            },
            "DiskFull (cluster=eu, job=db)",
        ),
        ({"groupLabels": {"cluster": "eu"}, "alerts": [alert(alertname="DiskFull")]}, "DiskFull (cluster=eu)"),
        ({"groupLabels": {"cluster": "eu"}}, "Alert (cluster=eu)"),
    ],
)  # fmt: skip
def test_the_title_is_the_summary_or_the_alert_name_with_the_group_labels(fields: dict[str, Any], title: str) -> None:
    assert parsed(group(**fields)).title == title


@pytest.mark.parametrize(
    ("status", "alerts", "state"),
    [
        ("firing", [alert("resolved"), alert()], AlertState.FIRING),
        ("resolved", [alert("resolved")], AlertState.RESOLVED),
        ("firing", [alert("resolved"), alert("resolved")], AlertState.RESOLVED),
        ("resolved", [alert()], AlertState.RESOLVED),
    ],
)
def test_a_group_is_firing_only_if_both_its_status_and_one_of_its_alerts_are_firing(
    status: str, alerts: list[JSON], state: AlertState
) -> None:
    assert parsed(group(*alerts, status=status)).state is state


@pytest.mark.parametrize("state", AlertState)
def test_an_alert_without_a_status_has_that_of_its_group(state: AlertState) -> None:
    assert parsed(group({"labels": {"severity": "critical"}}, status=state.value)).state is state


def test_optional_fields_may_be_missing_and_unknown_fields_are_ignored() -> None:
    command = parsed(group({"status": "firing"}, newField={"a": [1]}))

    assert (command.title, command.project, command.severity, command.starts_at) == ("Alert", None, None, None)


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({}, {field: [REQUIRED] for field in ("version", "groupKey", "status", "alerts")}),
        (payload(version="3"), {"version": [UNKNOWN_VERSION]}),
        (payload(version=None), {"version": [NOT_NULL]}),
        (payload(version=["4"]), {"version": [NO_STRING]}),
        (payload_without(FIRING, "version"), {"version": [REQUIRED]}),
        (payload_without(FIRING, "groupKey"), {"groupKey": [REQUIRED]}),
        (payload(groupKey=" "), {"groupKey": [BLANK]}),
        (payload(groupKey={"alertname": "x"}), {"groupKey": [NO_STRING]}),
        (payload(groupKey="a\0b"), {"groupKey": ["Null characters are not allowed."]}),
        (payload(status="pending"), {"status": [STATES]}),
        (payload(alerts=None), {"alerts": [NOT_NULL]}),
        (payload(alerts=[]), {"alerts": ["This list may not be empty."]}),
        (payload(alerts={}), {"alerts": ['Expected a list of items but got type "dict".']}),
        (group(1, 2), {"alerts": {"0": ["Invalid data. Expected a dictionary, but got int."]}}),
        (group(alert(), None, {}), {"alerts": {"1": [NOT_NULL]}}),
        (
            group({"status": "off", "labels": [], "startsAt": "yesterday"}),
            {
                "alerts": {
                    "0": {
                        "status": [STATES],
                        "labels": ["Invalid data. Expected a dictionary, but got list."],
                        "startsAt": [NO_DATE],
                    }
                }
            },
        ),
        (
            group(alert() | {"labels": {"severity": 1, "project": None, "job": None, "a": "b"}}),
            {"alerts": {"0": {"labels": {"severity": [NO_STRING], "project": [NO_STRING]}}}},
        ),
        (group(commonLabels="x"), {"commonLabels": ["Invalid data. Expected a dictionary, but got str."]}),
        (
            group(commonAnnotations={"summary": "a\ud800"}),
            {"commonAnnotations": {"summary": ["Surrogate characters are not allowed: U+D800."]}},
        ),
    ],
)  # fmt: skip
def test_errors_are_reported_at_their_path_in_the_payload(body: dict[str, JSON], errors: JSON) -> None:
    with pytest.raises(InvalidFields) as refused:
        parse_alert_group(body)

    assert refused.value.body == errors


def test_a_group_of_ten_thousand_alerts_becomes_one_small_command() -> None:
    alerts = [alert(instance=f"web-{number}", severity="critical") for number in range(10_000)]

    assert parse_alert_group(group(*alerts)) == parse_alert_group(group(alerts[0]))


@pytest.mark.parametrize("field", ["groupKey", "commonAnnotations"])
def test_a_command_over_the_size_limit_is_refused(field: str) -> None:
    long = "x" * 65_536
    fields: dict[str, Any] = {field: long if field == "groupKey" else {"summary": long}}

    with pytest.raises(BodyTooLarge):
        parse_alert_group(payload(**fields))


def test_what_is_not_used_may_be_of_any_shape() -> None:
    odd: JSON = {"status": "firing", "labels": {"job": 1, "\udfff": None}, "annotations": 7, "endsAt": [], "values": {}}
    labels: JSON = {"cluster": "eu", "n": 1, "bad": "a\0b"}

    command = parsed(
        group(odd, groupLabels=labels, commonLabels={"x": 1}, commonAnnotations={"y": []}, truncatedAlerts="?")
    )

    assert (command.title, command.severity) == ("Alert (cluster=eu)", None)


@pytest.mark.parametrize("labels", [None, [], "x"])
def test_group_labels_of_another_shape_are_ignored(labels: JSON) -> None:
    assert parsed(group(groupLabels=labels)).title == "Alert"


def test_a_source_keeps_the_keys_of_several_alertmanagers_apart() -> None:
    assert parsed(group(), source="eu").dedup_key == "eu:{}:{}"


@pytest.mark.parametrize(("status", "alerts"), [("resolved", [alert("resolved")]), ("firing", [alert("resolved")])])
def test_a_group_that_is_resolved_only_as_far_as_its_alerts_are_sent_is_not_closed(
    status: str, alerts: list[JSON]
) -> None:
    assert parse_alert_group(group(*alerts, status=status, truncatedAlerts=3)) is None
    assert parsed(group(*alerts, status=status, truncatedAlerts=0)).state is AlertState.RESOLVED
    assert parsed(group(alert(), truncatedAlerts=3)).state is AlertState.FIRING
