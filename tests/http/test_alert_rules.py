"""Alert rules over HTTP: updates, deletions, permissions, and both endpoints."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.engine import Engine

from models.types import JSON
from tests.handlers.acme import Acme
from tests.http.alert_rule_requests import (
    NOT_FOUND,
    PROJECT_RULES,
    REQUIRED,
    RULES,
    STALE,
    accepted_count,
    create_rule,
    insert_rule,
    send,
)
from tests.http.gateway_server import COMMANDS, Gateway, Worker
from tests.http.invalid_alert_rules import INCONSISTENT_FIELDS, an_action
from tests.rule_bodies import CRITICAL, RULE, WARNING

# --- updating and deleting ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [RULES, PROJECT_RULES])
def test_a_rule_is_updated_and_deleted(gateway: Gateway, busy_worker: Worker, path: str) -> None:
    rule = f"{path}{create_rule(gateway)['id']}/"

    changed = send(gateway, "PUT", rule, json=RULE | {"name": "Another", "id": 999})
    shown = gateway.get(rule).json()
    deleted = send(gateway, "DELETE", rule)

    assert (changed.status_code, changed.json()["name"], changed.json()["version"]) == (200, "Another", 2)
    assert {name: shown[name] for name in changed.json()} == changed.json()
    assert (deleted.status_code, deleted.content) == (204, b"")
    for method in ("GET", "PUT", "DELETE"):
        assert send(gateway, method, rule, json=RULE if method == "PUT" else None).status_code == 404


@pytest.mark.parametrize("projects", [None, [], "p1", ["p2"], ["p1", "p2"], ["nope"], [None], {"p1": 1}])
def test_a_projects_endpoint_does_not_read_the_projects_in_the_body(
    gateway: Gateway, busy_worker: Worker, projects: JSON
) -> None:
    made = send(gateway, "POST", PROJECT_RULES, json=RULE | {"projects": projects})
    path = f"{PROJECT_RULES}{made.json()['id']}/"

    changed = send(gateway, "PUT", path, json=RULE | {"name": "Another", "projects": projects})

    assert (made.status_code, made.json()["projects"]) == (201, ["p1"])
    assert (changed.status_code, changed.json()["projects"], changed.json()["name"]) == (200, ["p1"], "Another")


def test_a_rule_that_is_sent_back_as_it_was_read_does_not_change(gateway: Gateway, busy_worker: Worker) -> None:
    path = f"{RULES}{create_rule(gateway, triggers=[CRITICAL | {'actions': [an_action()]}, WARNING])['id']}/"
    [critical, _] = gateway.get(path).json()["triggers"]
    trigger = f"{path}triggers/{critical['id']}/"
    action = f"{trigger}actions/{critical['actions'][0]['id']}/"
    before = gateway.get(path)

    for each in (path, trigger, action):
        assert send(gateway, "PUT", each, json=gateway.get(each).json()).status_code == 200

    after = gateway.get(path)
    assert (after.json(), after.headers["etag"]) == (before.json(), before.headers["etag"])


@pytest.mark.parametrize("name", ["aggregate", "query", "timeWindow", "thresholdType", "triggers"])
def test_an_update_requires_the_fields_that_are_validated_together(
    gateway: Gateway, ledger: Engine, acme: Acme, name: str
) -> None:
    rule = insert_rule(ledger, acme)

    response = send(gateway, "PUT", f"{RULES}{rule}/", json={each: RULE[each] for each in RULE if each != name})

    assert (response.status_code, response.json()) == (400, {name: REQUIRED})
    assert accepted_count(ledger) == 0


def test_an_update_is_validated_like_a_creation(gateway: Gateway, ledger: Engine, acme: Acme) -> None:
    rule = insert_rule(ledger, acme)
    full = {"dataset": "events", "comparisonDelta": None, "resolveThreshold": None}
    invalid = [
        (RULE | full | fields, {"nonFieldErrors": [message]})
        for fields, message in INCONSISTENT_FIELDS
        if not ("queryType" in fields and "dataset" not in fields)
    ]

    responses = [send(gateway, "PUT", f"{RULES}{rule}/", json=body) for body, _ in invalid]

    assert [(each.status_code, each.json()) for each in responses] == [(400, body) for _, body in invalid]
    assert accepted_count(ledger) == 0


def test_an_update_honours_if_match(gateway: Gateway, busy_worker: Worker) -> None:
    rule = f"{RULES}{create_rule(gateway)['id']}/"
    tag = gateway.get(rule).headers["etag"]

    first = send(gateway, "PUT", rule, json=RULE, headers={"If_Match": tag})
    again = [
        send(gateway, "PUT", rule, json=RULE, headers={"If_Match": tag}),
        send(gateway, "DELETE", rule, headers={"If_Match": '"1"'}),
    ]
    anyway = send(gateway, "PUT", rule, json=RULE, headers={"If_Match": "*"})
    malformed = send(gateway, "DELETE", rule, headers={"If_Match": "1"})
    deleted = send(gateway, "DELETE", rule, headers={"If_Match": '"3"'})

    assert [(each.status_code, each.json()) for each in again] == [(412, STALE)] * 2
    assert [each.status_code for each in (first, anyway, malformed, deleted)] == [200, 200, 400, 204]


def test_only_one_of_several_concurrent_updates_to_the_same_version_is_applied(
    gateway: Gateway, busy_worker: Worker
) -> None:
    rule = f"{RULES}{create_rule(gateway)['id']}/"
    body = RULE | {"name": "Mine"}

    responses = gateway.concurrently(8, lambda: send(gateway, "PUT", rule, json=body, headers={"If_Match": '"1"'}))

    assert sorted(each.status_code for each in responses) == [200, *[412] * 7]
    assert gateway.get(rule).json()["version"] == 2


def test_a_repeated_update_with_an_idempotency_key_is_applied_once(gateway: Gateway, busy_worker: Worker) -> None:
    rule = f"{RULES}{create_rule(gateway)['id']}/"
    responses = [send(gateway, "PUT", rule, json=RULE, headers={"Idempotency_Key": "once"}) for _ in range(2)]

    assert [each.json()["version"] for each in responses] == [2, 2]
    assert responses[1].headers["idempotent-replayed"] == "true"


# --- permissions and endpoints -----------------------------------------------------------------------------------

WRITES = [("PUT", RULE), ("PUT", {}), ("DELETE", None)]


@pytest.mark.parametrize(("method", "body"), WRITES)
@pytest.mark.parametrize("path", ["abc", "²", "0", "99999", "999999999999999999999", "1.0", "%00"])
def test_an_unknown_rule_is_404(gateway: Gateway, busy_worker: Worker, method: str, body: Any, path: str) -> None:
    for root in (RULES, PROJECT_RULES):
        response = send(gateway, method, f"{root}{path}/", json=body)
        assert (response.status_code, response.json()) == (404, NOT_FOUND)
        assert gateway.get(f"{root}{path}/").status_code == 404


def test_leading_zeros_in_a_rule_id_are_ignored(gateway: Gateway, ledger: Engine, acme: Acme) -> None:
    rule = insert_rule(ledger, acme)

    assert gateway.get(f"{RULES}00{rule}/").json()["id"] == str(rule)


def test_every_endpoint_checks_scope_feature_rule_and_project(
    gateway: Gateway, busy_worker: Worker, ledger: Engine, acme: Acme
) -> None:
    here = insert_rule(ledger, acme)
    closed = insert_rule(ledger, acme, "c1", organization="closed")
    plain = insert_rule(ledger, acme, "n1", organization="plain")

    def statuses(organization: str, project: str, rule: Any, by: str | None = "dev-mem") -> list[int]:
        roots = (f"/api/0/organizations/{organization}", f"/api/0/projects/{organization}/{project}")
        requests = [
            *((method, body) for method, body in WRITES),
            ("GET", None),
        ]
        return [
            send(gateway, method, f"{root}/alert-rules/{rule}/", by=by, json=body).status_code
            for root in roots
            for method, body in requests
        ]

    assert statuses("acme", "p1", here, by="dev-out") == [403] * 8
    assert statuses("acme", "p1", here, by=None) == [401] * 8
    assert statuses("closed", "c1", closed) == [403] * 8
    assert statuses("closed", "c1", here) == [404] * 8
    # Without the feature, an existing rule may only be deleted.
    assert statuses("plain", "n1", 99999) == [404] * 8
    assert statuses("plain", "n1", plain) == [404, 404, 204, 404, 404, 404, 404, 404]
    assert statuses("acme", "p2", here)[4:] == [404] * 4
    assert statuses("acme", "nowhere", here)[4:] == [404] * 4
    assert statuses("acme", "old", here)[4:] == [404] * 4


@pytest.mark.parametrize("root", ["/api/0/organizations/plain", "/api/0/projects/plain/n1"])
def test_without_the_incidents_feature_a_rule_can_be_deleted_through_either_endpoint(
    gateway: Gateway, busy_worker: Worker, ledger: Engine, acme: Acme, root: str
) -> None:
    rule = insert_rule(ledger, acme, "n1", organization="plain")

    deleted = send(gateway, "DELETE", f"{root}/alert-rules/{rule}/")
    listed = send(gateway, "GET", f"{root}/alert-rules/")
    created = send(gateway, "POST", f"{root}/alert-rules/", json=RULE | {"projects": ["n1"]})

    assert [each.status_code for each in (deleted, listed, created)] == [204, 404, 404]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/0/projects/acme/nowhere/alert-rules/", RULE, 404),
        ("/api/0/projects/acme/nowhere/alert-rules/", {}, 404),
        ("/api/0/projects/acme/old/alert-rules/", {}, 404),
        ("/api/0/projects/acme/%00/alert-rules/", RULE, 404),
        ("/api/0/projects/acme/%20p1/alert-rules/", RULE, 404),
        ("/api/0/projects/closed/c1/alert-rules/", RULE, 403),
        ("/api/0/projects/closed/c1/alert-rules/", {}, 403),
    ],
)
def test_a_project_endpoint_requires_an_accessible_project(
    gateway: Gateway, busy_worker: Worker, path: str, body: JSON, status: int
) -> None:
    assert gateway.post(path, body).status_code == status
    assert gateway.get(path).status_code == status


@pytest.mark.parametrize(
    ("token", "scopes", "statuses"),
    [
        # GET and POST on the organization's list, then on its project's.
        ("dev-own", ["org:read"], [200, 403, 403, 403]),
        ("dev-own", ["alerts:read"], [200, 403, 200, 403]),
        ("dev-own", ["alerts:write"], [200, 400, 200, 400]),
        ("dev-own", ["project:read"], [403, 403, 200, 403]),
        ("dev-own", ["project:admin"], [403, 403, 200, 400]),
        ("dev-own", ["org:admin"], [200, 400, 403, 403]),
        ("dev-key", ["alerts:write", "project:read"], [200, 403, 200, 403]),
        ("dev-bot", ["alerts:write"], [200, 403, 200, 403]),
    ],
)
def test_each_endpoint_has_its_own_scopes(
    gateway: Gateway, ledger: Engine, acme: Acme, token: str, scopes: list[str], statuses: list[int]
) -> None:
    with ledger.begin() as connection:
        connection.exec_driver_sql("UPDATE tokens SET scopes = %s WHERE id = %s", (scopes, acme.tokens[token]))

    responses = [
        send(gateway, method, path, by=token, json={} if method == "POST" else None).status_code
        for path in (RULES, PROJECT_RULES)
        for method in ("GET", "POST")
    ]

    assert responses == statuses


def test_an_unsupported_method_is_405(gateway: Gateway) -> None:
    assert [send(gateway, "PUT", RULES).status_code, send(gateway, "POST", f"{RULES}1/").status_code] == [405, 405]


def test_every_rule_command_can_be_sent_in_bulk(gateway: Gateway, busy_worker: Worker) -> None:
    rule = create_rule(gateway)
    named = {"alertRule": rule["id"], "trigger": rule["triggers"][0]["id"]}
    body = {name: RULE[name] for name in RULE if name != "projects"}
    items = [
        {"type": "alert_rule.update", "alertRule": rule["id"], **body},
        {"type": "trigger.create", "alert_rule": rule["id"], **WARNING},
        {"type": "trigger_action.create", **named, "action": an_action()},
        {"type": "alert_rule.snooze", "alertRule": rule["id"], "target": "everyone"},
        {"type": "alert_rule.unsnooze", "alertRule": rule["id"]},
        {"type": "alert_rule.delete", "alertRule": rule["id"]},
        {"type": "alert_rule.delete", "alertRule": "none"},
    ]

    response = gateway.post(COMMANDS, {"commands": items}, Prefer="wait=20")

    outcomes = [(each["status"], each["outcome"]["status"]) for each in response.json()["commands"]]
    # The update replaced the trigger, so an action cannot be added to the old one.
    assert outcomes == [
        ("applied", 200),
        ("applied", 201),
        ("rejected", 404),
        ("applied", 201),
        ("applied", 204),
        ("applied", 204),
        ("rejected", 404),
    ]


def test_unknown_fields_are_errors_even_in_nested_objects_of_a_bulk_item(gateway: Gateway, ledger: Engine) -> None:
    items = [
        {"type": "alert_rule.create", **RULE, "snubaQuery": 1},
        {"type": "alert_rule.create", **RULE, "triggers": [CRITICAL | {"dateCreated": "x", "alert_rule_id": 1}]},
        {"type": "trigger_action.create", "alertRule": 1, "trigger": 1, "action": an_action(desc="x")},
        {"type": "trigger.create", "alertRule": 1, **CRITICAL, "actions": [an_action(desc="x")]},
    ]

    response = gateway.post(COMMANDS, {"commands": items})

    unknown = ["Unknown field."]
    assert response.json() == {
        "commands": {
            "0": {"snubaQuery": unknown},
            "1": {"dateCreated": unknown, "alertRuleId": unknown},
            "2": {"desc": unknown},
            "3": {"desc": unknown},
        }
    }
    assert accepted_count(ledger) == 0


def test_a_bulk_item_requires_the_scopes_of_its_own_endpoint(gateway: Gateway, ledger: Engine, acme: Acme) -> None:
    with ledger.begin() as connection:
        connection.exec_driver_sql("UPDATE tokens SET scopes = '{org:write}' WHERE id = %s", (acme.tokens["dev-own"],))
    deletion = {"type": "alert_rule.delete", "alertRule": 1}
    snooze = {"type": "alert_rule.snooze", "alertRule": 1, "target": "me"}

    responses = [gateway.post(COMMANDS, {"commands": [each]}, by="dev-own").status_code for each in (deletion, snooze)]

    assert responses == [202, 403]


def test_without_the_incidents_feature_only_deletions_are_accepted_in_bulk(
    gateway: Gateway, busy_worker: Worker, ledger: Engine, acme: Acme
) -> None:
    rule = insert_rule(ledger, acme, "n1", organization="plain")
    path = "/api/0/organizations/plain/commands/"
    deletion = {"type": "alert_rule.delete", "alertRule": rule}
    snooze = {"type": "alert_rule.snooze", "alertRule": rule, "target": "me"}

    refused = gateway.post(path, {"commands": [deletion, snooze]})
    done = gateway.post(path, {"commands": [deletion]}, Prefer="wait=20")

    assert (refused.status_code, done.status_code) == (404, 200)
    assert done.json()["commands"][0]["outcome"] == {"status": 204, "body": None}
