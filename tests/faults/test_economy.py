"""No work is done for nothing: a worker that has applied a small batch asks once whether more is left."""

from __future__ import annotations

from uuid import UUID

import pytest

from models.messaging.attempts import record_in_flight
from tests.faults.ledger import a_comment_command, states
from tests.handlers.acme import Acme
from tests.harness import Harness
from tests.sql_log import BEGIN, logging_sql
from workers.apply.applier import BatchResult
from workers.apply.failures import WORKER_DIED


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
