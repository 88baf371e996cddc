"""Alert rules over HTTP: lists, details, and available actions."""

from __future__ import annotations

import re
from datetime import timedelta

import httpx
from sqlalchemy.engine import Engine

from models.types import JSON
from tests.builders import NOW, an_incident
from tests.handlers.acme import Acme
from tests.http.alert_rule_requests import (
    PROJECT_RULES,
    RULES,
    create_rule,
    insert_rule,
    send,
    set_features,
)
from tests.http.gateway_server import ACME, Gateway, Worker
from tests.rule_bodies import RULE


def ids(response: httpx.Response) -> list[int]:
    assert response.status_code == 200, response.text
    return [int(each["id"]) for each in response.json()]


def test_rules_are_listed_newest_first_with_their_count(gateway: Gateway, ledger: Engine, acme: Acme) -> None:
    rules = [insert_rule(ledger, acme, date_added=NOW + timedelta(minutes=n % 3)) for n in range(5)]
    insert_rule(ledger, acme, status=4)
    insert_rule(ledger, acme, "c1", organization="closed")

    response = gateway.get(RULES)

    assert ids(response) == [rules[2], rules[4], rules[1], rules[3], rules[0]]
    assert response.headers["x-sentry-alert-rule-hits"] == "5"
    assert response.headers["x-sentry-alert-rule-limit"] == "1000"
    assert "snooze" not in response.json()[0]
    assert ids(gateway.get(PROJECT_RULES)) == ids(response)


def test_the_rule_list_is_paginated(gateway: Gateway, ledger: Engine, acme: Acme) -> None:
    rules = [insert_rule(ledger, acme) for _ in range(27)]

    first = gateway.get(RULES)
    second = httpx.get(first.links["next"]["url"], headers={"Authorization": "Bearer dev-mem"})
    back = httpx.get(second.links["previous"]["url"], headers={"Authorization": "Bearer dev-mem"})

    assert (ids(first), ids(second)) == (rules[:1:-1], rules[1::-1])
    assert first.links["next"]["results"] == "true"
    assert second.links["next"]["results"] == "false"
    assert ids(back) == ids(first)
    assert {each.headers["x-sentry-alert-rule-hits"] for each in (first, second)} == {"27"}


def test_the_rule_list_contains_rules_of_the_callers_teams_projects_or_of_the_named_projects(
    gateway: Gateway, ledger: Engine, acme: Acme
) -> None:
    one, two = insert_rule(ledger, acme), insert_rule(ledger, acme, "p2")
    p1, p2 = acme.projects["acme", "p1"], acme.projects["acme", "p2"]

    assert ids(gateway.get(RULES)) == [one]
    assert ids(gateway.get(RULES, by="dev-own")) == []
    assert ids(gateway.get(f"{RULES}?project=-1")) == [two, one]
    assert ids(gateway.get(f"{RULES}?project={p2}")) == [two]
    assert ids(gateway.get(f"{RULES}?project={p1}&project={p2}")) == [two, one]
    assert ids(gateway.get(f"{RULES}?projectSlug=p2&project=x")) == [two]
    assert gateway.get(f"{RULES}?project=99999").status_code == 403
    assert gateway.get(f"{RULES}?project=x").json() == {"detail": "Invalid project parameter. Values must be numbers."}
    assert gateway.get(f"{RULES}?project=99999").headers.get("x-sentry-alert-rule-hits") is None


def test_the_rule_list_can_be_filtered_by_monitor_type(gateway: Gateway, ledger: Engine, acme: Acme) -> None:
    continuous, activated = insert_rule(ledger, acme), insert_rule(ledger, acme, monitor_type=1)

    assert ids(gateway.get(f"{RULES}?monitor_type=0")) == [continuous]
    assert ids(gateway.get(f"{RULES}?monitor_type=1")) == [activated]
    assert ids(gateway.get(f"{RULES}?monitor_type=99999999999999999999")) == []
    assert gateway.get(f"{PROJECT_RULES}?monitor_type=1").headers["x-sentry-alert-rule-hits"] == "1"
    assert gateway.get(f"{RULES}?monitor_type=x").json() == {
        "detail": "Invalid monitor_type parameter. The value must be a number."
    }


def test_without_the_performance_feature_only_rules_on_events_are_listed_but_all_can_be_read(
    gateway: Gateway, ledger: Engine, acme: Acme
) -> None:
    errors = insert_rule(ledger, acme)
    others = [insert_rule(ledger, acme, dataset=dataset) for dataset in ("transactions", "metrics")]
    without = [gateway.get(path) for path in (RULES, PROJECT_RULES)]
    shown = [gateway.get(f"{RULES}{rule}/").status_code for rule in others]
    set_features(ledger, "organizations:incidents", "organizations:performance-view")

    granted = gateway.get(RULES)

    assert [ids(each) for each in without] == [[errors]] * 2
    assert without[0].headers["x-sentry-alert-rule-hits"] == "1"
    assert shown == [200, 200]
    assert (ids(granted), granted.headers["x-sentry-alert-rule-hits"]) == ([*reversed(others), errors], "3")


def test_an_unchanged_rule_is_not_sent_again(gateway: Gateway, busy_worker: Worker) -> None:
    rule = f"{RULES}{create_rule(gateway)['id']}/"
    first = gateway.get(rule)

    same = gateway.get(rule, If_None_Match=first.headers["etag"])
    send(gateway, "PUT", rule, json=RULE)
    other = gateway.get(rule, If_None_Match=first.headers["etag"])

    assert re.fullmatch(r'"1-[0-9a-f]{16}"', first.headers["etag"])
    assert (same.status_code, same.content, other.status_code) == (304, b"", 200)
    assert other.headers["etag"].startswith('"2-')


def test_the_latest_incident_of_a_rule_is_returned_on_request(gateway: Gateway, ledger: Engine, acme: Acme) -> None:
    rule, other = insert_rule(ledger, acme, generation=2), insert_rule(ledger, acme)
    with ledger.begin() as connection:
        for number, generation in ((71, 2), (72, 2), (73, 1)):
            an_incident(
                connection,
                acme.organizations["acme"],
                projects=[acme.projects["acme", "p1"]],
                identifier=number,
                alert_rule_id=rule,
                alert_rule_generation=generation,
            )
        connection.exec_driver_sql(
            "INSERT INTO alert_rule_generations (rule_id, generation, definition, date_modified)"
            " SELECT id, 1, definition, date_modified FROM alert_rules WHERE id = %s",
            (rule,),
        )

    details = gateway.get(f"{RULES}{rule}/?expand=latestIncident").json()
    listed = gateway.get(f"{RULES}?expand=latestIncident").json()

    incident = details["latestIncident"]
    assert (incident["identifier"], incident["projects"]) == ("72", ["p1"])
    assert (incident["alertRule"]["id"], incident["alertRule"]["status"]) == (str(rule), 0)
    assert {each["id"]: each["latestIncident"] for each in listed} == {str(rule): incident, str(other): None}
    assert "latestIncident" not in gateway.get(f"{RULES}{rule}/").json()


def test_an_incident_shows_its_rule_as_it_was_at_the_time(
    gateway: Gateway, busy_worker: Worker, ledger: Engine, acme: Acme
) -> None:
    rule = insert_rule(ledger, acme, name="Before")
    with ledger.begin() as connection:
        an_incident(
            connection,
            acme.organizations["acme"],
            projects=[acme.projects["acme", "p1"]],
            identifier=71,
            status=2,
            alert_rule_id=rule,
            alert_rule_generation=1,
        )
    incident = f"{ACME}/incidents/71/"
    before = gateway.get(incident).json()["alertRule"]
    send(gateway, "PUT", f"{RULES}{rule}/", json=RULE | {"name": "After"})
    after = gateway.get(incident).json()["alertRule"]
    send(gateway, "DELETE", f"{RULES}{rule}/")
    gone = gateway.get(incident).json()["alertRule"]

    snapshots = [(each["name"], each["status"], each["originalAlertRuleId"]) for each in (before, after, gone)]
    assert snapshots == [("Before", 0, None), ("Before", 4, rule), ("Before", 4, rule)]


def test_available_actions_are_listed(gateway: Gateway, ledger: Engine) -> None:
    response = gateway.get(f"{RULES}available-actions/")
    closed = gateway.get("/api/0/organizations/plain/alert-rules/available-actions/")

    assert response.json() == [
        {"type": "email", "allowedTargetTypes": ["user", "team"]},
        {"type": "webhook", "allowedTargetTypes": ["specific"]},
        {"type": "chat", "allowedTargetTypes": ["specific"]},
    ]
    assert closed.status_code == 404
    assert gateway.get(f"{RULES}available-actions/", by="dev-mem-alerts").status_code == 403
    assert send(gateway, "POST", f"{RULES}available-actions/").status_code == 405


def test_a_snooze_is_visible_to_those_it_affects(gateway: Gateway, busy_worker: Worker) -> None:
    rule = create_rule(gateway)["id"]
    snooze = f"{PROJECT_RULES}{rule}/snooze/"

    def facts(by: str) -> dict[str, JSON]:
        shown = gateway.get(f"{RULES}{rule}/", by=by).json()
        return {name: shown[name] for name in shown if name.startswith("snooze")}

    gateway.post(snooze, {"target": "me"})
    assert facts("dev-mem") == {"snooze": True, "snoozeForEveryone": False, "snoozeCreatedBy": "You"}
    assert facts("dev-ana") == {"snooze": False}
    assert gateway.get(RULES).json()[0]["snooze"] is True
    assert "snooze" not in gateway.get(RULES, by="dev-ana").json()[0]
    gateway.post(snooze, {"target": "everyone"}, by="dev-ben")
    for by in ("dev-mem", "dev-ana"):
        assert facts(by) == {"snooze": True, "snoozeForEveryone": True, "snoozeCreatedBy": "Ben"}
