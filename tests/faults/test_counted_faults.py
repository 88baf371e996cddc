"""Every fault is counted against the command that caused it, and against no other command."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from sqlalchemy import select, text, update
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError

from models.messaging.attempts import MAX_TIMEOUTS, record_in_flight
from models.messaging.command_ledger import commands
from models.messaging.outbox import events
from tests.faults.ledger import a_comment_command, end_back_off, states
from tests.handlers.acme import Acme
from tests.harness import Harness
from tests.waiting import eventually
from workers.apply import applier as applier_module
from workers.apply.applier import Applier
from workers.apply.failures import WORKER_DIED, fail_orphaned
from workers.apply.in_flight import InFlightBatch
from workers.batch.write import write_changes
from workers.stack.servers import EmbeddedServers


@pytest.fixture
def acme(harness: Harness) -> Acme:
    return Acme(harness.engine)


def make_slow(harness: Harness, comment: str, *, seconds: float = 30) -> None:
    """Make the statement that writes this comment take this long."""
    with harness.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION sleep_a_while() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN PERFORM pg_sleep({seconds}); RETURN NEW; END $$"
        )
        connection.exec_driver_sql(
            "CREATE TRIGGER slow BEFORE INSERT ON incident_activities FOR EACH ROW"
            f" WHEN (NEW.comment = '{comment}') EXECUTE FUNCTION sleep_a_while()"
        )


def counts(harness: Harness, id_: UUID) -> tuple[int, int]:
    row = harness.ledger_row(id_)
    return row["attempts"], row["timeouts"]


def drain(harness: Harness, **timeouts: str) -> None:
    harness.apply(timeouts=timeouts)


# --- timeouts ----------------------------------------------------------------------------------------------------


def test_a_command_that_times_out_five_times_is_dead_and_its_neighbours_are_applied(
    harness: Harness, acme: Acme
) -> None:
    make_slow(harness, "slow")
    before, slow, behind = (
        harness.accept(a_comment_command(comment), **acme.by("mem")) for comment in ("before", "slow", "behind")
    )

    for timeouts in range(1, MAX_TIMEOUTS + 1):
        drain(harness, statement_timeout="300ms")
        assert counts(harness, slow) == (0, timeouts)
        end_back_off(harness)
    drain(harness, statement_timeout="300ms")

    assert states(harness, [before, slow, behind]) == ["applied", "dead", "applied"]
    assert "statement timeout" in harness.ledger_row(slow)["error"]
    assert [counts(harness, id_) for id_ in (before, behind)] == [(1, 0), (1, 0)]


def test_a_command_that_timed_out_waits_before_its_next_attempt(harness: Harness, acme: Acme) -> None:
    make_slow(harness, "slow")
    slow = harness.accept(a_comment_command("slow"), **acme.by("mem"))

    drain(harness, statement_timeout="300ms")
    drain(harness, statement_timeout="300ms")

    assert counts(harness, slow) == (0, 1)
    assert harness.ledger_row(slow)["next_attempt_at"] is not None


def test_waiting_for_another_transactions_lock_is_never_counted(harness: Harness, acme: Acme) -> None:
    id_ = harness.accept(a_comment_command(), **acme.by("mem"))

    with harness.engine.begin() as somebody_else:
        somebody_else.exec_driver_sql("SELECT * FROM incidents FOR UPDATE")
        for _ in range(6):
            drain(harness, lock_timeout="100ms")
            end_back_off(harness)
        waiting = (states(harness, [id_]), counts(harness, id_))
    drain(harness)

    assert waiting == (["accepted"], (0, 0))
    assert states(harness, [id_]) == ["applied"]


@contextmanager
def soft_time_limit(seconds: float) -> Iterator[None]:
    """Raise Celery's exception for the soft time limit in this thread after ``seconds``, as a signal handler does."""

    def strike(*_: Any) -> None:
        raise SoftTimeLimitExceeded

    previous = signal.signal(signal.SIGALRM, strike)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def test_a_soft_time_limit_within_a_statement_is_counted_and_cancels_the_statement(
    harness: Harness, acme: Acme
) -> None:
    make_slow(harness, "slow")
    slow = harness.accept(a_comment_command("slow"), **acme.by("mem"))

    with soft_time_limit(0.5):
        drain(harness)
    with harness.engine.connect() as connection:
        in_flight = connection.execute(text("SELECT count(*) FROM batches_in_hand")).scalar_one()
        running = connection.execute(
            text("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
        ).scalar_one()

    assert counts(harness, slow) == (0, 1)
    assert states(harness, [slow]) == ["accepted"]
    assert (in_flight, running) == (0, 0)


def test_commands_that_shared_a_batch_with_a_slow_one_are_not_counted_but_applied_alone(
    harness: Harness, acme: Acme
) -> None:
    make_slow(harness, "slow")
    fast = harness.accept(a_comment_command("fast"), **acme.by("mem"))
    slow = harness.accept(a_comment_command("slow"), **acme.by("mem"))
    worker = harness.applier()
    with soft_time_limit(0.5):
        worker._apply_batch(scan=True)
    counted = [counts(harness, id_) for id_ in (fast, slow)]

    drain(harness, statement_timeout="300ms")

    assert counted == [(0, 0), (0, 0)]
    assert states(harness, [fast, slow]) == ["applied", "accepted"]
    assert counts(harness, fast) == (1, 0)
    assert counts(harness, slow) == (0, 1)


def test_a_batch_that_fails_after_its_time_is_up_still_makes_progress(
    harness: Harness, acme: Acme, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(applier_module, "DRAIN_SECONDS", 0.0)
    poison = harness.accept(a_comment_command("poison"), **acme.by("mem"))
    others = [
        harness.accept(a_comment_command(f"{number}", incident="1"), **acme.by("mem", organization="plain"))
        for number in range(3)
    ]
    with harness.engine.begin() as connection:
        connection.execute(update(commands).where(commands.c.id == poison).values(payload={"incident": "1"}))

    worker = harness.applier()
    for _ in range(8):
        worker.drain(())

    assert "accepted" not in states(harness, others)
    assert counts(harness, poison) == (1, 0)


# --- claims ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [{"incident": 2, "comment": "x"}, {}, {"incident": None}, {"dedup_key": ["x"]}])
def test_an_unreadable_payload_counts_as_a_failed_attempt_and_stops_no_other_command(
    harness: Harness, acme: Acme, payload: dict[str, Any]
) -> None:
    odd = harness.accept(a_comment_command("odd", incident="7"), **acme.by("mem"))
    other = harness.accept(a_comment_command(), **acme.by("mem"))
    with harness.engine.begin() as connection:
        connection.execute(update(commands).where(commands.c.id == odd).values(payload=payload))

    harness.apply()

    assert states(harness, [other]) == ["applied"]
    row = harness.ledger_row(odd)
    assert row["attempts"] == 1


# --- dead and living workers -------------------------------------------------------------------------------------


def in_flight(harness: Harness, worker: str) -> InFlightBatch:
    return InFlightBatch(harness.engine.execution_options(isolation_level="AUTOCOMMIT"), worker=worker)


def test_only_a_worker_whose_session_has_ended_counts_as_dead(harness: Harness, acme: Acme) -> None:
    id_ = harness.accept(a_comment_command(), **acme.by("mem"))
    living = in_flight(harness, "living")
    living.record([id_])

    with harness.engine.begin() as connection:
        counted_while_alive = fail_orphaned(connection, "another")
    living._end_session()  # As when the process dies: the record remains.
    eventually(lambda: counts_deaths(harness, "another") == [id_])

    assert counted_while_alive == []
    assert harness.ledger_row(id_)["error"] == WORKER_DIED


def counts_deaths(harness: Harness, worker: str) -> list[UUID]:
    with harness.engine.begin() as connection:
        return [command.id for command in fail_orphaned(connection, worker)]


def test_a_failed_batch_of_a_living_worker_is_not_counted_as_the_workers_death(harness: Harness, acme: Acme) -> None:
    """PostgreSQL releases the locks of a transaction at its error, not at the ROLLBACK that follows."""
    make_slow(harness, "slow", seconds=1)
    ids = [harness.accept(a_comment_command(comment), **acme.by("mem")) for comment in ("slow", "fast")]
    stopped = threading.Event()
    counted: list[UUID] = []

    def watch() -> None:
        while not stopped.is_set():
            counted.extend(counts_deaths(harness, "watching"))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        drain(harness, statement_timeout="300ms")
    finally:
        stopped.set()
        watching.join()

    assert counted == []
    assert [counts(harness, id_) for id_ in ids] == [(0, 1), (0, 0)]


def test_a_command_that_killed_two_workers_has_failed_twice(harness: Harness, acme: Acme) -> None:
    id_ = harness.accept(a_comment_command(), **acme.by("mem"))
    with harness.engine.begin() as connection:
        for worker in ("dead-1", "dead-2"):
            record_in_flight(connection, worker, [id_])

        [failed] = fail_orphaned(connection, "living")

    assert failed.attempts == 2


def test_the_table_of_batches_in_flight_is_unlogged(harness: Harness) -> None:
    with harness.engine.connect() as connection:
        persistence = connection.execute(
            text("SELECT relpersistence FROM pg_class WHERE relname = 'batches_in_hand'")
        ).scalar_one()

    # Recovery from a crash of the server empties unlogged tables, so no batch that it interrupted is counted.
    assert persistence == "u"


def break_off(harness: Harness, monkeypatch: pytest.MonkeyPatch, interrupt: Callable[[], None]) -> Applier:
    """Apply a batch that ``interrupt`` interrupts before it is written; return the applier."""
    worker = harness.applier("living")

    def interrupted(connection: Connection, changes: Any) -> None:
        interrupt()
        write_changes(connection, changes)

    with monkeypatch.context() as patched:
        patched.setattr(applier_module, "write_changes", interrupted)
        with pytest.raises(OperationalError):
            worker.drain(())
    return worker


def test_a_restart_of_the_database_server_is_not_counted(
    quiet_servers: EmbeddedServers, harness: Harness, acme: Acme, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = harness.accept(a_comment_command(), **acme.by("mem"))

    break_off(harness, monkeypatch, quiet_servers.restart_postgres)
    harness.engine.dispose()

    assert counts_deaths(harness, "another") == []
    assert counts(harness, id_) == (0, 0)


def test_a_worker_that_stops_after_a_lost_session_is_not_counted_as_dead(
    harness: Harness, acme: Acme, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = harness.accept(a_comment_command(), **acme.by("mem"))

    worker = break_off(harness, monkeypatch, partial(end_sessions, harness, "test-worker"))
    worker.in_flight.close()

    assert counts_deaths(harness, "another") == []
    assert counts(harness, id_) == (0, 0)


def test_a_living_worker_that_loses_the_session_of_its_record_is_not_counted_as_dead(
    harness: Harness, acme: Acme, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = harness.accept(a_comment_command(), **acme.by("mem"))
    counted: list[UUID] = []

    def lose_session(connection: Connection, changes: Any) -> None:
        end_sessions(harness, "test-autocommit")
        counted.extend(counts_deaths(harness, "another"))
        write_changes(connection, changes)

    monkeypatch.setattr(applier_module, "write_changes", lose_session)
    drain(harness)

    assert counted == []
    assert states(harness, [id_]) == ["applied"]


def test_the_first_batch_after_an_idle_session_was_lost_is_applied(harness: Harness, acme: Acme) -> None:
    worker = harness.applier()
    harness.accept(a_comment_command(), **acme.by("mem"))
    worker.drain(())
    end_sessions(harness, "test-autocommit")
    id_ = harness.accept(a_comment_command(), **acme.by("mem"))

    worker.drain(())

    assert states(harness, [id_]) == ["applied"]


def end_sessions(harness: Harness, application: str) -> None:
    with harness.engine.begin() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE application_name = %(application)s AND datname = current_database()",
            {"application": application},
        )


def test_a_lock_on_a_dead_workers_command_stops_no_living_worker(harness: Harness, acme: Acme) -> None:
    orphaned = harness.accept(a_comment_command(), **acme.by("mem"))
    other = harness.accept(a_comment_command(incident="1"), **acme.by("mem", organization="plain"))
    with harness.engine.begin() as connection:
        record_in_flight(connection, "dead", [orphaned])

    with harness.engine.begin() as somebody_else:
        somebody_else.exec_driver_sql("SELECT * FROM commands WHERE id = %(id)s FOR UPDATE", {"id": orphaned})
        harness.applier(timeouts={"lock_timeout": "300ms"}).drain([harness.ledger_row(other)["subject"]])

    assert "accepted" not in states(harness, [other])


def test_an_error_in_handling_a_dead_workers_commands_stops_no_other_worker(
    harness: Harness, acme: Acme, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = harness.accept(a_comment_command(), **acme.by("mem"))
    with harness.engine.begin() as connection:
        record_in_flight(connection, "dead", [id_])

    def fail(*_: Any) -> None:
        raise ValueError("the record cannot be read")

    monkeypatch.setattr(applier_module, "fail_orphaned", fail)

    drain(harness)

    assert states(harness, [id_]) == ["applied"]


def test_a_dead_command_that_is_put_back_by_hand_can_die_again(harness: Harness, acme: Acme) -> None:
    id_ = harness.accept(a_comment_command(), **acme.by("mem"))

    for _ in range(2):
        with harness.engine.begin() as connection:
            connection.execute(
                update(commands)
                .where(commands.c.id == id_)
                .values(state="accepted", attempts=4, payload={"incident": "1"}, next_attempt_at=None)
            )
        drain(harness)
        assert states(harness, [id_]) == ["dead"]

    with harness.engine.connect() as connection:
        sequences = connection.execute(
            select(events.c.sequence).where(events.c.subject == f"commands/{id_}").order_by(events.c.sequence)
        ).scalars()
        assert list(sequences) == [1, 2]
