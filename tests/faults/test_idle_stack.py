"""A stack without work does nothing but the polls that its promises need."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import Engine

from models.messaging.canary import ALL_QUEUES
from tests.brokers import ValkeyBroker
from tests.conftest import Database
from tests.faults.test_published_hints import is_ready
from tests.journeys.subprocesses import running_process
from tests.rabbitmq import free_ports
from tests.waiting import eventually

SECONDS = 12
TRANSACTIONS_PER_SECOND = 11
"""More than the polls need (decision 0035), so that this test does not depend on when each of them happens."""


@pytest.mark.slow
@pytest.mark.xdist_group("faults")
def test_a_stack_at_rest_commits_few_transactions(
    database: Database, maintenance: Engine, valkey: ValkeyBroker, tmp_path: Path
) -> None:
    environment = {"DATABASE_URL": database.url, "BROKER_URL": valkey.url, "REDIS_URL": valkey.settings.wake_url or ""}
    [port] = free_ports(1)
    commands = [["gateway", "--port", str(port)], ["worker"], ["worker"], ["relay"], ["notifier"]]
    with ExitStack() as processes:
        for number, words in enumerate(commands):
            log = tmp_path / f"{number}.log"
            processes.enter_context(running_process(*words, environment=environment, log=log))
        eventually(lambda: is_ready(port))
        eventually(lambda: seen_canaries(database) == {*ALL_QUEUES["queues"]})
        name = str(database.engine.url.database)

        began, transactions = activity(maintenance, name)
        eventually(lambda: activity(maintenance, name)[0] - began >= SECONDS, within_seconds=60)
        ended, transactions_later = activity(maintenance, name)

    assert transactions_later > transactions
    assert transactions_later - transactions < TRANSACTIONS_PER_SECOND * (ended - began)


def seen_canaries(database: Database) -> set[str]:
    with database.engine.connect() as connection:
        return set(connection.execute(text("SELECT queue FROM canaries WHERE seen_at IS NOT NULL")).scalars())


def activity(maintenance: Engine, name: str) -> tuple[float, int]:
    """Return the time in seconds, and the number of transactions that the database has ended so far."""
    with maintenance.connect() as connection:
        row = connection.execute(
            text(
                "SELECT extract(epoch FROM clock_timestamp())::float8 AS seconds, xact_commit + xact_rollback AS ended"
                " FROM pg_stat_database WHERE datname = :name"
            ),
            {"name": name},
        ).one()
        return row.seconds, row.ended
