"""Large audiences are planned in parts, beside other people's events, and still notify each person once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.engine import Connection

from models.database.engine import make_engine
from tasks.events import CommentDeleted
from tests.brokers import UNREACHABLE_BROKER, broker_settings
from tests.builders import a_comment, a_member, a_project, a_subscription, an_event, an_incident
from tests.delivery.conftest import Scene
from tests.delivery.test_planner import running_notifier
from tests.waiting import eventually
from workers.notify import fan_out, notifier, planner
from workers.notify.notifier import Notifier

PART = 10


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "PEOPLE_PER_TRANSACTION", PART)


@pytest.mark.parametrize("size", [PART - 2, PART - 1, PART, 2 * PART - 1, 2 * PART, 3 * PART + 5])
def test_each_member_of_a_team_of_any_size_is_notified_once(scene: Scene, size: int) -> None:
    crowd = team_members(scene, size)
    scene.post_comment(mentioning_teams=[scene.team])

    scene.plan()

    assert scene.notified() == dict.fromkeys(crowd, "team_mention")
    assert scene.rows("SELECT count(*), count(DISTINCT user_id) FROM deliveries") == [(size, size)]
    assert scene.decisions()[scene.author] == ("suppressed", "author")
    assert scene.unplanned() == set()


def test_large_numbers_of_subscribers_are_planned_in_parts(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    with scene.engine.begin() as connection:
        crowd = [a_member(connection, scene.organization) for _ in range(2 * PART + 1)]
        for person in crowd:
            a_subscription(connection, scene.incident, person)
    scene.post_comment()
    parts = on_each_part(monkeypatch, lambda: None)

    scene.plan()

    assert scene.notified() == dict.fromkeys(crowd, "subscribed")
    assert len(parts) == 3


def test_the_strongest_reason_wins_in_whichever_part_a_person_is(scene: Scene) -> None:
    crowd = team_members(scene, 3 * PART)
    mentioned = [crowd[0], crowd[PART + 5], crowd[-1]]
    with scene.engine.begin() as connection:
        for person in crowd[:PART]:
            a_subscription(connection, scene.incident, person)
    scene.post_comment(mentioning=mentioned, mentioning_teams=[scene.team])

    scene.plan()

    assert scene.notified() == dict.fromkeys(crowd, "team_mention") | dict.fromkeys(mentioned, "mention")
    assert scene.decisions()[crowd[PART + 5]] == ("delivered", "mention")


def test_people_without_access_are_suppressed_and_unsubscribed_in_each_part(closed_scene: Scene) -> None:
    with closed_scene.engine.begin() as connection:
        outsiders = [a_member(connection, closed_scene.organization) for _ in range(2 * PART)]
        for person in outsiders:
            a_subscription(connection, closed_scene.incident, person)
    crowd = team_members(closed_scene, PART)
    closed_scene.post_comment(mentioning_teams=[closed_scene.team])

    closed_scene.plan()

    assert set(closed_scene.notified()) == set(crowd)
    assert {closed_scene.decisions()[each] for each in outsiders} == {("suppressed", "no_access")}
    assert closed_scene.rows("SELECT count(*) FROM commands WHERE type = 'incident.unsubscribe'") == [(2 * PART,)]


def test_other_subjects_are_planned_between_two_parts(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    team_members(scene, 3 * PART)
    scene.post_comment(mentioning_teams=[scene.team])
    seen: list[tuple[int, bool]] = []

    def look() -> None:
        ana = a_person_mentioned_elsewhere(scene)
        scene.notifier().plan_batch()
        seen.append((len(scene.notified()), ana in scene.notified()))

    on_each_part(monkeypatch, look)

    scene.plan()

    # Before each part, one more person and all earlier parts have been notified. The author is in the first part.
    assert seen == [(1, True), (PART + 1, True), (2 * PART + 2, True), (3 * PART + 3, True)]


def test_later_events_of_the_same_subject_wait_for_the_last_part(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = team_members(scene, 2 * PART)
    scene.post_comment(mentioning_teams=[scene.team])
    seen: list[set[str]] = []

    def look() -> None:
        scene.post_comment(mentioning=[crowd[-1]])
        scene.plan()
        seen.append(set(scene.notified().values()))

    parts = on_each_part(monkeypatch, look)

    plan_all(scene)

    assert set().union(*seen) == {"team_mention"}
    assert scene.unplanned() == set()
    mentions = scene.rows(f"SELECT reason FROM notifications WHERE user_id = {crowd[-1]} ORDER BY id")
    assert [row.reason for row in mentions] == ["team_mention", *["mention"] * len(parts)]


def test_a_comment_deleted_between_two_parts_leaves_no_notification(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = team_members(scene, 2 * PART)
    activity = scene.post_comment(mentioning_teams=[scene.team])

    def delete() -> None:
        if len(parts) == 2:
            with scene.engine.begin() as connection:
                an_event(connection, scene.incident, CommentDeleted(activity), by=scene.author)

    parts = on_each_part(monkeypatch, delete)

    plan_all(scene)

    assert scene.rows("SELECT retracted, count(*) FROM notifications GROUP BY 1") == [(True, len(crowd))]
    assert scene.rows("SELECT DISTINCT state FROM deliveries") == [("cancelled",)]


def test_a_deleted_comment_with_a_large_audience_is_retracted_in_parts(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = team_members(scene, 2 * PART + 5)
    activity = scene.post_comment(mentioning_teams=[scene.team])
    scene.plan()
    with scene.engine.begin() as connection:
        an_event(connection, scene.incident, CommentDeleted(activity), by=scene.author)
    progress: list[int] = []

    def observed(connection: Connection, events: Any) -> bool:
        is_more = planner.retract_part(connection, events)
        progress.append(connection.exec_driver_sql("SELECT count(*) FROM notifications WHERE retracted").scalar_one())
        return is_more

    monkeypatch.setattr(fan_out, "retract_part", observed)

    plan_all(scene)

    assert progress == [PART, 2 * PART, len(crowd)]
    assert scene.rows("SELECT state, count(*) FROM deliveries GROUP BY 1") == [("cancelled", len(crowd))]
    assert {scene.decisions("email")[person] for person in crowd} == {("suppressed", "deleted")}
    assert scene.unplanned() == set()


def test_a_crash_between_two_parts_neither_loses_nor_repeats_notifications(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = team_members(scene, 3 * PART)
    scene.post_comment(mentioning_teams=[scene.team])

    def crash() -> None:
        if scene.notified():
            raise SystemExit

    with monkeypatch.context() as crashing:
        on_each_part(crashing, crash)
        with pytest.raises(SystemExit):
            scene.notifier().plan_batch()
    before = items(scene)
    assert 0 < len(before) < len(crowd)
    assert len(scene.unplanned()) == 2

    scene.plan()

    assert scene.unplanned() == set()
    assert before <= items(scene)
    assert sorted(person for _, person in items(scene)) == sorted(crowd)


def test_a_part_that_cannot_be_planned_defers_its_activity_alone(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifier, "RETRY_DELAYS_SECONDS", (0,))
    crowd = team_members(scene, 2 * PART)
    poison = scene.post_comment(mentioning_teams=[scene.team])
    scene.post_comment(mentioning_teams=[scene.team])
    subject = scene.notifier()

    with monkeypatch.context() as failing:
        on_each_part(failing, lambda: None, failing=poison)
        subject.plan_batch()
    assert scene.rows("SELECT count(*) FROM notifications") == [(len(crowd),)]
    assert len(scene.unplanned()) == 2

    eventually(lambda: subject.plan_batch() and not scene.unplanned())

    assert scene.rows("SELECT count(*) FROM notifications") == [(2 * len(crowd),)]


def test_a_part_that_waits_too_long_for_another_notifier_is_tried_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = team_members(scene, 2 * PART)
    scene.post_comment(mentioning_teams=[scene.team])
    url = scene.engine.url.render_as_string(hide_password=False)
    impatient = make_engine(url, application="test", timeouts={"lock_timeout": "20ms"})
    other = scene.engine.connect()
    other.exec_driver_sql(
        f"SELECT pg_advisory_xact_lock(hashtextextended('inbox:' || {scene.organization}::bigint, 0))"
    )

    def release() -> None:
        if len(tries) == 3:
            other.rollback()

    tries = on_each_part(monkeypatch, release)

    Notifier(impatient, broker_settings(UNREACHABLE_BROKER)).plan_batch()

    other.close()
    assert set(scene.notified()) == set(crowd)
    assert len(tries) == 3 + 2


def test_a_batch_notifies_few_people_even_if_it_has_many_subjects(scene: Scene) -> None:
    crowd = team_members(scene, PART - 4)
    with scene.engine.begin() as connection:
        for _ in range(3):
            incident = an_incident(connection, scene.organization, projects=[scene.project])
            a_comment(connection, incident, by=scene.author, mentioning_teams=[scene.team])
    subject = scene.notifier()

    assert subject.plan_batch()
    after_one = len(items(scene))
    scene.plan()

    assert after_one == len(crowd)
    assert len(items(scene)) == 3 * len(crowd)


def test_a_running_notifier_plans_large_audiences_beside_others(scene: Scene) -> None:
    crowd = team_members(scene, 5 * PART)
    scene.post_comment(mentioning_teams=[scene.team])

    with running_notifier(scene.notifier()):
        ana = a_person_mentioned_elsewhere(scene)

        eventually(lambda: not scene.unplanned())

    assert set(scene.notified()) == {*crowd, ana}


def test_a_notifier_stops_after_the_current_part(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = team_members(scene, 5 * PART)
    scene.post_comment(mentioning_teams=[scene.team])
    begun, stop = threading.Event(), threading.Event()
    subject = scene.notifier()

    def wait_for_stop() -> None:
        begun.set()
        eventually(subject.is_stopping)

    with monkeypatch.context() as slow:
        parts = on_each_part(slow, wait_for_stop)
        thread = threading.Thread(target=subject.run, args=(stop,))
        thread.start()
        assert begun.wait(10)
        stop.set()
        thread.join()

    assert len(parts) == 1
    scene.plan()
    assert set(scene.notified()) == set(crowd)


# --- helpers ---------------------------------------------------------------------------------------------------


def team_members(scene: Scene, size: int) -> list[int]:
    """Insert people who are members of the scene's team, which has the author as well; return their ids."""
    with scene.engine.begin() as connection:
        return [a_member(connection, scene.organization, teams=[scene.team]) for _ in range(size)]


def a_person_mentioned_elsewhere(scene: Scene) -> int:
    """Insert a comment on another incident, which mentions a new person; return the person's id."""
    with scene.engine.begin() as connection:
        ana = a_member(connection, scene.organization)
        project = a_project(connection, scene.organization)
        incident = an_incident(connection, scene.organization, projects=[project])
        a_comment(connection, incident, by=scene.author, mentioning=[ana])
    return ana


def on_each_part(
    monkeypatch: pytest.MonkeyPatch, before: Callable[[], None], *, failing: int | None = None
) -> list[int]:
    """Have ``before`` called before each part, and parts of the activity ``failing`` fail; return a list of parts."""
    parts: list[int] = []
    plan_part = planner.plan_part

    def observed(connection: Connection, part: Any, **options: Any) -> Any:
        parts.append(len(part))
        before()
        if part[0][0].activity_id == failing:
            raise ValueError("this activity cannot be planned")
        return plan_part(connection, part, **options)

    monkeypatch.setattr(fan_out, "plan_part", observed)
    return parts


def plan_all(scene: Scene) -> None:
    """Plan until no event waits. A subject that was planned in parts stays locked until its session has ended."""

    def is_planned() -> bool:
        scene.plan()
        return not scene.unplanned()

    eventually(is_planned)


def items(scene: Scene) -> set[tuple[int, int]]:
    """Return the id and the person of each inbox item."""
    return {(row.id, row.user_id) for row in scene.rows("SELECT id, user_id FROM notifications")}
