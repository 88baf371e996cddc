"""The form of requests that the OpenAPI document recommends: what may be left out, and what that means."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import pytest

from gateway.main import ENDPOINTS
from gateway.openapi.document import build_document
from tests.http.gateway_server import ACME, COMMANDS, COMMENTS, Gateway, Worker
from tests.rule_bodies import CRITICAL, RULE

DOCUMENT: Final[Any] = json.loads(json.dumps(build_document(ENDPOINTS)))
SCHEMAS: Final = DOCUMENT["components"]["schemas"]
PROJECT_RULES: Final = "/api/0/projects/acme/p1/alert-rules/"
PROJECT_RULE: Final = {name: each for name, each in RULE.items() if name != "projects"}
INCIDENT: Final = {"title": "Checkout answers slowly", "projects": ["p1"]}


class Request(NamedTuple):
    """A request with all required fields and no other. ``path`` may contain the id of a rule as ``{rule}``."""

    path: str
    body: dict[str, Any]


MINIMAL: Final = {
    "PostComment": Request(COMMENTS, {"comment": "Hello"}),
    "OpenIncident": Request(f"{ACME}/incidents/", INCIDENT),
    "CreateRule": Request(f"{ACME}/alert-rules/", RULE),
    "CreateProjectRule": Request(PROJECT_RULES, PROJECT_RULE),
    "TriggerBody": Request(f"{ACME}/alert-rules/", RULE),
    "CreateTrigger": Request(f"{ACME}/alert-rules/{{rule}}/triggers/", {"label": "warning", "alertThreshold": 50}),
    "PostCommentItem": Request(COMMANDS, {"type": "comment.post", "incident": "1", "comment": "Hello"}),
    "OpenIncidentItem": Request(COMMANDS, {"type": "incident.open", **INCIDENT}),
    "CreateRuleItem": Request(COMMANDS, {"type": "alert_rule.create", **RULE}),
}
CHANGING: Final = re.compile(
    r'"(id|identifier|alertRuleId|alertRuleTriggerId|lastSeen|acceptedAt|finishedAt|date[A-Z]\w+)":"?[^",}]*"?'
)


def fields_that_may_be_left_out() -> Iterator[tuple[str, str, Any]]:
    """Yield each optional field of a body with the value that, by the document, means the same as leaving it out."""
    for name in MINIMAL:
        schema = SCHEMAS[name]
        for field in set(schema["properties"]) - set(schema["required"]) - {"idempotencyKey", "ifVersion", "id"}:
            described = schema["properties"][field]
            if found := re.search(r"Default: (.+)\.$", described.get("description", "")):
                yield name, field, json.loads(found[1])
            elif described["type"] == "array" and "minItems" not in described:
                yield name, field, []
            elif "null" in described["type"]:
                yield name, field, None


LEFT_OUT: Final = sorted(fields_that_may_be_left_out(), key=str)


def test_no_request_has_a_default_a_title_or_a_type_that_generators_misread() -> None:
    for schema in schemas_of(SCHEMAS):
        assert "default" not in schema, schema
        assert "title" not in schema, schema
        assert schema.get("type") != "null" or schema == {"type": "null"}, schema
        assert not ("const" in schema and "type" not in schema), schema
        assert not ("enum" in schema and "type" not in schema), schema
        assert not any(word.startswith("x-") for word in schema), schema
    fields = [each for schema in SCHEMAS.values() for each in schema.get("properties", {}).values()]
    assert {"type": "null"} not in fields


def schemas_of(part: Any) -> Iterator[dict[str, Any]]:
    """Yield each schema in a map of schemas, and those nested in it."""
    for schema in part.values():
        yield schema
        yield from schemas_of(schema.get("properties", {}))
        inner = [schema[word] for word in ("items", "additionalProperties") if isinstance(schema.get(word), dict)]
        inner += [each for word in ("anyOf", "oneOf") for each in schema.get(word, ())]
        yield from schemas_of(dict(enumerate(inner)))


@pytest.mark.parametrize(("name", "field", "value"), LEFT_OUT, ids=lambda value: str(value) if value != "" else "blank")
def test_the_default_of_a_field_may_be_sent_and_means_the_same_as_leaving_it_out(
    gateway: Gateway, busy_worker: Worker, name: str, field: str, value: Any
) -> None:
    path, body = MINIMAL[name]
    with_default = body | {field: value}
    if name == "TriggerBody":
        with_default = body | {"triggers": [CRITICAL | {field: value}]}

    without, sent = send(gateway, path, body), send(gateway, path, with_default)

    assert sent == without


def send(gateway: Gateway, path: str, body: Any) -> str:
    """Send a request and wait for its outcome; return the response without what differs each time."""
    if "{rule}" in path:
        path = path.format(rule=gateway.post(f"{ACME}/alert-rules/", RULE, by="dev-own").json()["id"])
    is_bulk = path == COMMANDS
    response = gateway.post(path, {"commands": [body]} if is_bulk else body, by="dev-own", Prefer="wait=30")
    assert response.status_code == (200 if is_bulk else 201), response.text
    if is_bulk:
        assert response.json()["commands"][0]["status"] == "applied", response.text
    return CHANGING.sub("", response.text)
