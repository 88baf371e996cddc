"""A command that fails, or kills its worker, does not affect the others."""

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
from tests.handlers.conftest import Harness, house

__all__ = ["house"]


@pytest.fixture
def acme(house: Harness) -> Acme:
    return Acme(house.engine)


def corrupt_payload(house: Harness, id_: UUID) -> None:
    """Remove a required field from the payload of a command."""
    with house.engine.begin() as connection:
        connection.execute(update(commands).where(commands.c.id == id_).values(payload={"incident": "1"}))


def comments_written(house: Harness) -> list[str]:
    with house.engine.connect() as connection:
        return list(connection.execute(select(activities.c.comment).order_by(activities.c.id)).scalars())


def test_one_poisoned_command_among_a_hundred_fails_alone(house: Harness, acme: Acme) -> None:
    ids = [house.accept(a_comment_command(f"{number}"), **acme.by("mem")) for number in range(100)]
    corrupt_payload(house, ids[50])

    for _ in range(5):
        house.apply()
        end_back_off(house)
    house.apply()

    assert states(house, ids) == ["applied"] * 50 + ["dead"] + ["applied"] * 49
    assert comments_written(house) == [f"{number}" for number in range(100) if number != 50]
    assert house.ledger_row(ids[50])["attempts"] == 5


def test_commands_behind_a_poisoned_one_wait_until_it_is_dead(house: Harness, acme: Acme) -> None:
    first, second, third = (house.accept(a_comment_command(text), **acme.by("mem")) for text in ("1", "2", "3"))
    corrupt_payload(house, second)

    house.apply()

    assert states(house, [first, second, third]) == ["applied", "accepted", "accepted"]
    assert house.ledger_row(second)["attempts"] == 1


def test_a_command_that_kills_its_process_is_dead_after_five_attempts_and_the_rest_is_applied(
    house: Harness, acme: Acme
) -> None:
    ids = [house.accept(a_comment_command(f"{number}"), **acme.by("mem")) for number in range(40)]

    deaths = 0
    while "accepted" in states(house, ids):
        deaths += (
            apply_in_killed_process(house, "comment.post", lambda command: command.comment == "20") == -signal.SIGKILL
        )
        end_back_off(house)

    assert deaths == 5
    assert states(house, ids) == ["applied"] * 20 + ["dead"] + ["applied"] * 19
    assert comments_written(house) == [f"{number}" for number in range(40) if number != 20]


def test_a_dead_command_emits_an_event(house: Harness, acme: Acme) -> None:
    id_ = house.accept(a_comment_command(), **acme.by("mem"))
    corrupt_payload(house, id_)

    for _ in range(5):
        house.apply()
        end_back_off(house)

    with house.engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT type, subject FROM events").all()
    assert [tuple(row) for row in rows] == [("command.dead", f"commands/{id_}")]


def test_three_workers_on_few_subjects_apply_everything_once_and_in_order(house: Harness, acme: Acme) -> None:
    total = 300
    ids = [house.accept(a_comment_command(f"{number}"), **acme.by("mem")) for number in range(total)]

    workers = [threading.Thread(target=house.applier(f"worker-{name}").drain, args=((),)) for name in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    house.apply()

    assert states(house, ids) == ["applied"] * total
    assert comments_written(house) == [f"{number}" for number in range(total)]
    assert versions(house.engine, acme.organizations["acme"])[1] == total + 1
    with house.engine.connect() as connection:
        sequences = connection.exec_driver_sql("SELECT array_agg(sequence ORDER BY sequence) FROM events").scalar_one()
        assert sequences == list(range(1, total + 1))
        assert connection.execute(select(func.count()).select_from(activities)).scalar_one() == total
