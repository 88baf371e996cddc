"""What happens when a comment is edited or taken back."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from models.incidents.activity import activities
from models.incidents.subscription import subscriptions
from tasks.commands.base import Command
from tasks.commands.comments import DeleteComment, EditComment, PostComment
from tasks.commands.incidents import SetStatus
from tests.handlers.acme import Acme
from tests.handlers.conftest import Harness


def post(house: Harness, acme: Acme, *mentions: str, by: str = "mem") -> str:
    order = PostComment.model_validate({"incident": "1", "comment": "Look", "mentions": list(mentions)})
    _, body = house.execute(order, **acme.by(by))
    return str(body["id"])


def edit(id_: str, text: str = "Look again", **fields: Any) -> EditComment:
    return EditComment.model_validate({"incident": "1", "id": id_, "comment": text, **fields})


def delete(id_: str, **fields: Any) -> DeleteComment:
    return DeleteComment.model_validate({"incident": "1", "id": id_, **fields})


def comments(house: Harness) -> dict[str, Any]:
    with house.engine.connect() as connection:
        return {str(row.id): row for row in connection.execute(select(activities).where(activities.c.type == 3))}


def news(house: Harness) -> list[tuple[str, Any]]:
    with house.engine.connect() as connection:
        rows = connection.exec_driver_sql(
            "SELECT type, body FROM events WHERE subject = 'incidents/1' ORDER BY sequence"
        )
        return [(row.type, row.body["data"].get("users")) for row in rows]


def subscribers(house: Harness) -> dict[int, str]:
    with house.engine.connect() as connection:
        return {row.user_id: row.reason for row in connection.execute(select(subscriptions))}


BOTH = pytest.mark.parametrize("change", [edit, delete])


def test_an_edit_replaces_the_text_and_nothing_else(house: Harness, acme: Acme) -> None:
    id_ = post(house, acme)
    before = comments(house)[id_]

    code, body = house.execute(edit(id_), **acme.by("mem"))

    after = comments(house)[id_]
    assert (code, body["id"], body["comment"], body["version"]) == (200, id_, "Look again", 2)
    assert (after.comment, after.version) == ("Look again", 2)
    kept = ("date_added", "user_id", "type", "notification_uuid", "incident_id")
    assert [getattr(after, name) for name in kept] == [getattr(before, name) for name in kept]


def test_an_edit_moves_the_incidents_version_and_adds_no_activity(house: Harness, acme: Acme) -> None:
    id_ = post(house, acme)

    house.execute(edit(id_), **acme.by("mem"))

    with house.engine.connect() as connection:
        version = connection.exec_driver_sql(
            "SELECT version FROM incidents WHERE identifier = 1 AND organization_id = %s", (acme.organizations["acme"],)
        ).scalar_one()
    assert version == 3
    assert house.row_counts()["incident_activities"] == 1


def test_a_deletion_answers_204_and_the_comment_is_gone(house: Harness, acme: Acme) -> None:
    id_ = post(house, acme)

    assert house.execute(delete(id_), **acme.by("mem")) == (204, None)
    assert comments(house) == {}


def test_subscriptions_that_came_with_a_comment_outlive_it(house: Harness, acme: Acme) -> None:
    id_ = post(house, acme, "ana")

    house.execute(delete(id_), **acme.by("mem"))

    assert subscribers(house) == {11: "commented", 12: "mention"}


@BOTH
def test_somebody_elses_comment_does_not_exist(house: Harness, acme: Acme, change: Any) -> None:
    id_ = post(house, acme)

    for name in ("ana", "own"):
        code, body = house.execute(change(id_), **acme.by(name))
        assert (code, body) == (404, {"detail": "The requested resource does not exist"})
    assert comments(house)[id_].comment == "Look"


@BOTH
def test_an_account_with_the_superuser_flag_may_change_it_if_it_reaches_the_incident(
    house: Harness, acme: Acme, change: Any
) -> None:
    id_ = post(house, acme)
    with house.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE users SET is_superuser = true WHERE username IN ('ana', 'out')")

    stranger, _ = house.execute(change(id_), **acme.by("out"))
    member, _ = house.execute(change(id_), **acme.by("ana"))

    assert stranger == 403
    assert member in (200, 204)


def test_a_superusers_edit_keeps_the_author(house: Harness, acme: Acme) -> None:
    id_ = post(house, acme)
    with house.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE users SET is_superuser = true WHERE username = 'ana'")

    _, body = house.execute(edit(id_), **acme.by("ana"))

    assert body["user"]["username"] == "mem"
    assert comments(house)[id_].user_id == 11


@BOTH
@pytest.mark.parametrize("id_", ["999999", "²", "12a", "0", "9" * 40])
def test_a_comment_that_cannot_be_is_404(house: Harness, acme: Acme, change: Any, id_: str) -> None:
    code, _ = house.execute(change(id_), **acme.by("mem"))

    assert code == 404


@BOTH
def test_what_is_no_comment_is_404(house: Harness, acme: Acme, change: Any) -> None:
    house.execute(SetStatus.model_validate({"incident": "1", "status": 2}), **acme.by("mem"))
    with house.engine.connect() as connection:
        id_ = str(connection.execute(select(activities.c.id)).scalar_one())

    code, _ = house.execute(change(id_), **acme.by("mem"))

    assert code == 404
    assert house.row_counts()["incident_activities"] == 1


@BOTH
def test_a_comment_of_another_incident_is_404(house: Harness, acme: Acme, change: Any) -> None:
    id_ = post(house, acme)
    elsewhere = acme.by("mem", organization="closed")
    with house.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE organizations SET open_membership = true")

    code, _ = house.execute(change(id_), **elsewhere)

    assert code == 404
    assert id_ in comments(house)


@BOTH
def test_a_stale_version_of_the_comment_is_412(house: Harness, acme: Acme, change: Any) -> None:
    id_ = post(house, acme)
    house.execute(edit(id_), **acme.by("mem"))

    stale, _ = house.execute(change(id_), expected_version=1, **acme.by("mem"))
    fresh, _ = house.execute(change(id_), expected_version=2, **acme.by("mem"))

    assert (stale, fresh // 100) == (412, 2)


def test_only_those_mentioned_for_the_first_time_are_told_of_an_edit(house: Harness, acme: Acme) -> None:
    id_ = post(house, acme, "ana")

    house.execute(edit(id_, mentions=["ana", "ben"]), **acme.by("mem"))

    assert news(house)[-2:] == [("incident.comment_edited", None), ("incident.mentioned", ["13"])]
    assert subscribers(house) == {11: "commented", 12: "mention", 13: "mention"}


def test_an_edit_without_mentions_mentions_nobody_anew(house: Harness, acme: Acme) -> None:
    id_ = post(house, acme, "ana")

    house.execute(edit(id_), **acme.by("mem"))

    assert [kind for kind, _ in news(house)][2:] == ["incident.comment_edited"]


def test_who_was_mentioned_dropped_and_mentioned_again_is_not_told_twice(house: Harness, acme: Acme) -> None:
    id_ = post(house, acme, "ana")

    house.execute(edit(id_, mentions=[]), **acme.by("mem"))
    house.execute(edit(id_, mentions=["ana"]), **acme.by("mem"))

    assert [kind for kind, _ in news(house)].count("incident.mentioned") == 1


def test_a_team_that_is_mentioned_anew_is_told_without_those_already_named(house: Harness, acme: Acme) -> None:
    id_ = post(house, acme, "ana")

    house.execute(edit(id_, mentions=["team:21"]), **acme.by("mem"))

    assert subscribers(house) == {11: "commented", 12: "mention", 13: "team_mention"}


@pytest.mark.parametrize(
    ("mentions", "wrong"),
    [
        (["user:14"], {"mentions": {"0": ["User is not a member of this organization"]}}),
        (["own"], {"mentions": ["Cannot mention a non team member"]}),
    ],
)
def test_a_bad_mention_leaves_the_comment_as_it_was(
    house: Harness, acme: Acme, mentions: list[str], wrong: Any
) -> None:
    id_ = post(house, acme)

    assert house.execute(edit(id_, mentions=mentions), **acme.by("mem")) == (400, wrong)
    assert comments(house)[id_].comment == "Look"


def test_in_one_batch_a_comment_can_be_posted_edited_and_taken_back(house: Harness, acme: Acme) -> None:
    known = post(house, acme)
    next_id = str(int(known) + 1)
    orders: list[Command] = [
        PostComment.model_validate({"incident": "1", "comment": "Second"}),
        edit(next_id, "Second, edited"),
        delete(known),
        edit(known),
    ]
    ids = [house.accept(order, **acme.by("mem")) for order in orders]

    house.apply()

    assert [house.ledger_row(id_)["outcome_status"] for id_ in ids] == [201, 200, 204, 404]
    assert [row.comment for row in comments(house).values()] == ["Second, edited"]


@BOTH
def test_the_superuser_flag_does_not_reach_a_project_out_of_reach(house: Harness, acme: Acme, change: Any) -> None:
    with house.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE users SET is_superuser = true WHERE username = 'mem'")

    code, _ = house.execute(change("1"), **acme.by("mem", organization="closed"))

    assert code == 403


def test_an_edit_that_drops_a_mention_unsubscribes_nobody(house: Harness, acme: Acme) -> None:
    id_ = post(house, acme, "ana")

    house.execute(edit(id_, mentions=[]), **acme.by("mem"))

    assert subscribers(house) == {11: "commented", 12: "mention"}
