"""What happens when someone says something on an incident."""

from __future__ import annotations

import pytest
from sqlalchemy import select, update

from models.incidents.incident import incidents
from models.incidents.subscription import subscriptions
from models.messaging.command_ledger import try_lock_subjects
from tasks.commands.comments import PostComment
from tests.builders import a_team
from tests.handlers.acme import Acme, versions
from tests.handlers.conftest import Harness


def comment(text: str = "Looking into it", *mentions: str | None) -> PostComment:
    return PostComment.model_validate({"incident": "1", "comment": text, "mentions": list(mentions)})


def subscribers(house: Harness) -> dict[int, str]:
    with house.engine.connect() as connection:
        return {row.user_id: row.reason for row in connection.execute(select(subscriptions))}


def test_a_comment_answers_201_with_the_activity(house: Harness, acme: Acme) -> None:
    status, body = house.execute(comment("  Looking into it  "), **acme.by("mem"))

    assert status == 201
    assert (body["type"], body["comment"], body["incidentIdentifier"]) == (3, "Looking into it", "1")
    assert body["user"]["username"] == "mem"


def test_a_comment_is_dated_when_it_was_accepted(house: Harness, acme: Acme) -> None:
    id_ = house.accept(comment(), **acme.by("mem"))

    house.apply()

    row = house.ledger_row(id_)
    assert row["outcome_body"]["dateCreated"] == row["accepted_at"].replace(tzinfo=None).isoformat() + "Z"


def test_the_author_and_everyone_mentioned_hear_of_the_incident_from_now_on(house: Harness, acme: Acme) -> None:
    house.execute(comment("Help", "user:12", "team:21"), **acme.by("mem"))

    assert subscribers(house) == {11: "commented", 12: "mention", 13: "team_mention"}


@pytest.mark.parametrize("form", ["user:12", "12", "ana", "ANA", "Ana@X.test"])
def test_a_person_is_mentioned_by_id_username_or_address(house: Harness, acme: Acme, form: str) -> None:
    status, _ = house.execute(comment("Help", form), **acme.by("mem"))

    assert status == 201
    assert subscribers(house)[12] == "mention"


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
        (["user:14"], {"0": ["User is not a member of this organization"]}),
        (["team:23"], {"0": ["Team is not a member of this organization"]}),
        ([None, "user:999"], {"0": ["This field may not be null."], "1": ["User does not exist"]}),
        (["user:15"], ["Cannot mention a non team member"]),
        (["user:13", "user:13", "user:15"], ["Cannot mention a non team member"]),
        (["team:22"], ["Mentioned team not found or not associated with project"]),
        (["user:15", "team:22"], ["Cannot mention a non team member"]),
    ],
)
def test_a_wrong_mention_is_refused_and_nothing_is_written(
    house: Harness, acme: Acme, mentions: list[str | None], errors: object
) -> None:
    before = house.row_counts()

    answer = house.execute(comment("Help", *mentions), **acme.by("mem"))

    assert answer == (400, {"mentions": errors})
    assert house.row_counts() == before


def test_someone_once_on_the_team_can_still_be_mentioned(house: Harness, acme: Acme) -> None:
    with house.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE team_members SET is_active = false")

    status, _ = house.execute(comment("Help", "user:12"), **acme.by("mem"))

    assert status == 201


@pytest.mark.parametrize(
    ("who", "organization", "answer"),
    [
        ("out", "acme", (403, "You do not have permission to perform this action.")),
        ("mem", "closed", (403, "You do not have permission to perform this action.")),
        ("mem", "plain", (404, "The requested resource does not exist")),
    ],
)
def test_who_may_not_is_refused_and_nothing_is_written(
    house: Harness, acme: Acme, who: str, organization: str, answer: tuple[int, str]
) -> None:
    before = house.row_counts()

    status, body = house.execute(comment(), **acme.by(who, organization=organization))

    assert (status, body["detail"]) == answer
    assert house.row_counts() == before


@pytest.mark.parametrize(
    ("taken_away", "answer"),
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
def test_a_right_lost_between_acceptance_and_apply_is_refused(
    house: Harness, acme: Acme, taken_away: str, answer: tuple[int, object]
) -> None:
    id_ = house.accept(comment(), **acme.by("mem"))
    with house.engine.begin() as connection:
        connection.exec_driver_sql(taken_away)

    house.apply()

    row = house.ledger_row(id_)
    assert (row["state"], row["outcome_status"], row["outcome_body"]) == ("rejected", *answer)


@pytest.mark.parametrize("address", ["2", "0", ""])
def test_an_incident_that_is_not_there_is_not_found(house: Harness, acme: Acme, address: str) -> None:
    ask = PostComment.model_validate({"incident": address, "comment": "Hello"})

    status, _ = house.execute(ask, **acme.by("mem"))

    assert status == 404


def test_a_service_comments_in_the_name_of_a_member_and_never_in_its_own(house: Harness, acme: Acme) -> None:
    as_mem = house.execute(comment(), **acme.by_service(acting_for="mem"))
    as_itself = house.execute(comment(), **acme.by_service())

    assert (as_mem[0], as_mem[1]["user"]["username"]) == (201, "mem")
    assert as_itself[0] == 403


def test_every_comment_moves_the_version_by_one(house: Harness, acme: Acme) -> None:
    for _ in range(7):
        house.accept(comment(), **acme.by("mem"))

    house.apply()

    assert versions(house.engine, acme.organizations["acme"])[1] == 8


def test_an_incident_is_addressed_by_its_key_after_what_was_asked_of_it_before(house: Harness, acme: Acme) -> None:
    with house.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE incidents SET dedup_key = 'disk' WHERE organization_id = %(id)s", {"id": acme.organizations["acme"]}
        )
    first = house.accept(comment("first"), **acme.by("mem"))
    by_key = house.accept(PostComment.model_validate({"incident": "dedup:disk", "comment": "second"}), **acme.by("mem"))

    house.apply()

    assert int(house.ledger_row(first)["outcome_body"]["id"]) < int(house.ledger_row(by_key)["outcome_body"]["id"])


def test_an_incident_is_addressed_by_number_after_what_was_asked_of_it_by_key(house: Harness, acme: Acme) -> None:
    with house.engine.begin() as connection:
        connection.execute(
            update(incidents).where(incidents.c.organization_id == acme.organizations["acme"]).values(dedup_key="disk")
        )
    by_key = house.accept(PostComment.model_validate({"incident": "dedup:disk", "comment": "1"}), **acme.by("mem"))
    by_number = house.accept(comment("2"), **acme.by("mem"))
    organization = f"org:{acme.organizations['acme']}"

    with house.engine.begin() as someone_else:
        try_lock_subjects(someone_else, [organization])
        house.apply()
        waited = house.ledger_row(by_number)["state"]
    house.apply()

    assert waited == "accepted"
    first, second = (int(house.ledger_row(id_)["outcome_body"]["id"]) for id_ in (by_key, by_number))
    assert first < second


def test_a_closed_incident_is_commented_on_all_the_same(house: Harness, acme: Acme) -> None:
    with house.engine.begin() as connection:
        connection.execute(update(incidents).values(status=2))

    status, _ = house.execute(comment(), **acme.by("mem"))

    assert status == 201


def test_the_same_words_twice_are_two_comments(house: Harness, acme: Acme) -> None:
    first, second = (house.execute(comment("Done"), **acme.by("mem")) for _ in range(2))

    assert (first[0], second[0]) == (201, 201)
    assert first[1]["id"] != second[1]["id"]


def test_what_the_words_name_is_no_mention(house: Harness, acme: Acme) -> None:
    house.execute(comment("@ana user:12 ana@x.test #t1 **ben**"), **acme.by("mem"))

    assert subscribers(house) == {11: "commented"}


def test_a_mentioned_team_brings_the_active_people_with_an_active_place(house: Harness, acme: Acme) -> None:
    with house.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE team_members tm SET is_active = false FROM members m WHERE m.id = tm.member_id AND m.user_id = 12"
        )
        connection.exec_driver_sql("UPDATE users SET is_active = false WHERE id = 13")
        connection.exec_driver_sql(
            "INSERT INTO team_members (team_id, member_id) SELECT 21, id FROM members WHERE user_id = 15"
        )

    house.execute(comment("Help", "team:21"), **acme.by("mem"))

    assert subscribers(house) == {11: "commented", 15: "team_mention"}


def test_who_hears_of_an_incident_already_keeps_the_reason(house: Harness, acme: Acme) -> None:
    house.execute(comment("Help", "team:21"), **acme.by("ana"))

    house.execute(comment("Help", "user:13", "ana"), **acme.by("mem"))

    assert subscribers(house) == {11: "team_mention", 12: "commented", 13: "team_mention"}


def test_a_comment_is_announced_with_its_words_and_its_author(house: Harness, acme: Acme) -> None:
    _, body = house.execute(comment("Look"), **acme.by("mem"))

    with house.engine.connect() as connection:
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
def test_a_doubled_place_hides_nobody_who_may_not_be_mentioned(
    house: Harness, acme: Acme, mentions: list[str], text: str
) -> None:
    # Ben's two teams are on one project, and that of team 22 is the incident's twice over.
    acme_id, project = acme.organizations["acme"], acme.projects["acme", "p1"]
    with house.engine.begin() as connection:
        a_team(connection, acme_id, id=24)
        connection.exec_driver_sql("INSERT INTO project_teams (project_id, team_id) VALUES (%s, 22)", (project,))
        connection.exec_driver_sql(
            "INSERT INTO incident_projects SELECT id, %s FROM incidents WHERE identifier = 1 AND organization_id = %s",
            (acme.projects["acme", "p2"], acme_id),
        )

    answer = house.execute(comment("Help", *mentions), **acme.by("mem"))

    assert answer == (400, {"mentions": [text]})
