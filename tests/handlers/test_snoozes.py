"""A rule kept silent: for whom, until when, and once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select

from models.alert_rules.alert_rule import alert_rule_snoozes
from models.enums import JSON
from tasks.commands.snoozes import SnoozeRule, UnsnoozeRule
from tests.builders import NOW
from tests.handlers.acme import Acme
from tests.handlers.conftest import Harness
from tests.handlers.rule_orders import FORBIDDEN, MISSING, a_rule, announced, deletion, row

GONE = (410, {"detail": "RuleSnooze already exists for this rule and scope."})
NO_RULE = (400, ["Rule does not exist"])


def silence(rule: int, target: str = "me", **fields: JSON) -> SnoozeRule:
    return SnoozeRule.model_validate({"alertRule": rule, "target": target} | fields)


def speech(rule: int, **fields: JSON) -> UnsnoozeRule:
    return UnsnoozeRule.model_validate({"alertRule": rule} | fields)


def an_old_snooze(house: Harness, rule: int, user: int | None) -> None:
    """One whose time is over."""
    facts = {"rule_id": rule, "user_id": user, "owner_id": 12, "until": NOW - timedelta(days=365), "date_added": NOW}
    with house.engine.begin() as connection:
        connection.execute(insert(alert_rule_snoozes).values(**facts))


def standing(house: Harness) -> list[tuple[Any, ...]]:
    """Who keeps what silent, by whose wish."""
    table = alert_rule_snoozes
    with house.engine.connect() as connection:
        rows = connection.execute(select(table.c.rule_id, table.c.user_id, table.c.owner_id).order_by(table.c.id))
        return [tuple(each) for each in rows]


@pytest.mark.parametrize(("target", "user", "shown_as"), [("me", 11, "11"), ("everyone", None, "everyone")])
def test_a_rule_is_kept_silent_for_oneself_or_for_everyone(
    house: Harness, acme: Acme, target: str, user: int | None, shown_as: str
) -> None:
    rule = a_rule(house, acme)

    status, shown = house.execute(silence(rule, target), **acme.by("mem"))

    assert status == 201
    assert shown == {
        "ownerId": "11",
        "userId": shown_as,
        "until": "forever",
        "dateAdded": shown["dateAdded"],
        "ruleId": None,
        "alertRuleId": str(rule),
    }
    assert standing(house) == [(rule, user, 11)]
    assert (row(house, rule).version, announced(house, rule)) == (1, [])


def test_a_snooze_may_have_an_end(house: Harness, acme: Acme) -> None:
    _, shown = house.execute(silence(a_rule(house, acme), until="2036-01-02T03:04:05+01:00"), **acme.by("mem"))

    assert shown["until"] == "2036-01-02T02:04:05Z"


def test_while_it_holds_it_is_not_repeated_for_the_same_people(house: Harness, acme: Acme) -> None:
    rule = a_rule(house, acme)
    house.execute(silence(rule, until="2036-01-01T00:00:00Z"), **acme.by("mem"))

    assert house.execute(silence(rule), **acme.by("mem")) == GONE
    assert house.execute(silence(rule, "everyone"), **acme.by("mem"))[0] == 201
    assert house.execute(silence(rule, "everyone"), **acme.by("ana")) == GONE
    assert house.execute(silence(rule), **acme.by("ana"))[0] == 201
    assert standing(house) == [(rule, 11, 11), (rule, None, 11), (rule, 12, 12)]


@pytest.mark.parametrize(("target", "user"), [("me", 11), ("everyone", None)])
def test_a_snooze_whose_time_is_over_is_none(house: Harness, acme: Acme, target: str, user: int | None) -> None:
    rule = a_rule(house, acme)
    an_old_snooze(house, rule, user)

    nothing = house.execute(speech(rule), **acme.by("mem"))
    again = house.execute(silence(rule, target), **acme.by("mem"))

    assert (nothing, again[0]) == ((404, MISSING), 201)
    assert standing(house) == [(rule, user, 11)]


def test_a_snooze_ends_when_its_time_is_over_and_not_when_a_job_runs(house: Harness, acme: Acme) -> None:
    rule = a_rule(house, acme)
    soon = (datetime.now(UTC) + timedelta(seconds=30)).isoformat()
    first = house.accept(silence(rule, until=soon), **acme.by("mem"))
    house.apply()
    with house.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alert_rule_snoozes SET until = now() - interval '1 second'")

    again = house.execute(silence(rule), **acme.by("mem"))

    assert (house.ledger_row(first)["outcome_status"], again[0]) == (201, 201)


@pytest.mark.parametrize(
    ("fields", "left"),
    [({}, [12]), ({"target": "me"}, [None, 12]), ({"target": "everyone"}, [11, 12])],
    ids=["both", "me", "everyone"],
)
def test_a_rule_is_let_speak_again(house: Harness, acme: Acme, fields: dict[str, JSON], left: list[int | None]) -> None:
    rule = a_rule(house, acme)
    house.execute(silence(rule), **acme.by("mem"))
    house.execute(silence(rule, "everyone"), **acme.by("mem"))
    house.execute(silence(rule), **acme.by("ana"))

    answered = house.execute(speech(rule, **fields), **acme.by("mem"))

    assert answered == (204, None)
    assert [user for _, user, _ in standing(house)] == left


def test_where_nothing_is_silent_there_is_nothing_to_end(house: Harness, acme: Acme) -> None:
    rule = a_rule(house, acme)
    house.execute(silence(rule), **acme.by("ana"))

    assert house.execute(speech(rule), **acme.by("mem")) == (404, MISSING)
    assert house.execute(speech(rule, target="everyone"), **acme.by("ana")) == (404, MISSING)


def test_within_a_batch_the_last_word_counts(house: Harness, acme: Acme) -> None:
    rule = a_rule(house, acme)
    orders = [silence(rule), silence(rule), speech(rule), silence(rule), speech(rule), speech(rule), silence(rule)]
    ids = [house.accept(order, **acme.by("mem")) for order in orders]

    house.apply()

    statuses = [house.ledger_row(id_)["outcome_status"] for id_ in ids]
    assert statuses == [201, 410, 204, 201, 204, 404, 201]
    assert standing(house) == [(rule, 11, 11)]


@pytest.mark.parametrize("order", [silence, speech])
def test_a_rule_that_is_none_is_told_in_words_of_its_own(house: Harness, acme: Acme, order: Any) -> None:
    rule, elsewhere = a_rule(house, acme), a_rule(house, acme, organization="closed", project="c1")
    deleted = a_rule(house, acme)
    house.execute(deletion(deleted), **acme.by("mem"))

    answers = [house.execute(order(each), **acme.by("mem")) for each in (0, elsewhere, deleted)]
    answers.append(house.execute(order(rule, inProject="p2"), **acme.by("mem")))

    assert answers == [NO_RULE] * 4


@pytest.mark.parametrize("order", [silence, speech])
def test_a_rule_out_of_reach_is_nobodys_to_silence(house: Harness, acme: Acme, order: Any) -> None:
    rule = a_rule(house, acme, organization="closed", project="c1")
    mem = acme.by("mem", organization="closed")

    assert house.execute(order(rule), **mem) == (403, FORBIDDEN)
    assert house.execute(order(rule, inProject="c1"), **mem) == (403, FORBIDDEN)
    assert house.execute(order(rule, inProject="nowhere"), **mem) == (404, MISSING)
    assert standing(house) == []


@pytest.mark.parametrize("order", [silence, speech])
def test_silence_is_of_the_plan_and_takes_the_scopes_of_a_project(house: Harness, acme: Acme, order: Any) -> None:
    rule = a_rule(house, acme, organization="plain", project="n1")
    without = house.execute(order(rule), **acme.by("mem", organization="plain"))
    here = a_rule(house, acme)
    with house.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE tokens SET scopes = '{org:write}'")
    of_the_organization = house.execute(order(here), **acme.by("own"))

    assert (without, of_the_organization) == ((404, MISSING), (403, FORBIDDEN))


def test_what_a_rule_was_silent_of_goes_with_it(house: Harness, acme: Acme) -> None:
    rule = a_rule(house, acme)
    house.execute(silence(rule), **acme.by("mem"))

    house.execute(deletion(rule), **acme.by("mem"))

    assert standing(house) == []
