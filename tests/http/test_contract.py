"""The OpenAPI file is true: what it allows is taken, what it forbids is refused, and what comes back is described.

schemathesis reads the file from a gateway that listens, makes requests of it (its borders, random ones, sequences
along its links) and holds every answer against it, with all of its checks and one of ours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import pytest

from tests.http.fuzz_settings import SEED, TIMES
from tests.http.gateway_server import RULES, Gateway
from tests.http.hostile_requests import STREAM
from tests.http.schemathesis_runner import Findings, make_config, run_schemathesis

MAX_STEPS: Final = 10
EXAMPLES: Final = 10
ROUNDS: Final = 20

EXISTING: Final = {"identifier": "1", "project": "p1", "rule": "1", "trigger": "1001", "action": "1002"}
PEOPLE: Final = ["ana", "user:12", "ben@x.test", "team:21", "13"]
KNOWN: Final[dict[str, list[Any]]] = {
    "body.projects[*]": ["p1", "p2"],
    "body.project": ["p1"],
    "body.mentions[*]": PEOPLE,
    "body.owner": PEOPLE,
    "body.aggregate": ["count()", "count_unique(user)"],
    "body.commands[*].projects[*]": ["p1", "p2"],
    "body.commands[*].mentions[*]": PEOPLE,
    "body.commands[*].incident": ["1", 1],
    "body.commands[*].alertRule": ["1", 1],
} | {f"path.{word}": [value] for word, value in EXISTING.items()}
"""What exists, where it is asked for."""

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
}
"""What addresses name. Changes have rules of their own, so that others find theirs as it was."""

# With made-up names nearly all requests would be 403 or 404.
NARROWED: Final[dict[tuple[str, str], dict[str, Any]]] = {
    ("path", "organization"): {"enum": ["acme"]},
    ("header", "Act-As"): {"enum": ["user:11"]},
    # A pattern with quotation marks in it is more than schemathesis can follow when it tries borders.
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
"""What the one forbids in a body, the other does, too; at its borders it is told only what it allows."""

BULK_COMMANDS: Final = {"comment.post", "incident.open", "notification.read"}


class Caller(NamedTuple):
    """Who asks, by which token, and at least how often.

    ``borders`` says by their subjects of which operations everything is asked that schemas just allow and just forbid;
    ``examples`` how many random requests are made of each operation.
    """

    token: str
    requests: int
    boundaries: str = ""
    examples: int = 0
    acts_for: bool = False
    may_follow: bool = True


CALLERS: Final = {
    "an owner, about alert rules": Caller("dev-own", 1_150, r"alert rules (?!.*/(triggers|snooze|observations)/)"),
    "an owner, about triggers": Caller("dev-own", 800, r"alert rules .*/triggers/"),
    "an owner, about incidents": Caller("dev-own", 900, r"incidents "),
    "an owner, about the rest": Caller(
        "dev-own", 850, r"alert rules .*/(snooze|observations)/|(commands|health|notifications|organizations) "
    ),
    "a program, with alerts": Caller("dev-bot", 170, r"integrations ", acts_for=True),
    "a program": Caller("dev-bot", 200, examples=2, acts_for=True),
    "an operator": Caller("dev-ops", 100, r"(directory|events) ", may_follow=False),
    "a member": Caller("dev-mem", 220, examples=2),
    "a key": Caller("dev-key", 120, examples=1),
}


class LifeCycle(NamedTuple):
    """What is done in one, of what exists it is told, and how many requests at least. Only ``beginnings`` lead on."""

    life: frozenset[str]
    beginnings: frozenset[str]
    told_of: Mapping[str, Mapping[str, Any]]
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
LIFE_CYCLES: Final = {
    "an incident": LifeCycle(
        life=frozenset({
            "open_incident", "read_incident", "mark_seen", "close_incident", "list_activity", "list_subscribers",
            "subscribe", "unsubscribe", "post_comment", "edit_comment", "delete_comment", "read_command",
        }),
        beginnings=frozenset({"open_incident", "post_comment", "subscribe"}),
        told_of={
            "OpenIncident": {
                "projects": {"type": "array", "items": {"enum": ["p1", "p2"]}, "minItems": 1},
                "alertRule": {"type": "null"},
            },
            "PostComment": {"mentions": {"type": "array", "items": {"enum": PEOPLE}}},
            "EditComment": {"mentions": {"type": "array", "items": {"enum": PEOPLE}}},
        },
        requests=170,
    ),
    "an alert rule": LifeCycle(
        life=frozenset({
            "create_rule", "read_rule", "update_rule", "delete_rule", "observe_metric", "list_observations",
            "snooze_rule", "unsnooze_rule", "read_command",
        }),
        beginnings=frozenset({"create_rule", "observe_metric"}),
        told_of={
            "CreateRule": _A_RULE,
            "UpdateRule": _A_RULE,
            "ObserveMetric": {"project": {"const": "p1"}, "value": {"enum": [1, 70, 1000.5]}},
        },
        requests=170,
    ),
    "a trigger": LifeCycle(
        life=frozenset({
            "create_rule", "list_triggers", "create_trigger", "read_trigger", "update_trigger", "delete_trigger",
            "list_actions", "create_action", "read_action", "update_action", "delete_action", "read_command",
        }),
        beginnings=frozenset({"create_rule", "create_trigger", "create_action"}),
        told_of={
            "CreateRule": _A_RULE,
            "CreateTrigger": _A_WARNING,
            "UpdateTrigger": _A_WARNING,
        },
        requests=170,
    ),
}  # fmt: skip


def operations_of(document: Any) -> Iterator[tuple[Any, str, Any]]:
    """Path, method and operation, of all."""
    for path in document["paths"].values():
        yield from [(path, method, each) for method, each in path.items() if method != "parameters"]


def names_of(document: Any) -> list[str]:
    """What the operations are called; those without a token have no name."""
    return [operation.get("operationId", "") for _, _, operation in operations_of(document)]


def labels_of(document: Any, *, excluding: str = "") -> list[str]:
    """The operations as schemathesis calls them, but those of such a subject: their tag and their address."""
    return [
        f"{method.upper()} {address}"
        for address, path in document["paths"].items()
        for method, operation in path.items()
        if method != "parameters" and not (excluding and re.match(excluding, f"{operation['tags'][0]} {address}"))
    ]


def use_existing_resources(document: Any, caller: Caller) -> None:
    """Requests are about what exists, by somebody who is known."""
    unused = set() if caller.acts_for else {"Act-As"}
    for path, method, operation in operations_of(document):
        name = operation.get("operationId", "")
        known = NARROWED | {("path", word): {"examples": [value]} for word, value in path_parameters_of(name).items()}
        known |= NARROWED_OBSERVATIONS if name == "list_observations" else {}
        operation["parameters"] = [
            each | {"schema": each["schema"] | known.get((each["in"], each["name"]), {})}
            for each in [*path.get("parameters", []), *operation.get("parameters", [])]
            if each["name"] not in unused
        ]
        if caller.may_follow and STREAM in operation["responses"].get("200", {}).get("content", {}):
            # It never ends; test_documentation.py reads its beginning.
            del path[method]
    for path in document["paths"].values():
        path.pop("parameters", None)


def path_parameters_of(operation: str) -> dict[str, str]:
    """What the address of an operation names."""
    return EXISTING | OWN_RULES.get(operation, {})


def own_rule_settings(**elsewhere: list[str]) -> list[dict[str, Any]]:
    """The same for random requests; ``elsewhere`` are the rules that an operation may name instead of its own."""
    return [
        {
            "include-operation-id": name,
            "parameters": {f"path.{word}": [value] for word, value in words.items()}
            | ({"path.rule": elsewhere[name]} if name in elsewhere else {}),
        }
        for name, words in OWN_RULES.items()
    ]


def limit_bulk_commands(document: Any) -> None:
    """Lists of commands have a few kinds: at their borders the others are seen by themselves."""
    items = document["components"]["schemas"]["CommandRequest"]["properties"]["commands"]["items"]
    items["oneOf"] = [each for each in items["oneOf"] if each["properties"]["type"]["const"] in BULK_COMMANDS]


def limit_to_life_cycle(document: Any, story: LifeCycle) -> None:
    """Nothing but the operations of the story, told of what exists."""
    for path, method, operation in operations_of(document):
        # A story waits for each of its steps: what is only accepted has not happened yet.
        operation["parameters"] = [each for each in operation["parameters"] if each["name"] != "Prefer"]
        if operation.get("operationId") not in story.life:
            del path[method]
        elif operation["operationId"] not in story.beginnings:
            # With links of its own it would begin stories as well, about things that do not exist.
            operation["responses"] = {status: {**each, "links": {}} for status, each in operation["responses"].items()}
        else:
            for each in operation["responses"].values():
                links = each.get("links", {})
                each["links"] = {name: link for name, link in links.items() if link["operationId"] in story.life}
    for name, fields in story.told_of.items():
        document["components"]["schemas"][name]["properties"] |= fields


@pytest.mark.timeout(600 * TIMES)
@pytest.mark.usefixtures("busy_worker", "rules")
@pytest.mark.parametrize("name", CALLERS)
def test_every_response_matches_the_openapi_document(unlimited_gateway: Gateway, name: str) -> None:
    caller = CALLERS[name]
    document = unlimited_gateway.get("/openapi.json", by=None).json()
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

    findings.assert_valid(least=caller.requests)
    if caller.examples:
        assert findings.statuses.keys() >= {name for name in names_of(document) if name}


@pytest.mark.timeout(600 * TIMES)
@pytest.mark.usefixtures("busy_worker", "rules")
@pytest.mark.parametrize("name", LIFE_CYCLES)
def test_a_life_cycle_can_be_followed_along_openapi_links(unlimited_gateway: Gateway, name: str) -> None:
    story = LIFE_CYCLES[name]
    document = unlimited_gateway.get("/openapi.json", by=None).json()
    use_existing_resources(document, CALLERS["a member"])
    limit_to_life_cycle(document, story)
    generation = {"mode": "positive", "max-examples": EXAMPLES * TIMES}
    along = {
        "max-steps": MAX_STEPS,
        "inference": {"algorithms": []},
        "link-calibration": False,
        "generation": generation,
    }
    # Each can be given a second trigger only once.
    operations = own_rule_settings(create_trigger=[str(rule) for rule in RULES])
    findings = Findings()

    # Hypothesis ends a round where what it knows comes out otherwise than before, as things do in a world that lasts.
    for dice in range(ROUNDS):
        seed = SEED * ROUNDS + dice
        run_schemathesis(
            unlimited_gateway,
            document,
            make_config("dev-own", {"stateful": along}, KNOWN, operations, seed=seed),
            findings,
        )
        if findings.succeeded == story.life and findings.status_counts.total() >= story.requests:
            break

    findings.assert_valid(least=story.requests)
    assert findings.succeeded == story.life


def test_the_boundaries_of_each_operation_are_covered_by_one_caller(gateway: Gateway) -> None:
    document = gateway.get("/openapi.json", by=None).json()
    asked = [
        operation
        for caller in CALLERS.values()
        if caller.boundaries
        for operation in set(labels_of(document)) - set(labels_of(document, excluding=caller.boundaries))
    ]
    assert sorted(asked) == sorted(labels_of(document))


def test_equivalent_operations_have_the_same_body_constraints(gateway: Gateway) -> None:
    document = gateway.get("/openapi.json", by=None).json()
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
    """What a JSON body has to be like."""
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    return document["components"]["schemas"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def constraints_of(body: Any) -> dict[str, str]:
    """What each field has to be like, if it is there, or a body of several kinds; updates may name no projects."""
    fields = body.get("properties", {"": body}).items()
    said = {name: {word: each[word] for word in each.keys() - {"default", "minItems"}} for name, each in fields}
    return {name: json.dumps(each, sort_keys=True) for name, each in said.items()}


def test_at_least_five_thousand_requests_are_made() -> None:
    asked = sum(caller.requests for caller in CALLERS.values()) + sum(story.requests for story in LIFE_CYCLES.values())
    assert asked >= 5_000
