"""The OpenAPI document, the documentation pages, and problem documents."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR
from sqlalchemy.engine import Engine
from starlette.routing import Mount, Route

from gateway.main import ENDPOINTS
from gateway.ops.console.routes import PAGES as OPS_PAGES
from gateway.ops.login import PAGES as OPS_LOGIN_PAGES
from gateway.pages.routes import PAGES
from models.alert_rules.alert_rule import Action, Trigger
from models.alert_rules.enums import ActionType, TargetType
from models.operations.dead import DeadSelection
from models.operations.holds import place_hold
from models.operations.requeue import start_requeue
from models.permissions import CHAT_DESTINATIONS, WEBHOOKS
from tasks.commands.catalog import CATALOG
from tests.builders import NOW, an_alert_rule
from tests.handlers.acme import Acme
from tests.http.gateway_server import (
    A_COMMENT,
    ACME,
    CHAT_DELIVERY,
    COMMANDS,
    COMMENTS,
    DELIVERY,
    DESTINATION,
    WEBHOOK,
    Gateway,
    Worker,
)
from tests.http.test_notifications import a_decision, a_notification

PROBLEM = "application/problem+json"


def test_no_schema_has_a_list_or_an_object_as_a_field_of_its_own_name(gateway: Gateway) -> None:
    schemas = gateway.get("/openapi.json", by=None).json()["components"]["schemas"]

    own = {
        name: schema["properties"][name.lower()]
        for name, schema in schemas.items()
        if name.lower() in schema.get("properties", ())
    }
    assert [name for name, field in own.items() if field.get("type") not in ("string", "integer")] == []


def test_the_openapi_document_lists_everything_except_the_pages(gateway: Gateway) -> None:
    document = gateway.get("/openapi.json", by=None).json()

    served = {route.path for route in gateway.app.routes if isinstance(route, Route)}
    mounted = {route.path for route in gateway.app.routes if isinstance(route, Mount)}
    assert all(isinstance(route, Route | Mount) for route in gateway.app.routes)
    assert set(document["paths"]) == served - {"/", *PAGES, *OPS_LOGIN_PAGES, *OPS_PAGES}
    assert mounted == {"/docs/files", "/pages/files", "/ops/files"}
    assert document["openapi"].startswith("3.1")
    for endpoint in ENDPOINTS:
        methods = {name.upper() for name in document["paths"][endpoint.path] if name != "parameters"}
        assert methods == set(endpoint.operations)


def test_the_document_is_valid_openapi_3_1(gateway: Gateway) -> None:
    document = gateway.get("/openapi.json", by=None).json()

    OPENAPI_31_VALIDATOR.validate(document)
    operations = [each for path in document["paths"].values() for name, each in path.items() if name != "parameters"]
    names = {each["operationId"] for each in operations}
    assert len(names) == len(operations) > sum(len(endpoint.operations) for endpoint in ENDPOINTS)


def test_an_event_stream_matches_the_openapi_document(gateway: Gateway) -> None:
    document = gateway.get("/openapi.json", by=None).json()

    with gateway.client() as client, client.stream("GET", f"{ACME}/events/") as response:
        described = document["paths"]["/api/0/organizations/{organization}/events/"]["get"]["responses"]["200"]

    assert response.headers["content-type"] in described["content"]
    always = {name.lower(): header for name, header in described["headers"].items() if header["required"]}
    constant = {name: header["schema"]["const"] for name, header in always.items() if "const" in header["schema"]}
    assert {name: response.headers[name] for name in constant} == constant
    assert set(response.headers) == {"content-type", "date", "transfer-encoding", *always}


def test_every_reference_in_the_openapi_document_resolves(gateway: Gateway) -> None:
    document = gateway.get("/openapi.json", by=None).json()

    def references(part: Any) -> Iterator[str]:
        if isinstance(part, dict):
            yield from ([part["$ref"]] if "$ref" in part else [])
        for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
            yield from references(inner)

    for reference in set(references(document)):
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]


@pytest.mark.usefixtures("webhook_deliveries")
def test_responses_have_the_documented_fields(
    gateway: Gateway, busy_worker: Worker, ledger: Engine, acme: Acme
) -> None:
    document = gateway.get("/openapi.json", by=None).json()
    rule = an_alert_rule_of_incident_1(ledger, acme)
    gateway.post(COMMENTS, A_COMMENT | {"mentions": ["ana"]})
    command = gateway.post(COMMENTS, A_COMMENT, Prefer="respond-async").json()["id"]
    value = {"project": "p1", "value": 101, "timestamp": "2026-11-23T10:00:00Z"}
    gateway.post(f"{ACME}/alert-rules/{rule}/observations/", value)

    with ledger.begin() as connection:
        place_hold(connection, scope="queue", target="bulk", reason="x", by="ops", known_types=frozenset(CATALOG))
        operation = start_requeue(connection, DeadSelection(all=True), reason="x", by="ops")["id"]

    a_decision(ledger, a_notification(ledger, comment="Mem?", user=11), user=11)
    [item] = gateway.get(f"{ACME}/notifications/").json()

    for endpoint in ENDPOINTS:
        if "GET" not in endpoint.operations or endpoint.operations["GET"].is_stream:
            continue
        names = {"project": "p1", "rule": rule, "trigger": 7, "action": 8, "notification": item["id"]}
        is_chat = endpoint.permission is CHAT_DESTINATIONS
        names |= {"webhook": WEBHOOK, "destination": DESTINATION, "delivery": CHAT_DELIVERY if is_chat else DELIVERY}
        names |= {"operation": operation}
        path = endpoint.path.format(organization="acme", identifier="1", command=command, **names)
        path += "?organization=acme&incident=1&user=mem" if path.endswith("/ops/api/explain/") else ""
        is_managed = endpoint.permission in (WEBHOOKS, CHAT_DESTINATIONS)
        caller = "dev-own" if is_managed else "dev-ops" if endpoint.ops_role else "dev-mem"
        response = gateway.get(path, by=caller).json()
        schema = document["paths"][endpoint.path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        for each in response if "items" in schema else [response]:
            check_against_schema(each, schema.get("items", schema), document)


def an_alert_rule_of_incident_1(ledger: Engine, acme: Acme) -> int:
    """Insert a rule with trigger 7 and action 8, and make incident 1 belong to it; return the rule's id."""
    action = Action(id=8, type=ActionType.EMAIL, target_type=TargetType.USER, target="12", date_added=NOW)
    trigger = Trigger(id=7, label="critical", threshold=100.0, date_added=NOW, actions=(action,))
    organization, project = acme.organizations["acme"], acme.projects["acme", "p1"]
    with ledger.begin() as connection:
        rule = an_alert_rule(connection, organization, projects=[project], triggers=[trigger], created_by=11)
        connection.exec_driver_sql(
            "UPDATE incidents SET alert_rule_id = %s, alert_rule_generation = 1 WHERE organization_id = %s",
            (rule, organization),
        )
    return rule


def check_against_schema(value: Any, schema: Any, document: Any) -> None:
    """Assert, recursively, that the value has all required fields and no undocumented ones."""
    if "$ref" in schema:
        return check_against_schema(
            value, document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], document
        )
    if "anyOf" in schema and value is not None:
        return check_against_schema(value, schema["anyOf"][0], document)
    if schema.get("required"):
        assert set(schema["required"]) <= set(value) <= set(schema["properties"])
        for name in value:
            check_against_schema(value[name], schema["properties"][name], document)
    if "pattern" in schema and value is not None:
        assert re.search(schema["pattern"], value)
    if "enum" in schema:
        assert value in schema["enum"]
    return None


def test_the_documentation_pages_load_only_local_files(gateway: Gateway) -> None:
    page = gateway.get("/docs", by=None)

    files = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(files) == 4
    assert all(file.startswith("docs/files/") for file in files)
    assert {gateway.get(f"/{file}", by=None).status_code for file in files} == {200}
    assert "<script>" not in page.text
    assert "script-src 'self'" in page.headers["content-security-policy"]


def test_version_and_metrics_need_no_token(gateway: Gateway) -> None:
    gateway.post(COMMENTS, A_COMMENT, Prefer="respond-async")

    assert gateway.get("/version", by=None).json()["name"] == "tocsin"
    assert 'tocsin_commands_accepted_total{type="comment.post"} 1.0' in gateway.get("/metrics", by=None).text


@pytest.mark.parametrize(
    ("method", "path", "request_", "expected"),
    [
        ("GET", "/api/0/nothing/", {}, (404, "Not Found", "not_found", "The requested resource does not exist", [])),
        (
            "POST", COMMENTS, {"json": {"comment": "", "mentions": 1}},
            (400, "Bad Request", "bad_request", "The request has invalid fields; errors lists them.", [
                {"pointer": "#/comment", "detail": "This field may not be blank."},
                {"pointer": "#/mentions", "detail": 'Expected a list of items but got type "int".'},
            ]),
        ),
        (
            "POST", COMMANDS, {"json": {"commands": [{"type": "comment.post", "incident": 1}]}},
            (400, "Bad Request", "bad_request", "The request has invalid fields; errors lists them.", [
                {"pointer": "#/commands/0/comment", "detail": "This field is required."},
            ]),
        ),
        (
            "POST", COMMENTS, {"json": [1]},
            (400, "Bad Request", "bad_request", "The request has invalid fields; errors lists them.", [
                {"pointer": "#", "detail": "Invalid data. Expected a dictionary, but got list."},
            ]),
        ),
        (
            "GET", f"{ACME}/", {"headers": {"Origin": "https://evil.test"}},
            (400, "Bad Request", "bad_request", "Invalid origin: https://evil.test", []),
        ),
        ("PUT", COMMENTS, {}, (405, "Method Not Allowed", "method_not_allowed", 'Method "PUT" not allowed.', [])),
    ],
)  # fmt: skip
def test_errors_are_problem_documents_on_request(
    gateway: Gateway, method: str, path: str, request_: Any, expected: tuple[int, str, str, str, Any]
) -> None:
    with gateway.client(Accept=f"application/json;q=0.5, {PROBLEM}") as client:
        response = client.request(method, path, **request_)

    status, title, code, detail, errors = expected
    assert (response.status_code, response.headers["content-type"]) == (status, PROBLEM)
    assert response.json() == {
        "type": "about:blank", "title": title, "status": status, "detail": detail, "code": code, "errors": errors,
    }  # fmt: skip


def test_a_refusal_by_the_worker_is_also_returned_as_a_problem_document(gateway: Gateway, busy_worker: Worker) -> None:
    response = gateway.post(COMMENTS, A_COMMENT | {"mentions": ["nobody"]}, Accept=PROBLEM)

    assert (response.status_code, response.headers["content-type"]) == (400, PROBLEM)
    assert [error["pointer"] for error in response.json()["errors"]] == ["#/mentions/0"]
    assert response.headers["command-id"]


def test_a_problem_document_is_not_sent_if_its_quality_value_is_zero(gateway: Gateway) -> None:
    response = gateway.get("/api/0/nothing/", Accept=f"{PROBLEM};q=0, */*")

    assert response.headers["content-type"] == "application/json"
