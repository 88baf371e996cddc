"""The sweeper: stale commands are hinted again, and old idempotency keys are pruned."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import pytest
from sqlalchemy import insert, select, text, update
from sqlalchemy.engine import Connection

from models.enums import Lane
from models.messaging import backlog
from models.messaging.command_ledger import commands, idempotency_keys
from tasks.app import make_app
from tasks.broker import hints
from tasks.broker.hint_publisher import HintPublisher
from tasks.settings import BrokerSettings
from tests.brokers import Broker
from tests.builders import an_accepted_command
from tests.conftest import Database
from tests.faults.relay_harness import running_relays
from tests.waiting import eventually
from workers.relay.relay import Relay
from workers.relay.sweeper import Sweeper


def test_a_command_whose_hint_was_lost_is_hinted_again(database: Database, broker: Broker) -> None:
    with database.engine.begin() as connection:
        insert_stale_command(connection, "incident:1:7")
        insert_stale_command(connection, "org:1", lane=Lane.BULK)
    broker.delete_queues()

    with running_relays(Relay(database.engine, broker.settings)):
        eventually(lambda: hinted_subjects(broker, Lane.COMMANDS) >= {"incident:1:7"})
        eventually(lambda: hinted_subjects(broker, Lane.BULK) >= {"org:1"})
        broker.delete_queues()
        eventually(lambda: hinted_subjects(broker, Lane.COMMANDS) >= {"incident:1:7"})


def test_a_recent_command_is_not_stale(database: Database, sweeper: Sweeper) -> None:
    with database.engine.begin() as connection:
        an_accepted_command(connection)

    assert sweeper.sweep() == []


def test_a_command_is_hinted_when_its_back_off_has_ended(database: Database, sweeper: Sweeper) -> None:
    with database.engine.begin() as connection:
        an_accepted_command(connection, subject="org:1", retry_in=timedelta(seconds=-1))
        an_accepted_command(connection, subject="org:2", retry_in=timedelta(seconds=60))

    assert sweeper.sweep() == [(Lane.COMMANDS, "org:1")]


def test_a_hinted_command_is_not_hinted_again_for_a_while(database: Database, sweeper: Sweeper) -> None:
    with database.engine.begin() as connection:
        insert_stale_command(connection, "org:1")
    assert sweeper.sweep() == [(Lane.COMMANDS, "org:1")]

    with database.engine.begin() as connection:
        insert_stale_command(connection, "org:2")

    assert sweeper.sweep() == [(Lane.COMMANDS, "org:2")]


def test_a_due_retry_behind_a_long_backlog_is_hinted_in_the_next_sweep(
    database: Database, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "find_overdue_subjects", lambda *_, **__: backlog.OverdueSubjects([], 0))
    with database.engine.begin() as connection:
        an_accepted_command(connection, subject="org:1", retry_in=timedelta(seconds=-1))

    assert sweeper.sweep() == [(Lane.COMMANDS, "org:1")]


def test_sweeps_visit_all_subjects_of_a_backlog_in_turn(
    database: Database, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "find_overdue_subjects", partial(backlog.find_overdue_subjects, rows=2))
    with database.engine.begin() as connection:
        for number in range(5):
            insert_stale_command(connection, f"org:{number}")

    sweeps = [sweeper.sweep() for _ in range(3)]

    assert [[subject for _, subject in hinted] for hinted in sweeps] == [
        ["org:0", "org:1"], ["org:2", "org:3"], ["org:4"],
    ]  # fmt: skip


def test_a_relay_raises_the_floor(database: Database, broker: Broker) -> None:
    with database.engine.begin() as connection:
        an_accepted_command(connection)
        connection.execute(update(commands).values(state="applied"))
        waiting = an_accepted_command(connection, retry_in=timedelta(hours=1))
        seq = connection.execute(select(commands.c.seq).where(commands.c.id == waiting)).scalar_one()

    def floor() -> int:
        with database.engine.connect() as connection:
            return int(connection.execute(text("SELECT seq FROM command_floor")).scalar_one())

    with running_relays(Relay(database.engine, broker.settings)):
        eventually(lambda: floor() == seq)


def test_only_one_relay_sweeps_at_a_time(database: Database, sweeper: Sweeper) -> None:
    with database.engine.begin() as connection:
        insert_stale_command(connection, "org:1")

    with database.engine.begin() as other:
        other.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtextextended('sweep', 0))")
        assert sweeper.sweep() == []

    assert sweeper.sweep() == [(Lane.COMMANDS, "org:1")]


def test_idempotency_keys_are_pruned_after_two_days(database: Database, sweeper: Sweeper) -> None:
    with database.engine.begin() as connection:
        for key, hours in (("old", 49), ("young", 47)):
            connection.execute(
                insert(idempotency_keys).values(
                    caller="user:1",
                    key=key,
                    request_hash="",
                    command_ids=[],
                    date_created=text(f"now() - interval '{hours} hours'"),
                )
            )

    assert sweeper.prune() == 1

    with database.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT key FROM idempotency_keys").scalars().all() == ["young"]


@pytest.fixture
def sweeper(database: Database) -> Sweeper:
    """A sweeper whose hints are not published."""
    return Sweeper(
        database.engine,
        HintPublisher(make_app(BrokerSettings.model_validate({"BROKER_URL": "redis+socket:///nowhere"}))),
    )


def insert_stale_command(connection: Connection, subject: str, *, lane: Lane = Lane.COMMANDS) -> None:
    command = an_accepted_command(connection, subject=subject, lane=lane)
    connection.execute(
        update(commands).where(commands.c.id == command).values(accepted_at=text("now() - interval '10 seconds'"))
    )


def hinted_subjects(broker: Broker, lane: Lane) -> set[str]:
    """Return the subjects of all hints in this lane's queue."""
    calls = [message.payload for message in broker.receive_all(lane.value)]
    return {subject for args, _, _ in calls for subject in hints.Hint.parse(args).subjects}
