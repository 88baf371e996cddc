"""A person's inbox item is promoted if a stronger reason to notify the person is found later."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import text

from tasks.events import CommentPosted, Mentioned
from tests.builders import a_member, a_subscription, an_event
from tests.delivery.conftest import Scene


def test_a_later_mention_makes_a_read_item_unread_again(scene: Scene) -> None:
    ana, activity = a_notified_subscriber(scene)
    mark_all_as_read(scene)

    mention = publish_mention(scene, activity, ana)

    assert scene.notified() == {ana: "mention"}
    assert scene.decisions() == {ana: ("delivered", "mention")}
    promoted = item_of(scene)
    assert (promoted.date_read, promoted.event_id, promoted.event_type) == (None, mention, Mentioned.type)


def test_a_later_mention_promotes_an_unread_item(scene: Scene) -> None:
    ana, activity = a_notified_subscriber(scene)

    mention = publish_mention(scene, activity, ana)

    assert scene.notified() == {ana: "mention"}
    assert scene.decisions() == {ana: ("delivered", "mention")}
    assert item_of(scene).event_id == mention


def test_a_promoted_item_looks_as_if_it_had_just_been_inserted(scene: Scene) -> None:
    ana, activity = a_notified_subscriber(scene)
    before = item_of(scene)
    scene.post_comment()
    scene.plan()
    newest = max(row.id for row in scene.rows("SELECT id FROM notifications"))

    publish_mention(scene, activity, ana)

    promoted = item_of(scene, activity)
    assert promoted.id > newest
    assert promoted.date_created > before.date_created
    assert int(promoted.written_by) > int(before.written_by)
    assert int(promoted.written_after) > int(before.written_after)


def test_a_repeated_mention_leaves_a_read_item_unchanged(scene: Scene) -> None:
    ana, activity = a_notified_subscriber(scene)
    publish_mention(scene, activity, ana)
    mark_all_as_read(scene)
    before, decided = item_of(scene), decision_of(scene)

    publish_mention(scene, activity, ana)

    assert (item_of(scene), decision_of(scene)) == (before, decided)


def test_a_subscription_never_downgrades_a_mention(scene: Scene) -> None:
    with scene.engine.begin() as connection:
        ana = a_member(connection, scene.organization)
    activity = scene.post_comment(mentioning=[ana])
    scene.plan()

    subscribe_and_repeat(scene, activity, ana)

    assert scene.notified() == {ana: "mention"}


def test_a_reason_that_changes_no_item_is_not_recorded_as_delivered(scene: Scene) -> None:
    with scene.engine.begin() as connection:
        ana = a_member(connection, scene.organization)
    activity = scene.post_comment(mentioning=[ana])
    scene.plan()
    execute(scene, "DELETE FROM notification_decisions")

    subscribe_and_repeat(scene, activity, ana)

    assert ana not in scene.decisions()


def test_a_delivery_that_promotes_an_item_replaces_an_earlier_decision(scene: Scene) -> None:
    ana, activity = a_notified_subscriber(scene)
    execute(scene, "UPDATE notification_decisions SET rule = 'mention'")

    mention = publish_mention(scene, activity, ana)

    assert decision_of(scene).event_id == mention


# --- helpers ---------------------------------------------------------------------------------------------------


def a_notified_subscriber(scene: Scene) -> tuple[int, int]:
    """Return a person and a comment of which the person, a subscriber, has been notified."""
    with scene.engine.begin() as connection:
        ana = a_member(connection, scene.organization)
        a_subscription(connection, scene.incident, ana)
    activity = scene.post_comment()
    scene.plan()
    assert scene.notified() == {ana: "subscribed"}
    return ana, activity


def publish_mention(scene: Scene, activity: int, person: int) -> UUID:
    """Plan an event for an edit that mentions the person; return the event's id."""
    with scene.engine.begin() as connection:
        mention = Mentioned(activity, "edited", users=(person,), teams=())
        id_: UUID = an_event(connection, scene.incident, mention, by=scene.author)
    scene.plan()
    return id_


def subscribe_and_repeat(scene: Scene, activity: int, person: int) -> None:
    """Subscribe the person, and plan another event of the same comment."""
    with scene.engine.begin() as connection:
        a_subscription(connection, scene.incident, person)
        an_event(connection, scene.incident, CommentPosted(activity, "again"), by=scene.author)
    scene.plan()


def mark_all_as_read(scene: Scene) -> None:
    execute(scene, "UPDATE notifications SET date_read = now()")


def item_of(scene: Scene, activity: int | None = None) -> Any:
    """Return the only inbox item, or the only one of the activity."""
    condition = "true" if activity is None else f"activity_id = {activity}"
    [row] = scene.rows(f"SELECT * FROM notifications WHERE {condition}")
    return row


def decision_of(scene: Scene) -> Any:
    [row] = scene.rows("SELECT * FROM notification_decisions WHERE channel = 'inbox' AND outcome = 'delivered'")
    return row


def execute(scene: Scene, statement: str) -> None:
    with scene.engine.begin() as connection:
        connection.execute(text(statement))
