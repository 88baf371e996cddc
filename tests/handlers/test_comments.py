"""The handler that posts comments."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from models import base
from models.incidents.incident import incidents
from tasks.commands.comments import PostComment
from tests.builders import a_member, a_team, a_user
from tests.handlers.acme import Acme, versions
from tests.harness import Harness


def comment(text: str = "Looking into it", *mentions: str | None) -> PostComment:
    return PostComment.model_validate({"incident": "1", "comment": text, "mentions": list(mentions)})


def test_posting_a_comment_returns_201_with_the_activity(harness: Harness, acme: Acme) -> None:
    status, body = harness.execute(comment("  Looking into it  "), **acme.by("mem"))

    assert status == 201
    assert (body["type"], body["comment"], body["incidentIdentifier"]) == (3, "Looking into it", "1")
    assert body["user"]["username"] == "mem"


def test_a_comment_is_dated_at_acceptance(harness: Harness, acme: Acme) -> None:
    id_ = harness.accept(comment(), **acme.by("mem"))

    harness.apply()

    row = harness.ledger_row(id_)
    assert row["outcome_body"]["dateCreated"] == row["accepted_at"].replace(tzinfo=None).isoformat() + "Z"


def test_a_comment_subscribes_its_author_and_everyone_mentioned(harness: Harness, acme: Acme) -> None:
    harness.execute(comment("Help", "user:12", "team:21"), **acme.by("mem"))

    assert harness.subscribers() == {11: "commented", 12: "mention", 13: "team_mention"}


@pytest.mark.parametrize("form", ["user:12", "12", "ana", "ANA", "Ana@X.test"])
def test_a_person_can_be_mentioned_by_id_username_or_email(harness: Harness, acme: Acme, form: str) -> None:
    status, _ = harness.execute(comment("Help", form), **acme.by("mem"))

    assert status == 201
    assert harness.subscribers()[12] == "mention"


UNPARSABLE = "Could not parse actor. Format should be `type:id` where type is `team` or `user`."


@pytest.mark.parametrize(
    ("mentions", "errors"),
    [
        ([""], {"0": [UNPARSABLE]}),
        (["0"], {"0": [UNPARSABLE]}),
        (["nobody"], {"0": [UNPARSABLE]}),
        (["user:x"], {"0": [UNPARSABLE]}),
        (["#t1"], {"0": [UNPARSABLE]}),
        (["user:12", "user:999"], {"1": ["User does not exist"]}),
        (["user:99999999999999999999"], {"0": ["User does not exist"]}),
        (["team:999"], {"0": ["Team does not exist"]}),
        (["user:14"], {"0": ["User does not exist"]}),
        (["team:23"], {"0": ["Team does not exist"]}),
        ([None, "user:999"], {"0": ["This field may not be null."], "1": ["User does not exist"]}),
        (["user:15"], ["Cannot mention a non team member"]),
        (["user:13", "user:13", "user:15"], ["Cannot mention a non team member"]),
        (["team:22"], ["Mentioned team not found or not associated with project"]),
        (["user:15", "team:22"], ["Cannot mention a non team member"]),
    ],
)
def test_an_invalid_mention_is_refused_and_nothing_is_written(
    harness: Harness, acme: Acme, mentions: list[str | None], errors: object
) -> None:
    before = harness.row_counts()

    outcome = harness.execute(comment("Help", *mentions), **acme.by("mem"))

    assert outcome == (400, {"mentions": errors})
    assert harness.row_counts() == before


def test_a_former_team_member_can_still_be_mentioned(harness: Harness, acme: Acme) -> None:
    with harness.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE team_members SET is_active = false")

    status, _ = harness.execute(comment("Help", "user:12"), **acme.by("mem"))

    assert status == 201


def test_an_inactive_team_and_its_members_can_still_be_mentioned(harness: Harness, acme: Acme) -> None:
    with harness.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE teams SET status = 'inactive'")

    status, _ = harness.execute(comment("Help", "user:12", "team:21"), **acme.by("mem"))

    assert status == 201


@pytest.mark.parametrize(
    ("who", "organization", "outcome"),
    [
        ("out", "acme", (403, "You do not have permission to perform this action.")),
        ("mem", "closed", (403, "You do not have permission to perform this action.")),
        ("mem", "plain", (404, "The requested resource does not exist")),
    ],
)
def test_a_caller_without_permission_is_refused_and_nothing_is_written(
    harness: Harness, acme: Acme, who: str, organization: str, outcome: tuple[int, str]
) -> None:
    before = harness.row_counts()

    status, body = harness.execute(comment(), **acme.by(who, organization=organization))

    assert (status, body["detail"]) == outcome
    assert harness.row_counts() == before


@pytest.mark.parametrize(
    ("taken_away", "outcome"),
    [
        ("UPDATE tokens SET revoked_at = now()", (401, {"detail": "Invalid token"})),
        ("UPDATE tokens SET expires_at = now()", (401, {"detail": "Token expired"})),
        ("UPDATE users SET is_active = false", (401, {"detail": "User inactive or deleted"})),
        ("DELETE FROM members", (403, {"detail": "You do not have permission to perform this action."})),
        ("UPDATE organizations SET features = '{}'", (404, {"detail": "The requested resource does not exist"})),
        (
            "UPDATE projects SET status = 'inactive'",
            (403, {"detail": "You do not have permission to perform this action."}),
        ),
        ("DELETE FROM incidents", (404, {"detail": "The requested resource does not exist"})),
    ],
)
def test_a_command_whose_permission_was_lost_after_acceptance_is_refused(
    harness: Harness, acme: Acme, taken_away: str, outcome: tuple[int, object]
) -> None:
    id_ = harness.accept(comment(), **acme.by("mem"))
    with harness.engine.begin() as connection:
        connection.exec_driver_sql(taken_away)

    harness.apply()

    row = harness.ledger_row(id_)
    assert (row["state"], row["outcome_status"], row["outcome_body"]) == ("rejected", *outcome)


@pytest.mark.parametrize("address", ["2", "0", ""])
def test_a_missing_incident_is_404(harness: Harness, acme: Acme, address: str) -> None:
    command = PostComment.model_validate({"incident": address, "comment": "Hello"})

    status, _ = harness.execute(command, **acme.by("mem"))

    assert status == 404


def test_a_service_may_comment_only_on_behalf_of_a_member(harness: Harness, acme: Acme) -> None:
    as_mem = harness.execute(comment(), **acme.by_service(acting_for="mem"))
    as_itself = harness.execute(comment(), **acme.by_service())

    assert (as_mem[0], as_mem[1]["user"]["username"]) == (201, "mem")
    assert as_itself[0] == 403


def test_every_comment_increments_the_version_by_one(harness: Harness, acme: Acme) -> None:
    for _ in range(7):
        harness.accept(comment(), **acme.by("mem"))

    harness.apply()

    assert versions(harness.engine, acme.organizations["acme"])[1] == 8


def test_a_command_that_uses_the_dedup_key_is_applied_after_earlier_ones_that_use_the_number(
    harness: Harness, acme: Acme
) -> None:
    with harness.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE incidents SET dedup_key = 'disk' WHERE organization_id = %(id)s", {"id": acme.organizations["acme"]}
        )
    first = harness.accept(comment("first"), **acme.by("mem"))
    by_key = harness.accept(
        PostComment.model_validate({"incident": "dedup:disk", "comment": "second"}), **acme.by("mem")
    )

    harness.apply()

    assert int(harness.ledger_row(first)["outcome_body"]["id"]) < int(harness.ledger_row(by_key)["outcome_body"]["id"])


def test_a_closed_incident_can_be_commented_on(harness: Harness, acme: Acme) -> None:
    with harness.engine.begin() as connection:
        connection.execute(update(incidents).values(status=2))

    status, _ = harness.execute(comment(), **acme.by("mem"))

    assert status == 201


def test_posting_the_same_text_twice_makes_two_comments(harness: Harness, acme: Acme) -> None:
    first, second = (harness.execute(comment("Done"), **acme.by("mem")) for _ in range(2))

    assert (first[0], second[0]) == (201, 201)
    assert first[1]["id"] != second[1]["id"]


def test_names_in_the_text_are_not_mentions(harness: Harness, acme: Acme) -> None:
    harness.execute(comment("@ana user:12 ana@x.test #t1 **ben**"), **acme.by("mem"))

    assert harness.subscribers() == {11: "commented"}


def test_a_large_team_is_subscribed_with_several_statements(
    harness: Harness, acme: Acme, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One statement for everybody would exceed the time that a statement may take.
    monkeypatch.setattr(base, "ROWS_PER_STATEMENT", 3)
    with harness.engine.begin() as connection:
        people = [a_member(connection, acme.organizations["acme"], teams=[21]) for _ in range(6)]
        connection.exec_driver_sql(_COUNT_ROWS)

    status, _ = harness.execute(comment("Help", "team:21"), **acme.by("mem"))

    assert status == 201
    assert harness.subscribers() == {11: "commented", **dict.fromkeys([12, 13, *people], "team_mention")}
    with harness.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT rows FROM statements ORDER BY id").scalars().all() == [3, 3, 3]


_COUNT_ROWS = """
CREATE TABLE statements (id bigserial, rows bigint);
CREATE FUNCTION count_rows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO statements (rows) SELECT count(*) FROM written;
    RETURN NULL;
END $$;
CREATE TRIGGER count_rows AFTER INSERT ON incident_subscriptions REFERENCING NEW TABLE AS written
    FOR EACH STATEMENT EXECUTE FUNCTION count_rows();
"""


def test_a_mentioned_team_subscribes_its_active_members(harness: Harness, acme: Acme) -> None:
    with harness.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE team_members tm SET is_active = false FROM members m WHERE m.id = tm.member_id AND m.user_id = 12"
        )
        connection.exec_driver_sql("UPDATE users SET is_active = false WHERE id = 13")
        connection.exec_driver_sql(
            "INSERT INTO team_members (team_id, member_id) SELECT 21, id FROM members WHERE user_id = 15"
        )

    harness.execute(comment("Help", "team:21"), **acme.by("mem"))

    assert harness.subscribers() == {11: "commented", 15: "team_mention"}


def test_an_existing_subscription_keeps_its_reason(harness: Harness, acme: Acme) -> None:
    harness.execute(comment("Help", "team:21"), **acme.by("ana"))

    harness.execute(comment("Help", "user:13", "ana"), **acme.by("mem"))

    assert harness.subscribers() == {11: "team_mention", 12: "commented", 13: "team_mention"}


def test_a_comment_is_published_with_its_text_and_author(harness: Harness, acme: Acme) -> None:
    _, body = harness.execute(comment("Look"), **acme.by("mem"))

    with harness.engine.connect() as connection:
        [event] = connection.exec_driver_sql("SELECT type, body FROM events").all()
    assert event.type == "incident.comment_posted"
    assert event.body["data"]["activity"] == {"id": body["id"], "comment": "Look"}
    assert event.body["data"]["actor"] == {"type": "user", "id": "11", "name": "Mem"}
    assert event.body["data"]["incident"]["identifier"] == "1"


@pytest.mark.parametrize(
    ("mentions", "text"),
    [
        (["user:13", "user:15"], "Cannot mention a non team member"),
        (["team:22", "team:24"], "Mentioned team not found or not associated with project"),
    ],
)
def test_a_duplicate_team_membership_does_not_hide_an_invalid_mention(
    harness: Harness, acme: Acme, mentions: list[str], text: str
) -> None:
    # Both of Ben's teams are now on project p1, and team 22 is on both of the incident's projects.
    acme_id, project = acme.organizations["acme"], acme.projects["acme", "p1"]
    with harness.engine.begin() as connection:
        a_team(connection, acme_id, id=24)
        connection.exec_driver_sql("INSERT INTO project_teams (project_id, team_id) VALUES (%s, 22)", (project,))
        connection.exec_driver_sql(
            "INSERT INTO incident_projects SELECT id, %s FROM incidents WHERE identifier = 1 AND organization_id = %s",
            (acme.projects["acme", "p2"], acme_id),
        )

    outcome = harness.execute(comment("Help", *mentions), **acme.by("mem"))

    assert outcome == (400, {"mentions": [text]})


def test_an_address_that_several_people_share_means_the_member_among_them(harness: Harness, acme: Acme) -> None:
    with harness.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE users SET email = 'desk@x.test' WHERE id = 12")
        # The account of a stranger is older, so it would come first.
        a_user(connection, id=3, email="desk@x.test")

    status, _ = harness.execute(comment("Help", "desk@x.test"), **acme.by("mem"))

    assert (status, harness.subscribers()) == (201, {11: "commented", 12: "mention"})
