"""Handlers that snooze and unsnooze alert rules."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select

from models.alert_rules.alert_rule import alert_rule_snoozes
from models.types import JSON
from tasks.commands.snoozes import SnoozeRule, UnsnoozeRule
from tests.builders import NOW
from tests.handlers.acme import Acme
from tests.handlers.rule_commands import FORBIDDEN, NOT_FOUND, a_rule, delete_rule, published_events, rule_row
from tests.harness import Harness

ALREADY_SNOOZED = (410, {"detail": "RuleSnooze already exists for this rule and scope."})
NO_RULE = (400, ["Rule does not exist"])


def snooze(rule: int, target: str = "me", **fields: JSON) -> SnoozeRule:
    return SnoozeRule.model_validate({"alertRule": rule, "target": target} | fields)


def unsnooze(rule: int, **fields: JSON) -> UnsnoozeRule:
    return UnsnoozeRule.model_validate({"alertRule": rule} | fields)


def an_expired_snooze(harness: Harness, rule: int, user: int | None) -> None:
    """Insert a snooze that has expired."""
    facts = {"rule_id": rule, "user_id": user, "owner_id": 12, "until": NOW - timedelta(days=365), "date_added": NOW}
    with harness.engine.begin() as connection:
        connection.execute(insert(alert_rule_snoozes).values(**facts))


def stored_snoozes(harness: Harness) -> list[tuple[Any, ...]]:
    """Return rule id, user id and owner id for every stored snooze."""
    table = alert_rule_snoozes
    with harness.engine.connect() as connection:
        rows = connection.execute(select(table.c.rule_id, table.c.user_id, table.c.owner_id).order_by(table.c.id))
        return [tuple(each) for each in rows]


@pytest.mark.parametrize(("target", "user", "shown_as"), [("me", 11, "11"), ("everyone", None, "everyone")])
def test_a_rule_is_snoozed_for_oneself_or_for_everyone(
    harness: Harness, acme: Acme, target: str, user: int | None, shown_as: str
) -> None:
    rule = a_rule(harness, acme)

    status, shown = harness.execute(snooze(rule, target), **acme.by("mem"))

    assert status == 201
    assert shown == {
        "ownerId": "11",
        "userId": shown_as,
        "until": "forever",
        "dateAdded": shown["dateAdded"],
        "ruleId": None,
        "alertRuleId": str(rule),
    }
    assert stored_snoozes(harness) == [(rule, user, 11)]
    assert (rule_row(harness, rule).version, published_events(harness, rule)) == (1, [])


def test_a_snooze_can_have_an_end_time(harness: Harness, acme: Acme) -> None:
    _, shown = harness.execute(snooze(a_rule(harness, acme), until="2036-01-02T03:04:05+01:00"), **acme.by("mem"))

    assert shown["until"] == "2036-01-02T02:04:05Z"


def test_an_active_snooze_cannot_be_repeated_for_the_same_people(harness: Harness, acme: Acme) -> None:
    rule = a_rule(harness, acme)
    harness.execute(snooze(rule, until="2036-01-01T00:00:00Z"), **acme.by("mem"))

    assert harness.execute(snooze(rule), **acme.by("mem")) == ALREADY_SNOOZED
    assert harness.execute(snooze(rule, "everyone"), **acme.by("mem"))[0] == 201
    assert harness.execute(snooze(rule, "everyone"), **acme.by("ana")) == ALREADY_SNOOZED
    assert harness.execute(snooze(rule), **acme.by("ana"))[0] == 201
    assert stored_snoozes(harness) == [(rule, 11, 11), (rule, None, 11), (rule, 12, 12)]


@pytest.mark.parametrize(("target", "user"), [("me", 11), ("everyone", None)])
def test_an_expired_snooze_counts_as_absent(harness: Harness, acme: Acme, target: str, user: int | None) -> None:
    rule = a_rule(harness, acme)
    an_expired_snooze(harness, rule, user)

    nothing = harness.execute(unsnooze(rule), **acme.by("mem"))
    again = harness.execute(snooze(rule, target), **acme.by("mem"))

    assert (nothing, again[0]) == ((404, NOT_FOUND), 201)
    assert stored_snoozes(harness) == [(rule, user, 11)]


def test_a_snooze_expires_without_a_cleanup_job(harness: Harness, acme: Acme) -> None:
    rule = a_rule(harness, acme)
    soon = (datetime.now(UTC) + timedelta(seconds=30)).isoformat()
    first = harness.accept(snooze(rule, until=soon), **acme.by("mem"))
    harness.apply()
    with harness.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alert_rule_snoozes SET until = now() - interval '1 second'")

    again = harness.execute(snooze(rule), **acme.by("mem"))

    assert (harness.ledger_row(first)["outcome_status"], again[0]) == (201, 201)


@pytest.mark.parametrize(
    ("fields", "left"),
    [({}, [12]), ({"target": "me"}, [None, 12]), ({"target": "everyone"}, [11, 12])],
    ids=["no target", "target me", "target everyone"],
)
def test_a_rule_is_unsnoozed(harness: Harness, acme: Acme, fields: dict[str, JSON], left: list[int | None]) -> None:
    rule = a_rule(harness, acme)
    harness.execute(snooze(rule), **acme.by("mem"))
    harness.execute(snooze(rule, "everyone"), **acme.by("mem"))
    harness.execute(snooze(rule), **acme.by("ana"))

    outcome = harness.execute(unsnooze(rule, **fields), **acme.by("mem"))

    assert outcome == (204, None)
    assert [user for _, user, _ in stored_snoozes(harness)] == left


def test_unsnoozing_without_a_snooze_is_404(harness: Harness, acme: Acme) -> None:
    rule = a_rule(harness, acme)
    harness.execute(snooze(rule), **acme.by("ana"))

    assert harness.execute(unsnooze(rule), **acme.by("mem")) == (404, NOT_FOUND)
    assert harness.execute(unsnooze(rule, target="everyone"), **acme.by("ana")) == (404, NOT_FOUND)


def test_the_last_command_of_a_batch_decides_the_snooze(harness: Harness, acme: Acme) -> None:
    rule = a_rule(harness, acme)
    commands = [snooze(rule), snooze(rule), unsnooze(rule), snooze(rule), unsnooze(rule), unsnooze(rule), snooze(rule)]
    ids = [harness.accept(command, **acme.by("mem")) for command in commands]

    harness.apply()

    statuses = [harness.ledger_row(id_)["outcome_status"] for id_ in ids]
    assert statuses == [201, 410, 204, 201, 204, 404, 201]
    assert stored_snoozes(harness) == [(rule, 11, 11)]


@pytest.mark.parametrize("command", [snooze, unsnooze])
def test_snoozing_or_unsnoozing_a_missing_rule_is_refused_with_a_specific_message(
    harness: Harness, acme: Acme, command: Any
) -> None:
    rule, elsewhere = a_rule(harness, acme), a_rule(harness, acme, organization="closed", project="c1")
    deleted = a_rule(harness, acme)
    harness.execute(delete_rule(deleted), **acme.by("mem"))

    outcomes = [harness.execute(command(each), **acme.by("mem")) for each in (0, elsewhere, deleted)]
    outcomes.append(harness.execute(command(rule, inProject="p2"), **acme.by("mem")))

    assert outcomes == [NO_RULE] * 4


@pytest.mark.parametrize("command", [snooze, unsnooze])
def test_an_inaccessible_rule_cannot_be_snoozed(harness: Harness, acme: Acme, command: Any) -> None:
    rule = a_rule(harness, acme, organization="closed", project="c1")
    mem = acme.by("mem", organization="closed")

    assert harness.execute(command(rule), **mem) == (403, FORBIDDEN)
    assert harness.execute(command(rule, inProject="c1"), **mem) == (403, FORBIDDEN)
    assert harness.execute(command(rule, inProject="nowhere"), **mem) == (404, NOT_FOUND)
    assert stored_snoozes(harness) == []


@pytest.mark.parametrize("command", [snooze, unsnooze])
def test_snoozing_requires_the_incidents_feature_and_a_project_scope(
    harness: Harness, acme: Acme, command: Any
) -> None:
    rule = a_rule(harness, acme, organization="plain", project="n1")
    without = harness.execute(command(rule), **acme.by("mem", organization="plain"))
    here = a_rule(harness, acme)
    with harness.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE tokens SET scopes = '{org:write}'")
    of_the_organization = harness.execute(command(here), **acme.by("own"))

    assert (without, of_the_organization) == ((404, NOT_FOUND), (403, FORBIDDEN))


def test_deleting_a_rule_deletes_its_snoozes(harness: Harness, acme: Acme) -> None:
    rule = a_rule(harness, acme)
    harness.execute(snooze(rule), **acme.by("mem"))

    harness.execute(delete_rule(rule), **acme.by("mem"))

    assert stored_snoozes(harness) == []
