"""Compare SQL text with SQLAlchemy Core for three statements on the hot path.

The two styles run alternately on one connection to an embedded PostgreSQL. Core builds a SELECT for each execution, as
product code would, and finds its compiled form in the cache. The figures are medians over the rounds of the elapsed
time and of this process's CPU time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from statistics import median
from typing import Any, Final

from sqlalchemy import ARRAY, BigInteger, Connection, Text, cast, create_engine, func, insert, literal, select, true

from bench.machine import environment, environment_lines
from bench.output import temporary_directory
from models.base import new_id
from models.database.migrate import migrate
from models.directory.tables import organizations
from models.enums import CommandState, IncidentStatus, IncidentType, Lane, StatusMethod
from models.incidents.incident import incident_projects, incidents
from models.messaging import claims
from models.messaging import command_ledger as ledger
from models.messaging.command_ledger import NewCommand, commands
from models.settings import sqlalchemy_url
from tasks.commands.catalog import KNOWN_TYPES
from workers.batch.load import _INCIDENTS
from workers.stack.servers import embedded_servers

ROWS: Final = 20
"""The number of commands per INSERT, of subjects per claim, and of incidents per load."""

ROUNDS: Final = 60
PER_ROUND: Final = 50


Run = Callable[[], Sequence[Any]]
Styles = tuple[str, Run, Run]
"""A statement's name, and functions that run it as text and in Core."""


def accept(connection: Connection, rows: Sequence[NewCommand]) -> Styles:
    """Return both styles of inserting commands: text with an array per column, and Core with a multi-row VALUES."""
    statement = insert(commands).returning(commands.c.id, commands.c.accepted_at, sort_by_parameter_order=True)

    def text() -> Sequence[Any]:
        parameters = ledger.accept_parameters([row._replace(id=new_id()) for row in rows])
        return connection.exec_driver_sql(ledger.ACCEPT_COMMANDS, dict(parameters)).all()

    def core() -> Sequence[Any]:
        parameters = [row._asdict() | {"id": new_id(), "payload": {}} for row in rows]
        return connection.execute(statement, parameters).all()

    return f"accept: INSERT of {ROWS} commands", text, core


def claim(connection: Connection, subjects: list[str]) -> Styles:
    """Return both styles of reading the waiting commands of locked subjects."""
    limits = [50] * len(subjects)

    def core() -> Sequence[Any]:
        arrays = func.unnest(literal(subjects, ARRAY(Text)), literal(limits, ARRAY(BigInteger)))
        locked = arrays.table_valued("subject", "most", with_ordinality="ordinal").render_derived()
        floor = select(func.coalesce(func.max(claims.command_floor.c.seq), 0)).scalar_subquery()
        waiting = (
            select(commands)
            .where(
                commands.c.subject == locked.c.subject,
                commands.c.state == CommandState.ACCEPTED,
                commands.c.seq >= floor,
            )
            .order_by(commands.c.seq)
            .limit(locked.c.most)
            .lateral()
        )
        turn = func.row_number().over(partition_by=waiting.c.subject, order_by=waiting.c.seq).label("turn")
        dealt = select(waiting, locked.c.ordinal, turn).select_from(locked.join(waiting, true())).subquery()
        columns = [dealt.c[name] for name in claims.ClaimedCommand._fields]
        known_type = (dealt.c.type + "/" + cast(dealt.c.payload_version, Text)).in_(KNOWN_TYPES)
        must_wait = (func.coalesce(dealt.c.next_attempt_at > func.now(), False) | ~known_type).label("must_wait")
        return connection.execute(select(*columns, must_wait).order_by(dealt.c.turn, dealt.c.ordinal).limit(200)).all()

    parameters = {"subjects": subjects, "most_of_each": limits, "known": list(KNOWN_TYPES), "most": 200}
    text = partial(connection.exec_driver_sql, claims._READ[False], parameters)
    return f"claim: SELECT of {ROWS} subjects", lambda: text().all(), core


def load(connection: Connection, organization: int) -> Styles:
    """Return both styles of reading incidents by number, with the ids of their projects."""
    parameters = {"organizations": [organization] * ROWS, "identifiers": list(range(1, ROWS + 1))}

    def core() -> Sequence[Any]:
        keys = func.unnest(*(literal(values, ARRAY(BigInteger)) for values in parameters.values()))
        wanted = keys.table_valued("organization_id", "identifier").render_derived()
        ids = select(incident_projects.c.project_id).where(incident_projects.c.incident_id == incidents.c.id)
        projects = func.array(ids.scalar_subquery(), type_=ARRAY(BigInteger)).label("projects")
        is_wanted = incidents.c.organization_id == wanted.c.organization_id
        statement = select(incidents, projects).where(is_wanted, incidents.c.identifier == wanted.c.identifier)
        return connection.execute(statement).all()

    return (f"load: SELECT of {ROWS} incidents", lambda: connection.exec_driver_sql(_INCIDENTS, parameters).all(), core)


def measure(name: str, text: Run, core: Run) -> str:
    """Run both styles alternately and return the statement's row in the table."""
    assert len(text()) == len(core()) == ROWS
    elapsed: dict[Run, list[float]] = {text: [], core: []}
    cpu: dict[Run, list[float]] = {text: [], core: []}
    for _ in range(ROUNDS):
        for run in (text, core):
            started, started_cpu = time.perf_counter(), time.process_time()
            for _ in range(PER_ROUND):
                run()
            elapsed[run].append((time.perf_counter() - started) / PER_ROUND * 1e6)
            cpu[run].append((time.process_time() - started_cpu) / PER_ROUND * 1e6)
    cells = " | ".join(f"{median(elapsed[run]):,.0f} ({median(cpu[run]):,.0f})" for run in (text, core))
    ratio = median(slower / faster for slower, faster in zip(elapsed[core], elapsed[text], strict=True))
    return f"| {name} | {cells} | {ratio:.2f} |"


def fill(connection: Connection) -> tuple[int, list[NewCommand]]:
    """Insert an organization with 2,000 incidents and a waiting command for each of the first ``ROWS``, and commit."""
    organization = connection.execute(
        insert(organizations).values(slug="bench", name="Bench").returning(organizations.c.id)
    ).scalar_one()
    facts: dict[str, Any] = {"organization_id": organization, "status": IncidentStatus.OPEN}
    facts |= {"status_method": StatusMethod.MANUAL, "type": IncidentType.DETECTED}
    facts |= dict.fromkeys(("date_started", "date_detected", "date_added", "last_activity_at"), datetime.now(UTC))
    rows = [{"identifier": number, "title": f"Incident {number}"} for number in range(1, 2_001)]
    connection.execute(insert(incidents), [each | facts for each in rows])
    subjects = [f"incident:{organization}:{number}" for number in range(1, ROWS + 1)]
    caller = (organization, 1, 1, "user:1", "{}")
    new = [NewCommand(new_id(), "comment.post", subject, Lane.COMMANDS, *caller) for subject in subjects]
    connection.exec_driver_sql(ledger.ACCEPT_COMMANDS, dict(ledger.accept_parameters(new)))
    connection.exec_driver_sql("ANALYZE")
    connection.commit()
    return organization, new


def main() -> None:
    """Measure the statements and print a table."""
    with ExitStack() as cleanup:
        servers = cleanup.enter_context(embedded_servers(temporary_directory(cleanup)))
        engine = create_engine(sqlalchemy_url(servers.database_url))
        cleanup.callback(engine.dispose)
        migrate(engine)
        connection = cleanup.enter_context(engine.connect())
        organization, new = fill(connection)
        print(*environment_lines(environment(servers)), "", sep="\n")
        print("| statement | text, µs (CPU) | Core, µs (CPU) | Core : text |\n|---|---:|---:|---:|")
        claimed = claim(connection, [row.subject for row in new])
        for styles in (load(connection, organization), claimed, accept(connection, new)):
            print(measure(*styles), flush=True)
            connection.rollback()


if __name__ == "__main__":
    main()
