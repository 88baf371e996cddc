"""A database role for each process, which permits that process's work and nothing else."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy.engine import Engine, make_url

from models.database.grants import GRANTS
from models.directory.importer import import_directory, read_document
from models.operations.command_details import read_command
from models.operations.dead import DeadSelection, discard_dead
from models.operations.holds import place_hold, release_expired_holds, release_hold
from models.operations.overview import read_overview
from models.operations.processes import prune_processes
from models.operations.requeue import advance_requeue, start_requeue
from models.operations.retention import RetentionPass
from models.operations.series import record_minute
from models.operations.stored_secrets import rotate_secrets
from models.serializers.operations import BrokerState
from models.tables import METADATA
from tasks.startup import free_port
from tests.conftest import Database
from tests.faults.ledger import states
from tests.handlers.acme import Acme
from tests.harness import Harness
from tests.journeys.roles import engine_of
from tests.journeys.stack import ACME, post_until_accepted
from tests.journeys.subprocesses import run_tocsin, running_process
from tests.ops.ledger import accept_comments, bury
from tests.ops.test_stored_secrets import NEW, OLD, add_secrets
from tests.waiting import eventually
from workers.stack.demo_tokens import DIRECTORY
from workers.stack.servers import EmbeddedServers

RULE = {
    "name": "Errors", "aggregate": "count()", "query": "", "timeWindow": 10, "thresholdType": 0, "environment": "prod",
    "projects": ["p1"], "triggers": [{"label": "critical", "alertThreshold": 100, "actions": [
        {"type": "email", "targetType": "user", "targetIdentifier": "12"},
    ]}],
}  # fmt: skip
VALUE = {"project": "p1", "value": 101, "timestamp": "2026-11-26T10:00:00Z"}
INCIDENT = {"title": "Checkout answers slowly", "projects": ["p1"], "dedupKey": "checkout"}


@contextlib.contextmanager
def production(urls: dict[str, str], servers: EmbeddedServers, folder: Path) -> Iterator[str]:
    """Run gateway, worker, relay and notifier, each with its own DATABASE_URL; yield the gateway's URL."""
    port = free_port("127.0.0.1", 0)
    with contextlib.ExitStack() as running:
        for name, *words in (
            ("gateway", "--port", str(port)),
            ("worker",),
            ("relay",),
            ("notifier",),
        ):
            environment = servers.environment | {"DATABASE_URL": urls[name]}
            running.enter_context(running_process(name, *words, environment=environment, log=folder / f"{name}.log"))
        yield f"http://127.0.0.1:{port}"


@pytest.mark.slow
def test_a_comment_is_processed_end_to_end_with_a_database_role_for_each_process(
    urls: dict[str, str], database: Database, servers: EmbeddedServers, tmp_path: Path
) -> None:
    with database.engine.begin() as connection:
        import_directory(connection, read_document(DIRECTORY.read_text()))

    with production(urls, servers, tmp_path) as url:
        bot = httpx.Client(base_url=url, headers={"Authorization": "Bearer dev-bot"}, timeout=40)
        mem = httpx.Client(base_url=url, headers={"Authorization": "Bearer dev-mem"}, timeout=40)
        ana = httpx.Client(base_url=url, headers={"Authorization": "Bearer dev-ana"}, timeout=40)
        ops = httpx.Client(base_url=url, headers={"Authorization": "Bearer dev-ops"}, timeout=40)
        with bot, mem, ana, ops:
            opened = post_until_accepted(bot, f"{ACME}/incidents/", INCIDENT, key="open")
            incident = f"{ACME}/incidents/{opened.json()['identifier']}"
            posted = post_until_accepted(
                mem, f"{incident}/comments/", {"comment": "Ana?", "mentions": ["user:12"]}, key="comment"
            )
            eventually(lambda: ana.get(f"{ACME}/notifications/").json())
            read = ana.post(f"{ACME}/notifications/read/", json={"ids": ["1"]})
            deleted = mem.delete(f"{incident}/comments/{posted.json()['id']}/")
            closed = mem.put(f"{incident}/", json={"status": 2})
            directory = ops.put(
                "/api/0/directory/", json={"users": [{"id": 77, "username": "new"}, {"username": "later"}]}
            )
            announced = eventually(lambda: _all_events_processed(database.engine))

    statuses = [response.status_code for response in (opened, posted, read, deleted, closed, directory)]
    assert statuses == [201, 201, 200, 204, 200, 200], directory.text
    assert announced
    assert "permission denied" not in "".join(log.read_text() for log in tmp_path.glob("*.log"))


def _all_events_processed(engine: Engine) -> bool:
    with engine.connect() as connection:
        waiting = connection.exec_driver_sql(
            "SELECT count(*) FROM events WHERE announced_at IS NULL OR planned_at IS NULL"
        )
        return bool(waiting.scalar_one() == 0)


@pytest.mark.slow
def test_an_alert_rules_life_cycle_works_with_a_database_role_for_each_process(
    urls: dict[str, str], database: Database, servers: EmbeddedServers, tmp_path: Path
) -> None:
    with database.engine.begin() as connection:
        import_directory(connection, read_document(DIRECTORY.read_text()))

    with (
        production(urls, servers, tmp_path) as url,
        httpx.Client(base_url=url, headers={"Authorization": "Bearer dev-mem"}, timeout=40) as mem,
    ):
        made = post_until_accepted(mem, f"{ACME}/alert-rules/", RULE, key="rule")
        number = made.json()["id"]
        rule, snooze = f"{ACME}/alert-rules/{number}/", f"/api/0/projects/acme/p1/alert-rules/{number}/snooze/"
        responses = [
            post_until_accepted(mem, snooze, {"target": "me"}, key="snooze"),
            mem.get(rule),
            mem.get(f"{ACME}/alert-rules/"),
            post_until_accepted(mem, f"{rule}observations/", VALUE, key="value"),
            mem.put(rule, json=RULE | {"name": "Others"}),
            mem.delete(snooze),
            mem.delete(rule),
        ]

    assert [made.status_code, *(each.status_code for each in responses)] == [201, 201, 200, 200, 201, 200, 204, 204]
    assert "permission denied" not in "".join(log.read_text() for log in tmp_path.glob("*.log"))


def test_operators_work_with_the_role_of_the_process_that_does_it(
    urls: dict[str, str], harness: Harness, acme: Acme
) -> None:
    first, second = accept_comments(harness, 2, **acme.by("mem"))
    bury(harness, [first, second])
    known = frozenset({"comment.post"})

    for role in ("gateway", "ops"):
        with engine_of(urls[role]).begin() as connection:
            placed = place_hold(connection, scope="queue", target="bulk", reason="x", by="ops:1", known_types=known)
            release_hold(connection, int(placed["id"]), reason="x", by="ops:1")
            read_overview(connection, broker={"status": BrokerState.OK, "kind": "valkey", "detail": ""})
            read_command(connection, first, with_texts=True)
    with engine_of(urls["gateway"]).begin() as connection:
        start_requeue(connection, DeadSelection(ids=(first,)), reason="x", by="ops:1")
    with engine_of(urls["relay"]).begin() as connection:
        assert advance_requeue(connection)
        release_expired_holds(connection)
        record_minute(connection)
        prune_processes(connection)
        retention = RetentionPass(90)
        while retention.step(connection):
            pass
    with engine_of(urls["ops"]).begin() as connection:
        assert discard_dead(connection, DeadSelection(all=True), reason="x", by="ops:1") == {"discarded": 1}

    assert states(harness, [first, second]) == ["accepted", "discarded"]


def test_operators_encrypt_stored_secrets_anew_with_their_role(urls: dict[str, str], database: Database) -> None:
    with database.engine.begin() as connection:
        add_secrets(connection)

    with engine_of(urls["ops"]).begin() as connection:
        counts = rotate_secrets(connection, (NEW, OLD))

    assert [each.readable for each in counts] == [1, 1, 1]


def test_migrate_grants_access_to_new_tables(urls: dict[str, str], database: Database) -> None:
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE notification_decisions")
        connection.exec_driver_sql("CREATE TABLE notification_decisions (id int)")

    run_tocsin("migrate", DATABASE_URL=database.url)

    with engine_of(urls["notifier"]).begin() as connection:
        connection.exec_driver_sql("INSERT INTO notification_decisions VALUES (1)")


def test_roles_are_created_once_and_only_on_request(database: Database) -> None:
    without = run_tocsin("migrate", "--json", DATABASE_URL=database.url)
    made = run_tocsin("migrate", "--roles", "--json", DATABASE_URL=database.url)
    again = run_tocsin("migrate", "--roles", "--json", DATABASE_URL=database.url)

    with database.engine.begin() as connection:
        for role in GRANTS:
            connection.exec_driver_sql(f"DROP OWNED BY {role}")
            connection.exec_driver_sql(f"DROP ROLE {role}")
    assert [json.loads(done.stdout)["roles"] for done in (without, made, again)] == [[], list(GRANTS), []]


def test_a_user_without_createrole_gets_an_error_that_says_what_to_do(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.exec_driver_sql("CREATE ROLE nobody_special LOGIN")
    url = make_url(database.url).set(username="nobody_special").render_as_string()

    refused = run_tocsin("migrate", "--roles", DATABASE_URL=url)

    with database.engine.begin() as connection:
        connection.exec_driver_sql("DROP ROLE nobody_special")
    assert refused.returncode == 1
    assert "CREATEROLE" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_every_table_is_writable_by_some_role() -> None:
    written = {table for rights in GRANTS.values() for _, tables in rights for table in tables}

    assert written == set(METADATA.tables), (
        "models/database/grants.py must grant some process write access to every table"
    )
