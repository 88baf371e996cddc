"""A dead command that is requeued is accepted again, at its place; requeues can be tried out, limited and stopped."""

from __future__ import annotations

import threading
from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import select, update

from models.messaging.claims import command_floor, lower_floor, propose_floor, raise_floor
from models.messaging.command_ledger import commands
from models.operations.audit import list_audit
from models.operations.command_details import read_command
from models.operations.dead import DeadSelection, discard_dead
from models.operations.requeue import preview_requeue, stop_operation
from models.operations.tables import bulk_operations
from models.refusals import InvalidFields
from tests.faults.ledger import a_comment_command, states
from tests.handlers.acme import Acme
from tests.harness import Harness, lock_subjects
from tests.ops.ledger import (
    accept_comments,
    advance,
    apply_until_dead,
    bury,
    comments_in_order,
    cure,
    operation,
    poison,
    requeue,
)
from tests.waiting import eventually
from workers.relay.sweeper import Sweeper


class NoHints:
    """Publishes nothing."""

    def publish(self, *_hint: object) -> None:
        pass


def raise_the_floor(harness: Harness) -> None:
    Sweeper(harness.engine, NoHints()).raise_floor()  # type: ignore[arg-type]


def floor(harness: Harness) -> int:
    with harness.engine.connect() as connection:
        return int(connection.execute(select(command_floor.c.seq)).scalar_one())


def test_a_requeued_command_keeps_its_id_and_time_and_starts_with_no_attempts(harness: Harness, acme: Acme) -> None:
    [id_] = accept_comments(harness, 1, **acme.by("mem"))
    payloads = poison(harness, [id_])
    apply_until_dead(harness)
    before = harness.ledger_row(id_)

    started = requeue(harness, DeadSelection(ids=(id_,)))
    advance(harness)

    after = harness.ledger_row(id_)
    assert (after["state"], after["attempts"], after["error"], after["finished_at"]) == ("accepted", 0, None, None)
    assert (after["seq"], after["accepted_at"]) == (before["seq"], before["accepted_at"])
    assert operation(harness, started)["requeued"] == 1
    cure(harness, payloads)
    harness.apply()
    advance(harness)
    assert states(harness, [id_]) == ["applied"]
    assert operation(harness, started)["state"] == "done"


def test_requeued_commands_come_before_later_ones_of_their_subject_that_wait(harness: Harness, acme: Acme) -> None:
    ids = accept_comments(harness, 4, **acme.by("mem"))
    bury(harness, ids)
    raise_the_floor(harness)
    assert floor(harness) > harness.ledger_row(ids[-1])["seq"]
    later = harness.accept(a_comment_command("later"), **acme.by("mem"))

    requeue(harness, DeadSelection(ids=(ids[2],)))
    advance(harness)
    requeue(harness, DeadSelection(ids=(ids[0], ids[3])))
    advance(harness)
    advance(harness)
    harness.apply()

    assert states(harness, [*ids, later]) == ["applied", "dead", "applied", "applied", "applied"]
    assert comments_in_order(harness) == ["0", "2", "3", "later"]


def test_a_command_waits_for_the_batch_that_is_applying_later_ones_of_its_subject(harness: Harness, acme: Acme) -> None:
    [id_] = accept_comments(harness, 1, **acme.by("mem"))
    bury(harness, [id_])
    subject = harness.ledger_row(id_)["subject"]
    started = requeue(harness, DeadSelection(ids=(id_,)))

    with harness.engine.begin() as worker:
        lock_subjects(worker, [subject])
        waiting = threading.Thread(target=advance, args=(harness,))
        waiting.start()
        eventually(lambda: _waits_for_a_lock(harness))
        assert states(harness, [id_]) == ["dead"]
    waiting.join()

    assert states(harness, [id_]) == ["accepted"]
    assert operation(harness, started)["requeued"] == 1


def _waits_for_a_lock(harness: Harness) -> bool:
    with harness.engine.connect() as connection:
        query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        return bool(connection.exec_driver_sql(query).scalar_one())


def test_order_holds_while_workers_apply_and_the_floor_rises(harness: Harness, acme: Acme) -> None:
    dead = accept_comments(harness, 40, **acme.by("mem"))
    bury(harness, dead)
    later = [harness.accept(a_comment_command(f"later {number}"), **acme.by("mem")) for number in range(5)]
    started = requeue(harness, DeadSelection(all=True))
    stop = threading.Event()

    def apply() -> None:
        applier = harness.applier(f"worker-{uuid4()}")
        while not stop.is_set():
            applier.drain(())
        applier.in_flight.close()

    def rise() -> None:
        while not stop.is_set():
            raise_the_floor(harness)

    threads = [threading.Thread(target=task) for task in (apply, apply, rise)]
    for thread in threads:
        thread.start()
    try:
        while operation(harness, started)["state"] == "running":
            advance(harness)
        eventually(lambda: set(states(harness, [*dead, *later])) == {"applied"})
    finally:
        stop.set()
        for thread in threads:
            thread.join()

    requeued = [text for text in comments_in_order(harness) if not text.startswith("later")]
    assert requeued == [f"{number}" for number in range(40)]


def test_a_floor_that_was_computed_before_a_requeue_is_not_set_after_it(harness: Harness, acme: Acme) -> None:
    [id_] = accept_comments(harness, 1, **acme.by("mem"))
    seq = harness.ledger_row(id_)["seq"]
    with harness.engine.begin() as connection:
        connection.execute(update(commands).values(state="dead", finished_at=commands.c.accepted_at))
    with harness.engine.connect() as relay, harness.engine.begin() as operator:
        autocommit = relay.execution_options(isolation_level="AUTOCOMMIT")
        candidate = propose_floor(autocommit)
        operator.execute(update(commands).values(state="accepted"))
        lower_floor(operator, seq)
        raising = threading.Thread(target=raise_floor, args=(autocommit, candidate._replace(xid=0)))
        raising.start()
        # It has read its snapshot, and waits for the row of the floor.
        eventually(lambda: _waits_for_a_row(harness))
        operator.commit()
        raising.join()

    assert floor(harness) <= seq


def _waits_for_a_row(harness: Harness) -> bool:
    with harness.engine.connect() as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        return bool(connection.exec_driver_sql(query).scalar_one())


def test_a_dry_run_counts_and_changes_nothing(harness: Harness, acme: Acme) -> None:
    ids = accept_comments(harness, 3, **acme.by("mem"))
    bury(harness, ids[:2])

    with harness.engine.connect() as connection:
        preview = preview_requeue(connection, DeadSelection(all=True))

    assert preview == {"matching": 2, "subjects": 1}
    assert states(harness, ids) == ["dead", "dead", "accepted"]
    assert not advance(harness)


def test_a_requeue_stops_after_enough_commands_have_died_again(harness: Harness, acme: Acme) -> None:
    ids = accept_comments(harness, 150, **acme.by("mem"))
    bury(harness, ids)
    started = requeue(harness, DeadSelection(all=True), stop_after=3)

    # Commands that die again, as far as the requeue can tell.
    while operation(harness, started)["state"] == "running":
        advance(harness)
        with harness.engine.begin() as connection:
            connection.execute(update(commands).where(commands.c.state == "accepted").values(state="dead"))

    ended = operation(harness, started)
    assert ended["state"] == "stopped"
    assert ended["diedAgain"] >= 3
    assert ended["requeued"] == 100, "it must not requeue all before the first ones have died again"
    with harness.engine.connect() as connection:
        entry = list_audit(connection).entities[0]
    assert (entry["by"], entry["action"]) == ("tocsin", "operation.stopped")


def test_a_requeue_keeps_to_its_rate(harness: Harness, acme: Acme) -> None:
    bury(harness, accept_comments(harness, 30, **acme.by("mem")))
    started = requeue(harness, DeadSelection(all=True), rate_per_second=1)

    advance(harness)
    at_first = operation(harness, started)["requeued"]
    with harness.engine.begin() as connection:
        earlier = bulk_operations.c.created_at - timedelta(seconds=10)
        # The commands must have died before the requeue was started.
        connection.execute(update(commands).values(finished_at=commands.c.accepted_at - timedelta(hours=1)))
        connection.execute(update(bulk_operations).values(created_at=earlier))
    advance(harness)

    assert at_first < 5
    assert 10 <= operation(harness, started)["requeued"] < 20


def test_a_requeue_can_be_stopped(harness: Harness, acme: Acme) -> None:
    ids = accept_comments(harness, 2, **acme.by("mem"))
    bury(harness, ids)
    started = requeue(harness, DeadSelection(all=True))

    with harness.engine.begin() as connection:
        stopped = stop_operation(connection, int(started["id"]), reason="wrong ones", by="terminal:bo")

    assert stopped["state"] == "stopped"
    assert not advance(harness)
    assert states(harness, ids) == ["dead", "dead"]


def test_a_requeue_takes_only_what_was_dead_when_it_started(harness: Harness, acme: Acme) -> None:
    first, second = accept_comments(harness, 2, **acme.by("mem"))
    bury(harness, [first])
    started = requeue(harness, DeadSelection(all=True))
    with harness.engine.begin() as connection:
        later = commands.c.finished_at + timedelta(hours=1)
        connection.execute(update(commands).where(commands.c.id == second).values(state="dead", finished_at=later))

    advance(harness)

    assert operation(harness, started)["matching"] == 1
    assert states(harness, [first, second]) == ["accepted", "dead"]


def test_discarded_commands_stay_discarded(harness: Harness, acme: Acme) -> None:
    ids = accept_comments(harness, 2, **acme.by("mem"))
    bury(harness, ids)

    with harness.engine.begin() as connection:
        done = discard_dead(connection, DeadSelection(ids=(ids[0],)), reason="obsolete", by="terminal:ana")

    assert done == {"discarded": 1}
    requeue(harness, DeadSelection(all=True))
    advance(harness)
    assert states(harness, ids) == ["discarded", "accepted"]


def test_the_timeline_tells_of_failed_attempts_deaths_and_requeues(harness: Harness, acme: Acme) -> None:
    [id_] = accept_comments(harness, 1, **acme.by("mem"))
    payloads = poison(harness, [id_])
    apply_until_dead(harness)
    requeue(harness, DeadSelection(ids=(id_,)))
    advance(harness)
    cure(harness, payloads)
    harness.apply()

    with harness.engine.connect() as connection:
        timeline = read_command(connection, id_, with_texts=True)["timeline"]

    steps = [entry["step"].value for entry in timeline]
    assert [step for step in steps if step != "event"] == [
        "accepted", *["attempt_failed"] * 5, "dead", "requeued", "claimed", "applied",
    ]  # fmt: skip
    assert [entry["at"] for entry in timeline] == sorted(entry["at"] for entry in timeline)


@pytest.mark.parametrize(
    "selection", [DeadSelection(), DeadSelection(all=True, fingerprint="1"), DeadSelection(ids=(), all=True)]
)
def test_a_selection_is_exactly_one_of_ids_fingerprint_and_all(harness: Harness, selection: DeadSelection) -> None:
    with pytest.raises(InvalidFields):
        requeue(harness, selection)
