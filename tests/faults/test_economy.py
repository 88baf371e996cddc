"""No work is done for nothing: a worker that has applied a small batch asks once whether more is left."""

from __future__ import annotations

from uuid import UUID

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Connection

from gateway.auth import _LOOK_UP
from models.database.engine import GENERIC_PLANS, make_engine
from models.directory.tables import hash_token
from models.enums import Lane
from models.messaging.attempts import record_in_flight
from tasks.app import make_app
from tasks.broker.hints import Hint
from tests.brokers import UNREACHABLE_BROKER, broker_settings
from tests.faults.ledger import a_comment_command, states
from tests.handlers.acme import Acme
from tests.harness import Harness
from tests.sql_log import BEGIN, logging_sql
from workers.apply.applier import BatchResult
from workers.apply.failures import WORKER_DIED
from workers.apply.process import _Child
from workers.apply.watchdog import Heartbeat
from workers.settings import WorkerSettings


@pytest.fixture
def acme(harness: Harness) -> Acme:
    return Acme(harness.engine)


def subject_of(harness: Harness, id_: UUID) -> str:
    return str(harness.ledger_row(id_)["subject"])


def test_after_a_small_batch_one_statement_shows_that_nothing_is_left(harness: Harness, acme: Acme) -> None:
    id_ = harness.accept(a_comment_command(), **acme.by("mem"))
    worker = harness.applier()
    with logging_sql(worker.engine) as sent:
        committed_at: list[int] = []
        worker.on_commit = lambda _: committed_at.append(len(sent))

        worker.drain([subject_of(harness, id_)])

    assert states(harness, [id_]) == ["applied"]
    assert len(sent[committed_at[0] :]) == 1
    assert sent.count(BEGIN) == 1


def test_looking_for_dead_workers_takes_one_statement_while_there_are_none(harness: Harness, acme: Acme) -> None:
    id_ = harness.accept(a_comment_command(), **acme.by("mem"))
    worker = harness.applier()

    with logging_sql(worker.engine) as sent:
        worker.drain([subject_of(harness, id_)])

    assert [BEGIN in statement for statement in sent[:2]] == [False, True]


def test_a_dead_workers_commands_are_counted_before_a_batch_is_claimed(harness: Harness, acme: Acme) -> None:
    worker = harness.applier()
    worker.drain([])
    id_ = harness.accept(a_comment_command(), **acme.by("mem"))
    with harness.engine.begin() as connection:
        record_in_flight(connection, "dead", [id_])

    worker.drain([subject_of(harness, id_)])

    row = harness.ledger_row(id_)
    assert (row["state"], row["attempts"], row["error"]) == ("accepted", 1, WORKER_DIED)


def test_a_hint_with_nothing_but_canaries_makes_a_worker_look_for_no_work(harness: Harness, acme: Acme) -> None:
    id_ = harness.accept(a_comment_command(), **acme.by("mem"))
    settings = WorkerSettings(database_url=harness.url, **broker_settings(UNREACHABLE_BROKER).model_dump())
    child = _Child.start(settings, make_app(settings), [Lane.COMMANDS], Heartbeat())

    child.handle_hint(Lane.COMMANDS, Hint(("canary:1",)))
    after_canary = states(harness, [id_])
    child.handle_hint(Lane.COMMANDS, Hint(("canary:2", "incident:0:0")))

    child.stop()
    child.applier.engine.dispose()
    child.in_flight.engine.dispose()
    assert after_canary == ["accepted"]
    assert states(harness, [id_]) == ["applied"]


def test_a_worker_that_planned_its_statements_for_small_tables_reads_few_rows_of_large_ones(
    harness: Harness, acme: Acme
) -> None:
    worker = harness.applier(timeouts=GENERIC_PLANS)
    # psycopg prepares a statement when it is executed for the sixth time.
    for _ in range(8):
        worker.drain([subject_of(harness, harness.accept(a_comment_command(), **acme.by("mem")))])
    make_large(harness)
    before = rows_read(harness)

    id_ = harness.accept(a_comment_command(), **acme.by("mem"))
    event.listen(worker.engine, "commit", flush_statistics)
    worker.drain([subject_of(harness, id_)])

    assert states(harness, [id_]) == ["applied"]
    assert 0 < rows_read(harness) - before < 2_000


def test_a_gateway_that_planned_its_look_up_for_small_tables_reads_few_rows_of_large_ones(
    harness: Harness, acme: Acme
) -> None:
    parameters = {"tokens": [hash_token("dev-mem")], "slugs": ["acme"], "numbers": [None], "people": [None]}
    engine = make_engine(
        harness.engine.url.render_as_string(hide_password=False), application="test", timeouts=GENERIC_PLANS
    )
    with engine.connect() as connection:
        for _ in range(8):
            connection.exec_driver_sql(_LOOK_UP, parameters)
            connection.commit()
        make_large(harness)
        before = rows_read(harness)

        [row] = connection.exec_driver_sql(_LOOK_UP, parameters).all()
        flush_statistics(connection)
        connection.commit()

    assert row.user_id == acme.users["mem"]
    assert 0 < rows_read(harness) - before < 2_000
    engine.dispose()


GROWTH = (
    """
    INSERT INTO incidents (organization_id, identifier, title, status, status_method, type, date_started,
        date_detected, date_added, last_activity_at)
    SELECT organization_id, 1000 + n, title, status, status_method, type, date_started, date_detected, date_added,
        last_activity_at
    FROM generate_series(1, 20000) AS n, (SELECT * FROM incidents ORDER BY id LIMIT 1) AS i
    """,
    """
    INSERT INTO incident_projects (incident_id, project_id)
    SELECT i.id, p.project_id FROM incidents i, (SELECT project_id FROM incident_projects LIMIT 1) AS p
    WHERE i.identifier > 1000
    """,
    """
    INSERT INTO users (username, name, email)
    SELECT 'many' || n, 'Many', n || '@x.test' FROM generate_series(1, 20000) AS n
    """,
    """
    INSERT INTO members (organization_id, user_id, role)
    SELECT o.id, u.id, 'member' FROM users u, (SELECT id FROM organizations ORDER BY id LIMIT 1) AS o
    WHERE starts_with(u.username, 'many')
    """,
    """
    INSERT INTO tokens (hash, user_id, kind, name)
    SELECT sha256(u.username::bytea), u.id, 'user', '' FROM users u WHERE starts_with(u.username, 'many')
    """,
    """
    INSERT INTO incident_subscriptions (incident_id, user_id, reason, date_added)
    SELECT i.id, u.id, 'mention', now() FROM incidents i, (SELECT id FROM users ORDER BY id LIMIT 1) AS u
    WHERE i.identifier > 1000
    """,
)


def make_large(harness: Harness) -> None:
    """Copy incidents, their projects and activities, and users and members, without new statistics."""
    with harness.engine.begin() as connection:
        for statement in GROWTH:
            connection.exec_driver_sql(statement)


def flush_statistics(connection: Connection) -> None:
    connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")


def rows_read(harness: Harness) -> int:
    """Return how many rows and index entries have been read in this database."""
    with harness.engine.connect() as connection:
        connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")
        connection.commit()
        return int(
            connection.exec_driver_sql(
                "SELECT (SELECT sum(seq_tup_read) FROM pg_stat_user_tables)"
                " + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes)"
            ).scalar_one()
        )


def test_commands_accepted_in_a_batch_without_a_hint_are_applied_in_the_same_task(harness: Harness, acme: Acme) -> None:
    first = harness.accept(a_comment_command(), **acme.by("mem"))
    later: list[UUID] = []
    worker = harness.applier()

    def accept_another(_: BatchResult) -> None:
        if not later:
            later.append(harness.accept(a_comment_command(), **acme.by("mem")))

    worker.on_commit = accept_another
    worker.drain([subject_of(harness, first)])

    assert states(harness, [first, *later]) == ["applied", "applied"]
