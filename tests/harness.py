"""A harness that accepts and applies commands on a real database, in the test's process and without a broker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.engine import Connection, Engine

from models import tables
from models.base import new_id
from models.database.engine import make_engine
from models.enums import CallerKind, Lane
from models.incidents.subscription import subscriptions
from models.messaging.command_ledger import NewCommand, accept_commands, commands
from models.types import JSON
from tasks.commands.base import Command
from tasks.commands.catalog import CATALOG, CommandSubmission
from workers.apply.applier import Applier, BatchResult
from workers.apply.in_flight import InFlightBatch

Remaining = Mapping[Lane, Sequence[str]]
"""The subjects, by lane, that an applier has not served within its time limit."""


@dataclass
class Harness:
    """A gateway and a worker in one: accepts commands into the ledger and applies them with an :class:`Applier`.

    ``results`` holds the result of each committed batch.
    """

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
        caller: str | None = None,
    ) -> UUID:
        """Insert a command into the ledger; return the command's id.

        Without a token, it comes from tocsin itself, unless `caller` says otherwise.
        """
        row = _row(command, organization=organization, token=token, user=user, caller=caller)
        row = row._replace(expected_version=expected_version)
        if subject is not None:
            row = row._replace(subject=subject, incident=None)
        with self.engine.begin() as connection:
            accept_commands(connection, [row])
        return row.id

    def accept_all(
        self, submitted: Sequence[Command], *, organization: int, token: int | None, user: int | None = None
    ) -> list[UUID]:
        """Insert commands into the ledger in one statement, as for a bulk request; return the ids in order."""
        rows = [_row(command, organization=organization, token=token, user=user) for command in submitted]
        with self.engine.begin() as connection:
            accept_commands(connection, rows)
        return [row.id for row in rows]

    def applier(
        self,
        name: str = "worker",
        *,
        request_continuation: Callable[[Remaining], None] = lambda _: None,
        timeouts: dict[str, str] | None = None,
    ) -> Applier:
        """Return an applier with its own connections."""
        url = self.engine.url.render_as_string(hide_password=False)
        autocommit_engine = make_engine(url, application="test-autocommit").execution_options(
            isolation_level="AUTOCOMMIT"
        )
        return Applier(
            engine=make_engine(url, application="test-worker", timeouts=timeouts),
            in_flight=InFlightBatch(autocommit_engine, worker=name),
            on_commit=self.results.append,
            request_continuation=request_continuation,
        )

    def apply(self, *, timeouts: dict[str, str] | None = None) -> None:
        """Apply every command that is due, in as many batches and tasks as necessary."""
        tasks: list[Remaining] = [{}]
        applier = self.applier(request_continuation=tasks.append, timeouts=timeouts)
        while tasks:
            remaining = tasks.pop()
            applier.drain([subject for subjects in remaining.values() for subject in subjects])
        applier.in_flight.close()

    def ledger_row(self, id_: UUID) -> dict[str, Any]:
        """Return a command's row in the ledger."""
        with self.engine.connect() as connection:
            return dict(connection.execute(select(commands).where(commands.c.id == id_)).mappings().one())

    def execute(self, command: Command, **identity: Any) -> tuple[int, JSON]:
        """Accept and apply a command; return the outcome's status and body."""
        id_ = self.accept(command, **identity)
        self.apply()
        row = self.ledger_row(id_)
        return row["outcome_status"], row["outcome_body"]

    def subscribers(self) -> dict[int, str]:
        """Return the reason for every subscription, by user id."""
        with self.engine.connect() as connection:
            return {row.user_id: row.reason for row in connection.execute(select(subscriptions))}

    def row_counts(self) -> dict[str, int]:
        """Return the number of rows in every table of incident data, by table."""
        data = (
            tables.incident.incidents,
            tables.activity.activities,
            tables.subscription.subscriptions,
            tables.outbox.events,
            tables.notification.notifications,
        )
        with self.engine.connect() as connection:
            return {table.name: _count(connection, table) for table in data}


def lock_subjects(connection: Connection, subjects: Sequence[str]) -> None:
    """Lock subjects until the transaction ends, as a worker does while it applies their commands."""
    connection.exec_driver_sql(
        "SELECT pg_advisory_xact_lock(hashtextextended('apply:' || s.subject, 0))"
        " FROM unnest(%(subjects)s::text[]) AS s(subject)",
        {"subjects": list(subjects)},
    )


def _row(
    command: Command, *, organization: int, token: int | None, user: int | None, caller: str | None = None
) -> NewCommand:
    id_ = new_id()
    subject = CATALOG[command.name].subject(command, CommandSubmission(organization, user, id_))
    return NewCommand(
        id=id_,
        type=command.name,
        subject=str(subject),
        lane=Lane.COMMANDS,
        organization_id=organization,
        token_id=token,
        user_id=user,
        caller=caller or (CallerKind.SYSTEM if token is None else f"user:{user}"),
        payload=command.to_payload(),
        incident=subject.number,
    )


def _count(connection: Connection, table: Any) -> int:
    return connection.execute(select(func.count()).select_from(table)).scalar_one()
