"""The Alertmanager webhook: permissions, responses, and the incidents that follow the alerts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from sqlalchemy import func, select
from sqlalchemy.engine import Engine

from gateway.api.alertmanager import UNKNOWN_VERSION
from gateway.container import Timeouts
from gateway.main import ENDPOINTS
from gateway.openapi.components import build_schemas
from gateway.settings import GatewaySettings
from models.messaging.command_ledger import commands
from tests.alertmanager import (
    ALL,
    ESCALATED,
    FIRING,
    GROUP_KEY,
    PARTLY_RESOLVED,
    RESOLVED,
    WITHOUT_PROJECT,
    payload,
    payload_without,
)
from tests.http.gateway_server import ACME, COMMANDS, Gateway, Worker, running_gateway

ALERTS = f"{ACME}/integrations/alertmanager/"
FORBIDDEN = {"detail": "You do not have permission to perform this action."}
NOT_FOUND = {"detail": "The requested resource does not exist"}


def accepted_count(ledger: Engine) -> int:
    with ledger.connect() as connection:
        return connection.execute(select(func.count()).select_from(commands)).scalar_one()


def outcome(gateway: Gateway, body: Any, **headers: str) -> tuple[str, int, Any]:
    """Post a body; return the resulting command's status, and its outcome's status and body."""
    response = gateway.post(ALERTS, body, by="dev-bot", Prefer="wait=20", **headers)
    assert response.status_code == 200
    [command] = response.json()["commands"]
    return command["status"], command["outcome"]["status"], command["outcome"]["body"]


def test_an_alert_group_is_acknowledged_as_soon_as_it_is_in_the_ledger(gateway: Gateway) -> None:
    response = gateway.post(ALERTS, payload(), by="dev-bot")

    [command] = response.json()["commands"]
    assert (response.status_code, command["type"], command["status"]) == (202, "alertmanager.receive", "accepted")
    assert response.headers["location"] == f"{gateway.url}/api/0/commands/{command['id']}/"
    assert response.headers["command-id"] == command["id"]
    assert gateway.get(response.headers["location"], by="dev-bot").json() == command


def test_an_incident_follows_its_alert_group_until_it_is_resolved(gateway: Gateway, busy_worker: Worker) -> None:
    outcomes = [
        outcome(gateway, payload(name)) for name in (FIRING, FIRING, ESCALATED, PARTLY_RESOLVED, RESOLVED, RESOLVED)
    ]

    assert [(state, status) for state, status, _ in outcomes] == [("applied", 201)] + [("applied", 200)] * 5
    assert [body and (body["identifier"], body["status"], body["version"]) for *_, body in outcomes] == [
        ("2", 10, 1), ("2", 10, 1), ("2", 20, 2), ("2", 20, 2), ("2", 2, 3), None,
    ]  # fmt: skip
    opened, closed = outcomes[0][2], outcomes[4][2]
    assert (opened["title"], opened["projects"]) == ("Checkout answers slowly", ["p1"])
    assert opened["dateStarted"] == "2026-11-26T23:08:57.835124Z"
    assert (closed["statusMethod"], closed["dateClosed"] is None) == (3, False)
    history = gateway.get(f"{ACME}/incidents/2/activity/?desc=0").json()
    assert [(each["type"], each["value"], each["user"]) for each in history] == [
        (4, None, None), (1, None, None), (2, "20", None), (2, "2", None),
    ]  # fmt: skip


def test_an_incident_is_found_by_its_group_key(gateway: Gateway, busy_worker: Worker) -> None:
    outcome(gateway, payload())

    with gateway.client("dev-bot") as client:
        found = client.get(f"{ACME}/incidents/", params={"dedupKey": GROUP_KEY}).json()

    assert [(each["identifier"], each["status"]) for each in found] == [("2", 10)]


def test_concurrent_deliveries_of_a_group_open_one_incident(gateway: Gateway, worker: Worker) -> None:
    responses = gateway.concurrently(10, lambda: gateway.post(ALERTS, payload(), by="dev-bot"))

    worker.apply()

    assert {response.status_code for response in responses} == {202}
    locations = [response.headers["location"] for response in responses]
    outcomes = [gateway.get(location, by="dev-bot").json()["outcome"] for location in locations]
    assert sorted(each["status"] for each in outcomes) == [200] * 9 + [201]
    assert {each["body"]["identifier"] for each in outcomes} == {"2"}


@pytest.mark.parametrize("name", ALL)
def test_alertmanager_payloads_match_the_openapi_document(name: str) -> None:
    schema = build_schemas(ENDPOINTS)["AlertGroup"]

    Draft202012Validator(schema).validate(payload(name))
    assert not Draft202012Validator(schema).is_valid(payload(name, version="3"))


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        (payload(commonLabels={"project": "nowhere"}), {"project": ["Invalid project"]}),
        (payload(WITHOUT_PROJECT), {"project": ["This field is required."]}),
    ],
)
def test_alerts_without_a_known_project_are_accepted_and_then_rejected(
    gateway: Gateway, busy_worker: Worker, body: Any, errors: Any
) -> None:
    assert outcome(gateway, body) == ("rejected", 400, errors)


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        (payload(version="3"), {"version": [UNKNOWN_VERSION]}),
        (payload_without(FIRING, "groupKey"), {"groupKey": ["This field is required."]}),
        (payload(alerts=[{"status": 1}]), {"alerts": {"0": {"status": ["Valid values: firing, resolved."]}}}),
        ([payload()], {"non_field_errors": ["Invalid data. Expected a dictionary, but got list."]}),
    ],
)
def test_a_payload_that_alertmanager_never_sends_is_refused_with_the_invalid_fields(
    gateway: Gateway, ledger: Engine, body: Any, errors: Any
) -> None:
    response = gateway.post(ALERTS, body, by="dev-bot")

    assert (response.status_code, response.json()) == (400, errors)
    assert accepted_count(ledger) == 0


def test_a_problem_document_points_to_the_invalid_alert(gateway: Gateway) -> None:
    response = gateway.post(
        ALERTS, payload(alerts=[{"status": "off"}]), by="dev-bot", Accept="application/problem+json"
    )

    [error] = response.json()["errors"]
    assert (response.status_code, error["pointer"]) == (400, "#/alerts/0/status")


@pytest.mark.parametrize("body", [payload(), {"version": "3"}], ids=["valid body", "invalid body"])
@pytest.mark.parametrize(
    ("by", "headers"),
    [
        ("dev-own", {}),
        ("dev-mem", {}),
        ("dev-key", {}),
        ("dev-reader", {}),
        ("dev-bot", {"Act_As": "user:13"}),
        ("dev-ops", {}),
    ],
)
def test_only_a_service_that_has_the_scope_and_acts_as_itself_may_post(
    gateway: Gateway, ledger: Engine, by: str, headers: dict[str, str], body: Any
) -> None:
    response = gateway.post(ALERTS, body, by=by, **headers)

    assert (response.status_code, response.json()) == (403, FORBIDDEN)
    assert accepted_count(ledger) == 0


def test_the_bulk_endpoint_requires_the_same_permission(gateway: Gateway, busy_worker: Worker) -> None:
    item = {"type": "alertmanager.receive", "dedupKey": GROUP_KEY, "state": "firing", "title": "Slow", "project": "p1"}

    by_a_person = gateway.post(COMMANDS, {"commands": [item]}, by="dev-own")
    by_a_program = gateway.post(COMMANDS, {"commands": [item]}, by="dev-bot", Prefer="wait=20")

    assert (by_a_person.status_code, by_a_person.json()) == (403, FORBIDDEN)
    assert by_a_program.json()["commands"][0]["outcome"]["status"] == 201


def test_a_missing_token_is_401_and_a_missing_feature_is_404(gateway: Gateway, ledger: Engine) -> None:
    without_token = gateway.post(ALERTS, payload(), by=None)
    with ledger.begin() as connection:
        connection.exec_driver_sql("UPDATE organizations SET features = '{}' WHERE slug = 'acme'")
    without_feature = gateway.post(ALERTS, {"version": "3"}, by="dev-bot")
    reading = gateway.get(ALERTS, by="dev-mem")

    assert (without_token.status_code, without_feature.status_code, without_feature.json()) == (401, 404, NOT_FOUND)
    assert (reading.status_code, reading.json()) == (405, {"detail": 'Method "GET" not allowed.'})


def test_an_idempotency_key_replays_the_first_response(gateway: Gateway, ledger: Engine) -> None:
    first, again = (gateway.post(ALERTS, payload(), by="dev-bot", Idempotency_Key="k") for _ in range(2))
    other = gateway.post(ALERTS, payload(RESOLVED), by="dev-bot", Idempotency_Key="k")

    assert first.json() == again.json()
    assert ("idempotent-replayed" in first.headers, again.headers["idempotent-replayed"]) == (False, "true")
    assert (other.status_code, accepted_count(ledger)) == (422, 1)


def test_a_group_of_thousands_of_alerts_is_one_command(gateway: Gateway, busy_worker: Worker) -> None:
    [alert] = payload()["alerts"]
    alerts = [alert | {"labels": alert["labels"] | {"instance": f"web-{number}"}} for number in range(3_000)]

    state, status, body = outcome(gateway, payload(alerts=alerts))

    assert (state, status, body["identifier"]) == ("applied", 201, "2")


def test_a_body_above_eight_mebibytes_is_413(gateway: Gateway) -> None:
    response = gateway.post(ALERTS, payload(padding="x" * 8 * 1024 * 1024), by="dev-bot")

    assert (response.status_code, response.json()) == (
        413, {"detail": "The request body may not exceed 8388608 bytes."},
    )  # fmt: skip


def test_an_unavailable_database_is_503_with_retry_after(
    acme: object, settings: Callable[..., GatewaySettings]
) -> None:
    with running_gateway(settings(DATABASE_URL="postgresql://nobody@127.0.0.1:9/nowhere"), Timeouts()) as gateway:
        response = gateway.post(ALERTS, payload(), by="dev-bot")

    assert (response.status_code, response.headers["retry-after"]) == (503, "1")


def test_a_source_and_a_default_project_come_from_the_query(gateway: Gateway, busy_worker: Worker) -> None:
    with gateway.client("dev-bot", Prefer="wait=20") as client:
        eu, us = (
            client.post(f"{ALERTS}?source={name}&project=p2", json=payload(WITHOUT_PROJECT)) for name in ("eu", "us")
        )

    incidents = [response.json()["commands"][0]["outcome"]["body"] for response in (eu, us)]
    assert [incident["projects"] for incident in incidents] == [["p2"], ["p2"]]
    assert incidents[0]["identifier"] != incidents[1]["identifier"]


GRAFANA = {
    "orgId": 1,
    "title": "[FIRING:1] HighLatency (p1)",
    "state": "alerting",
    "message": "**Firing**",
}
GRAFANA_ALERT = {
    "silenceURL": "https://grafana.example/alerting/silence/new",
    "dashboardURL": "",
    "panelURL": "",
    "values": {"A": 3.5, "C": None},
    "valueString": "[ var='A' labels={} value=3.5 ]",
}


def test_grafana_opens_and_closes_an_incident(gateway: Gateway, busy_worker: Worker) -> None:
    bodies = [payload(name, version="1", **GRAFANA) for name in (FIRING, RESOLVED)]
    for alert in (alert for body in bodies for alert in body["alerts"]):
        alert.update(GRAFANA_ALERT)
    with gateway.client("dev-bot", Prefer="wait=20, handling=strict") as grafana:
        opened, closed = (grafana.post(ALERTS, json=body) for body in bodies)

    assert [response.json()["commands"][0]["outcome"]["status"] for response in (opened, closed)] == [201, 200]
    assert closed.json()["commands"][0]["outcome"]["body"]["status"] == 2


@pytest.mark.parametrize(("stale", "seconds"), [("13h", 46_800), ("1d12h", 129_600), ("90s", 90), ("", None)])
def test_the_query_says_when_alerts_are_stale(
    gateway: Gateway, ledger: Engine, stale: str, seconds: int | None
) -> None:
    response = gateway.post(f"{ALERTS}?stale={stale}", payload(), by="dev-bot")

    assert response.status_code == 202
    with ledger.connect() as connection:
        assert connection.execute(select(commands.c.payload["stale_seconds"])).scalar() == seconds


@pytest.mark.parametrize("query", [f"stale={each}" for each in ("x", "13", "59s", "31d", "1h1d", "0h", "99999999d")])
def test_an_impossible_staleness_is_refused(gateway: Gateway, ledger: Engine, query: str) -> None:
    response = gateway.post(f"{ALERTS}?{query}", payload(), by="dev-bot")

    assert (response.status_code, response.json()) == (
        400, {"stale": ["Send a duration from 1m to 30d, such as 13h or 1h30m."]},
    )  # fmt: skip
    assert accepted_count(ledger) == 0


@pytest.mark.parametrize("query", ["source=", "source=a:b", f"source={'x' * 65}", "project=%00"])
def test_an_invalid_source_or_default_project_is_refused(gateway: Gateway, ledger: Engine, query: str) -> None:
    response = gateway.post(f"{ALERTS}?{query}", payload(), by="dev-bot")

    assert (response.status_code, list(response.json())) == (400, [query.partition("=")[0]])
    assert accepted_count(ledger) == 0


def test_a_truncated_group_without_firing_alerts_is_accepted_without_a_command(
    gateway: Gateway, ledger: Engine
) -> None:
    response = gateway.post(ALERTS, payload(RESOLVED, truncatedAlerts=2), by="dev-bot")

    assert (response.status_code, response.json()) == (202, {"commands": []})
    assert accepted_count(ledger) == 0


def test_above_the_rate_limit_alertmanager_gets_503_instead_of_429(
    acme: object, settings: Callable[..., GatewaySettings]
) -> None:
    with running_gateway(settings(rate=1)) as gateway:
        responses = [gateway.post(ALERTS, payload(), by="dev-bot") for _ in range(8)]

    refused = [response for response in responses if response.status_code != 202]
    assert {response.status_code for response in refused} == {503}
    assert all(int(response.headers["retry-after"]) >= 1 for response in refused)
