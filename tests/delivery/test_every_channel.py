"""What every channel promises: nobody without access learns of an incident, and everyone else is told exactly once."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any, Final

import pytest
import requests.api
from sqlalchemy import delete, select, update
from sqlalchemy.engine import Connection

from models.database.errors import is_contention
from models.directory.tables import members, organizations, project_teams, projects, team_members, teams, users
from models.enums import ObjectStatus, Role
from models.messaging.outbox import events
from models.notifications.notification import notifications
from tests.builders import a_subscription
from tests.delivery.conftest import Scene
from tests.delivery.everywhere import Everywhere, everywhere
from tests.waiting import eventually

INACTIVE: Final = ObjectStatus.INACTIVE.value


@pytest.fixture(autouse=True)
def _unguarded_afterwards() -> Iterator[None]:
    """Give the library ``requests`` its own session back: other tests may use it."""
    before = vars(requests.api)["sessions"]
    yield
    vars(requests.api)["sessions"] = before


@pytest.fixture
def told(closed_scene: Scene, tmp_path: Path) -> Iterator[Everywhere]:
    with everywhere(closed_scene, tmp_path) as running:
        yield running


# --- without access --------------------------------------------------------------------------------------------------


def _membership(user: int) -> Any:
    return select(members.c.id).where(members.c.user_id == user).scalar_subquery()


def remove_member(connection: Connection, _: Scene, user: int) -> None:
    connection.execute(delete(team_members).where(team_members.c.member_id == _membership(user)))
    connection.execute(delete(members).where(members.c.user_id == user))


def deactivate_user(connection: Connection, _: Scene, user: int) -> None:
    connection.execute(update(users).where(users.c.id == user).values(is_active=False))


def leave_team(connection: Connection, _: Scene, user: int) -> None:
    connection.execute(
        update(team_members).where(team_members.c.member_id == _membership(user)).values(is_active=False)
    )


def remove_team_from_project(connection: Connection, scene: Scene, _: int) -> None:
    connection.execute(delete(project_teams).where(project_teams.c.team_id == scene.team))


def deactivate_team(connection: Connection, scene: Scene, _: int) -> None:
    connection.execute(update(teams).where(teams.c.id == scene.team).values(status=INACTIVE))


def deactivate_project(connection: Connection, scene: Scene, _: int) -> None:
    connection.execute(update(projects).where(projects.c.id == scene.project).values(status=INACTIVE))


def lower_role(connection: Connection, _: Scene, user: int) -> None:
    """Make a manager, who had access to every project, a member without a team."""
    leave_team(connection, _, user)
    connection.execute(update(members).where(members.c.user_id == user).values(role=Role.MEMBER.value))


def close_organization(connection: Connection, scene: Scene, user: int) -> None:
    """Close an open organization, in which the person was in no team of the project."""
    leave_team(connection, scene, user)
    connection.execute(update(organizations).values(open_membership=False))


Losing = Callable[[Connection, Scene, int], None]
WAYS: Final[tuple[Losing, ...]] = (
    remove_member, deactivate_user, leave_team, remove_team_from_project, deactivate_team, deactivate_project,
    lower_role, close_organization,
)  # fmt: skip


@pytest.mark.parametrize("reason", ["mention", "team_mention", "subscribed"])
@pytest.mark.parametrize(
    ("lose_access", "is_planned_before"),
    [pytest.param(*case, id=f"{case[0].__name__}-{case[1]}") for case in product(WAYS, (False, True))],
)
def test_a_person_without_access_never_learns_of_the_incident_by_any_channel(
    told: Everywhere, lose_access: Losing, is_planned_before: bool, reason: str
) -> None:
    scene = told.scene
    if lose_access is close_organization:
        with scene.engine.begin() as connection:
            connection.execute(update(organizations).values(open_membership=True))
    ana = told.a_person(role=Role.MANAGER if lose_access is lower_role else Role.MEMBER)
    # Whoever is told in any case shows that the channels work.
    owner = told.a_person(role=Role.OWNER)
    post = {
        "mention": {"mentioning": [ana, owner]},
        "team_mention": {"mentioning_teams": [scene.team]},
        "subscribed": {},
    }
    with scene.engine.begin() as connection:
        for user in (ana, owner):
            a_subscription(connection, scene.incident, user)
    scene.post_comment(text="Secret", **post[reason])

    if is_planned_before:
        told.plan()
    with scene.engine.begin() as connection:
        lose_access(connection, scene, ana)
    told.plan()
    with told.delivering():
        eventually(lambda: told.pending() == 0)

    emails = {row.id: row.email for row in scene.rows("SELECT id, email FROM users")}
    is_owner_told = lose_access is not deactivate_project
    assert (emails[owner] in told.mailed(), owner in told.chatted()) == (is_owner_told, is_owner_told)
    assert emails[ana] not in told.mailed()
    assert ana not in told.chatted()
    if not is_planned_before:
        assert ana not in scene.notified()
        outcomes = scene.rows(f"SELECT outcome FROM notification_decisions WHERE user_id = {ana}")
        assert {row.outcome for row in outcomes} <= {"suppressed"}
    else:
        # The inbox item was written while Ana had access. The gateway checks access when it is read.
        assert {scene.decisions(channel)[ana] for channel in ("email", "chat")} == {("suppressed", "no_access")}


# --- with access -----------------------------------------------------------------------------------------------------

COMMENTS: Final = 4
PEOPLE: Final = 5


@pytest.mark.parametrize("seed", range(4))
def test_everyone_mentioned_gets_one_inbox_item_and_one_message_per_channel(told: Everywhere, seed: int) -> None:
    scene, choose = told.scene, random.Random(seed)
    people = [told.a_person() for _ in range(PEOPLE)]
    outsiders = [told.a_person(teams=[]) for _ in range(2)]
    expected = Counter[tuple[int, int]]()
    for number in range(COMMENTS):
        named = choose.sample(people + outsiders, choose.randrange(PEOPLE + 1))
        is_team_mentioned = choose.random() < 0.3
        activity = scene.post_comment(
            text=f"Comment {number}", mentioning=named, mentioning_teams=[scene.team] if is_team_mentioned else []
        )
        audience = people if is_team_mentioned else [user for user in people if user in named]
        expected.update((activity, user) for user in audience)

    with told.delivering(2), ThreadPoolExecutor(2) as notifiers:
        for _ in range(3):
            list(notifiers.map(_plan_repeatedly, [scene, scene]))
            with scene.engine.begin() as connection:
                connection.exec_driver_sql("UPDATE deliveries SET due_at = now() WHERE state = 'pending'")
                connection.execute(update(events).values(planned_at=None))
        eventually(lambda: told.pending() == 0)

    with scene.engine.connect() as connection:
        inbox = connection.execute(select(notifications.c.activity_id, notifications.c.user_id)).all()
    sent = scene.rows("SELECT id, activity_id, user_id, channel, state FROM deliveries")
    assert Counter((row.activity_id, row.user_id) for row in inbox) == expected
    for channel in ("email", "chat"):
        of_channel = [row for row in sent if row.channel == channel]
        assert Counter((row.activity_id, row.user_id) for row in of_channel) == expected
        assert {row.state for row in of_channel} <= {"delivered"}
    assert Counter(told.mail.message_ids()) == Counter(row.id for row in sent if row.channel == "email")
    assert Counter(told.chatted()) == Counter(user for _, user in expected.elements())


def _plan_repeatedly(scene: Scene) -> None:
    notifier = scene.notifier()
    while True:
        try:
            if not notifier.plan_batch():
                return
        except Exception as error:
            # The other notifier is in the way; the process would try again, too.
            if not is_contention(error):
                raise
