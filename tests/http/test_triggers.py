"""Triggers and their actions over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.engine import Engine

from models.alert_rules.alert_rule import Action, Trigger
from models.alert_rules.enums import ActionType, TargetType
from models.types import JSON
from tests.builders import NOW
from tests.handlers.acme import Acme
from tests.http.alert_rule_requests import (
    INTEGER,
    PROJECT_RULES,
    REQUIRED,
    RULES,
    accepted_count,
    create_rule,
    insert_rule,
    send,
)
from tests.http.gateway_server import Gateway, Worker
from tests.http.invalid_alert_rules import INVALID_ACTIONS, INVALID_TRIGGERS, an_action
from tests.rule_bodies import CRITICAL, WARNING

TOO_LONG = "Ensure this field has no more than 64 characters."


def create_rule_with_trigger(gateway: Gateway) -> tuple[str, str, str]:
    """Create a rule with a trigger and an action; return the paths of the triggers, the trigger, and its actions."""
    rule = create_rule(gateway, triggers=[CRITICAL | {"actions": [an_action()]}])
    [trigger] = rule["triggers"]
    triggers = f"{RULES}{rule['id']}/triggers/"
    return triggers, f"{triggers}{trigger['id']}/", f"{triggers}{trigger['id']}/actions/"


def insert_rule_with_trigger(
    ledger: Engine, acme: Acme, *projects: str, organization: str = "acme"
) -> tuple[str, str, str]:
    """Insert a rule with trigger 7 and action 8; return the paths of the triggers, the trigger, and its actions."""
    action = Action(id=8, type=ActionType.EMAIL, target_type=TargetType.TEAM, target="21", date_added=NOW)
    trigger = Trigger(id=7, label="critical", threshold=100.0, date_added=NOW, actions=(action,))
    rule = insert_rule(ledger, acme, *projects, organization=organization, triggers=[trigger])
    triggers = f"/api/0/organizations/{organization}/alert-rules/{rule}/triggers/"
    return triggers, f"{triggers}7/", f"{triggers}7/actions/"


def every_request(triggers: str, trigger: str, actions: str, action: str = "8/") -> list[tuple[str, str, JSON]]:
    return [
        ("GET", triggers, None),
        ("POST", triggers, WARNING),
        ("POST", triggers, {}),
        ("GET", trigger, None),
        ("PUT", trigger, {"alertThreshold": 90}),
        ("PUT", trigger, {"label": ""}),
        ("GET", actions, None),
        ("POST", actions, an_action()),
        ("POST", actions, {}),
        ("GET", f"{actions}{action}", None),
        ("PUT", f"{actions}{action}", an_action()),
        ("PUT", f"{actions}{action}", {}),
        ("DELETE", f"{actions}{action}", None),
        ("DELETE", trigger, None),
    ]


def statuses_of(gateway: Gateway, requests: list[tuple[str, str, JSON]], by: str | None = "dev-mem") -> list[int]:
    return [send(gateway, method, path, by=by, json=body).status_code for method, path, body in requests]


def test_triggers_and_actions_are_created_updated_and_deleted(gateway: Gateway, busy_worker: Worker) -> None:
    triggers, _, _ = create_rule_with_trigger(gateway)

    added = gateway.post(triggers, WARNING)
    trigger = f"{triggers}{added.json()['id']}/"
    moved = send(gateway, "PUT", trigger, json={"alert_threshold": "60"})
    action = gateway.post(
        f"{trigger}actions/", an_action(type="webhook", targetType="specific", targetIdentifier="https://x.test/")
    )
    another = f"{trigger}actions/{action.json()['id']}/"
    changed = send(gateway, "PUT", another, json=an_action(targetIdentifier=22))

    assert [each.status_code for each in (added, moved, action, changed)] == [201, 200, 201, 200]
    assert (added.json()["alertThreshold"], moved.json()["alertThreshold"]) == (50.0, 60.0)
    assert gateway.get(another).json() == changed.json()
    assert gateway.get(trigger).json() == moved.json() | {"actions": [changed.json()]}
    assert send(gateway, "DELETE", another).status_code == 204
    assert send(gateway, "DELETE", trigger).status_code == 204
    assert [gateway.get(each).status_code for each in (another, trigger)] == [404, 404]


def test_triggers_are_listed_by_label_in_descending_order(gateway: Gateway, busy_worker: Worker) -> None:
    triggers, _, _ = create_rule_with_trigger(gateway)
    for label in ("warning", "zeta", "alpha"):
        gateway.post(triggers, {"label": label, "alertThreshold": 50})

    first = gateway.get(f"{triggers}?per_page=3")
    with gateway.client() as client:
        second = client.get(first.links["next"]["url"])
        back = client.get(second.links["previous"]["url"])

    labels = [[each["label"] for each in page.json()] for page in (first, second, back)]
    assert labels == [["zeta", "warning", "critical"], ["alpha"], ["zeta", "warning", "critical"]]
    assert second.links["next"]["results"] == "false"


def test_actions_are_listed_by_type(gateway: Gateway, busy_worker: Worker) -> None:
    _, _, actions = create_rule_with_trigger(gateway)
    gateway.post(actions, an_action(type="webhook", targetType="specific", targetIdentifier="https://x.test/"))
    gateway.post(actions, an_action(type="chat", targetType="specific", targetIdentifier="#ops"))

    first = gateway.get(f"{actions}?per_page=2")
    with gateway.client() as client:
        second = client.get(first.links["next"]["url"])

    assert [each["type"] for each in first.json()] == ["chat", "email"]
    assert [each["type"] for each in second.json()] == ["webhook"]


@pytest.mark.parametrize("index", [1, 2], ids=["trigger", "action"])
def test_a_trigger_and_an_action_have_an_etag_without_a_version(
    gateway: Gateway, ledger: Engine, acme: Acme, index: int
) -> None:
    path = insert_rule_with_trigger(ledger, acme)[index] + ("8/" if index == 2 else "")

    first = gateway.get(path)
    same = gateway.get(path, If_None_Match=first.headers["etag"])

    assert first.headers["etag"].startswith('"0-')
    assert (same.status_code, same.content) == (304, b"")


def test_an_invalid_trigger_is_400_and_creates_no_command(gateway: Gateway, ledger: Engine, acme: Acme) -> None:
    triggers, trigger, _ = insert_rule_with_trigger(ledger, acme)
    required = {"label": REQUIRED, "alertThreshold": REQUIRED}
    # A trigger's endpoint ignores an id in the body.
    parts = [(body, errors) for body, errors in INVALID_TRIGGERS if "id" not in body]
    invalid: list[tuple[str, str, Any, Any]] = [
        *(("POST", triggers, body, errors) for body, errors in parts),
        ("POST", triggers, {}, required),
        ("POST", triggers, WARNING | {"label": "x" * 65}, {"label": [TOO_LONG]}),
        ("POST", triggers, [], {"nonFieldErrors": ["Invalid data. Expected a dictionary, but got list."]}),
        ("PUT", trigger, {"label": ""}, {"label": ["This field may not be blank."]}),
        ("PUT", trigger, {"alertThreshold": None}, {"alertThreshold": ["This field may not be null."]}),
        ("PUT", trigger, {"actions": [{}]}, INVALID_TRIGGERS[-1][1]),
    ]  # fmt: skip

    responses = [send(gateway, method, path, json=body) for method, path, body, _ in invalid]

    assert [(each.status_code, each.json()) for each in responses] == [(400, body) for *_, body in invalid]
    assert accepted_count(ledger) == 0


def test_an_invalid_action_is_400_and_creates_no_command(gateway: Gateway, ledger: Engine, acme: Acme) -> None:
    _, _, actions = insert_rule_with_trigger(ledger, acme)
    invalid = [
        *((an_action(**fields), errors) for fields, errors in INVALID_ACTIONS),
        ({}, {"type": REQUIRED, "targetType": REQUIRED, "targetIdentifier": REQUIRED}),
        (an_action(id="x"), {"id": INTEGER}),
        ("mail", {"nonFieldErrors": ["Invalid data. Expected a dictionary, but got str."]}),
    ]

    for method, path in (("POST", actions), ("PUT", f"{actions}8/")):
        responses = [send(gateway, method, path, json=body) for body, _ in invalid]
        assert [(each.status_code, each.json()) for each in responses] == [(400, body) for _, body in invalid]
    assert accepted_count(ledger) == 0


def test_every_endpoint_checks_feature_rule_project_trigger_and_action(
    gateway: Gateway, busy_worker: Worker, ledger: Engine, acme: Acme
) -> None:
    here = every_request(*insert_rule_with_trigger(ledger, acme))
    closed = every_request(*insert_rule_with_trigger(ledger, acme, "c1", organization="closed"))
    plain = every_request(*insert_rule_with_trigger(ledger, acme, "n1", organization="plain"))
    nowhere = every_request(f"{RULES}99999/triggers/", f"{RULES}99999/triggers/7/", f"{RULES}99999/triggers/7/actions/")

    assert set(statuses_of(gateway, closed)) == {403}
    assert set(statuses_of(gateway, here[::3], by="dev-out")) == {403}
    # Without the feature only whole rules may be deleted.
    assert set(statuses_of(gateway, plain)) == {404}
    assert set(statuses_of(gateway, nowhere)) == {404}
    assert statuses_of(gateway, here) == [200, 201, 400, 200, 200, 400, 200, 201, 400, 200, 200, 400, 204, 204]


def test_unknown_triggers_and_actions_are_404(gateway: Gateway, ledger: Engine, acme: Acme) -> None:
    triggers, _, actions = insert_rule_with_trigger(ledger, acme)
    unknown = [
        *every_request(triggers, f"{triggers}x/", f"{triggers}9/actions/")[3:],
        *every_request(triggers, f"{triggers}9/", actions, "9/")[9:13],
        *every_request(triggers, f"{triggers}9/", actions, "²/")[9:13],
    ]
    reads_and_invalid_writes = [each for each in unknown if each[0] == "GET" or each[2] in ({}, {"label": ""})]

    assert set(statuses_of(gateway, reads_and_invalid_writes)) == {404}
    assert accepted_count(ledger) == 0


def test_triggers_have_no_project_endpoints(gateway: Gateway, ledger: Engine, acme: Acme) -> None:
    rule = insert_rule(ledger, acme)

    assert gateway.get(f"{PROJECT_RULES}{rule}/triggers/").status_code == 404
