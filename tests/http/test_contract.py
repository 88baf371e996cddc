"""The OpenAPI document is correct: valid requests are accepted, invalid ones refused, and responses documented.

schemathesis generates requests from the document (boundary values, random values, sequences along links), sends them
to a running gateway and checks every response against it, with all of its checks and one of ours. The document is the
one that allows exactly what is accepted: the published one only recommends a part of that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import pytest

from gateway.http.responses import encode_json
from gateway.main import ENDPOINTS
from gateway.openapi.document import Form, build_document
from tests.http.fuzz_settings import SEED, TIMES
from tests.http.gateway_server import CHAT_DELIVERY, DELIVERY, DESTINATION, RULES, WEBHOOK, Gateway
from tests.http.hostile_requests import STREAM
from tests.http.schemathesis_runner import Findings, make_config, run_schemathesis

CHAT_URLS: Final = [
    "mmosts://93.184.215.14/3ccdd113474722377935511fc85d3dd4",
    "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ",
]
MAX_STEPS: Final = 10
EXAMPLES: Final = 10
ROUNDS: Final = 20

EXISTING: Final = {
    "identifier": "1",
    "project": "p1",
    "rule": "1",
    "trigger": "1001",
    "action": "1002",
    "webhook": str(WEBHOOK),
    "delivery": str(DELIVERY),
    "destination": str(DESTINATION),
    "hold": "1",
    "operation": "1",
}
PEOPLE: Final = ["ana", "user:12", "ben@x.test", "team:21", "13"]
KNOWN: Final[dict[str, list[Any]]] = {
    "body.projects[*]": ["p1", "p2"],
    "body.project": ["p1"],
    "body.mentions[*]": PEOPLE,
    "body.owner": PEOPLE,
    "body.aggregate": ["count()", "count_unique(user)"],
    "body.url": ["https://93.184.215.14/hook"],
    "body.events[*]": ["*", "incident.*", "command.dead"],
    "body.commands[*].projects[*]": ["p1", "p2"],
    "body.commands[*].mentions[*]": PEOPLE,
    "body.commands[*].incident": ["1", 1],
    "body.commands[*].alertRule": ["1", 1],
    "query.from": ["2026-11-23T10:00:00Z"],
    "query.to": ["2026-11-23T10:00:00Z"],
    **{f"path.{word}": [value] for word, value in EXISTING.items()},
}
"""Values that exist, by their location in a request."""

OWN_RULES: Final[dict[str, dict[str, str]]] = {
    "update_rule": {"rule": "2"},
    "update_project_rule": {"rule": "2"},
    "delete_rule": {"rule": "3"},
    "delete_project_rule": {"rule": "4"},
    "create_trigger": {"rule": "5"},
    "update_trigger": {"rule": "5", "trigger": "5001"},
    "delete_trigger": {"rule": "6", "trigger": "6001"},
    "create_action": {"rule": "7", "trigger": "7001"},
    "update_action": {"rule": "7", "trigger": "7001", "action": "7002"},
    "delete_action": {"rule": "8", "trigger": "8001", "action": "8002"},
    "update_webhook": {"webhook": str(WEBHOOK + 1)},
    "delete_webhook": {"webhook": str(WEBHOOK + 2)},
    "update_destination": {"destination": str(DESTINATION + 1)},
    "delete_destination": {"destination": str(DESTINATION + 2)},
    "read_chat_delivery": {"delivery": str(CHAT_DELIVERY)},
}
"""Path parameters by operation. Operations that change a rule have their own rules, so that others stay unchanged."""

# With random names nearly all responses would be 403 or 404.
NARROWED: Final[dict[tuple[str, str], dict[str, Any]]] = {
    ("path", "organization"): {"enum": ["acme"]},
    ("header", "Act-As"): {"enum": ["user:11"]},
    # schemathesis cannot generate boundary values for a pattern with quotation marks.
    ("header", "If-Match"): {"enum": ["*", '"1"', '"1-0a"']},
    ("query", "mentions"): {"items": {"enum": PEOPLE}},
    ("query", "projectSlug"): {"items": {"enum": ["p1", "p2", "$all"]}},
}
NARROWED_OBSERVATIONS: Final = {("query", "project"): {"items": {"enum": ["p1"]}}}

EQUIVALENTS: Final = {
    "create_project_rule": "create_rule",
    "update_project_rule": "create_rule",
    "update_rule": "create_rule",
    "update_trigger": "create_trigger",
    "update_action": "create_action",
}
"""Operations with the same body constraints as another operation; only valid boundary values are sent to them."""

BULK_COMMANDS: Final = {"comment.post", "incident.open", "notification.read"}


def accepted_document() -> Any:
    """Return the OpenAPI document in the form that allows exactly what is accepted.

    Without the example of strict handling, with which fields that the document does not name would be refused.
    """
    document = json.loads(encode_json(build_document(ENDPOINTS, form=Form.ACCEPTED)))
    operations = [each for path in document["paths"].values() for name, each in path.items() if name != "parameters"]
    for parameter in (parameter for each in operations for parameter in each.get("parameters", ())):
        if parameter["name"] == "Prefer":
            parameter["schema"]["examples"].remove("handling=strict")
    return document


class Caller(NamedTuple):
    """A caller's token and minimum number of requests.

    ``boundaries`` matches the operations, by tag and path, that receive boundary values; ``examples`` is the number of
    random requests for each operation.
    """

    token: str
    requests: int
    boundaries: str = ""
    examples: int = 0
    acts_for: bool = False
    may_follow: bool = True


CALLERS: Final = {
    "owner: alert rules": Caller("dev-own", 1_150, r"alert rules (?!.*/(triggers|snooze|observations)/)"),
    "owner: triggers": Caller("dev-own", 800, r"alert rules .*/triggers/"),
    "owner: incidents": Caller("dev-own", 900, r"incidents "),
    "owner: the rest": Caller(
        "dev-own", 850, r"alert rules .*/(snooze|observations)/|(commands|health|notifications|organizations|webhooks) "
    ),
    "owner: chat destinations": Caller("dev-own", 200, r"chat destinations "),
    "service: alertmanager": Caller("dev-bot", 170, r"integrations ", acts_for=True),
    "service": Caller("dev-bot", 200, examples=2, acts_for=True),
    "operator": Caller("dev-ops", 100, r"(directory|events) ", may_follow=False),
    "operator: operations": Caller("dev-ops", 400, r"operations "),
    "member": Caller("dev-mem", 220, examples=2),
    "API key": Caller("dev-key", 120, examples=1),
}


class LifeCycle(NamedTuple):
    """Operations along links from ``starts``, schemas that name existing resources, and a minimum of requests."""

    operations: frozenset[str]
    starts: frozenset[str]
    schemas: Mapping[str, Mapping[str, Any]]
    requests: int


_A_RULE: Final[dict[str, Any]] = {
    "aggregate": {"const": "count()"},
    "projects": {"const": ["p1"]},
    "thresholdType": {"const": 0},
    "timeWindow": {"enum": [1, 10]},
    "triggers": {"const": [{"label": "critical", "alertThreshold": 100}]},
    "resolveThreshold": {"enum": [None, 10]},
    "comparisonDelta": {"type": "null"},
    "dataset": {"const": "events"},
    "queryType": {"const": 0},
    "eventTypes": {"const": ["error"]},
    "owner": {"enum": [None, *PEOPLE]},
    "excludedProjects": {"const": []},
}
_A_WARNING: Final[dict[str, Any]] = {
    "label": {"const": "warning"},
    "alertThreshold": {"enum": [50, 60.5]},
    "excludedProjects": {"const": []},
    "actions": {"const": []},
}
_A_WEBHOOK: Final[dict[str, Any]] = {
    "url": {"enum": ["https://93.184.215.14/hook", "https://93.184.215.14/other"]},
    "events": {"type": "array", "items": {"enum": ["*", "incident.*", "command.dead"]}, "minItems": 1},
}
LIFE_CYCLES: Final = {
    "incident": LifeCycle(
        operations=frozenset({
            "open_incident", "read_incident", "mark_seen", "close_incident", "list_activity", "list_subscribers",
            "subscribe", "unsubscribe", "post_comment", "edit_comment", "delete_comment", "read_command",
        }),
        starts=frozenset({"open_incident", "post_comment", "subscribe"}),
        schemas={
            "OpenIncident": {
                "projects": {"type": "array", "items": {"enum": ["p1", "p2"]}, "minItems": 1},
                "alertRule": {"type": "null"},
            },
            "PostComment": {"mentions": {"type": "array", "items": {"enum": PEOPLE}}},
            "EditComment": {"mentions": {"type": "array", "items": {"enum": PEOPLE}}},
        },
        requests=170,
    ),
    "alert rule": LifeCycle(
        operations=frozenset({
            "create_rule", "read_rule", "update_rule", "delete_rule", "observe_metric", "list_observations",
            "snooze_rule", "unsnooze_rule", "read_command",
        }),
        starts=frozenset({"create_rule", "observe_metric"}),
        schemas={
            "CreateRule": _A_RULE,
            "UpdateRule": _A_RULE,
            "ObserveMetric": {"project": {"const": "p1"}, "value": {"enum": [1, 70, 1000.5]}},
        },
        requests=170,
    ),
    "trigger": LifeCycle(
        operations=frozenset({
            "create_rule", "list_triggers", "create_trigger", "read_trigger", "update_trigger", "delete_trigger",
            "list_actions", "create_action", "read_action", "update_action", "delete_action", "read_command",
        }),
        starts=frozenset({"create_rule", "create_trigger", "create_action"}),
        schemas={
            "CreateRule": _A_RULE,
            "CreateTrigger": _A_WARNING,
            "UpdateTrigger": _A_WARNING,
        },
        requests=170,
    ),
    "webhook": LifeCycle(
        operations=frozenset({
            "create_webhook", "read_webhook", "update_webhook", "rotate_secret", "send_test_event", "list_deliveries",
            "delete_webhook", "read_command",
        }),
        starts=frozenset({"create_webhook"}),
        schemas={"CreateWebhook": _A_WEBHOOK, "UpdateWebhook": _A_WEBHOOK},
        requests=100,
    ),
}  # fmt: skip


def operations_of(document: Any) -> Iterator[tuple[Any, str, Any]]:
    """Yield every operation with its path item and method."""
    for path in document["paths"].values():
        yield from [(path, method, each) for method, each in path.items() if method != "parameters"]


def names_of(document: Any) -> list[str]:
    """Return the id of every operation, which is empty for operations that need no token."""
    return [operation.get("operationId", "") for _, _, operation in operations_of(document)]


def labels_of(document: Any, *, excluding: str = "") -> list[str]:
    """Return schemathesis' labels for the operations whose tag and path do not match ``excluding``."""
    return [
        f"{method.upper()} {address}"
        for address, path in document["paths"].items()
        for method, operation in path.items()
        if method != "parameters" and not (excluding and re.match(excluding, f"{operation['tags'][0]} {address}"))
    ]


def use_existing_resources(document: Any, caller: Caller) -> None:
    """Restrict requests to existing resources and to the caller's own headers."""
    # A token needs no proof that the request comes from our own page.
    unused = {"X-CSRF-Token"} | (set() if caller.acts_for else {"Act-As"})
    for path, method, operation in operations_of(document):
        name = operation.get("operationId", "")
        known = NARROWED | {("path", word): {"examples": [value]} for word, value in path_parameters_of(name).items()}
        known |= NARROWED_OBSERVATIONS if name == "list_observations" else {}
        operation["parameters"] = [
            each | {"schema": each["schema"] | known.get((each["in"], each["name"]), {})}
            for each in [*path.get("parameters", []), *operation.get("parameters", [])]
            if each["name"] not in unused
            # An incident's number needs an organization, which a schema cannot say.
            and not (name in ("search_ledger", "list_all_deliveries") and each["name"] == "incident")
        ]
        if caller.may_follow and STREAM in operation["responses"].get("200", {}).get("content", {}):
            # A stream never ends. test_documentation.py reads the beginning of one.
            del path[method]
    for path in document["paths"].values():
        path.pop("parameters", None)
    # Which URLs are those of a service, a schema cannot say.
    for name, urls in {"CreateChatDestination": CHAT_URLS, "UpdateChatDestination": [*CHAT_URLS, None]}.items():
        document["components"]["schemas"][name]["properties"]["url"] = {"enum": urls}
    for each in document["components"]["schemas"]["PlaceHold"]["anyOf"]:
        if each["properties"]["scope"]["const"] == "organization":
            each["properties"]["target"] = {"const": "acme"}


def path_parameters_of(operation: str) -> dict[str, str]:
    """Return the path parameters of an operation."""
    return EXISTING | OWN_RULES.get(operation, {})


def own_rule_settings(**elsewhere: list[str]) -> list[dict[str, Any]]:
    """Return the settings that bind operations to their own rules; ``elsewhere`` replaces the rules by operation id."""
    return [
        {
            "include-operation-id": name,
            "parameters": {f"path.{word}": [value] for word, value in words.items()}
            | ({"path.rule": elsewhere[name]} if name in elsewhere else {}),
        }
        for name, words in OWN_RULES.items()
    ]


def limit_bulk_commands(document: Any) -> None:
    """Limit bulk requests to a few commands. Other commands' boundary values are covered by their own endpoints."""
    items = document["components"]["schemas"]["CommandRequest"]["properties"]["commands"]["items"]
    items["oneOf"] = [each for each in items["oneOf"] if each["properties"]["type"]["const"] in BULK_COMMANDS]


def limit_to_life_cycle(document: Any, cycle: LifeCycle) -> None:
    """Remove all operations outside the life cycle, and restrict schemas to existing resources."""
    for path, method, operation in operations_of(document):
        # Each step waits for its outcome: an accepted command has not been applied yet.
        operation["parameters"] = [each for each in operation["parameters"] if each["name"] != "Prefer"]
        if operation.get("operationId") not in cycle.operations:
            del path[method]
        elif operation["operationId"] not in cycle.starts:
            # The links of this operation would start sequences about resources that do not exist.
            operation["responses"] = {status: {**each, "links": {}} for status, each in operation["responses"].items()}
        else:
            for each in operation["responses"].values():
                links = each.get("links", {})
                each["links"] = {name: link for name, link in links.items() if link["operationId"] in cycle.operations}
    for name, fields in cycle.schemas.items():
        document["components"]["schemas"][name]["properties"] |= fields


@pytest.mark.slow
@pytest.mark.timeout(600 * TIMES)
@pytest.mark.usefixtures("busy_worker", "rules", "webhook_deliveries")
@pytest.mark.parametrize("name", CALLERS)
def test_every_response_matches_the_openapi_document(unlimited_gateway: Gateway, name: str) -> None:
    caller = CALLERS[name]
    document = accepted_document()
    use_existing_resources(document, caller)
    operations = own_rule_settings()
    phases: dict[str, Any]
    if caller.boundaries or TIMES == 1:
        limit_bulk_commands(document)
    if caller.boundaries:
        phases = {"coverage": {"enabled": True}}
        if TIMES == 1:
            allowed = {"coverage": {"generation": {"mode": "positive"}}}
            operations.append({"phases": allowed, "include-operation-id": list(EQUIVALENTS)})
        operations.append({"include-name": labels_of(document, excluding=caller.boundaries), "enabled": False})
    else:
        fuzzing = {"generation": {"max-examples": caller.examples * TIMES}}
        phases = {"examples": {"enabled": True}, "fuzzing": fuzzing}

    findings = Findings()
    run_schemathesis(unlimited_gateway, document, make_config(caller.token, phases, KNOWN, operations), findings)

    findings.assert_valid(min_requests=caller.requests)
    if caller.examples:
        assert findings.statuses.keys() >= {name for name in names_of(document) if name}


@pytest.mark.slow
@pytest.mark.timeout(600 * TIMES)
@pytest.mark.usefixtures("busy_worker", "rules")
@pytest.mark.parametrize("name", LIFE_CYCLES)
def test_each_resources_life_cycle_can_be_followed_through_openapi_links(unlimited_gateway: Gateway, name: str) -> None:
    cycle = LIFE_CYCLES[name]
    document = accepted_document()
    use_existing_resources(document, CALLERS["member"])
    limit_to_life_cycle(document, cycle)
    generation = {"mode": "positive", "max-examples": EXAMPLES * TIMES}
    stateful = {
        "max-steps": MAX_STEPS,
        "inference": {"algorithms": []},
        "link-calibration": False,
        "generation": generation,
    }
    # A second trigger can be added to each rule only once.
    operations = own_rule_settings(create_trigger=[str(rule) for rule in RULES])
    findings = Findings()

    # Hypothesis ends a round when a repeated step has a different result, as happens with stored state.
    for round_number in range(ROUNDS):
        seed = SEED * ROUNDS + round_number
        run_schemathesis(
            unlimited_gateway,
            document,
            make_config("dev-own", {"stateful": stateful}, KNOWN, operations, seed=seed),
            findings,
        )
        if findings.succeeded == cycle.operations and findings.status_counts.total() >= cycle.requests:
            break

    findings.assert_valid(min_requests=cycle.requests)
    assert findings.succeeded == cycle.operations


def test_boundary_values_of_each_operation_are_tested_by_exactly_one_caller() -> None:
    document = accepted_document()
    covered = [
        operation
        for caller in CALLERS.values()
        if caller.boundaries
        for operation in set(labels_of(document)) - set(labels_of(document, excluding=caller.boundaries))
    ]
    assert sorted(covered) == sorted(labels_of(document))


def test_equivalent_operations_have_the_same_body_constraints() -> None:
    document = accepted_document()
    bodies = {
        operation["operationId"]: body_of(document, operation)
        for _, _, operation in operations_of(document)
        if "requestBody" in operation
    }
    for twin, other in EQUIVALENTS.items():
        same = constraints_of(bodies[twin])
        assert same.items() <= constraints_of(bodies[other]).items()
        assert set(bodies[twin].get("required", ())) <= set(bodies[other]["required"])


def body_of(document: Any, operation: Any) -> Any:
    """Return the schema of an operation's JSON body."""
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    return document["components"]["schemas"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def constraints_of(body: Any) -> dict[str, str]:
    """Return each field's constraints as text, without the minimum length of lists: an update may list no projects."""
    fields = body.get("properties", {"": body}).items()
    constraints = {
        name: {word: each[word] for word in each.keys() - {"description", "minItems"}} for name, each in fields
    }
    return {name: json.dumps(each, sort_keys=True) for name, each in constraints.items()}


def test_at_least_five_thousand_requests_are_made() -> None:
    total = sum(caller.requests for caller in CALLERS.values()) + sum(cycle.requests for cycle in LIFE_CYCLES.values())
    assert total >= 5_000
