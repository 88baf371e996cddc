"""A command that fails or kills its worker does not affect other commands."""

from __future__ import annotations

import signal
import threading
from uuid import UUID

import pytest
from sqlalchemy import func, select, update

from models.incidents.activity import activities
from models.messaging.command_ledger import commands
from tests.faults.ledger import a_comment_command, apply_in_killed_process, end_back_off, states
from tests.handlers.acme import Acme, versions
from tests.harness import Harness


@pytest.fixture
def acme(harness: Harness) -> Acme:
    return Acme(harness.engine)


def corrupt_payload(harness: Harness, id_: UUID) -> None:
    """Remove a required field from a command's payload."""
    with harness.engine.begin() as connection:
        connection.execute(update(commands).where(commands.c.id == id_).values(payload={"incident": "1"}))


def comments_written(harness: Harness) -> list[str]:
    with harness.engine.connect() as connection:
        return list(connection.execute(select(activities.c.comment).order_by(activities.c.id)).scalars())


def test_one_poisoned_command_among_a_hundred_fails_alone(harness: Harness, acme: Acme) -> None:
    ids = [harness.accept(a_comment_command(f"{number}"), **acme.by("mem")) for number in range(100)]
    corrupt_payload(harness, ids[50])

    for _ in range(5):
        harness.apply()
        end_back_off(harness)
    harness.apply()

    assert states(harness, ids) == ["applied"] * 50 + ["dead"] + ["applied"] * 49
    assert comments_written(harness) == [f"{number}" for number in range(100) if number != 50]
    assert harness.ledger_row(ids[50])["attempts"] == 5


def test_commands_behind_a_poisoned_one_wait_until_it_is_dead(harness: Harness, acme: Acme) -> None:
    first, second, third = (harness.accept(a_comment_command(text), **acme.by("mem")) for text in ("1", "2", "3"))
    corrupt_payload(harness, second)

    harness.apply()

    assert states(harness, [first, second, third]) == ["applied", "accepted", "accepted"]
    assert harness.ledger_row(second)["attempts"] == 1


def test_a_command_that_kills_its_process_is_dead_after_five_attempts_and_the_others_are_applied(
    harness: Harness, acme: Acme
) -> None:
    ids = [harness.accept(a_comment_command(f"{number}"), **acme.by("mem")) for number in range(40)]

    deaths = 0
    while "accepted" in states(harness, ids):
        deaths += (
            apply_in_killed_process(harness, "comment.post", lambda command: command.comment == "20") == -signal.SIGKILL
        )
        end_back_off(harness)

    assert deaths == 5
    assert states(harness, ids) == ["applied"] * 20 + ["dead"] + ["applied"] * 19
    assert comments_written(harness) == [f"{number}" for number in range(40) if number != 20]


def test_a_dead_command_emits_an_event(harness: Harness, acme: Acme) -> None:
    id_ = harness.accept(a_comment_command(), **acme.by("mem"))
    corrupt_payload(harness, id_)

    for _ in range(5):
        harness.apply()
        end_back_off(harness)

    with harness.engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT type, subject FROM events").all()
    assert [tuple(row) for row in rows] == [("command.dead", f"commands/{id_}")]


def test_three_workers_apply_the_commands_for_one_incident_once_and_in_order(harness: Harness, acme: Acme) -> None:
    total = 300
    ids = [harness.accept(a_comment_command(f"{number}"), **acme.by("mem")) for number in range(total)]

    workers = [threading.Thread(target=harness.applier(f"worker-{name}").drain, args=((),)) for name in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    harness.apply()

    assert states(harness, ids) == ["applied"] * total
    assert comments_written(harness) == [f"{number}" for number in range(total)]
    assert versions(harness.engine, acme.organizations["acme"])[1] == total + 1
    with harness.engine.connect() as connection:
        sequences = connection.exec_driver_sql("SELECT array_agg(sequence ORDER BY sequence) FROM events").scalar_one()
        assert sequences == list(range(1, total + 1))
        assert connection.execute(select(func.count()).select_from(activities)).scalar_one() == total
