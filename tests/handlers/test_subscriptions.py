"""Handlers that subscribe and unsubscribe people, and that mark incidents as seen."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from models.incidents.incident import incident_seen
from tasks.commands.base import Command
from tasks.commands.comments import PostComment
from tasks.commands.incidents import MarkSeen
from tasks.commands.subscriptions import Subscribe, Unsubscribe
from tests.builders import a_subscription
from tests.handlers.acme import Acme
from tests.harness import Harness

SUBSCRIBE = Subscribe.model_validate({"incident": "1"})
UNSUBSCRIBE = Unsubscribe.model_validate({"incident": "1"})
SEEN = MarkSeen.model_validate({"incident": "1"})
COMMENT = PostComment.model_validate({"incident": "1", "comment": "Look"})


def seen(harness: Harness) -> dict[int, Any]:
    with harness.engine.connect() as connection:
        return {row.user_id: row.last_seen for row in connection.execute(select(incident_seen))}


def types(harness: Harness) -> list[str]:
    with harness.engine.connect() as connection:
        return [row.type for row in connection.exec_driver_sql("SELECT type FROM events ORDER BY sequence")]


def test_subscribing_is_idempotent_and_returns_201(harness: Harness, acme: Acme) -> None:
    outcomes = [harness.execute(SUBSCRIBE, **acme.by("mem")) for _ in range(2)]

    assert outcomes == [(201, {}), (201, {})]
    assert harness.subscribers() == {11: "subscribed"}
    assert types(harness) == ["incident.subscribed"]


def test_unsubscribing_is_idempotent_and_returns_200(harness: Harness, acme: Acme) -> None:
    harness.execute(SUBSCRIBE, **acme.by("mem"))

    outcomes = [harness.execute(UNSUBSCRIBE, **acme.by("mem")) for _ in range(2)]

    assert outcomes == [(200, {}), (200, {})]
    assert harness.subscribers() == {}
    assert types(harness) == ["incident.subscribed", "incident.unsubscribed"]


def test_unsubscribing_does_not_affect_other_subscribers(harness: Harness, acme: Acme) -> None:
    harness.execute(SUBSCRIBE, **acme.by("ana"))

    harness.execute(UNSUBSCRIBE, **acme.by("mem"))

    assert harness.subscribers() == {12: "subscribed"}


def test_unsubscribing_deletes_only_the_callers_subscription(harness: Harness, acme: Acme) -> None:
    with harness.engine.begin() as connection:
        incident = connection.exec_driver_sql(
            "SELECT id FROM incidents WHERE organization_id = %(id)s", {"id": acme.organizations["acme"]}
        ).scalar_one()
        for user in (11, 12):
            a_subscription(connection, incident, user)

    outcome = harness.execute(UNSUBSCRIBE, **acme.by("mem"))

    assert outcome == (200, {})
    assert harness.subscribers() == {12: "subscribed"}


def unsubscribe_as_system(harness: Harness, acme: Acme, username: str) -> int:
    """Subscribe a person to incident 1, then have the system unsubscribe them; return the outcome's status."""
    organization, person = acme.organizations["acme"], acme.users[username]
    with harness.engine.begin() as connection:
        statement = "SELECT id FROM incidents WHERE organization_id = %(id)s"
        incident = connection.exec_driver_sql(statement, {"id": organization}).scalar_one()
        a_subscription(connection, incident, person)
    status, _ = harness.execute(UNSUBSCRIBE, organization=organization, token=None, user=person)
    return status


def test_the_system_unsubscribes_a_person_without_access(harness: Harness, acme: Acme) -> None:
    assert unsubscribe_as_system(harness, acme, "out") == 200

    assert harness.subscribers() == {}


def test_the_system_does_not_unsubscribe_a_person_who_has_access_again(harness: Harness, acme: Acme) -> None:
    assert unsubscribe_as_system(harness, acme, "mem") == 200

    assert harness.subscribers() == {acme.users["mem"]: "subscribed"}
    assert types(harness) == []


def test_the_system_unsubscribes_a_member_whose_account_is_inactive(harness: Harness, acme: Acme) -> None:
    with harness.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE users SET is_active = false WHERE username = 'mem'")

    assert unsubscribe_as_system(harness, acme, "mem") == 200

    assert harness.subscribers() == {}


def test_subscribing_after_commenting_keeps_the_first_reason(harness: Harness, acme: Acme) -> None:
    harness.execute(COMMENT, **acme.by("mem"))

    harness.execute(SUBSCRIBE, **acme.by("mem"))

    assert harness.subscribers() == {11: "commented"}


@pytest.mark.parametrize(
    ("commands", "left"),
    [
        ([SUBSCRIBE, UNSUBSCRIBE], {}),
        ([UNSUBSCRIBE, SUBSCRIBE], {11: "subscribed"}),
        ([COMMENT, UNSUBSCRIBE, SUBSCRIBE], {11: "subscribed"}),
        ([SUBSCRIBE, UNSUBSCRIBE, COMMENT, SUBSCRIBE], {11: "commented"}),
        ([UNSUBSCRIBE, SUBSCRIBE, UNSUBSCRIBE], {}),
    ],
)
@pytest.mark.parametrize("is_subscribed", [True, False])
def test_the_last_command_of_a_batch_decides_the_subscription(
    harness: Harness, acme: Acme, commands: list[Command], left: dict[int, str], is_subscribed: bool
) -> None:
    if is_subscribed:
        harness.execute(SUBSCRIBE, **acme.by("mem"))
    for command in commands:
        harness.accept(command, **acme.by("mem"))

    harness.apply()

    keeps_its_reason = is_subscribed and commands[0] is not UNSUBSCRIBE and UNSUBSCRIBE not in commands
    assert harness.subscribers() == ({11: "subscribed"} if keeps_its_reason else left)


@pytest.mark.parametrize("command", [SUBSCRIBE, UNSUBSCRIBE, SEEN])
def test_a_service_that_acts_for_nobody_is_refused(harness: Harness, acme: Acme, command: Command) -> None:
    code, _ = harness.execute(command, **acme.by_service())

    assert code == 403
    assert harness.row_counts()["events"] == 0


def test_a_member_of_the_incidents_teams_is_recorded_as_having_seen_it(harness: Harness, acme: Acme) -> None:
    id_ = harness.accept(SEEN, **acme.by("mem"))
    harness.apply()

    assert harness.ledger_row(id_)["outcome_body"] == {}
    assert seen(harness) == {11: harness.ledger_row(id_)["accepted_at"]}
    assert types(harness) == ["incident.seen"]


def test_marking_as_seen_again_updates_the_time(harness: Harness, acme: Acme) -> None:
    harness.execute(SEEN, **acme.by("mem"))
    first = seen(harness)[11]

    harness.execute(SEEN, **acme.by("mem"))

    assert seen(harness)[11] > first


def test_someone_on_none_of_the_incidents_teams_is_not_recorded_as_having_seen_it(harness: Harness, acme: Acme) -> None:
    assert harness.execute(SEEN, **acme.by("own")) == (201, {})
    assert seen(harness) == {}
    assert types(harness) == []


def test_marking_as_seen_subscribes_nobody_and_adds_no_activity(harness: Harness, acme: Acme) -> None:
    harness.execute(SEEN, **acme.by("mem"))

    counts = harness.row_counts()
    assert (counts["incident_activities"], counts["incident_subscriptions"]) == (0, 0)


def test_marking_as_seen_does_not_increment_the_version(harness: Harness, acme: Acme) -> None:
    harness.execute(SEEN, **acme.by("mem"))

    with harness.engine.connect() as connection:
        assert set(connection.exec_driver_sql("SELECT version FROM incidents").scalars()) == {1}


def test_deleting_an_account_deletes_its_activities_and_subscriptions(harness: Harness, acme: Acme) -> None:
    for command in (COMMENT, SEEN):
        harness.execute(command, **acme.by("mem"))
        harness.execute(command, **acme.by("ana"))

    with harness.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM users WHERE id = 11")

    assert (set(harness.subscribers()), set(seen(harness))) == ({12}, {12})
    with harness.engine.connect() as connection:
        assert list(connection.exec_driver_sql("SELECT user_id FROM incident_activities").scalars()) == [12]
