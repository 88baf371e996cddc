"""Measure what operators read, on a ledger of a million commands with ten thousand dead letters.

    python -m bench.ops_reads [COMMANDS]

It starts embedded servers and a gateway of its own, generates the ledger, and prints the median and the least
duration of each read, and of each page over HTTP, in milliseconds; for a page also the CPU time of the gateway and of
PostgreSQL, which hardly depends on what else the machine does. docs/decisions/0033-ops-reads.md has the results.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import httpx
import psutil
from sqlalchemy import create_engine
from sqlalchemy.engine import Connection, Engine

from bench.load_generator import HOST
from models.database.migrate import migrate
from models.directory.importer import import_directory
from models.enums import CommandState
from models.operations.commands import CommandFilters, search_commands
from models.operations.dead import list_dead, list_dead_groups
from models.operations.keyset import Window
from models.operations.overview import read_overview, read_queues
from models.serializers.operations import BrokerState
from tasks.startup import free_port
from workers.stack.own_processes import GatewayProcess
from workers.stack.servers import EmbeddedServers, embedded_servers

COMMANDS: Final = 1_000_000
DEAD: Final = 10_000
ORGANIZATIONS: Final = 500
USERS: Final = 20_000
DELIVERIES: Final = 300_000
AUDIT_ENTRIES: Final = 100_000
REPETITIONS: Final = 15

TOKEN: Final = "bench-operator"

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


_DELIVERIES: Final = f"""
INSERT INTO deliveries (id, organization_id, activity_id, channel, user_id, target, state, target_key, date_created,
    finished_at)
SELECT uuidv7(g.age), CASE WHEN n %% 2 = 0 THEN 1 ELSE n %% {ORGANIZATIONS - 1} + 1 END, n,
    CASE WHEN n %% 1000 = 0 THEN 'chat' ELSE 'email' END, n %% {USERS} + 1, 'user@example.org',
    CASE WHEN n %% 5000 = 0 THEN 'failed' ELSE 'delivered' END, 'email:1', now() + g.age, now() + g.age
FROM (SELECT n, make_interval(secs => -1.5 * ({DELIVERIES} - n)) AS age FROM generate_series(1, {DELIVERIES}) n) AS g
"""

# One incident with 500 comments, each of which was decided about for 100 of the 2,000 members of the organization.
_INCIDENT: Final = (
    "INSERT INTO members (organization_id, user_id, role) SELECT 1, g, 'member' FROM generate_series(1, 2000) g",
    """INSERT INTO incidents (organization_id, identifier, title, status, status_method, type, date_started,
           date_detected, date_added, last_activity_at) VALUES (1, 7, 'x', 1, 3, 1, now(), now(), now(), now())""",
    """INSERT INTO incident_activities (incident_id, user_id, type, comment, date_added, notification_uuid)
       SELECT i.id, g, 3, repeat('x', 80), now(), gen_random_uuid() FROM incidents i, generate_series(1, 500) g""",
    """INSERT INTO events (id, organization_id, subject, sequence, type, incident_id, activity_id, body, announced_at,
           planned_at)
       SELECT uuidv7(), 1, 'incidents/7', a.id, 'incident.comment_posted', a.incident_id, a.id,
           json_build_object('data', json_build_object('actor', json_build_object('type', 'user', 'id', '1'))), now(),
           now()
       FROM incident_activities a""",
    """INSERT INTO notification_decisions (activity_id, user_id, channel, incident_id, event_id, outcome, rule)
       SELECT e.activity_id, 10 * g, 'inbox', e.incident_id, e.id, 'delivered', 'subscribed'
       FROM events e, generate_series(1, 100) g""",
    f"""INSERT INTO audit_entries (who, action, target, reason)
        SELECT 'operator-' || g %% 7, 'hold.placed', 'queue bulk', 'x' FROM generate_series(1, {AUDIT_ENTRIES}) g""",
)


def main() -> None:
    """Generate the ledger, and print the durations of each read and of each page in milliseconds."""
    commands = int(sys.argv[1]) if len(sys.argv) > 1 else COMMANDS
    with tempfile.TemporaryDirectory() as folder, embedded_servers(Path(folder), durable=False) as servers:
        engine = create_engine(servers.database_url.replace("postgresql:", "postgresql+psycopg:", 1))
        migrate(engine)
        generate(engine, commands)
        with engine.connect() as connection:
            for name, read in reads(connection).items():
                print(f"{name:76} {milliseconds(read)}", flush=True)
            addresses = pages(connection)
        with operators_session(servers, engine) as session:
            for path in addresses:
                fetch(session.client, path)
                before = session.cpu_seconds()
                durations = milliseconds(partial(fetch, session.client, path))
                cpu = 1000 * (session.cpu_seconds() - before) / (REPETITIONS + 1)
                print(f"{path:76.76} {durations} {cpu:8.1f}", flush=True)


def generate(engine: Engine, commands: int) -> None:
    """Fill the ledger."""
    with engine.connect() as connection:
        autocommit = connection.execution_options(isolation_level="AUTOCOMMIT")
        for statement in _DIRECTORY:
            autocommit.exec_driver_sql(statement)
        autocommit.exec_driver_sql(_COMMANDS, {"commands": commands})
        autocommit.exec_driver_sql("UPDATE command_floor SET seq = (SELECT max(seq) FROM commands)")
        autocommit.exec_driver_sql(_WAITING, {})
        autocommit.exec_driver_sql(_DELIVERIES, {})
        for statement in _INCIDENT:
            autocommit.exec_driver_sql(statement, {})
        autocommit.exec_driver_sql("VACUUM ANALYZE")


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


def pages(connection: Connection) -> list[str]:
    """Return the addresses of the pages to measure."""
    row = connection.exec_driver_sql(
        """SELECT (SELECT id FROM commands WHERE type = 'comment.post' AND state = 'applied' ORDER BY seq DESC LIMIT 1)
               AS command,
           (SELECT id FROM commands WHERE state = 'dead' LIMIT 1) AS dead,
           (SELECT fingerprint FROM commands WHERE state = 'dead' LIMIT 1) AS fingerprint,
           (SELECT id FROM deliveries LIMIT 1) AS delivery"""
    ).one()
    days_ago = datetime.now(UTC) - timedelta(days=3)
    commands = [
        "",
        "organization=org-1",
        f"organization=org-{ORGANIZATIONS}",
        "organization=org-1&incident=7",
        "user=user-77",
        "type=alert_rule.delete",
        "state=rejected",
        "state=dead",
        "queue=bulk",
        f"query={row.command}",
        "query=no-such-key",
        f"organization=org-1&to={days_ago:%Y-%m-%dT%H:%M}",
    ]
    deliveries = ["", "organization=org-1&state=failed", "state=failed", "channel=chat", "state=dead", "user=user-77"]
    explain = "/ops/explain/?organization=org-1&incident=7"
    return [
        "/ops/",
        "/ops/queues/",
        *(f"/ops/commands/?{query}" for query in commands),
        f"/ops/commands/{row.command}/",
        "/ops/dead/",
        "/ops/dead/?list=1",
        f"/ops/dead/?fingerprint={row.fingerprint}",
        f"/ops/dead/requeue/?fingerprint={row.fingerprint}",
        "/ops/dead/requeue/?all=1",
        *(f"/ops/deliveries/?{query}" for query in deliveries),
        f"/ops/deliveries/{row.delivery}/",
        explain,
        f"{explain}&comment=400",
        f"{explain}&comment=400&told=no",
        f"{explain}&user=user-10",
        "/ops/audit/",
        "/ops/audit/?by=operator-3&target=bulk",
        "/ops/audit/?by=nobody",
    ]


class Session(NamedTuple):
    """A client in whose session an operator is logged in, and the processes of the gateway and of PostgreSQL."""

    client: httpx.Client
    processes: tuple[psutil.Process, psutil.Process]

    def cpu_seconds(self) -> float:
        """Return the CPU time of the processes and of their children so far."""
        total = 0.0
        for root in self.processes:
            for process in (root, *root.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    total += sum(process.cpu_times()[:2])
        return total


@contextmanager
def operators_session(servers: EmbeddedServers, engine: Engine) -> Iterator[Session]:
    """Run a gateway for the duration of the block, and yield a session of an operator."""
    with engine.begin() as connection:
        import_directory(connection, {"tokens": [{"token": TOKEN, "name": "bench", "kind": "ops", "role": "operator"}]})
    port = free_port(HOST, 0)
    environment = {**os.environ, **servers.environment, "TOCSIN_SECRET": "a secret for this measurement"}
    gateway = GatewayProcess(HOST, port, logs=servers.data_dir.logs, environment=environment)
    gateway.start()
    try:
        gateway.wait_ready()
        with httpx.Client(base_url=f"http://{HOST}:{port}", timeout=60) as client:
            assert client.post("/ops/login/", data={"token": TOKEN}).is_redirect
            processes = (psutil.Process(gateway.pid), psutil.Process(servers.postgres.pid))
            yield Session(client, processes)
    finally:
        gateway.stop()


def fetch(client: httpx.Client, path: str) -> None:
    """Fetch a page.

    :raises httpx.HTTPStatusError: if the answer is not 200.
    """
    client.get(path).raise_for_status()


def milliseconds(read: Callable[[], object]) -> str:
    """Return the median and the least duration of a read in milliseconds, after one that is not measured."""
    read()
    durations = []
    for _ in range(REPETITIONS):
        began = time.perf_counter()
        read()
        durations.append(1000 * (time.perf_counter() - began))
    return f"{median(durations):8.1f} {min(durations):8.1f}"


if __name__ == "__main__":
    main()
