"""Who may do what to which alert rule, when a worker comes to it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import insert, update

from models.alert_rules.alert_rule import Action, Trigger, alert_rule_snoozes
from models.alert_rules.enums import ActionType, TargetType
from models.directory.tables import organizations
from tests.builders import NOW, an_alert_rule
from tests.handlers.acme import Acme
from tests.handlers.conftest import Harness
from tests.handlers.rule_orders import FORBIDDEN, MISSING, a_rule, announced, change, creation, deletion
from tests.rule_bodies import CRITICAL


@pytest.mark.parametrize("order", [change, deletion])
def test_a_rule_out_of_reach_is_forbidden_and_one_of_elsewhere_is_missing(
    house: Harness, acme: Acme, order: Any
) -> None:
    rule = a_rule(house, acme, organization="closed", project="c1")

    here = house.execute(order(rule), **acme.by("mem", organization="closed"))
    there = house.execute(order(rule), **acme.by("mem"))
    nothing = house.execute(order(0), **acme.by("mem"))

    assert (here, there, nothing) == ((403, FORBIDDEN), (404, MISSING), (404, MISSING))


def test_one_project_within_reach_is_enough(house: Harness, acme: Acme) -> None:
    with house.engine.begin() as connection:
        projects = [acme.projects["acme", slug] for slug in ("old", "p1")]
        rule = an_alert_rule(connection, acme.organizations["acme"], projects=projects)
        lost = an_alert_rule(connection, acme.organizations["acme"], projects=projects[:1])

    assert house.execute(deletion(rule), **acme.by("mem"))[0] == 204
    assert house.execute(deletion(lost), **acme.by("own")) == (403, FORBIDDEN)


@pytest.mark.parametrize("order", [change, deletion])
def test_through_a_project_only_its_own_rules_are_found(house: Harness, acme: Acme, order: Any) -> None:
    rule = a_rule(house, acme)
    elsewhere = a_rule(house, acme, organization="closed", project="c1")

    answers = [
        house.execute(order(rule, inProject=project), **acme.by("mem")) for project in ("p2", "old", "nowhere", "p1")
    ]
    closed = acme.by("mem", organization="closed")
    reached = house.execute(order(elsewhere, inProject="c1"), **closed)
    absent = house.execute(order(rule, inProject="c1"), **closed)

    assert answers[:3] == [(404, MISSING)] * 3
    assert answers[3][0] in (200, 204)
    assert (reached, absent) == ((403, FORBIDDEN), (404, MISSING))


def test_through_a_project_a_rule_is_that_projects_whatever_the_body_says(house: Harness, acme: Acme) -> None:
    _, made = house.execute(creation(projects=["p2"], inProject="p1"), **acme.by("mem"))
    _, moved = house.execute(change(int(made["id"]), projects=["p2"], inProject="p1"), **acme.by("mem"))

    assert (made["projects"], moved["projects"]) == (["p1"], ["p1"])


@pytest.mark.parametrize(
    ("scopes", "plain", "twin"),
    [
        (["alerts:write"], 201, 201),
        (["org:write"], 201, 403),
        (["project:write"], 403, 201),
        (["alerts:read", "project:read", "org:read"], 403, 403),
    ],
)
def test_a_command_is_judged_again_by_the_scopes_of_the_address_it_came_by(
    house: Harness, acme: Acme, scopes: list[str], plain: int, twin: int
) -> None:
    with house.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE tokens SET scopes = %s WHERE id = %s", (scopes, acme.tokens["dev-own"]))

    statuses = [house.execute(each, **acme.by("own"))[0] for each in (creation(), creation(inProject="p1"))]

    assert statuses == [plain, twin]


def test_plain_members_write_rules_only_while_the_organization_lets_them(house: Harness, acme: Acme) -> None:
    rule = a_rule(house, acme)
    with house.engine.begin() as connection:
        connection.execute(update(organizations).values(alerts_member_write=False))

    orders = (creation(), change(rule), deletion(rule))
    of_a_member = [house.execute(each, **acme.by("mem"))[0] for each in orders]
    of_an_admin = [house.execute(each, **acme.by("ben"))[0] for each in orders]

    assert of_a_member == [403, 403, 403]
    assert of_an_admin == [201, 200, 204]


def test_whoever_owns_a_rule_has_no_more_right_to_it(house: Harness, acme: Acme) -> None:
    rule = a_rule(house, acme, owner_team=22)

    assert house.execute(change(rule), **acme.by("mem"))[0] == 200
    assert house.execute(deletion(rule), **acme.by("mem"))[0] == 204


def test_a_rule_whose_owner_and_actions_are_gone_is_still_shown(house: Harness, acme: Acme) -> None:
    told = [
        Action(id=1, type=ActionType.EMAIL, target_type=kind, target="999", date_added=NOW)
        for kind in (TargetType.USER, TargetType.TEAM)
    ]
    trigger = Trigger(id=2, label="critical", threshold=1.0, date_added=NOW, actions=tuple(told))
    rule = a_rule(house, acme, triggers=[trigger], owner_user=999)

    _, shown = house.execute(change(rule, triggers=[CRITICAL | {"id": 2}]), **acme.by("mem"))

    assert shown["owner"] == "user:999"
    assert [each["desc"] for each in shown["triggers"][0]["actions"]] == [
        "Send a notification to somebody who is gone",
        "Send an email to members of #a team that is gone",
    ]


def test_commands_of_one_rule_keep_their_order(house: Harness, acme: Acme) -> None:
    rule = a_rule(house, acme)
    ids = [house.accept(change(rule, name=str(number)), **acme.by("mem")) for number in range(5)]

    house.apply()

    versions = [house.ledger_row(id_)["outcome_body"]["version"] for id_ in ids]
    assert versions == [2, 3, 4, 5, 6]
    assert [sequence for _, sequence, _ in announced(house, rule)] == [1, 2, 3, 4, 5]
    assert {house.ledger_row(id_)["subject"] for id_ in ids} == {f"rule:{rule}"}


def test_a_rule_is_not_anothers_by_how_its_id_is_written(house: Harness, acme: Acme) -> None:
    rule = a_rule(house, acme)

    id_ = house.accept(deletion(f"00{rule}"), **acme.by("mem"))  # type: ignore[arg-type]

    assert house.ledger_row(id_)["subject"] == f"rule:{rule}"


def test_the_ledger_keeps_what_was_left_out_apart_from_null() -> None:
    stored = json.loads(change(1, owner=None).to_payload())

    assert stored["owner"] is None
    assert "environment" not in stored


def test_a_snooze_in_force_shows_in_the_answer_to_whom_it_concerns(house: Harness, acme: Acme) -> None:
    rule = a_rule(house, acme)
    with house.engine.begin() as connection:
        connection.execute(insert(alert_rule_snoozes).values(rule_id=rule, user_id=11, date_added=NOW))

    _, mine = house.execute(change(rule), **acme.by("mem"))
    _, hers = house.execute(change(rule), **acme.by("ana"))

    assert (mine.get("snooze"), hers.get("snooze")) == (True, None)
