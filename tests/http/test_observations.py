"""Observations over HTTP: responses, permissions, bulk requests, and the list of recent values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.engine import Engine

from tests.builders import a_trigger, an_alert_rule
from tests.handlers.acme import Acme
from tests.http.gateway_server import ACME, COMMANDS, Gateway, Worker

FORBIDDEN = {"detail": "You do not have permission to perform this action."}
NOT_FOUND = {"detail": "The requested resource does not exist"}
REQUIRED = ["This field is required."]
NUMBER = ["A valid number is required."]
NOON = "2026-11-23T12:00:00Z"


@pytest.fixture
def rule(ledger: Engine, acme: Acme) -> int:
    """A rule on p1 with the triggers warning above 50 and critical above 100."""
    with ledger.begin() as connection:
        return an_alert_rule(
            connection,
            acme.organizations["acme"],
            projects=[acme.projects["acme", "p1"]],
            triggers=[a_trigger("critical", 100), a_trigger("warning", 50)],
        )


def observations_of(rule: object, organization: str = "acme") -> str:
    return f"/api/0/organizations/{organization}/alert-rules/{rule}/observations/"


def an_observation(value: Any = 60, **fields: Any) -> dict[str, Any]:
    return {"project": "p1", "value": value, "timestamp": NOON} | fields


def accepted_count(ledger: Engine) -> int:
    with ledger.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM commands")).scalar_one())


# --- sending -----------------------------------------------------------------------------------------------------


def test_the_response_contains_the_changed_incident(gateway: Gateway, rule: int, busy_worker: Worker) -> None:
    response = gateway.post(observations_of(rule), an_observation(120), by="dev-bot")

    assert response.status_code == 201
    body = response.json()
    assert (body.keys(), body["fired"], body["resolved"]) == (
        {"fired", "resolved", "incident"}, ["warning", "critical"], [],
    )  # fmt: skip
    [listed] = gateway.get(f"{ACME}/incidents/?project=-1&status=critical").json()
    assert (body["incident"], body["incident"]["status"]) == (listed, 20)
    assert response.headers["command-id"]


def test_an_ignored_value_returns_200_with_its_reason(gateway: Gateway, rule: int, busy_worker: Worker) -> None:
    gateway.post(observations_of(rule), an_observation(10), by="dev-bot")

    response = gateway.post(observations_of(rule), an_observation(120), by="dev-bot")

    assert (response.status_code, response.json()) == (
        200, {"fired": [], "resolved": [], "incident": None, "ignored": "repeated timestamp"},
    )  # fmt: skip


def test_a_value_cannot_be_observed_in_the_future(gateway: Gateway, rule: int, ledger: Engine) -> None:
    ahead = {minutes: (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat() for minutes in (9, 11)}
    item = {"type": "metric.observe", "alertRule": rule}
    errors = {"timestamp": ["This time is more than 10 minutes in the future."]}

    alone = gateway.post(observations_of(rule), an_observation(timestamp=ahead[11]), by="dev-bot")
    in_bulk = gateway.post(COMMANDS, {"commands": [item | an_observation(timestamp=ahead[11])]}, by="dev-bot")

    assert (alone.status_code, alone.json()) == (400, errors)
    assert (in_bulk.status_code, in_bulk.json()) == (400, {"commands": {"0": errors}})
    assert accepted_count(ledger) == 0
    tolerated = gateway.post(
        observations_of(rule), an_observation(timestamp=ahead[9]), by="dev-bot", Prefer="respond-async"
    )
    assert tolerated.status_code == 202


@pytest.mark.parametrize(
    ("value", "measured"),
    [(None, None), (60.5, 60.5), (60, 60), ("\x1f6e1\u2003", 60), ("-.5", -0.5), (0, 0), (1e308, 1e308)],
)
def test_a_value_may_be_any_number_or_null(
    gateway: Gateway, rule: int, busy_worker: Worker, value: Any, measured: float | None
) -> None:
    response = gateway.post(observations_of(rule), an_observation(value), by="dev-bot")

    assert response.status_code == 201
    [listed_value] = gateway.get(observations_of(rule)).json()
    assert listed_value["value"] == measured


@pytest.mark.parametrize(
    ("fields", "errors"),
    [
        ({"value": "many"}, {"value": NUMBER}),
        ({"value": True}, {"value": NUMBER}),
        ({"value": [1]}, {"value": NUMBER}),
        ({"value": "nan"}, {"value": NUMBER}),
        ({"value": "1_000"}, {"value": NUMBER}),
        ({"value": "1e999"}, {"value": NUMBER}),
        ({"value": 10**400}, {"value": NUMBER}),
        ({"comparisonValue": "past"}, {"comparisonValue": NUMBER}),
        ({"project": None}, {"project": ["This field may not be null."]}),
        ({"project": " "}, {"project": ["This field may not be blank."]}),
        ({"timestamp": None}, {"timestamp": ["This field may not be null."]}),
        (
            {"timestamp": "1969-12-31T23:59:59Z"},
            {"timestamp": ["Ensure this value is greater than or equal to 1970-01-01T00:00:00Z."]},
        ),
    ],
)
def test_an_invalid_observation_is_400_and_creates_no_command(
    gateway: Gateway, ledger: Engine, rule: int, fields: dict[str, Any], errors: Any
) -> None:
    response = gateway.post(observations_of(rule), an_observation(**fields), by="dev-bot")

    assert (response.status_code, response.json()) == (400, errors)
    assert accepted_count(ledger) == 0


def test_the_error_for_an_empty_body_names_every_missing_field(gateway: Gateway, rule: int) -> None:
    response = gateway.post(observations_of(rule), {})

    assert (response.status_code, response.json()) == (
        400, {"project": REQUIRED, "value": REQUIRED, "timestamp": REQUIRED},
    )  # fmt: skip


@pytest.mark.parametrize(
    "spelled", ["2026-11-23T12:00:00Z", "2026-11-23T13:00:00+01:00", "2026-11-23 12:00", "20261123T12"]
)
def test_a_timestamp_is_in_iso_8601_format_and_its_time_zone_defaults_to_utc(
    gateway: Gateway, rule: int, busy_worker: Worker, spelled: str
) -> None:
    gateway.post(observations_of(rule), an_observation(timestamp=spelled))

    assert [listed_value["timestamp"] for listed_value in gateway.get(observations_of(rule)).json()] == [NOON]


def test_a_project_that_the_rule_does_not_include_is_refused_by_the_worker(
    gateway: Gateway, rule: int, busy_worker: Worker
) -> None:
    for project in ("p2", "nowhere"):
        response = gateway.post(observations_of(rule), an_observation(project=project), by="dev-bot")
        assert (response.status_code, response.json()) == (400, {"project": ["Invalid project"]})


# --- permissions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("dev-bot", (201, None)),
        ("dev-mem", (201, None)),
        ("dev-mem-alerts", (201, None)),
        ("dev-mem-read", (403, FORBIDDEN)),
        ("dev-plain-bot", (403, FORBIDDEN)),
        ("dev-key", (403, FORBIDDEN)),
        ("dev-out", (403, FORBIDDEN)),
        ("dev-ops", (403, FORBIDDEN)),
        ("nonsense", (401, {"detail": "Invalid token"})),
    ],
)
def test_callers_who_may_write_alert_rules_may_send_values(
    gateway: Gateway, rule: int, busy_worker: Worker, by: str, expected: tuple[int, Any]
) -> None:
    response = gateway.post(observations_of(rule), an_observation(), by=by)

    assert (response.status_code, response.json() if expected[1] else None) == expected


def test_an_api_key_with_the_scope_is_still_refused(gateway: Gateway, ledger: Engine, rule: int) -> None:
    with ledger.begin() as connection:
        connection.exec_driver_sql("UPDATE tokens SET scopes = '{alerts:write}' WHERE kind = 'key'")

    response = gateway.post(observations_of(rule), an_observation(), by="dev-key")

    assert (response.status_code, response.json()) == (403, FORBIDDEN)
    assert accepted_count(ledger) == 0


@pytest.mark.parametrize("body", [an_observation(), {}])
def test_an_unknown_rule_is_404_whatever_the_body(
    gateway: Gateway, ledger: Engine, rule: int, busy_worker: Worker, body: Any
) -> None:
    with ledger.begin() as connection:
        deleted = an_alert_rule(connection, 1, status=4)

    for path in (
        observations_of(999),
        observations_of("x"),
        observations_of("²"),
        observations_of(2**70),
        observations_of(deleted),
        observations_of(rule, "closed"),
        observations_of(rule, "nowhere"),
    ):
        response = gateway.post(path, body)
        assert (response.status_code, response.json()) == (404, NOT_FOUND), path


def test_an_inaccessible_rule_is_403_whatever_the_body(
    gateway: Gateway, ledger: Engine, acme: Acme, rule: int, busy_worker: Worker
) -> None:
    with ledger.begin() as connection:
        connection.exec_driver_sql("UPDATE organizations SET open_membership = false")
        of_p2 = an_alert_rule(connection, acme.organizations["acme"], projects=[acme.projects["acme", "p2"]])

    for body in (an_observation(project="p2"), {}):
        response = gateway.post(observations_of(of_p2), body)
        assert (response.status_code, response.json()) == (403, FORBIDDEN)
    assert gateway.get(observations_of(of_p2)).status_code == 403


def test_without_the_incidents_feature_observations_are_404(gateway: Gateway, ledger: Engine, rule: int) -> None:
    with ledger.begin() as connection:
        connection.exec_driver_sql("UPDATE organizations SET features = '{}'")

    responses = [gateway.post(observations_of(rule), an_observation()), gateway.get(observations_of(rule))]

    assert [(each.status_code, each.json()) for each in responses] == [(404, NOT_FOUND)] * 2


# --- bulk requests -----------------------------------------------------------------------------------------------


def test_values_in_a_bulk_request_are_applied_in_order(gateway: Gateway, rule: int, busy_worker: Worker) -> None:
    values = [(10, 0), (60, 1), (120, 2), (120, 2), (80, 3), (10, 4)]
    items = [
        an_observation(value, type="metric.observe", alertRule=rule, timestamp=f"2026-11-23T12:{minute:02}:00Z")
        for value, minute in values
    ]

    response = gateway.post(COMMANDS, {"commands": items}, by="dev-bot", Prefer="wait=20")

    assert response.status_code == 200
    outcomes = [each["outcome"] for each in response.json()["commands"]]
    assert [(each["status"], each["body"]["fired"], each["body"]["resolved"]) for each in outcomes] == [
        (201, [], []),
        (201, ["warning"], []),
        (201, ["critical"], []),
        (200, [], []),
        (201, [], ["critical"]),
        (201, [], ["warning"]),
    ]


@pytest.mark.parametrize(
    ("item", "errors"),
    [
        (an_observation(), {"alertRule": REQUIRED}),
        (an_observation(alertRule=1, valeu=3), {"valeu": ["Unknown field."]}),
        (an_observation(alertRule=None), {"alertRule": ["This field may not be null."]}),
    ],
)
def test_a_bulk_item_must_name_its_rule(gateway: Gateway, rule: int, item: dict[str, Any], errors: Any) -> None:
    response = gateway.post(COMMANDS, {"commands": [{"type": "metric.observe"} | item]}, by="dev-bot")

    assert (response.status_code, response.json()) == (400, {"commands": {"0": errors}})


# --- recent values -----------------------------------------------------------------------------------------------


def test_recent_values_are_listed_newest_first_with_their_effects(
    gateway: Gateway, rule: int, busy_worker: Worker
) -> None:
    for value, minute in ((60, 1), (70, 2), (200, 0), (10, 3)):
        gateway.post(observations_of(rule), an_observation(value, timestamp=f"2026-11-23T12:0{minute}:00Z"))

    listed = gateway.get(observations_of(rule), by="dev-bot").json()

    assert [
        (each["value"], each["fired"], each["resolved"], each["ignored"], each["incidentIdentifier"]) for each in listed
    ] == [
        (10, [], ["warning"], None, "2"),
        (200, [], [], "out of order", "2"),
        (70, [], [], None, "2"),
        (60, ["warning"], [], None, "2"),
    ]
    assert {each["project"] for each in listed} == {"p1"}
    assert listed[0]["counted"] == {
        "critical": {"alerts": 0, "resolves": 0},
        "warning": {"alerts": 0, "resolves": 0},
    }


def test_the_observation_list_is_paginated(gateway: Gateway, rule: int, busy_worker: Worker) -> None:
    for minute in range(5):
        gateway.post(observations_of(rule), an_observation(minute, timestamp=f"2026-11-23T12:0{minute}:00Z"))

    seen: list[Any] = []
    page: httpx.Response | None = gateway.get(f"{observations_of(rule)}?per_page=2")
    while page is not None:
        seen += [each["value"] for each in page.json()]
        following = page.links["next"]
        page = gateway.get(following["url"]) if following["results"] == "true" else None

    assert seen == [4, 3, 2, 1, 0]


def test_observations_can_be_filtered_by_project_slug(
    gateway: Gateway, ledger: Engine, acme: Acme, busy_worker: Worker
) -> None:
    with ledger.begin() as connection:
        ids = [acme.projects["acme", slug] for slug in ("p1", "p2")]
        both = an_alert_rule(connection, acme.organizations["acme"], projects=ids)
    for slug in ("p1", "p2"):
        gateway.post(observations_of(both), an_observation(project=slug))

    def projects(query: str, by: str = "dev-mem") -> list[str]:
        return [each["project"] for each in gateway.get(f"{observations_of(both)}{query}", by=by).json()]

    assert (projects(""), projects("?project=p1"), projects("?project=p1&project=p2")) == (
        ["p2", "p1"], ["p1"], ["p2", "p1"],
    )  # fmt: skip
    refused = gateway.get(f"{observations_of(both)}?project=old")
    assert (refused.status_code, refused.json()) == (400, {"project": ["Invalid project"]})
    with ledger.begin() as connection:
        connection.exec_driver_sql("UPDATE organizations SET open_membership = false")
    assert (projects("", by="dev-mem"), projects("", by="dev-ben")) == (["p1"], ["p2", "p1"])
    assert gateway.get(f"{observations_of(both)}?project=p2").status_code == 403


def test_callers_who_may_read_alert_rules_may_see_their_values(gateway: Gateway, rule: int) -> None:
    statuses = {
        by: gateway.get(observations_of(rule), by=by).status_code for by in ("dev-mem-read", "dev-bot", "dev-plain-bot")
    }

    assert statuses == {"dev-mem-read": 200, "dev-bot": 200, "dev-plain-bot": 403}
    assert gateway.get(observations_of(999)).status_code == 404
