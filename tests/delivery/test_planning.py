"""Once per activity and person: however large the audience, whoever dies, and whatever comes twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from sqlalchemy import event, text
from sqlalchemy.engine import make_url

from models.directory.tables import members, team_members, users
from tasks.broker.topology import NOTIFIER_QUEUE
from tasks.events import CommentPosted, Mentioned
from tasks.settings import BrokerSettings
from tests.builders import a_comment, a_member, a_subscription, an_event, an_incident
from tests.delivery.conftest import NOWHERE, Scene
from tests.faults.loop_process import running_loop
from tests.waiting import eventually
from workers.event_bus import BusMessage, EventBus
from workers.notify import notifier as notifier_module
from workers.notify.notifier import EVENTS_PER_SUBJECT, Notifier
from workers.stack.servers import EmbeddedServers

TEAM = 10_000


def test_a_team_of_ten_thousand_is_one_insert(scene: Scene) -> None:
    a_crowd(scene)
    scene.given(mentioning_teams=[scene.team])

    with counted_statements(scene) as statements:
        assert scene.notifier().plan_batch()

    assert len([each for each in statements if each.startswith("INSERT INTO notifications ")]) == 1
    assert scene.rows("SELECT count(*), count(DISTINCT user_id) FROM notifications") == [(TEAM, TEAM)]


def test_the_number_of_queries_does_not_grow_with_the_batch(scene: Scene) -> None:
    given_comments(scene, 1)
    with counted_statements(scene) as for_one:
        scene.notifier().plan_batch()
    given_comments(scene, 90)

    with counted_statements(scene) as for_many:
        scene.notifier().plan_batch()

    assert scene.unplanned() == set()
    assert len(for_many) == len(for_one) <= 15


def test_an_event_that_comes_twice_tells_once(scene: Scene) -> None:
    ana = given_comments(scene, 1)
    scene.plan()
    with scene.engine.begin() as connection:
        connection.execute(text("UPDATE events SET planned_at = NULL"))

    scene.plan()

    assert scene.rows("SELECT user_id FROM notifications") == [(ana,)]


def test_two_notifiers_at_once_tell_once(scene: Scene) -> None:
    ana = given_comments(scene, 300)

    with ThreadPoolExecutor() as threads:
        for done in [threads.submit(scene.plan) for _ in range(3)]:
            done.result()

    # Whoever found a line locked left it to the other.
    scene.plan()
    assert scene.rows("SELECT user_id, count(*) FROM notifications GROUP BY user_id") == [(ana, 300)]


def test_a_mention_that_comes_later_strengthens_an_unread_item(scene: Scene) -> None:
    ana, activity = a_subscriber_told(scene)

    mention(scene, activity, ana)

    assert scene.told() == {ana: "mention"}
    assert scene.decided() == {ana: ("delivered", "mention")}


def test_a_mention_that_comes_later_leaves_a_read_item_alone(scene: Scene) -> None:
    ana, activity = a_subscriber_told(scene)
    with scene.engine.begin() as connection:
        connection.execute(text("UPDATE notifications SET date_read = now()"))

    mention(scene, activity, ana)

    assert scene.told() == {ana: "subscribed"}


def test_a_subscription_never_weakens_a_mention(scene: Scene) -> None:
    with scene.engine.begin() as connection:
        ana = a_member(connection, scene.organization)
    activity = scene.given(mentioning=[ana])
    scene.plan()
    with scene.engine.begin() as connection:
        a_subscription(connection, scene.incident, ana)
        an_event(connection, scene.incident, CommentPosted(activity, "again"), by=scene.author)

    scene.plan()

    assert scene.told() == {ana: "mention"}


def test_a_long_line_is_planned_without_tearing_an_activity_apart(scene: Scene) -> None:
    ana = given_comments(scene, EVENTS_PER_SUBJECT + 7, on_one_incident=True)

    scene.plan()

    assert scene.rows("SELECT user_id, event_type, count(*) FROM notifications GROUP BY 1, 2") == [
        (ana, CommentPosted.type, EVENTS_PER_SUBJECT + 7)
    ]


def test_an_event_that_cannot_be_planned_holds_up_nobody(scene: Scene) -> None:
    poisoned = given_poison(scene)
    ana = given_comments(scene, 50)
    given_comments(scene, 5, on_one_incident=True)

    scene.plan()

    assert scene.unplanned() == {poisoned}
    assert ana in scene.told()
    assert scene.rows("SELECT count(*) FROM notifications") == [(55,)]


def test_an_event_that_could_not_be_planned_is_tried_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifier_module, "RETRY_DELAYS_SECONDS", (0,))
    notifier = scene.notifier()
    poisoned = given_poison(scene)
    notifier.plan_batch()
    assert scene.unplanned() == {poisoned}
    with scene.engine.begin() as connection:
        connection.execute(text("UPDATE events SET body = replace(body::text, 'nobody', '0')::json"))

    eventually(lambda: notifier.plan_batch() and not scene.unplanned())


def test_a_poisoned_event_rests_before_it_is_tried_again(scene: Scene) -> None:
    notifier = scene.notifier()
    given_poison(scene)

    assert notifier.plan_batch()

    assert [notifier.plan_batch() for _ in range(3)] == [True, False, False]


def test_planning_and_marking_are_one_transaction(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    given_comments(scene, 3)

    def die(*_: Any) -> None:
        raise SystemExit

    monkeypatch.setattr("workers.notify.planner.mark_processed", die)
    with pytest.raises(SystemExit):
        scene.notifier().plan_batch()
    assert scene.told() == {}
    monkeypatch.undo()

    scene.plan()

    assert scene.rows("SELECT count(*) FROM notifications") == [(3,)]


def test_a_notifier_that_is_killed_loses_nothing_and_doubles_nothing(scene: Scene, servers: EmbeddedServers) -> None:
    database_url = psycopg_url(scene)
    crowd = 50
    a_crowd(scene, crowd)
    comments = 400
    with scene.engine.begin() as connection:
        for _ in range(comments):
            incident = an_incident(connection, scene.organization, projects=[scene.project])
            a_comment(connection, incident, by=scene.author, mentioning_teams=[scene.team])

    for _ in range(3):
        with running_loop("notifier", database_url=database_url, broker_url=servers.broker_url) as process:
            before = len(scene.unplanned())
            eventually(lambda before=before: len(scene.unplanned()) < before or not scene.unplanned())
            process.kill()
    with running_loop("notifier", database_url=database_url, broker_url=servers.broker_url):
        eventually(lambda: not scene.unplanned())

    assert scene.rows("SELECT count(*) FROM notifications") == [(comments * crowd,)]


def test_people_are_told_while_the_bus_is_down(scene: Scene) -> None:
    with going(Notifier(scene.engine, BrokerSettings(BROKER_URL=NOWHERE))):
        ana = given_comments(scene, 1)

        eventually(lambda: ana in scene.told())


def test_nothing_on_the_bus_stops_the_notifier(scene: Scene, servers: EmbeddedServers) -> None:
    settings = BrokerSettings(BROKER_URL=servers.broker_url)
    valkey = redis.Redis.from_url(servers.redis_url)
    bus = EventBus(settings)
    bus.publish([BusMessage("incident.opened", "{}")])
    valkey.lpush(NOTIFIER_QUEUE, b"", b"hello", b"[]", b"{}", b'{"body": 7}', b"\xff\xfe", b"[" * 10_000)
    bus.publish([BusMessage("incident.opened", "not even JSON"), BusMessage("command.dead", "[]")])

    with going(Notifier(scene.engine, settings)):
        eventually(lambda: valkey.llen(NOTIFIER_QUEUE) == 0)
        ana = given_comments(scene, 1)

        eventually(lambda: ana in scene.told())


def test_a_message_on_the_bus_wakes_the_notifier(
    scene: Scene, servers: EmbeddedServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.runtime.polling.POLL_SECONDS", 3600)
    settings = BrokerSettings(BROKER_URL=servers.broker_url, REDIS_URL=NOWHERE)

    with going(Notifier(scene.engine, settings)):
        ana = given_comments(scene, 1)
        EventBus(settings).publish([BusMessage("incident.comment_posted", "{}")])

        eventually(lambda: ana in scene.told())


# --- what the stories lean on ----------------------------------------------------------------------------------


def given_comments(scene: Scene, count: int, *, on_one_incident: bool = False) -> int:
    """Comments that mention somebody; who that is."""
    with scene.engine.begin() as connection:
        ana = a_member(connection, scene.organization)
        for _ in range(count):
            incident = (
                scene.incident
                if on_one_incident
                else an_incident(connection, scene.organization, projects=[scene.project])
            )
            a_comment(connection, incident, by=scene.author, mentioning=[ana])
    return ana


def given_poison(scene: Scene) -> Any:
    """An event that no planner can read."""
    with scene.engine.begin() as connection:
        unreadable: Any = ("nobody",)
        return an_event(
            connection, scene.incident, Mentioned(activity=999, comment="", users=unreadable, teams=()), by=scene.author
        )


def a_subscriber_told(scene: Scene) -> tuple[int, int]:
    with scene.engine.begin() as connection:
        ana = a_member(connection, scene.organization)
        a_subscription(connection, scene.incident, ana)
    activity = scene.given()
    scene.plan()
    assert scene.told() == {ana: "subscribed"}
    return ana, activity


def mention(scene: Scene, activity: int, person: int) -> None:
    with scene.engine.begin() as connection:
        an_event(connection, scene.incident, Mentioned(activity, "edited", users=(person,), teams=()), by=scene.author)
    scene.plan()


def a_crowd(scene: Scene, size: int = TEAM) -> None:
    """That many new people on the team."""
    with scene.engine.begin() as connection:
        connection.execute(
            text(
                f"WITH u AS (INSERT INTO {users.name} (username, name, email)"
                " SELECT 'crowd-' || n, 'Crowd', 'crowd-' || n || '@example.org' FROM generate_series(1, :size) AS n"
                f" RETURNING id), m AS (INSERT INTO {members.name} (organization_id, user_id)"
                " SELECT :organization, id FROM u RETURNING id)"
                f" INSERT INTO {team_members.name} (team_id, member_id) SELECT :team, id FROM m"
            ),
            {"size": size, "organization": scene.organization, "team": scene.team},
        )


@contextmanager
def going(notifier: Notifier) -> Iterator[None]:
    """The notifier runs in a thread, and has begun."""
    stop, begun = threading.Event(), threading.Event()
    thread = threading.Thread(target=notifier.run, args=(stop, begun.set))
    thread.start()
    try:
        assert begun.wait(10)
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def counted_statements(scene: Scene) -> Iterator[list[str]]:
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(scene.engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(scene.engine, "before_cursor_execute", note)


def psycopg_url(scene: Scene) -> str:
    return make_url(scene.engine.url).set(drivername="postgresql").render_as_string(hide_password=False)
