"""Measure what operators read, on a ledger of a million commands with ten thousand dead letters.

    python -m bench.ops_reads [COMMANDS]

It starts an embedded PostgreSQL of its own, generates the ledger in it, and prints the median duration of each read.
docs/decisions/0033-ops-reads.md has the results.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

from sqlalchemy import create_engine
from sqlalchemy.engine import Connection, Engine

from models.database.migrate import migrate
from models.enums import CommandState
from models.operations.commands import CommandFilters, search_commands
from models.operations.dead import list_dead, list_dead_groups
from models.operations.keyset import Window
from models.operations.overview import read_overview, read_queues
from models.serializers.operations import BrokerState
from workers.stack.servers import embedded_servers

COMMANDS: Final = 1_000_000
DEAD: Final = 10_000
ORGANIZATIONS: Final = 500
USERS: Final = 20_000
REPETITIONS: Final = 15

_DIRECTORY: Final = (
    f"INSERT INTO organizations (slug, name) SELECT 'org-' || g, 'Org' FROM generate_series(1, {ORGANIZATIONS}) g",
    f"""INSERT INTO users (username, name, email)
        SELECT 'user-' || g, 'User', 'user-' || g || '@example.org' FROM generate_series(1, {USERS}) g""",
)

# Organization 1 has half of all commands, and organization 500 ten. Bulk commands and rejections are rare. Two commands
# a second, so the ledger is six days old.
_COMMANDS: Final = f"""
INSERT INTO commands (id, type, subject, lane, organization_id, user_id, caller, payload, state, accepted_at,
    claimed_at, finished_at, attempts, outcome_status, outcome_body, error, fingerprint, traceparent)
SELECT uuidv7(g.age), g.type, 'incident:' || g.organization || ':' || g.incident,
    CASE WHEN g.n %% 1000 = 0 THEN 'bulk' ELSE 'commands' END, g.organization, g.person, 'user:' || g.person,
    jsonb_build_object('incident', g.incident::text, 'comment', repeat('x', 80)), g.state, now() + g.age,
    now() + g.age + interval '5 ms', now() + g.age + interval '20 ms', 1,
    CASE WHEN g.state <> 'dead' THEN 201 END, json_build_object('id', '1', 'comment', repeat('y', 200)),
    CASE WHEN g.state = 'dead' THEN 'ValueError: no such thing ' || g.n %% 40 END,
    CASE WHEN g.state = 'dead' THEN left(md5((g.n %% 40)::text), 16) END,
    CASE WHEN g.n %% 10 = 0 THEN '00-' || md5(g.n::text) || '-00f067aa0ba902b7-01' END
FROM (
    SELECT n, make_interval(secs => -0.5 * (%(commands)s - n)) AS age, (random() * {USERS - 1})::int + 1 AS person,
        (random() * 200)::int + 1 AS incident,
        CASE WHEN n %% 2 = 0 THEN 1 WHEN n %% 100001 = 0 THEN {ORGANIZATIONS} ELSE n %% {ORGANIZATIONS - 1} + 1 END
            AS organization,
        (ARRAY['comment.post', 'comment.edit', 'incident.set_status', 'incident.mark_seen', 'metric.observe',
            'incident.subscribe', 'alert_rule.delete'])[CASE WHEN n %% 50000 = 0 THEN 7 ELSE n %% 6 + 1 END] AS type,
        CASE WHEN n %% (%(commands)s / {DEAD}) = 1 THEN 'dead' WHEN n %% 997 = 0 THEN 'rejected' ELSE 'applied' END
            AS state
    FROM generate_series(1, %(commands)s) AS n
) AS g
"""

_WAITING: Final = """
INSERT INTO commands (id, type, subject, lane, organization_id, user_id, caller, payload)
SELECT uuidv7(), 'comment.post', 'incident:7:' || n %% 50, 'commands', 7, 1, 'user:1', '{}'
FROM generate_series(1, 500) n
"""


def main() -> None:
    """Generate the ledger, and print the median duration of each read in milliseconds."""
    commands = int(sys.argv[1]) if len(sys.argv) > 1 else COMMANDS
    with tempfile.TemporaryDirectory() as folder, embedded_servers(Path(folder), durable=False) as servers:
        engine = create_engine(servers.database_url.replace("postgresql:", "postgresql+psycopg:", 1))
        migrate(engine)
        generate(engine, commands)
        with engine.connect() as connection:
            for name, read in reads(connection).items():
                print(f"{name:44} {milliseconds(read):8.1f} ms", flush=True)


def generate(engine: Engine, commands: int) -> None:
    """Fill the ledger."""
    with engine.connect() as connection:
        autocommit = connection.execution_options(isolation_level="AUTOCOMMIT")
        for statement in _DIRECTORY:
            autocommit.exec_driver_sql(statement)
        autocommit.exec_driver_sql(_COMMANDS, {"commands": commands})
        autocommit.exec_driver_sql("UPDATE command_floor SET seq = (SELECT max(seq) FROM commands)")
        autocommit.exec_driver_sql(_WAITING, {})
        autocommit.exec_driver_sql("VACUUM ANALYZE commands")


def reads(connection: Connection) -> dict[str, Callable[[], object]]:
    """Return the reads to measure, by their names."""
    now = datetime.now(UTC)
    trace = connection.exec_driver_sql(
        "SELECT split_part(traceparent, '-', 2) FROM commands WHERE traceparent IS NOT NULL LIMIT 1"
    ).scalar_one()
    searches = {
        "no filter": CommandFilters(),
        "organization with half": CommandFilters(organization="org-1"),
        "organization with ten": CommandFilters(organization=f"org-{ORGANIZATIONS}"),
        "organization, type": CommandFilters(organization="org-3", type="comment.edit"),
        "organization with ten, applied": CommandFilters(
            organization=f"org-{ORGANIZATIONS}", state=CommandState.APPLIED
        ),
        "organization with half, rejected": CommandFilters(organization="org-1", state=CommandState.REJECTED),
        "organization with half, bulk": CommandFilters(organization="org-1", queue="bulk"),
        "incident": CommandFilters(organization="org-1", incident=7),
        "user": CommandFilters(user="user-77"),
        "user, type, organization": CommandFilters(user="user-77", type="comment.post", organization="org-1"),
        "common type": CommandFilters(type="comment.post"),
        "rare type": CommandFilters(type="alert_rule.delete"),
        "accepted": CommandFilters(state=CommandState.ACCEPTED),
        "applied": CommandFilters(state=CommandState.APPLIED),
        "rejected": CommandFilters(state=CommandState.REJECTED),
        "dead": CommandFilters(state=CommandState.DEAD),
        "discarded (none)": CommandFilters(state=CommandState.DISCARDED),
        "queue bulk (every thousandth)": CommandFilters(queue="bulk"),
        "from, to: an hour three days ago": CommandFilters(
            accepted_from=now - timedelta(days=3, hours=1), accepted_to=now - timedelta(days=3)
        ),
        "from, to, organization with half": CommandFilters(
            organization="org-1", accepted_from=now - timedelta(days=3, hours=1), accepted_to=now - timedelta(days=3)
        ),
        "query: trace id": CommandFilters(query=trace),
        "query: unknown text": CommandFilters(query="no such key"),
    }
    found: dict[str, Callable[[], object]] = {
        f"commands: {name}": partial(search_commands, connection, filters, Window(limit=51))
        for name, filters in searches.items()
    }
    return found | {
        "commands: page 1,000 of no filter": lambda: search_commands(
            connection, CommandFilters(), Window(limit=51, key=(COMMANDS - 50_000,))
        ),
        "dead letters": lambda: list_dead(connection, window=Window(limit=51)),
        "dead letters, grouped": lambda: list_dead_groups(connection),
        "queues": lambda: read_queues(connection),
        "overview": lambda: read_overview(
            connection, broker={"status": BrokerState.OK, "kind": "valkey", "detail": ""}
        ),
    }


def milliseconds(read: Callable[[], object]) -> float:
    """Return the median duration of a read in milliseconds, after one that is not measured."""
    read()
    durations = []
    for _ in range(REPETITIONS):
        began = time.perf_counter()
        read()
        durations.append(1000 * (time.perf_counter() - began))
    return median(durations)


if __name__ == "__main__":
    main()
