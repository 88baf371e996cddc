"""Fixtures for tests that plan notifications: an organization with an incident."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.engine import Connection, Engine

from tests.brokers import UNREACHABLE_BROKER, broker_settings
from tests.builders import a_comment, a_member, a_project, a_team, an_incident, an_organization
from tests.conftest import Database
from tests.delivery.node_packages import NodePackages
from workers.notify.notifier import Notifier


def a_notifier(engine: Engine, at: datetime | None = None) -> Notifier:
    """Return a notifier, whose clock shows ``at`` if that is given."""
    clock: dict[str, Any] = {} if at is None else {"clock": lambda: at}
    return Notifier(engine, broker_settings(UNREACHABLE_BROKER), **clock)


def plan_everything(engine: Engine, at: datetime | None = None) -> None:
    """Plan all events that wait for it."""
    notifier = a_notifier(engine, at)
    while notifier.plan_batch():
        pass


@dataclass
class Scene:
    """An organization with a project, the project's team, an incident, and a team member who writes the comments."""

    engine: Engine
    organization: int
    project: int
    team: int
    incident: int
    author: int

    def post_comment(self, **comment: Any) -> int:
        """Insert a comment by the author, with the comment's events; return the activity's id."""
        with self.engine.begin() as connection:
            return a_comment(connection, self.incident, by=self.author, **comment)

    def notifier(self, at: datetime | None = None) -> Notifier:
        """Return a notifier, whose clock shows ``at`` if that is given."""
        return a_notifier(self.engine, at)

    def plan(self, at: datetime | None = None) -> None:
        plan_everything(self.engine, at)

    def notified(self) -> dict[int, str]:
        """Return the reason for each person's inbox item, by user id."""
        return {row.user_id: row.reason for row in self.rows("SELECT user_id, reason FROM notifications")}

    def decisions(self, channel: str = "inbox") -> dict[int, tuple[str, str]]:
        """Return the outcome and the rule of every notification decision about the channel, by user id."""
        rows = self.rows(f"SELECT user_id, outcome, rule FROM notification_decisions WHERE channel = '{channel}'")
        return {row.user_id: (row.outcome, row.rule) for row in rows}

    def unplanned(self) -> set[UUID]:
        return {row.id for row in self.rows("SELECT id FROM events WHERE planned_at IS NULL")}

    def rows(self, query: str) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.exec_driver_sql(query))


def a_scene(connection: Connection, engine: Engine, *, open_membership: bool = True) -> Scene:
    organization = an_organization(connection, open_membership=open_membership)
    project = a_project(connection, organization)
    team = a_team(connection, organization, projects=[project])
    return Scene(
        engine=engine,
        organization=organization,
        project=project,
        team=team,
        incident=an_incident(connection, organization, projects=[project]),
        author=a_member(connection, organization, teams=[team]),
    )


@pytest.fixture
def scene(database: Database) -> Scene:
    with database.engine.begin() as connection:
        return a_scene(connection, database.engine)


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> NodePackages:
    """Packages for Node that read what tocsin sends."""
    return NodePackages(tmp_path_factory.mktemp("node"))


@pytest.fixture
def closed_scene(database: Database) -> Scene:
    """A scene in an organization whose members can access only their own teams' projects."""
    with database.engine.begin() as connection:
        return a_scene(connection, database.engine, open_membership=False)
