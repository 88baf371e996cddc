"""The ids of inbox items become visible in ascending order, however many notifiers run."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta

import pytest
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError

from models.database.engine import make_engine
from models.messaging.outbox import PLANNING, claim_events
from tests.brokers import UNREACHABLE_BROKER, broker_settings
from tests.builders import NOW, a_comment, a_member, a_project, an_incident, an_organization
from tests.delivery.conftest import Scene
from tests.waiting import eventually
from workers.notify.notifier import Notifier
from workers.notify.planner import plan


def test_a_notifier_waits_for_another_one_that_writes_to_the_same_inbox(scene: Scene) -> None:
    ana = a_person_mentioned_on_two_incidents(scene)

    with planning_elsewhere(scene) as (first, second):
        assert visible_ids(scene, ana) == []
        assert not second.done()
        first.commit()

    assert len(visible_ids(scene, ana)) == 2


def test_no_item_becomes_visible_below_one_that_was_visible_before(scene: Scene) -> None:
    ana = a_person_mentioned_on_two_incidents(scene)

    with planning_elsewhere(scene) as (first, second):
        first.commit()
        highest = visible_ids(scene, ana)[-1]
        second.result()

    [item] = [id_ for id_ in visible_ids(scene, ana) if id_ != highest]
    assert item > highest


def test_notifiers_of_different_organizations_do_not_wait_for_each_other(scene: Scene) -> None:
    a_person_mentioned_on_two_incidents(scene)
    with scene.engine.begin() as connection:
        organization = an_organization(connection)
        incident = an_incident(connection, organization, projects=[a_project(connection, organization)])
        author, bo = a_member(connection, organization), a_member(connection, organization)
        a_comment(connection, incident, by=author, mentioning=[bo])

    with scene.engine.begin() as first, scene.engine.begin() as second:
        plan_one_subject(first)
        second.exec_driver_sql("SET LOCAL lock_timeout = '1ms'")
        plan_one_subject(second, after=(scene.organization + 1, ""))

    assert bo in scene.notified()


def test_a_notifier_whose_wait_for_the_lock_times_out_defers_no_event(scene: Scene) -> None:
    a_person_mentioned_on_two_incidents(scene)
    url = scene.engine.url.render_as_string(hide_password=False)
    impatient = make_engine(url, application="test", timeouts={"lock_timeout": "20ms"})
    notifier = Notifier(impatient, broker_settings(UNREACHABLE_BROKER))
    with scene.engine.begin() as other:
        plan_one_subject(other)
        with pytest.raises(OperationalError, match="lock timeout"):
            notifier.plan_batch()

    assert notifier.plan_batch()

    assert scene.unplanned() == set()


# --- helpers ---------------------------------------------------------------------------------------------------


def a_person_mentioned_on_two_incidents(scene: Scene) -> int:
    with scene.engine.begin() as connection:
        ana = a_member(connection, scene.organization)
        other = an_incident(connection, scene.organization, projects=[scene.project])
        for incident in (scene.incident, other):
            a_comment(connection, incident, by=scene.author, mentioning=[ana])
    return ana


@contextmanager
def planning_elsewhere(scene: Scene) -> Iterator[tuple[Connection, Future[None]]]:
    """Plan in a transaction that stays open, and in a second one, which waits for the first or has already ended."""
    with ThreadPoolExecutor() as threads, scene.engine.begin() as first:
        plan_one_subject(first)
        second = threads.submit(plan_in_own_transaction, scene)
        eventually(lambda: waits_for_inboxes(scene) or second.done())
        yield first, second


def plan_one_subject(connection: Connection, *, after: tuple[int, str] = (0, "")) -> None:
    """Plan the events of the first subject that no other transaction has claimed."""
    events = claim_events(connection, PLANNING, subjects=1, per_subject=10, after=after)
    assert events
    plan(connection, events, window=timedelta(0), now=NOW)


def plan_in_own_transaction(scene: Scene) -> None:
    with scene.engine.begin() as connection:
        plan_one_subject(connection)


def waits_for_inboxes(scene: Scene) -> bool:
    waiting = "SELECT 1 FROM pg_locks l JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()"
    return bool(scene.rows(f"{waiting} WHERE l.locktype = 'advisory' AND NOT l.granted"))


def visible_ids(scene: Scene, person: int) -> list[int]:
    return [row.id for row in scene.rows(f"SELECT id FROM notifications WHERE user_id = {person} ORDER BY id")]
