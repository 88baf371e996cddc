"""Planning notifies each person once per activity, despite large audiences, crashes and duplicate events."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from sqlalchemy import event, text
from sqlalchemy.engine import make_url

from models.directory.tables import members, team_members, users
from models.enums import Lane
from tasks.broker.topology import NOTIFIER_QUEUE
from tasks.events import CommentPosted, Mentioned
from tests.brokers import UNREACHABLE_BROKER, broker_settings
from tests.builders import a_comment, a_member, an_event, an_incident
from tests.delivery.conftest import Scene
from tests.faults.loop_process import running_loop
from tests.waiting import eventually
from workers.notify import notifier as notifier_module
from workers.notify.notifier import EVENTS_PER_SUBJECT, Notifier
from workers.notify.planner import PEOPLE_PER_TRANSACTION
from workers.relay.event_bus import EventBus
from workers.relay.sent_batch import BusMessage
from workers.stack.servers import EmbeddedServers

TEAM = 10_000


def test_a_team_of_ten_thousand_is_planned_with_few_statements_of_few_rows(scene: Scene) -> None:
    add_team_members(scene)
    scene.post_comment(mentioning_teams=[scene.team])
    notifier = scene.notifier()

    with counted_statements(scene) as statements, largest_parameters(scene) as sizes:
        notifier.plan_batch()

    parts = TEAM // PEOPLE_PER_TRANSACTION + 1
    assert len([each for each in statements if each.startswith("INSERT INTO notifications ")]) == parts
    assert len([each for each in statements if each.startswith("INSERT INTO deliveries ")]) == parts
    assert max(sizes) == PEOPLE_PER_TRANSACTION
    assert scene.rows("SELECT count(*), count(DISTINCT user_id) FROM notifications") == [(TEAM, TEAM)]
    assert scene.rows("SELECT count(*), count(DISTINCT user_id) FROM deliveries") == [(TEAM, TEAM)]
    assert scene.unplanned() == set()


def test_the_number_of_queries_does_not_grow_with_the_batch_size(scene: Scene) -> None:
    post_comments(scene, 1)
    with counted_statements(scene) as for_one:
        scene.notifier().plan_batch()
    post_comments(scene, 90)

    with counted_statements(scene) as for_many:
        scene.notifier().plan_batch()

    assert scene.unplanned() == set()
    assert len(for_many) == len(for_one) <= 19


def test_an_event_planned_twice_notifies_once(scene: Scene) -> None:
    ana = post_comments(scene, 1)
    scene.plan()
    with scene.engine.begin() as connection:
        connection.execute(text("UPDATE events SET planned_at = NULL"))

    scene.plan()

    assert scene.rows("SELECT user_id FROM notifications") == [(ana,)]


def test_concurrent_notifiers_create_each_notification_once(scene: Scene) -> None:
    ana = post_comments(scene, 300)

    with ThreadPoolExecutor() as threads:
        for done in [threads.submit(scene.plan) for _ in range(3)]:
            done.result()

    # A notifier skips subjects that another one has locked. Plan the skipped ones.
    scene.plan()
    assert scene.rows("SELECT user_id, count(*) FROM notifications GROUP BY user_id") == [(ana, 300)]


def test_a_long_backlog_is_planned_without_separating_the_events_of_an_activity(scene: Scene) -> None:
    ana = post_comments(scene, EVENTS_PER_SUBJECT + 7, on_one_incident=True)

    scene.plan()

    assert scene.rows("SELECT user_id, event_type, count(*) FROM notifications GROUP BY 1, 2") == [
        (ana, CommentPosted.type, EVENTS_PER_SUBJECT + 7)
    ]


def test_an_event_that_cannot_be_planned_does_not_block_others(scene: Scene) -> None:
    poison = a_poison_event(scene)
    ana = post_comments(scene, 50)
    post_comments(scene, 5, on_one_incident=True)

    scene.plan()

    assert scene.unplanned() == {poison}
    assert ana in scene.notified()
    assert scene.rows("SELECT count(*) FROM notifications") == [(55,)]


def test_an_event_that_could_not_be_planned_is_retried(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifier_module, "RETRY_DELAYS_SECONDS", (0,))
    notifier = scene.notifier()
    poison = a_poison_event(scene)
    notifier.plan_batch()
    assert scene.unplanned() == {poison}
    with scene.engine.begin() as connection:
        connection.execute(text("UPDATE events SET body = replace(body::text, 'nobody', '0')::json"))

    eventually(lambda: notifier.plan_batch() and not scene.unplanned())


def test_a_poison_event_is_retried_only_after_a_pause(scene: Scene) -> None:
    notifier = scene.notifier()
    a_poison_event(scene)

    assert notifier.plan_batch()

    assert [notifier.plan_batch() for _ in range(3)] == [False, False, False]


def test_an_event_is_planned_and_marked_as_planned_in_one_transaction(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    post_comments(scene, 3)

    def die(*_: Any) -> None:
        raise SystemExit

    monkeypatch.setattr("workers.notify.planner.mark_processed", die)
    with pytest.raises(SystemExit):
        scene.notifier().plan_batch()
    assert scene.notified() == {}
    monkeypatch.undo()

    scene.plan()

    assert scene.rows("SELECT count(*) FROM notifications") == [(3,)]


def test_killing_the_notifier_neither_loses_nor_duplicates_notifications(
    scene: Scene, servers: EmbeddedServers
) -> None:
    database_url = psycopg_url(scene)
    crowd = 50
    add_team_members(scene, crowd)
    comments = 400
    with scene.engine.begin() as connection:
        for _ in range(comments):
            incident = an_incident(connection, scene.organization, projects=[scene.project])
            a_comment(connection, incident, by=scene.author, mentioning_teams=[scene.team])

    for _ in range(3):
        with running_loop("notifier", database_url=database_url, broker_url=servers.broker_url) as process:
            eventually(progress_of(scene))
            process.kill()
    with running_loop("notifier", database_url=database_url, broker_url=servers.broker_url):
        eventually(lambda: not scene.unplanned())

    assert scene.rows("SELECT count(*) FROM notifications") == [(comments * crowd,)]


def test_people_are_notified_even_if_the_event_bus_is_down(scene: Scene) -> None:
    with running_notifier(Notifier(scene.engine, broker_settings(UNREACHABLE_BROKER))):
        ana = post_comments(scene, 1)

        eventually(lambda: ana in scene.notified())


def test_malformed_messages_on_the_event_bus_do_not_stop_the_notifier(scene: Scene, servers: EmbeddedServers) -> None:
    settings = broker_settings(servers.broker_url)
    valkey = redis.Redis.from_url(servers.redis_url)
    bus = EventBus(settings)
    bus.publish([BusMessage("incident.opened", "{}")])
    valkey.lpush(NOTIFIER_QUEUE, b"", b"hello", b"[]", b"{}", b'{"body": 7}', b"\xff\xfe", b"[" * 10_000)
    bus.publish([BusMessage("incident.opened", "not even JSON"), BusMessage("command.dead", "[]")])

    with running_notifier(Notifier(scene.engine, settings)):
        eventually(lambda: valkey.llen(NOTIFIER_QUEUE) == 0)
        ana = post_comments(scene, 1)

        eventually(lambda: ana in scene.notified())


def test_a_message_on_the_event_bus_wakes_the_notifier(
    scene: Scene, servers: EmbeddedServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.runtime.polling.POLL_SECONDS", 3600)
    settings = broker_settings(servers.broker_url, REDIS_URL=UNREACHABLE_BROKER)

    with running_notifier(Notifier(scene.engine, settings)):
        ana = post_comments(scene, 1)
        EventBus(settings).publish([BusMessage("incident.comment_posted", "{}")])

        eventually(lambda: ana in scene.notified())


def test_planned_messages_wake_a_worker_that_sends_them(scene: Scene, servers: EmbeddedServers) -> None:
    valkey = redis.Redis.from_url(servers.redis_url)
    valkey.delete(Lane.DELIVERIES.value)

    with running_notifier(Notifier(scene.engine, broker_settings(servers.broker_url))):
        post_comments(scene, 1)

        eventually(lambda: valkey.llen(Lane.DELIVERIES.value) == 1)
    valkey.delete(Lane.DELIVERIES.value)


# --- helpers ---------------------------------------------------------------------------------------------------


def post_comments(scene: Scene, count: int, *, on_one_incident: bool = False) -> int:
    """Insert comments that all mention the same new person; return the person's id."""
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


def progress_of(scene: Scene) -> Callable[[], bool]:
    """Return a condition that is true once events have been planned since this call, or no unplanned event is left."""
    before = len(scene.unplanned())
    return lambda: len(scene.unplanned()) < before or not scene.unplanned()


def a_poison_event(scene: Scene) -> Any:
    """Insert an event that the planner cannot parse; return the event's id."""
    with scene.engine.begin() as connection:
        unreadable: Any = ("nobody",)
        return an_event(
            connection, scene.incident, Mentioned(activity=999, comment="", users=unreadable, teams=()), by=scene.author
        )


def add_team_members(scene: Scene, size: int = TEAM) -> None:
    """Insert `size` new users as members of the scene's team."""
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
def running_notifier(notifier: Notifier) -> Iterator[None]:
    """Run the notifier in a thread for the duration of the block, which begins once the notifier has started."""
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


@contextmanager
def largest_parameters(scene: Scene) -> Iterator[list[int]]:
    """Yield a list to which each statement's longest array parameter adds its length."""
    sizes: list[int] = [0]

    def note(_connection: Any, _cursor: Any, _statement: str, parameters: Any, *_: Any) -> None:
        if isinstance(parameters, dict):
            sizes.extend(len(value) for value in parameters.values() if isinstance(value, list))

    event.listen(scene.engine, "before_cursor_execute", note)
    try:
        yield sizes
    finally:
        event.remove(scene.engine, "before_cursor_execute", note)


def psycopg_url(scene: Scene) -> str:
    return make_url(scene.engine.url).set(drivername="postgresql").render_as_string(hide_password=False)
