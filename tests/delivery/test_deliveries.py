"""The planner's messages: one delivery and one decision per person, activity and channel, as preferences say."""

from __future__ import annotations

from datetime import timedelta
from itertools import product
from typing import Any

import pytest
from sqlalchemy import insert, text, update

from models.base import new_id
from models.enums import IncidentStatus
from models.incidents.incident import incidents
from models.notifications.delivery import deliveries
from models.notifications.preferences import STORM_BUDGET, Mode
from models.notifications.stored_preferences import incident_mutes, notification_preferences
from tasks.events import CommentDeleted, CommentEdited, Mentioned
from tasks.settings import DEFAULT_NOTIFY_WINDOW
from tests.builders import (
    NOW,
    a_chat_destination,
    a_comment,
    a_member,
    a_subscription,
    an_event,
    an_incident,
    an_organization,
)
from tests.delivery.conftest import Scene
from workers.notify import deliveries as planned_deliveries

WINDOW = timedelta(seconds=DEFAULT_NOTIFY_WINDOW)
NIGHT = NOW.replace(hour=23)
SOON = NOW + timedelta(seconds=1)
AT_NIGHT = {"start": "22:00", "end": "07:00"}


def test_a_mention_is_delivered_by_e_mail_after_the_window(scene: Scene) -> None:
    ana = a_person(scene)
    activity = scene.post_comment(mentioning=[ana])

    scene.plan(SOON)

    [row] = scene.rows("SELECT d.*, n.event_id AS of_inbox FROM deliveries d JOIN notifications n USING (activity_id)")
    assert (row.activity_id, row.user_id, row.channel, row.reason) == (activity, ana, "email", "mention")
    assert (row.organization_id, row.incident_id) == (scene.organization, scene.incident)
    assert (row.event_type, row.event_id) == ("incident.comment_posted", row.of_inbox)
    assert (row.state, row.is_merged, row.target_key) == ("pending", False, f"email:{scene.organization}")
    assert row.due_at == NOW + WINDOW
    assert scene.decisions("email") == {ana: ("pending", "instant")}


def test_an_old_event_is_due_at_once(scene: Scene) -> None:
    a_person(scene, subscribed=True)
    scene.post_comment()

    scene.plan(NOW + timedelta(hours=1))

    assert due(scene) == [NOW + timedelta(hours=1)]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"channels": {"mention": {"email": "off"}}}, ("suppressed", "off")),
        ({"channels": {"mention": {"email": "digest"}}}, ("deferred", "digest")),
        ({"quietHours": AT_NIGHT}, ("deferred", "quiet_hours")),
    ],
)
def test_preferences_decide_about_the_message_and_not_about_the_inbox(
    scene: Scene, document: dict[str, Any], expected: tuple[str, str]
) -> None:
    ana = a_person(scene, document)
    scene.post_comment(mentioning=[ana])

    scene.plan(NIGHT)

    assert scene.decisions("email") == {ana: expected}
    assert scene.notified() == {ana: "mention"}
    assert [row.is_merged for row in delivered(scene)] == ([True] if expected[0] == "deferred" else [])


def test_the_decision_names_the_time_until_which_a_message_waits(scene: Scene) -> None:
    ana = a_person(scene, {"quietHours": AT_NIGHT}, timezone="Europe/Berlin")
    scene.post_comment(mentioning=[ana])

    scene.plan(NIGHT)

    assert due(scene) == [NIGHT.replace(day=24, hour=6)]
    assert scene.rows("SELECT detail FROM notification_decisions WHERE channel = 'email'") == [
        ("until 2026-11-24T06:00:00Z",)
    ]


def test_a_critical_incident_passes_quiet_hours(scene: Scene) -> None:
    ana = a_person(scene, {"quietHours": AT_NIGHT})
    with scene.engine.begin() as connection:
        connection.execute(update(incidents).values(status=IncidentStatus.CRITICAL))
    scene.post_comment(mentioning=[ana])

    scene.plan(NIGHT)

    assert scene.decisions("email") == {ana: ("pending", "instant")}


def test_a_person_without_an_e_mail_address_gets_only_an_inbox_item(scene: Scene) -> None:
    ana = a_person(scene, email="")
    scene.post_comment(mentioning=[ana])

    scene.plan(SOON)

    assert scene.notified() == {ana: "mention"}
    assert scene.decisions("email") == {ana: ("suppressed", "no_address")}
    assert delivered(scene) == []


@pytest.mark.parametrize("is_here", [True, False])
def test_chat_messages_come_from_organizations_in_which_the_person_has_a_destination(
    scene: Scene, is_here: bool
) -> None:
    ana = a_person(scene, {"channels": {"mention": {"chat": "instant"}}})
    with scene.engine.begin() as connection:
        a_chat_destination(connection, scene.organization if is_here else an_organization(connection), user_id=ana)
    scene.post_comment(mentioning=[ana])

    scene.plan(SOON)

    assert scene.decisions("chat") == ({ana: ("pending", "instant")} if is_here else {})
    assert [row.channel for row in delivered(scene)] == (["email", "chat"] if is_here else ["email"])


@pytest.mark.parametrize(
    ("reason", "mode", "is_quiet", "is_critical"),
    list(product(("mention", "team_mention", "subscribed"), Mode, (False, True), (False, True))),
)
def test_every_combination_gives_one_decision_per_channel(
    scene: Scene, reason: str, mode: Mode, is_quiet: bool, is_critical: bool
) -> None:
    document = {"channels": {reason: {"email": mode.value}}, "quietHours": AT_NIGHT}
    ana = a_person(scene, document, subscribed=reason == "subscribed", teams=[scene.team])
    if is_critical:
        with scene.engine.begin() as connection:
            connection.execute(update(incidents).values(status=IncidentStatus.CRITICAL))
    scene.post_comment(
        mentioning=[ana] if reason == "mention" else (),
        mentioning_teams=[scene.team] if reason == "team_mention" else (),
    )

    scene.plan(NIGHT if is_quiet else SOON)

    of_ana = scene.rows(f"SELECT channel, outcome FROM notification_decisions WHERE user_id = {ana} ORDER BY channel")
    outcome = {Mode.OFF: "suppressed", Mode.DIGEST: "deferred", Mode.INSTANT: "pending"}[mode]
    if mode is Mode.INSTANT and is_quiet and not is_critical:
        outcome = "deferred"
    assert of_ana == [("email", outcome), ("inbox", "delivered")]
    assert len(delivered(scene)) == (outcome != "suppressed")


def test_a_muted_incident_sends_nothing_but_a_mention_still_reaches_the_inbox(scene: Scene) -> None:
    ana, ben = a_person(scene, subscribed=True), a_person(scene)
    mute(scene, ana)
    mute(scene, ben)
    scene.post_comment(mentioning=[ben])

    scene.plan(SOON)

    assert scene.notified() == {ben: "mention"}
    assert scene.decisions() == {ana: ("suppressed", "muted"), ben: ("delivered", "mention")}
    assert scene.decisions("email") == {ana: ("suppressed", "muted"), ben: ("suppressed", "muted")}
    assert delivered(scene) == []


def test_a_mute_ends_at_its_time(scene: Scene) -> None:
    ana = a_person(scene, subscribed=True)
    mute(scene, ana, until=NOW - timedelta(days=1))
    scene.post_comment()

    scene.plan(SOON)

    assert scene.notified() == {ana: "subscribed"}


def test_planning_again_delivers_nothing_twice(scene: Scene) -> None:
    ana = a_person(scene)
    scene.post_comment(mentioning=[ana])
    scene.plan(SOON)
    before = delivered(scene), scene.rows("SELECT * FROM notification_decisions")

    plan_again(scene)

    assert (delivered(scene), scene.rows("SELECT * FROM notification_decisions")) == before


def test_a_promotion_gives_a_waiting_delivery_the_stronger_reason(scene: Scene) -> None:
    ana = a_person(scene, {"channels": {"subscribed": {"email": "digest"}}}, subscribed=True)
    activity = scene.post_comment()
    scene.plan(SOON)
    [(id_, reason)] = [(row.id, row.reason) for row in delivered(scene)]
    assert (reason, scene.decisions("email")) == ("subscribed", {ana: ("deferred", "digest")})

    edit(scene, activity, ana)
    scene.plan(SOON)

    [row] = delivered(scene)
    assert (row.id, row.reason, row.is_merged, row.due_at) == (id_, "mention", False, NOW + WINDOW)
    assert scene.decisions("email") == {ana: ("pending", "instant")}


def test_a_promotion_does_not_repeat_a_message_that_was_sent(scene: Scene) -> None:
    ana = a_person(scene, subscribed=True)
    activity = scene.post_comment()
    scene.plan(SOON)
    execute(scene, "UPDATE deliveries SET state = 'delivered'")
    execute(scene, "UPDATE notification_decisions SET outcome = 'delivered' WHERE channel = 'email'")

    edit(scene, activity, ana)
    scene.plan(SOON)

    assert scene.notified() == {ana: "mention"}
    assert [(row.state, row.reason) for row in delivered(scene)] == [("delivered", "subscribed")]
    assert scene.decisions("email") == {ana: ("delivered", "instant")}


def test_a_mention_is_delivered_though_the_subscription_was_not(scene: Scene) -> None:
    ana = a_person(scene, {"channels": {"subscribed": {"email": "off"}}}, subscribed=True)
    activity = scene.post_comment()
    scene.plan(SOON)
    assert scene.decisions("email") == {ana: ("suppressed", "off")}

    edit(scene, activity, ana)
    scene.plan(SOON)

    assert [row.reason for row in delivered(scene)] == ["mention"]
    assert scene.decisions("email") == {ana: ("pending", "instant")}


def test_a_deleted_comment_cancels_the_messages_that_wait(scene: Scene) -> None:
    ana, ben = a_person(scene), a_person(scene)
    activity = scene.post_comment(mentioning=[ana, ben])
    scene.plan(SOON)
    execute(scene, f"UPDATE deliveries SET state = 'delivered' WHERE user_id = {ben}")

    with scene.engine.begin() as connection:
        an_event(connection, scene.incident, CommentDeleted(activity), by=scene.author)
    scene.plan(SOON)

    assert {row.user_id: (row.state, row.detail) for row in delivered(scene)} == {
        ana: ("cancelled", "deleted"), ben: ("delivered", None),
    }  # fmt: skip
    assert scene.decisions("email") == {ana: ("suppressed", "deleted"), ben: ("pending", "instant")}
    assert scene.decisions() == {ana: ("delivered", "mention"), ben: ("delivered", "mention")}


def test_a_comment_that_is_deleted_before_it_is_planned_sends_nothing(scene: Scene) -> None:
    ana = a_person(scene)
    activity = scene.post_comment(mentioning=[ana])
    with scene.engine.begin() as connection:
        an_event(connection, scene.incident, CommentDeleted(activity), by=scene.author)

    scene.plan(SOON)

    assert [row.state for row in delivered(scene)] == ["cancelled"]
    assert scene.decisions("email") == {ana: ("suppressed", "deleted")}


def test_a_delivery_that_is_being_sent_is_not_cancelled(scene: Scene) -> None:
    ana = a_person(scene)
    activity = scene.post_comment(mentioning=[ana])
    scene.plan(SOON)
    execute(scene, f"UPDATE deliveries SET claimed_by = '{new_id()}'")

    with scene.engine.begin() as connection:
        an_event(connection, scene.incident, CommentDeleted(activity), by=scene.author)
    scene.plan(SOON)

    assert [row.state for row in delivered(scene)] == ["pending"]


def test_above_the_storm_budget_messages_are_merged_into_one(scene: Scene) -> None:
    ana = a_person(scene)
    for _ in range(STORM_BUDGET + 3):
        comment_elsewhere(scene, ana)

    scene.plan(SOON)

    rows = delivered(scene)
    assert [row.is_merged for row in sorted(rows, key=lambda row: row.is_merged)] == [False] * STORM_BUDGET + [True] * 3
    assert {row.due_at for row in rows if row.is_merged} == {NOW.replace(hour=11)}
    rules = scene.rows(
        "SELECT rule, count(*) FROM notification_decisions WHERE channel = 'email' GROUP BY 1 ORDER BY 1"
    )
    assert rules == [("instant", STORM_BUDGET), ("storm", 3)]


@pytest.mark.parametrize(
    ("facts", "is_merged"),
    [
        ({}, True),
        ({"date_created": NOW - timedelta(minutes=61)}, False),
        ({"is_merged": True}, False),
        ({"state": "cancelled"}, False),
        ({"channel": "chat"}, False),
    ],
)
def test_the_storm_budget_counts_the_messages_of_the_last_hour(
    scene: Scene, facts: dict[str, Any], is_merged: bool
) -> None:
    ana = a_person(scene)
    with scene.engine.begin() as connection:
        for number in range(STORM_BUDGET):
            connection.execute(
                insert(deliveries).values(
                    {
                        "id": new_id(), "organization_id": scene.organization, "activity_id": 1000 + number,
                        "channel": "email", "user_id": ana, "due_at": NOW, "date_created": NOW - timedelta(minutes=59),
                        "state": "delivered",
                    }
                    | facts
                )
            )  # fmt: skip
    activity = scene.post_comment(mentioning=[ana])

    scene.plan(SOON)

    assert [row.is_merged for row in delivered(scene) if row.activity_id == activity] == [is_merged]


def test_a_large_audience_is_written_in_chunks(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planned_deliveries, "ROWS_PER_STATEMENT", 2)
    people = [a_person(scene, teams=[scene.team]) for _ in range(5)]
    scene.post_comment(mentioning_teams=[scene.team])

    scene.plan(SOON)

    assert scene.decisions("email") == dict.fromkeys(people, ("pending", "instant"))
    assert {row.user_id for row in delivered(scene)} == set(people)


def test_the_decision_about_an_alert_action_that_waits_is_kept(scene: Scene) -> None:
    ana = a_person(scene)
    activity = scene.post_comment(mentioning=[ana])
    with scene.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO notification_decisions"
                " (activity_id, user_id, channel, incident_id, event_id, outcome, rule)"
                " VALUES (:activity, :user, 'email', :incident, gen_random_uuid(), 'pending', 'alert_action')"
            ),
            {"activity": activity, "user": ana, "incident": scene.incident},
        )

    scene.plan(SOON)

    assert scene.decisions("email") == {ana: ("pending", "alert_action")}
    assert [row.reason for row in delivered(scene)] == ["mention"]


# --- helpers ---------------------------------------------------------------------------------------------------


def a_person(scene: Scene, document: dict[str, Any] | None = None, *, subscribed: bool = False, **facts: Any) -> int:
    """Insert a member, with preferences if a document is given; return the user's id."""
    with scene.engine.begin() as connection:
        user = a_member(connection, scene.organization, **facts)
        if document is not None:
            connection.execute(insert(notification_preferences).values(user_id=user, document=document))
        if subscribed:
            a_subscription(connection, scene.incident, user)
    return user


def mute(scene: Scene, user: int, **facts: Any) -> None:
    with scene.engine.begin() as connection:
        connection.execute(insert(incident_mutes).values(user_id=user, incident_id=scene.incident, **facts))


def edit(scene: Scene, activity: int, mentioned: int) -> None:
    """Insert the events of an edit that mentions the person for the first time."""
    with scene.engine.begin() as connection:
        an_event(connection, scene.incident, CommentEdited(activity, "Look."), by=scene.author)
        an_event(
            connection, scene.incident, Mentioned(activity, "Look.", users=(mentioned,), teams=()), by=scene.author
        )


def comment_elsewhere(scene: Scene, mentioned: int) -> None:
    with scene.engine.begin() as connection:
        incident = an_incident(connection, scene.organization, projects=[scene.project])
        a_comment(connection, incident, by=scene.author, mentioning=[mentioned])


def plan_again(scene: Scene) -> None:
    execute(scene, "UPDATE events SET planned_at = NULL")
    scene.plan(SOON)


def delivered(scene: Scene) -> list[Any]:
    return scene.rows("SELECT * FROM deliveries ORDER BY id")


def due(scene: Scene) -> list[Any]:
    return [row.due_at for row in delivered(scene)]


def execute(scene: Scene, statement: str) -> None:
    with scene.engine.begin() as connection:
        connection.exec_driver_sql(statement)
