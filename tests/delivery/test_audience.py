"""Who is notified of a comment, and why."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from models.directory.tables import members, organizations, projects, users
from models.enums import Role
from tasks.events import EVENTS, CommentPosted, Event, IncidentOpened, Seen, Subscribed, Unsubscribed
from tests.builders import (
    a_member,
    a_project,
    a_subscription,
    a_team,
    a_user,
    add_member,
    an_event,
    an_incident,
    an_organization,
)
from tests.delivery.conftest import Scene
from workers.notify.audience import AUDIENCES

DELIVERED = "delivered"
NO_ACCESS = ("suppressed", "no_access")


def test_every_notifying_event_has_an_audience() -> None:
    notifying = {name for name, event in EVENTS.items() if event.notifies_people}

    assert notifying == set(AUDIENCES) & set(EVENTS)


def test_a_mentioned_person_is_notified(scene: Scene) -> None:
    ana = a_person(scene)
    scene.post_comment(mentioning=[ana])

    scene.plan()

    assert scene.notified() == {ana: "mention"}
    assert scene.decisions() == {ana: (DELIVERED, "mention")}


def test_a_subscriber_is_notified(scene: Scene) -> None:
    ana = a_person(scene, subscribed=True)
    scene.post_comment()

    scene.plan()

    assert scene.notified() == {ana: "subscribed"}


def test_a_mentioned_team_is_notified(scene: Scene) -> None:
    ana, ben = a_person(scene, teams=[scene.team]), a_person(scene, teams=[scene.team])
    scene.post_comment(mentioning_teams=[scene.team])

    scene.plan()

    assert scene.notified() == {ana: "team_mention", ben: "team_mention"}


def test_someone_neither_mentioned_nor_subscribed_is_not_notified(scene: Scene) -> None:
    a_person(scene)
    scene.post_comment()

    scene.plan()

    assert scene.decisions() == {}


def test_the_author_is_never_notified_of_their_own_comment(scene: Scene) -> None:
    with scene.engine.begin() as connection:
        a_subscription(connection, scene.incident, scene.author)
    scene.post_comment(mentioning=[scene.author], mentioning_teams=[scene.team])

    scene.plan()

    assert scene.notified() == {}
    assert scene.decisions() == {scene.author: ("suppressed", "author")}


def test_a_person_notified_for_several_reasons_gets_one_item_with_the_strongest(scene: Scene) -> None:
    ana = a_person(scene, teams=[scene.team], subscribed=True)
    ben = a_person(scene, teams=[scene.team], subscribed=True)
    scene.post_comment(mentioning=[ana, ana], mentioning_teams=[scene.team, scene.team])

    scene.plan()

    assert scene.notified() == {ana: "mention", ben: "team_mention"}
    assert len(scene.rows("SELECT 1 FROM notifications")) == 2


def test_an_inbox_item_refers_to_the_comment_that_caused_it(scene: Scene) -> None:
    ana = a_person(scene)
    activity = scene.post_comment(mentioning=[ana])

    scene.plan()

    assert scene.rows("SELECT event_type, activity_id FROM notifications") == [(CommentPosted.type, activity)]


def test_a_person_with_an_inactive_team_membership_is_not_notified(scene: Scene) -> None:
    with scene.engine.begin() as connection:
        a_member(connection, scene.organization, inactive_teams=[scene.team])
    scene.post_comment(mentioning_teams=[scene.team])

    scene.plan()

    assert scene.notified() == {}


def test_an_inactive_user_on_a_mentioned_team_is_not_notified(scene: Scene) -> None:
    a_person(scene, teams=[scene.team], is_active=False)
    scene.post_comment(mentioning_teams=[scene.team])

    scene.plan()

    assert scene.notified() == {}
    assert scene.unplanned() == set()


def test_mentioning_a_team_of_another_organization_notifies_nobody(scene: Scene) -> None:
    with scene.engine.begin() as connection:
        other = an_organization(connection)
        team = a_team(connection, other)
        ana = a_member(connection, other, teams=[team])
        add_member(connection, scene.organization, ana)
    scene.post_comment(mentioning_teams=[team])

    scene.plan()

    assert scene.notified() == {}


def test_an_inactive_subscriber_is_unsubscribed_and_not_notified(scene: Scene) -> None:
    ana = a_person(scene, subscribed=True, is_active=False)
    scene.post_comment()

    scene.plan()

    assert scene.decisions() == {ana: NO_ACCESS}
    assert unsubscribed(scene) == [ana]


def test_a_subscriber_who_left_the_organization_is_unsubscribed_and_not_notified(scene: Scene) -> None:
    with scene.engine.begin() as connection:
        ana = a_user(connection)
        a_subscription(connection, scene.incident, ana)
    scene.post_comment()

    scene.plan()

    assert scene.decisions() == {ana: NO_ACCESS}
    assert unsubscribed(scene) == [ana]


def test_in_a_closed_organization_only_people_with_project_access_are_notified(closed_scene: Scene) -> None:
    outsider = a_person(closed_scene, subscribed=True)
    insider = a_person(closed_scene, teams=[closed_scene.team], subscribed=True)
    manager = a_person(closed_scene, role=Role.MANAGER, subscribed=True)
    closed_scene.post_comment()

    closed_scene.plan()

    assert closed_scene.notified() == {insider: "subscribed", manager: "subscribed"}
    assert closed_scene.decisions()[outsider] == NO_ACCESS
    assert unsubscribed(closed_scene) == [outsider]


def test_access_to_one_of_the_incidents_projects_is_enough_to_be_notified(closed_scene: Scene) -> None:
    with closed_scene.engine.begin() as connection:
        elsewhere = a_project(connection, closed_scene.organization)
        closed_scene.incident = an_incident(
            connection, closed_scene.organization, projects=[elsewhere, closed_scene.project]
        )
    ana = a_person(closed_scene, teams=[closed_scene.team], subscribed=True)
    closed_scene.post_comment()

    closed_scene.plan()

    assert closed_scene.notified() == {ana: "subscribed"}


def test_nobody_is_notified_of_an_incident_whose_projects_are_inactive(scene: Scene) -> None:
    ana = a_person(scene, role=Role.OWNER, subscribed=True)
    execute(scene, update(projects).values(status="inactive"))
    scene.post_comment()

    scene.plan()

    assert scene.decisions() == {ana: NO_ACCESS}


def test_an_author_without_access_is_unsubscribed(scene: Scene) -> None:
    with scene.engine.begin() as connection:
        a_subscription(connection, scene.incident, scene.author)
    scene.post_comment()
    execute(scene, members.delete().where(members.c.user_id == scene.author))

    scene.plan()

    assert scene.decisions() == {scene.author: NO_ACCESS}
    assert unsubscribed(scene) == [scene.author]


def test_a_mentioned_person_who_is_not_subscribed_gets_no_unsubscribe_command(scene: Scene) -> None:
    ana = a_person(scene, is_active=False)
    scene.post_comment(mentioning=[ana])

    scene.plan()

    assert scene.decisions() == {ana: NO_ACCESS}
    assert unsubscribed(scene) == []


def test_a_person_without_access_is_unsubscribed_only_once_for_two_comments(scene: Scene) -> None:
    ana = a_person(scene, subscribed=True, is_active=False)
    scene.post_comment()
    scene.post_comment()

    scene.plan()

    assert unsubscribed(scene) == [ana]


def test_the_unsubscribe_command_has_the_incident_as_subject(scene: Scene) -> None:
    a_person(scene, subscribed=True, is_active=False)
    scene.post_comment()

    scene.plan()

    [(identifier,)] = scene.rows("SELECT identifier FROM incidents")
    assert scene.rows("SELECT type, subject, lane, organization_id, token_id, caller, payload FROM commands") == [
        (
            "incident.unsubscribe",
            f"incident:{scene.organization}:{identifier}",
            "commands",
            scene.organization,
            None,
            "system",
            {"incident": str(identifier)},
        )
    ]


def test_an_event_whose_actor_is_not_a_person_neither_notifies_nor_unsubscribes_anyone(scene: Scene) -> None:
    a_person(scene, subscribed=True)
    a_person(scene, subscribed=True, is_active=False)
    with scene.engine.begin() as connection:
        an_event(connection, scene.incident, CommentPosted(activity=1, comment="Closed by rule"), by=None)

    scene.plan()

    assert scene.decisions() == {}
    assert unsubscribed(scene) == []
    assert scene.unplanned() == set()


def test_a_mentioned_account_that_was_deleted_is_skipped(scene: Scene) -> None:
    ana, ben = a_person(scene), a_person(scene)
    scene.post_comment(mentioning=[ana, ben])
    execute(scene, users.delete().where(users.c.id == ana))

    scene.plan()

    assert scene.notified() == {ben: "mention"}
    assert scene.unplanned() == set()


def test_a_person_who_subscribes_before_a_comment_is_planned_is_notified_of_it(scene: Scene) -> None:
    scene.post_comment()
    ana = a_person(scene, subscribed=True)

    scene.plan()

    assert scene.notified() == {ana: "subscribed"}


def test_losing_the_incidents_feature_does_not_suppress_notifications_of_earlier_comments(scene: Scene) -> None:
    ana = a_person(scene, subscribed=True)
    scene.post_comment()
    execute(scene, update(organizations).values(features=[]))

    scene.plan()

    assert scene.notified() == {ana: "subscribed"}


@pytest.mark.parametrize(
    "event", [IncidentOpened(projects=("p1",)), Seen(user=1), Subscribed(user=1), Unsubscribed(user=1)]
)
def test_opening_viewing_or_subscribing_to_an_incident_notifies_nobody(scene: Scene, event: Event) -> None:
    a_person(scene, subscribed=True)
    with scene.engine.begin() as connection:
        an_event(connection, scene.incident, event, by=scene.author)

    scene.plan()

    assert scene.decisions() == {}
    assert scene.unplanned() == set()


# --- helpers ---------------------------------------------------------------------------------------------------


def a_person(scene: Scene, *, subscribed: bool = False, **facts: Any) -> int:
    with scene.engine.begin() as connection:
        user = a_member(connection, scene.organization, **facts)
        if subscribed:
            a_subscription(connection, scene.incident, user)
        return user


def execute(scene: Scene, statement: Any) -> None:
    with scene.engine.begin() as connection:
        connection.execute(statement)


def unsubscribed(scene: Scene) -> list[int]:
    """Return the ids of the users for whom an unsubscribe command was accepted, in order."""
    rows = scene.rows("SELECT user_id FROM commands WHERE type = 'incident.unsubscribe' ORDER BY seq")
    return [user for (user,) in rows]
