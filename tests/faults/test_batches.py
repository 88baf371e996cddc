"""What a command that faults, or kills its worker, costs the others: nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select, update

from models.incidents.activity import activities
from models.messaging.command_ledger import commands
from tasks.commands.comments import PostComment
from tests.handlers.acme import Acme, versions
from tests.handlers.conftest import Harness, house

__all__ = ["house"]

_fork = multiprocessing.get_context("fork")


@pytest.fixture
def acme(house: Harness) -> Acme:
    return Acme(house.engine)


def comment(text: str = "Looking into it", incident: str = "1") -> PostComment:
    return PostComment.model_validate({"incident": incident, "comment": text})


def make_unreadable(house: Harness, id_: UUID) -> None:
    """What is stored of this command cannot be carried out."""
    with house.engine.begin() as connection:
        connection.execute(update(commands).where(commands.c.id == id_).values(payload={"incident": "1"}))


def let_time_pass(house: Harness) -> None:
    """Every back-off is over."""
    with house.engine.begin() as connection:
        connection.execute(update(commands).values(next_attempt_at=None))


def states(house: Harness, ids: list[UUID]) -> list[str]:
    with house.engine.connect() as connection:
        rows = connection.execute(select(commands.c.id, commands.c.state).where(commands.c.id.in_(ids)))
        by_id = {row.id: row.state for row in rows}
    return [by_id[id_] for id_ in ids]


def comments_written(house: Harness) -> list[str]:
    with house.engine.connect() as connection:
        return list(connection.execute(select(activities.c.comment).order_by(activities.c.id)).scalars())


def in_a_process_that_dies(house: Harness, command: str, is_deadly: Callable[[Any], bool]) -> int:
    """Apply in a forked process that is killed by such a command; its exit code."""

    def work() -> None:
        from workers import handlers

        handler = handlers.HANDLERS[command]

        def kill_or_apply(command: Any, context: Any) -> Any:
            if is_deadly(command):
                os.kill(os.getpid(), signal.SIGKILL)
            return handler.apply(command, context)

        handlers.HANDLERS[handler.command_class.name] = replace(handler, apply=kill_or_apply)
        house.applier(f"process-{os.getpid()}").drain(())

    process = _fork.Process(target=work)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def test_one_poisoned_command_among_a_hundred_fails_alone(house: Harness, acme: Acme) -> None:
    ids = [house.accept(comment(f"{number}"), **acme.by("mem")) for number in range(100)]
    make_unreadable(house, ids[50])

    for _ in range(5):
        house.apply()
        let_time_pass(house)
    house.apply()

    assert states(house, ids) == ["applied"] * 50 + ["dead"] + ["applied"] * 49
    assert comments_written(house) == [f"{number}" for number in range(100) if number != 50]
    assert house.ledger_row(ids[50])["attempts"] == 5


def test_what_stands_behind_a_poisoned_command_waits_until_it_is_dead(house: Harness, acme: Acme) -> None:
    first, second, third = (house.accept(comment(text), **acme.by("mem")) for text in ("1", "2", "3"))
    make_unreadable(house, second)

    house.apply()

    assert states(house, [first, second, third]) == ["applied", "accepted", "accepted"]
    assert house.ledger_row(second)["attempts"] == 1


def test_a_command_that_kills_its_process_is_dead_after_five_and_the_rest_is_applied(
    house: Harness, acme: Acme
) -> None:
    ids = [house.accept(comment(f"{number}"), **acme.by("mem")) for number in range(40)]

    deaths = 0
    while "accepted" in states(house, ids):
        deaths += in_a_process_that_dies(house, "comment.post", lambda ask: ask.comment == "20") == -signal.SIGKILL
        let_time_pass(house)

    assert deaths == 5
    assert states(house, ids) == ["applied"] * 20 + ["dead"] + ["applied"] * 19
    assert comments_written(house) == [f"{number}" for number in range(40) if number != 20]


def test_a_dead_command_is_announced(house: Harness, acme: Acme) -> None:
    id_ = house.accept(comment(), **acme.by("mem"))
    make_unreadable(house, id_)

    for _ in range(5):
        house.apply()
        let_time_pass(house)

    with house.engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT type, subject FROM events").all()
    assert [tuple(row) for row in rows] == [("command.dead", f"commands/{id_}")]


def test_three_workers_on_few_subjects_apply_everything_once_and_in_order(house: Harness, acme: Acme) -> None:
    total = 300
    ids = [house.accept(comment(f"{number}"), **acme.by("mem")) for number in range(total)]

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
