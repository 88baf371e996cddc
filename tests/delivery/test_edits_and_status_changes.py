"""Who is notified of status changes, edits and deletions."""

from __future__ import annotations

from sqlalchemy import delete

from models.base import new_id
from models.enums import ActivityType, IncidentStatus
from models.incidents.activity import activities
from tasks.events import CommentDeleted, CommentEdited, Event, Mentioned, StatusChanged
from tests.builders import NOW, a_member, a_subscription, an_event
from tests.delivery.conftest import Scene


def a_subscriber(scene: Scene) -> int:
    with scene.engine.begin() as connection:
        person = a_member(connection, scene.organization, teams=[scene.team])
        a_subscription(connection, scene.incident, person)
    return person


def record_events(scene: Scene, *events: Event, by: int | None = None) -> None:
    with scene.engine.begin() as connection:
        for event in events:
            an_event(connection, scene.incident, event, by=by)


def a_status_change(scene: Scene) -> StatusChanged:
    with scene.engine.begin() as connection:
        [activity] = connection.execute(
            activities.insert()
            .values(
                incident_id=scene.incident,
                type=ActivityType.STATUS_CHANGE,
                value="2",
                previous_value="1",
                date_added=NOW,
                notification_uuid=new_id(),
            )
            .returning(activities.c.id)
        ).one()
    return StatusChanged(activity, IncidentStatus.OPEN, IncidentStatus.CLOSED, None)


def items(scene: Scene) -> list[tuple[str, bool]]:
    rows = scene.rows("SELECT event_type, retracted FROM notifications ORDER BY id")
    return [(row.event_type, row.retracted) for row in rows]


def test_a_status_change_notifies_subscribers_but_not_its_author(scene: Scene) -> None:
    person = a_subscriber(scene)
    with scene.engine.begin() as connection:
        a_subscription(connection, scene.incident, scene.author)
    record_events(scene, a_status_change(scene), by=scene.author)

    scene.plan()

    assert scene.notified() == {person: "subscribed"}
    assert scene.decisions()[scene.author] == ("suppressed", "author")
    assert items(scene) == [("incident.status_changed", False)]


def test_a_status_change_without_an_author_notifies_nobody(scene: Scene) -> None:
    a_subscriber(scene)
    record_events(scene, a_status_change(scene))

    scene.plan()

    assert scene.notified() == {}
    assert scene.unplanned() == set()


def test_an_edit_notifies_only_newly_mentioned_people(scene: Scene) -> None:
    person, other = a_subscriber(scene), a_subscriber(scene)
    comment = scene.post_comment(mentioning=[person])
    scene.plan()
    edit = CommentEdited(comment, "Look there."), Mentioned(comment, "Look there.", users=(person, other), teams=())
    record_events(scene, *edit, by=scene.author)

    scene.plan()

    assert scene.notified() == {person: "mention", other: "mention"}
    assert len(items(scene)) == 2


def test_an_inbox_item_created_by_an_edit_refers_to_the_edit(scene: Scene) -> None:
    comment = scene.post_comment()
    scene.plan()
    with scene.engine.begin() as connection:
        person = a_member(connection, scene.organization, teams=[scene.team])
    record_events(
        scene, CommentEdited(comment, "x"), Mentioned(comment, "x", users=(person,), teams=()), by=scene.author
    )

    scene.plan()

    assert items(scene) == [("incident.comment_edited", False)]


def test_an_edit_without_new_mentions_notifies_nobody(scene: Scene) -> None:
    a_subscriber(scene)
    comment = scene.post_comment()
    scene.plan()
    before = scene.rows("SELECT * FROM notifications")
    record_events(scene, CommentEdited(comment, "x"), by=scene.author)

    scene.plan()

    assert scene.rows("SELECT * FROM notifications") == before


def delete_comment(scene: Scene, comment: int) -> None:
    with scene.engine.begin() as connection:
        connection.execute(delete(activities).where(activities.c.id == comment))
    record_events(scene, CommentDeleted(comment), by=scene.author)


def test_deleting_a_comment_retracts_its_inbox_items(scene: Scene) -> None:
    a_subscriber(scene)
    kept, gone = scene.post_comment(), scene.post_comment()
    scene.plan()
    delete_comment(scene, gone)

    scene.plan()

    rows = scene.rows("SELECT activity_id, retracted FROM notifications")
    assert {row.activity_id: row.retracted for row in rows} == {kept: False, gone: True}


def test_a_comment_deleted_before_planning_creates_only_a_retracted_inbox_item(scene: Scene) -> None:
    a_subscriber(scene)
    delete_comment(scene, scene.post_comment())

    scene.plan()

    assert items(scene) == [("incident.comment_posted", True)]
