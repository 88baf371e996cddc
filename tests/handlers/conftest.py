"""A house for handlers: people, incidents and a worker without a broker, on a real database."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select
from sqlalchemy.engine import Connection, Engine

from models import tables
from models.base import new_id
from models.database.engine import make_engine
from models.enums import JSON, Lane
from models.messaging.command_ledger import NewCommand, accept_commands, commands
from tasks.commands.base import Command
from tasks.commands.catalog import CATALOG
from tests.conftest import Database
from tests.handlers.acme import Acme
from workers.apply.applier import Applier, BatchResult


@dataclass
class Harness:
    """Commands are accepted as a gateway would, and applied by a real worker's loop in this process."""

    url: str
    engine: Engine
    results: list[BatchResult] = field(default_factory=list)

    def accept(
        self,
        command: Command,
        *,
        organization: int,
        token: int | None,
        user: int | None = None,
        subject: str | None = None,
        expected_version: int | None = None,
    ) -> UUID:
        """A row in the ledger, waiting."""
        row = _row(command, organization=organization, token=token, user=user)
        row = row._replace(subject=subject or row.subject, expected_version=expected_version)
        with self.engine.begin() as connection:
            accept_commands(connection, [row])
        return row.id

    def accept_all(
        self, asked: Sequence[Command], *, organization: int, token: int | None, user: int | None = None
    ) -> list[UUID]:
        """Many rows at once, in their order, as a bulk request leaves them."""
        rows = [_row(command, organization=organization, token=token, user=user) for command in asked]
        with self.engine.begin() as connection:
            accept_commands(connection, rows)
        return [row.id for row in rows]

    def applier(self, name: str = "worker", *, hand_over: Callable[[], None] = lambda: None) -> Applier:
        """Someone who applies what waits."""
        url = self.engine.url.render_as_string(hide_password=False)
        return Applier(
            engine=make_engine(url, application="test-worker"),
            autocommit_engine=make_engine(url, application="test-notes").execution_options(
                isolation_level="AUTOCOMMIT"
            ),
            worker=name,
            on_commit=self.results.append,
            request_continuation=hand_over,
        )

    def apply(self) -> None:
        """Apply everything that is due, however long that takes."""
        shifts = [()]
        worker = self.applier(hand_over=lambda: shifts.append(()))
        while shifts:
            worker.drain(shifts.pop())

    def ledger_row(self, id_: UUID) -> dict[str, Any]:
        """A command as the ledger has it."""
        with self.engine.connect() as connection:
            return dict(connection.execute(select(commands).where(commands.c.id == id_)).mappings().one())

    def execute(self, command: Command, **who: Any) -> tuple[int, JSON]:
        """Accept, apply, and read the outcome."""
        id_ = self.accept(command, **who)
        self.apply()
        row = self.ledger_row(id_)
        return row["outcome_status"], row["outcome_body"]

    def row_counts(self) -> dict[str, int]:
        """How many rows every table of incident data has."""
        data = (
            tables.incident.incidents,
            tables.activity.activities,
            tables.subscription.subscriptions,
            tables.outbox.events,
            tables.notification.notifications,
        )
        with self.engine.connect() as connection:
            return {table.name: _count(connection, table) for table in data}


def _row(command: Command, *, organization: int, token: int | None, user: int | None) -> NewCommand:
    return NewCommand(
        id=new_id(),
        type=command.name,
        subject=str(CATALOG[command.name].subject_of(command, organization, user)),
        lane=Lane.COMMANDS,
        organization_id=organization,
        token_id=token,
        user_id=user,
        caller=f"user:{user}",
        payload=command.to_payload(),
    )


def _count(connection: Connection, table: Any) -> int:
    return connection.execute(select(func.count()).select_from(table)).scalar_one()


@pytest.fixture
def house(database: Database) -> Harness:
    """An empty house."""
    return Harness(database.url, database.engine)


@pytest.fixture
def acme(house: Harness) -> Acme:
    """The small organization, in that house."""
    return Acme(house.engine)
