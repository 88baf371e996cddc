"""Who hears of an incident, and who has seen it."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from models.incidents.incident import incident_seen
from models.incidents.subscription import subscriptions
from tasks.commands.base import Command
from tasks.commands.comments import PostComment
from tasks.commands.incidents import MarkSeen
from tasks.commands.subscriptions import Subscribe, Unsubscribe
from tests.handlers.acme import Acme
from tests.handlers.conftest import Harness

SUBSCRIBE = Subscribe.model_validate({"incident": "1"})
UNSUBSCRIBE = Unsubscribe.model_validate({"incident": "1"})
SEEN = MarkSeen.model_validate({"incident": "1"})
COMMENT = PostComment.model_validate({"incident": "1", "comment": "Look"})


def subscribers(house: Harness) -> dict[int, str]:
    with house.engine.connect() as connection:
        return {row.user_id: row.reason for row in connection.execute(select(subscriptions))}


def seen(house: Harness) -> dict[int, Any]:
    with house.engine.connect() as connection:
        return {row.user_id: row.last_seen for row in connection.execute(select(incident_seen))}


def types(house: Harness) -> list[str]:
    with house.engine.connect() as connection:
        return [row.type for row in connection.exec_driver_sql("SELECT type FROM events ORDER BY sequence")]


def test_subscribing_answers_201_with_nothing_however_often(house: Harness, acme: Acme) -> None:
    answers = [house.execute(SUBSCRIBE, **acme.by("mem")) for _ in range(2)]

    assert answers == [(201, {}), (201, {})]
    assert subscribers(house) == {11: "subscribed"}
    assert types(house) == ["incident.subscribed"]


def test_unsubscribing_answers_200_with_nothing_however_often(house: Harness, acme: Acme) -> None:
    house.execute(SUBSCRIBE, **acme.by("mem"))

    answers = [house.execute(UNSUBSCRIBE, **acme.by("mem")) for _ in range(2)]

    assert answers == [(200, {}), (200, {})]
    assert subscribers(house) == {}
    assert types(house) == ["incident.subscribed", "incident.unsubscribed"]


def test_subscribing_concerns_nobody_else(house: Harness, acme: Acme) -> None:
    house.execute(SUBSCRIBE, **acme.by("ana"))

    house.execute(UNSUBSCRIBE, **acme.by("mem"))

    assert subscribers(house) == {12: "subscribed"}


def test_who_subscribes_after_commenting_keeps_that_reason(house: Harness, acme: Acme) -> None:
    house.execute(COMMENT, **acme.by("mem"))

    house.execute(SUBSCRIBE, **acme.by("mem"))

    assert subscribers(house) == {11: "commented"}


@pytest.mark.parametrize(
    ("orders", "left"),
    [
        ([SUBSCRIBE, UNSUBSCRIBE], {}),
        ([UNSUBSCRIBE, SUBSCRIBE], {11: "subscribed"}),
        ([COMMENT, UNSUBSCRIBE, SUBSCRIBE], {11: "subscribed"}),
        ([SUBSCRIBE, UNSUBSCRIBE, COMMENT, SUBSCRIBE], {11: "commented"}),
        ([UNSUBSCRIBE, SUBSCRIBE, UNSUBSCRIBE], {}),
    ],
)
@pytest.mark.parametrize("stood", [True, False])
def test_in_one_batch_the_last_word_counts(
    house: Harness, acme: Acme, orders: list[Command], left: dict[int, str], stood: bool
) -> None:
    if stood:
        house.execute(SUBSCRIBE, **acme.by("mem"))
    for order in orders:
        house.accept(order, **acme.by("mem"))

    house.apply()

    keeps_its_reason = stood and orders[0] is not UNSUBSCRIBE and UNSUBSCRIBE not in orders
    assert subscribers(house) == ({11: "subscribed"} if keeps_its_reason else left)


@pytest.mark.parametrize("order", [SUBSCRIBE, UNSUBSCRIBE, SEEN])
def test_a_service_that_acts_for_nobody_is_refused(house: Harness, acme: Acme, order: Command) -> None:
    code, _ = house.execute(order, **acme.by_service())

    assert code == 403
    assert house.row_counts()["events"] == 0


def test_who_is_on_a_team_of_the_incident_is_remembered_as_having_seen_it(house: Harness, acme: Acme) -> None:
    id_ = house.accept(SEEN, **acme.by("mem"))
    house.apply()

    assert house.ledger_row(id_)["outcome_body"] == {}
    assert seen(house) == {11: house.ledger_row(id_)["accepted_at"]}
    assert types(house) == ["incident.seen"]


def test_seen_again_is_seen_later(house: Harness, acme: Acme) -> None:
    house.execute(SEEN, **acme.by("mem"))
    first = seen(house)[11]

    house.execute(SEEN, **acme.by("mem"))

    assert seen(house)[11] > first


def test_who_is_on_no_team_of_the_incident_is_answered_alike_and_not_remembered(house: Harness, acme: Acme) -> None:
    assert house.execute(SEEN, **acme.by("own")) == (201, {})
    assert seen(house) == {}
    assert types(house) == []


def test_seeing_subscribes_nobody_and_writes_no_activity(house: Harness, acme: Acme) -> None:
    house.execute(SEEN, **acme.by("mem"))

    counts = house.row_counts()
    assert (counts["incident_activities"], counts["incident_subscriptions"]) == (0, 0)


def test_seeing_moves_no_version(house: Harness, acme: Acme) -> None:
    house.execute(SEEN, **acme.by("mem"))

    with house.engine.connect() as connection:
        assert set(connection.exec_driver_sql("SELECT version FROM incidents").scalars()) == {1}


def test_what_an_account_did_goes_when_the_account_goes(house: Harness, acme: Acme) -> None:
    for order in (COMMENT, SEEN):
        house.execute(order, **acme.by("mem"))
        house.execute(order, **acme.by("ana"))

    with house.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM users WHERE id = 11")

    assert (set(subscribers(house)), set(seen(house))) == ({12}, {12})
    with house.engine.connect() as connection:
        assert list(connection.exec_driver_sql("SELECT user_id FROM incident_activities").scalars()) == [12]
