"""Handlers that edit and delete comments."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from models.incidents.activity import activities
from tasks.commands.base import Command
from tasks.commands.comments import DeleteComment, EditComment, PostComment
from tasks.commands.incidents import SetStatus
from tests.handlers.acme import Acme
from tests.harness import Harness


def post(harness: Harness, acme: Acme, *mentions: str, by: str = "mem") -> str:
    command = PostComment.model_validate({"incident": "1", "comment": "Look", "mentions": list(mentions)})
    _, body = harness.execute(command, **acme.by(by))
    return str(body["id"])


def edit(id_: str, text: str = "Look again", **fields: Any) -> EditComment:
    return EditComment.model_validate({"incident": "1", "id": id_, "comment": text, **fields})


def delete(id_: str, **fields: Any) -> DeleteComment:
    return DeleteComment.model_validate({"incident": "1", "id": id_, **fields})


def comments(harness: Harness) -> dict[str, Any]:
    with harness.engine.connect() as connection:
        return {str(row.id): row for row in connection.execute(select(activities).where(activities.c.type == 3))}


def published(harness: Harness) -> list[tuple[str, Any]]:
    with harness.engine.connect() as connection:
        rows = connection.exec_driver_sql(
            "SELECT type, body FROM events WHERE subject = 'incidents/1' ORDER BY sequence"
        )
        return [(row.type, row.body["data"].get("users")) for row in rows]


EDIT_AND_DELETE = pytest.mark.parametrize("build_command", [edit, delete])


def test_an_edit_replaces_the_text_and_nothing_else(harness: Harness, acme: Acme) -> None:
    id_ = post(harness, acme)
    before = comments(harness)[id_]

    code, body = harness.execute(edit(id_), **acme.by("mem"))

    after = comments(harness)[id_]
    assert (code, body["id"], body["comment"], body["version"]) == (200, id_, "Look again", 2)
    assert (after.comment, after.version) == ("Look again", 2)
    kept = ("date_added", "user_id", "type", "notification_uuid", "incident_id")
    assert [getattr(after, name) for name in kept] == [getattr(before, name) for name in kept]


def test_an_edit_increments_the_incidents_version_and_adds_no_activity(harness: Harness, acme: Acme) -> None:
    id_ = post(harness, acme)

    harness.execute(edit(id_), **acme.by("mem"))

    with harness.engine.connect() as connection:
        version = connection.exec_driver_sql(
            "SELECT version FROM incidents WHERE identifier = 1 AND organization_id = %s", (acme.organizations["acme"],)
        ).scalar_one()
    assert version == 3
    assert harness.row_counts()["incident_activities"] == 1


def test_deleting_a_comment_returns_204_and_removes_it(harness: Harness, acme: Acme) -> None:
    id_ = post(harness, acme)

    assert harness.execute(delete(id_), **acme.by("mem")) == (204, None)
    assert comments(harness) == {}


def test_deleting_a_comment_keeps_the_subscriptions_it_created(harness: Harness, acme: Acme) -> None:
    id_ = post(harness, acme, "ana")

    harness.execute(delete(id_), **acme.by("mem"))

    assert harness.subscribers() == {11: "commented", 12: "mention"}


@EDIT_AND_DELETE
def test_someone_elses_comment_is_404(harness: Harness, acme: Acme, build_command: Any) -> None:
    id_ = post(harness, acme)

    for name in ("ana", "own"):
        code, body = harness.execute(build_command(id_), **acme.by(name))
        assert (code, body) == (404, {"detail": "The requested resource does not exist"})
    assert comments(harness)[id_].comment == "Look"


@EDIT_AND_DELETE
def test_a_superuser_with_access_to_the_incident_may_change_any_comment(
    harness: Harness, acme: Acme, build_command: Any
) -> None:
    id_ = post(harness, acme)
    with harness.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE users SET is_superuser = true WHERE username IN ('ana', 'out')")

    stranger, _ = harness.execute(build_command(id_), **acme.by("out"))
    member, _ = harness.execute(build_command(id_), **acme.by("ana"))

    assert stranger == 403
    assert member in (200, 204)


def test_a_superusers_edit_keeps_the_author(harness: Harness, acme: Acme) -> None:
    id_ = post(harness, acme)
    with harness.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE users SET is_superuser = true WHERE username = 'ana'")

    _, body = harness.execute(edit(id_), **acme.by("ana"))

    assert body["user"]["username"] == "mem"
    assert comments(harness)[id_].user_id == 11


@EDIT_AND_DELETE
@pytest.mark.parametrize("id_", ["999999", "²", "12a", "0", "9" * 40])
def test_an_impossible_comment_id_is_404(harness: Harness, acme: Acme, build_command: Any, id_: str) -> None:
    code, _ = harness.execute(build_command(id_), **acme.by("mem"))

    assert code == 404


@EDIT_AND_DELETE
def test_an_activity_that_is_not_a_comment_is_404(harness: Harness, acme: Acme, build_command: Any) -> None:
    harness.execute(SetStatus.model_validate({"incident": "1", "status": 2}), **acme.by("mem"))
    with harness.engine.connect() as connection:
        id_ = str(connection.execute(select(activities.c.id)).scalar_one())

    code, _ = harness.execute(build_command(id_), **acme.by("mem"))

    assert code == 404
    assert harness.row_counts()["incident_activities"] == 1


@EDIT_AND_DELETE
def test_a_comment_of_another_incident_is_404(harness: Harness, acme: Acme, build_command: Any) -> None:
    id_ = post(harness, acme)
    elsewhere = acme.by("mem", organization="closed")
    with harness.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE organizations SET open_membership = true")

    code, _ = harness.execute(build_command(id_), **elsewhere)

    assert code == 404
    assert id_ in comments(harness)


@EDIT_AND_DELETE
def test_a_stale_comment_version_is_412(harness: Harness, acme: Acme, build_command: Any) -> None:
    id_ = post(harness, acme)
    harness.execute(edit(id_), **acme.by("mem"))

    stale, _ = harness.execute(build_command(id_), expected_version=1, **acme.by("mem"))
    fresh, _ = harness.execute(build_command(id_), expected_version=2, **acme.by("mem"))

    assert (stale, fresh // 100) == (412, 2)


def test_an_edit_publishes_only_new_mentions(harness: Harness, acme: Acme) -> None:
    id_ = post(harness, acme, "ana")

    harness.execute(edit(id_, mentions=["ana", "ben"]), **acme.by("mem"))

    assert published(harness)[-2:] == [("incident.comment_edited", None), ("incident.mentioned", ["13"])]
    assert harness.subscribers() == {11: "commented", 12: "mention", 13: "mention"}


def test_an_edit_without_mentions_publishes_no_mention(harness: Harness, acme: Acme) -> None:
    id_ = post(harness, acme, "ana")

    harness.execute(edit(id_), **acme.by("mem"))

    assert [kind for kind, _ in published(harness)][2:] == ["incident.comment_edited"]


def test_a_mention_removed_and_added_again_is_published_once(harness: Harness, acme: Acme) -> None:
    id_ = post(harness, acme, "ana")

    harness.execute(edit(id_, mentions=[]), **acme.by("mem"))
    harness.execute(edit(id_, mentions=["ana"]), **acme.by("mem"))

    assert [kind for kind, _ in published(harness)].count("incident.mentioned") == 1


def test_a_newly_mentioned_team_subscribes_members_not_mentioned_before(harness: Harness, acme: Acme) -> None:
    id_ = post(harness, acme, "ana")

    harness.execute(edit(id_, mentions=["team:21"]), **acme.by("mem"))

    assert harness.subscribers() == {11: "commented", 12: "mention", 13: "team_mention"}


@pytest.mark.parametrize(
    ("mentions", "errors"),
    [
        (["user:14"], {"mentions": {"0": ["User does not exist"]}}),
        (["own"], {"mentions": ["Cannot mention a non team member"]}),
    ],
)
def test_an_invalid_mention_leaves_the_comment_unchanged(
    harness: Harness, acme: Acme, mentions: list[str], errors: Any
) -> None:
    id_ = post(harness, acme)

    assert harness.execute(edit(id_, mentions=mentions), **acme.by("mem")) == (400, errors)
    assert comments(harness)[id_].comment == "Look"


def test_a_comment_can_be_posted_edited_and_deleted_in_one_batch(harness: Harness, acme: Acme) -> None:
    known = post(harness, acme)
    next_id = str(int(known) + 1)
    commands: list[Command] = [
        PostComment.model_validate({"incident": "1", "comment": "Second"}),
        edit(next_id, "Second, edited"),
        delete(known),
        edit(known),
    ]
    ids = [harness.accept(command, **acme.by("mem")) for command in commands]

    harness.apply()

    assert [harness.ledger_row(id_)["outcome_status"] for id_ in ids] == [201, 200, 204, 404]
    assert [row.comment for row in comments(harness).values()] == ["Second, edited"]


@EDIT_AND_DELETE
def test_a_superuser_gains_no_project_access(harness: Harness, acme: Acme, build_command: Any) -> None:
    with harness.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE users SET is_superuser = true WHERE username = 'mem'")

    code, _ = harness.execute(build_command("1"), **acme.by("mem", organization="closed"))

    assert code == 403


def test_removing_a_mention_unsubscribes_nobody(harness: Harness, acme: Acme) -> None:
    id_ = post(harness, acme, "ana")

    harness.execute(edit(id_, mentions=[]), **acme.by("mem"))

    assert harness.subscribers() == {11: "commented", 12: "mention"}
