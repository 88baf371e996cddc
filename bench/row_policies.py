"""What the limits of the database roles cost when commands are accepted: with and without them, in turn.

``python -m bench.row_policies`` runs a gateway with its own database login. Before each half of a round, the row
policies and column privileges of :mod:`models.database.grants` are put in force or lifted, while the gateway keeps
running. It prints the rates per round and the median of their ratios, and saves nothing.

On a busy machine these ratios scatter widely, so it also compares the CPU time that PostgreSQL needs for the statement
that accepts commands, in one session of the same login.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from statistics import median
from typing import Any, Final

import psutil
from sqlalchemy import create_engine
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.pool import NullPool

from bench.load_generator import HOST
from bench.output import progress, temporary_directory
from bench.systems import Tocsin, run_load
from models.base import new_id
from models.database.grants import GRANTS, create_roles, grant_to_existing_roles
from models.enums import Lane
from models.messaging.command_ledger import ACCEPT_COMMANDS, NewCommand, accept_parameters
from workers.stack.managed_process import ManagedProcess
from workers.stack.own_processes import GatewayProcess
from workers.stack.servers import embedded_servers

WARM_UP_COMMANDS: Final = 300
BATCHES, ROWS_PER_BATCH = 600, 32
"""How many batches a session inserts, and how many commands form a batch while 64 connections wait for each other."""


class TocsinWithRoles(Tocsin):
    """tocsin with a database login for each process."""

    def prepare(self) -> None:
        """Prepare the database, and create the roles and logins."""
        super().prepare()
        with self.engine.begin() as connection:
            create_roles(connection)
            for role in GRANTS:
                connection.exec_driver_sql(f"CREATE ROLE {role}_login LOGIN IN ROLE {role}")

    def limit(self, *, by_row: bool) -> None:
        """Put the limits in force, or grant the same tables without limits on rows and columns."""
        with self.engine.begin() as connection:
            # An autovacuum of the table that began in between would end in a deadlock.
            connection.exec_driver_sql("LOCK TABLE commands")
            grant_to_existing_roles(connection)
            if not by_row:
                connection.exec_driver_sql("ALTER TABLE commands DISABLE ROW LEVEL SECURITY")
                connection.exec_driver_sql("GRANT INSERT, UPDATE ON commands TO tocsin_gateway, tocsin_worker")

    def serving_processes(self) -> list[ManagedProcess]:
        """Return the gateway."""
        url = make_url(self.database_url).set(username="tocsin_gateway_login")
        environment = self._environment | {"DATABASE_URL": url.render_as_string(hide_password=False)}
        return [GatewayProcess(HOST, self.port, logs=self.logs, environment=environment)]


def main() -> int:
    """Measure, print the report and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.row_policies", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="rounds, of two halves each (default: 20)")
    parser.add_argument("--commands", type=int, default=2_000, help="commands per half (default: 2000)")
    options = parser.parse_args()
    with ExitStack() as cleanup:
        servers = cleanup.enter_context(embedded_servers(temporary_directory(cleanup)))
        system = TocsinWithRoles(servers, subjects=200, workers=0)
        system.start(system.serving_processes())
        cleanup.callback(system.stop)
        rounds = [_round(system, number, options.commands) for number in range(1, options.rounds + 1)]
        costs = [_cost_round(system, number) for number in range(1, options.rounds + 1)]
    print("\n".join(_report("accepted/s", rounds)))
    print("\n".join(_report("CPU ms of PostgreSQL per 1,000 commands", costs)))
    return 0


def _round(system: TocsinWithRoles, number: int, count: int) -> dict[bool, float]:
    """Return the commands accepted per second with and without the limits."""
    progress(f"round {number}")
    return {
        by_row: _accept(system, count, by_row=by_row) for by_row in ((True, False) if number % 2 else (False, True))
    }


def _accept(system: TocsinWithRoles, count: int, *, by_row: bool) -> float:
    system.limit(by_row=by_row)
    load: dict[str, Any] = {"mode": "accept", "connections": 64, "prefer": system.accept_prefer}
    # Every connection plans its statements again.
    run_load(system.load(**load, count=WARM_UP_COMMANDS))
    figures = run_load(system.load(**load, count=count))
    return float(figures["statuses"].get("202", 0) / figures["seconds"])


def _cost_round(system: TocsinWithRoles, number: int) -> dict[bool, float]:
    """Return the CPU milliseconds of PostgreSQL per 1,000 commands, with and without the limits."""
    return {by_row: _cost(system, by_row=by_row) for by_row in ((True, False) if number % 2 else (False, True))}


def _cost(system: TocsinWithRoles, *, by_row: bool) -> float:
    system.limit(by_row=by_row)
    url = make_url(system.sqlalchemy_url).set(username="tocsin_gateway_login")
    engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        session = psutil.Process(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())
        for _ in range(20):
            _insert_batch(connection)
        before = session.cpu_times()
        for _ in range(BATCHES):
            _insert_batch(connection)
        after = session.cpu_times()
    seconds = after.user + after.system - before.user - before.system
    return seconds * 1_000 / (BATCHES * ROWS_PER_BATCH / 1_000)


def _insert_batch(connection: Connection) -> None:
    rows = [
        NewCommand(
            id=new_id(), type="comment.post", subject=f"incident:1:{number}", lane=Lane.COMMANDS, organization_id=1,
            token_id=1, user_id=1, caller="user:1", payload='{"comment": "Look.", "incident": "1"}', incident=number,
        )
        for number in range(1, ROWS_PER_BATCH + 1)
    ]  # fmt: skip
    connection.exec_driver_sql(ACCEPT_COMMANDS, dict(accept_parameters(rows)))


def _report(what: str, rounds: list[dict[bool, float]]) -> list[str]:
    ratios = [halves[True] / halves[False] for halves in rounds]
    with_limits, without = (median(halves[by_row] for halves in rounds) for by_row in (True, False))
    return [
        f"| round | {what}, with the limits | without | ratio |",
        "|---|---|---|---|",
        *(
            f"| {number} | {halves[True]:,.0f} | {halves[False]:,.0f} | {ratio:.3f} |"
            for number, (halves, ratio) in enumerate(zip(rounds, ratios, strict=True), 1)
        ),
        f"| median | {with_limits:,.0f} | {without:,.0f} | {median(ratios):.3f} |",
    ]


if __name__ == "__main__":
    sys.exit(main())
