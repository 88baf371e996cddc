"""Authorization of alert rule commands when they are applied, and the order in which they are applied."""

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
from tests.handlers.rule_commands import (
    FORBIDDEN,
    NOT_FOUND,
    a_rule,
    create_rule,
    delete_rule,
    published_events,
    update_rule,
)
from tests.harness import Harness
from tests.rule_bodies import CRITICAL


@pytest.mark.parametrize("build_command", [update_rule, delete_rule])
def test_an_inaccessible_rule_is_403_and_another_organizations_rule_is_404(
    harness: Harness, acme: Acme, build_command: Any
) -> None:
    rule = a_rule(harness, acme, organization="closed", project="c1")

    inaccessible = harness.execute(build_command(rule), **acme.by("mem", organization="closed"))
    foreign = harness.execute(build_command(rule), **acme.by("mem"))
    missing = harness.execute(build_command(0), **acme.by("mem"))

    assert (inaccessible, foreign, missing) == ((403, FORBIDDEN), (404, NOT_FOUND), (404, NOT_FOUND))


def test_access_to_one_of_a_rules_projects_is_enough_to_delete_it(harness: Harness, acme: Acme) -> None:
    with harness.engine.begin() as connection:
        projects = [acme.projects["acme", slug] for slug in ("old", "p1")]
        rule = an_alert_rule(connection, acme.organizations["acme"], projects=projects)
        lost = an_alert_rule(connection, acme.organizations["acme"], projects=projects[:1])

    assert harness.execute(delete_rule(rule), **acme.by("mem"))[0] == 204
    assert harness.execute(delete_rule(lost), **acme.by("own")) == (403, FORBIDDEN)


@pytest.mark.parametrize("build_command", [update_rule, delete_rule])
def test_a_project_endpoint_finds_only_rules_of_that_project(harness: Harness, acme: Acme, build_command: Any) -> None:
    rule = a_rule(harness, acme)
    elsewhere = a_rule(harness, acme, organization="closed", project="c1")

    outcomes = [
        harness.execute(build_command(rule, inProject=project), **acme.by("mem"))
        for project in ("p2", "old", "nowhere", "p1")
    ]
    closed = acme.by("mem", organization="closed")
    reached = harness.execute(build_command(elsewhere, inProject="c1"), **closed)
    absent = harness.execute(build_command(rule, inProject="c1"), **closed)

    assert outcomes[:3] == [(404, NOT_FOUND)] * 3
    assert outcomes[3][0] in (200, 204)
    assert (reached, absent) == ((403, FORBIDDEN), (404, NOT_FOUND))


def test_a_project_endpoint_overrides_the_projects_in_the_body(harness: Harness, acme: Acme) -> None:
    _, made = harness.execute(create_rule(projects=["p2"], inProject="p1"), **acme.by("mem"))
    _, moved = harness.execute(update_rule(int(made["id"]), projects=["p2"], inProject="p1"), **acme.by("mem"))

    assert (made["projects"], moved["projects"]) == (["p1"], ["p1"])


@pytest.mark.parametrize(
    ("scopes", "organization_status", "project_status"),
    [
        (["alerts:write"], 201, 201),
        (["org:write"], 201, 403),
        (["project:write"], 403, 201),
        (["alerts:read", "project:read", "org:read"], 403, 403),
    ],
)
def test_the_scopes_required_by_a_commands_endpoint_are_checked_again_when_it_is_applied(
    harness: Harness, acme: Acme, scopes: list[str], organization_status: int, project_status: int
) -> None:
    with harness.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE tokens SET scopes = %s WHERE id = %s", (scopes, acme.tokens["dev-own"]))

    statuses = [harness.execute(each, **acme.by("own"))[0] for each in (create_rule(), create_rule(inProject="p1"))]

    assert statuses == [organization_status, project_status]


def test_members_may_write_rules_only_if_the_organization_allows_it(harness: Harness, acme: Acme) -> None:
    rule = a_rule(harness, acme)
    with harness.engine.begin() as connection:
        connection.execute(update(organizations).values(alerts_member_write=False))

    commands = (create_rule(), update_rule(rule), delete_rule(rule))
    by_member = [harness.execute(each, **acme.by("mem"))[0] for each in commands]
    by_admin = [harness.execute(each, **acme.by("ben"))[0] for each in commands]

    assert by_member == [403, 403, 403]
    assert by_admin == [201, 200, 204]


def test_rule_ownership_is_not_required_to_change_a_rule(harness: Harness, acme: Acme) -> None:
    rule = a_rule(harness, acme, owner_team=22)

    assert harness.execute(update_rule(rule), **acme.by("mem"))[0] == 200
    assert harness.execute(delete_rule(rule), **acme.by("mem"))[0] == 204


def test_a_rule_whose_owner_and_targets_were_deleted_is_still_shown(harness: Harness, acme: Acme) -> None:
    actions = [
        Action(id=1, type=ActionType.EMAIL, target_type=kind, target="999", date_added=NOW)
        for kind in (TargetType.USER, TargetType.TEAM)
    ]
    trigger = Trigger(id=2, label="critical", threshold=1.0, date_added=NOW, actions=tuple(actions))
    rule = a_rule(harness, acme, triggers=[trigger], owner_user=999)

    _, shown = harness.execute(update_rule(rule, triggers=[CRITICAL | {"id": 2}]), **acme.by("mem"))

    assert shown["owner"] == "user:999"
    assert [each["desc"] for each in shown["triggers"][0]["actions"]] == [
        "Send a notification to somebody who is gone",
        "Send an email to members of #a team that is gone",
    ]


def test_commands_for_one_rule_are_applied_in_order(harness: Harness, acme: Acme) -> None:
    rule = a_rule(harness, acme)
    ids = [harness.accept(update_rule(rule, name=str(number)), **acme.by("mem")) for number in range(5)]

    harness.apply()

    versions = [harness.ledger_row(id_)["outcome_body"]["version"] for id_ in ids]
    assert versions == [2, 3, 4, 5, 6]
    assert [sequence for _, sequence, _ in published_events(harness, rule)] == [1, 2, 3, 4, 5]
    assert {harness.ledger_row(id_)["subject"] for id_ in ids} == {f"rule:{rule}"}


def test_leading_zeros_in_a_rule_id_do_not_change_the_subject(harness: Harness, acme: Acme) -> None:
    rule = a_rule(harness, acme)

    id_ = harness.accept(delete_rule(f"00{rule}"), **acme.by("mem"))  # type: ignore[arg-type]

    assert harness.ledger_row(id_)["subject"] == f"rule:{rule}"


def test_the_stored_payload_distinguishes_absent_from_null() -> None:
    stored = json.loads(update_rule(1, owner=None).to_payload())

    assert stored["owner"] is None
    assert "environment" not in stored


def test_an_active_snooze_is_shown_only_to_those_it_applies_to(harness: Harness, acme: Acme) -> None:
    rule = a_rule(harness, acme)
    with harness.engine.begin() as connection:
        connection.execute(insert(alert_rule_snoozes).values(rule_id=rule, user_id=11, date_added=NOW))

    _, mine = harness.execute(update_rule(rule), **acme.by("mem"))
    _, hers = harness.execute(update_rule(rule), **acme.by("ana"))

    assert (mine.get("snooze"), hers.get("snooze")) == (True, None)
