"""Helpers for commands in the ledger: read their states, end their back-off, and kill a process that applies them."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

from sqlalchemy import select, update

from models.messaging.command_ledger import commands
from tasks.commands.comments import PostComment
from tests.harness import Harness

_fork = multiprocessing.get_context("fork")


def a_comment_command(text: str = "Looking into it", incident: str = "1") -> PostComment:
    return PostComment.model_validate({"incident": incident, "comment": text})


def end_back_off(harness: Harness) -> None:
    """Make every deferred command due now."""
    with harness.engine.begin() as connection:
        connection.execute(update(commands).values(next_attempt_at=None))


def states(harness: Harness, ids: list[UUID]) -> list[str]:
    with harness.engine.connect() as connection:
        rows = connection.execute(select(commands.c.id, commands.c.state).where(commands.c.id.in_(ids)))
        by_id = {row.id: row.state for row in rows}
    return [by_id[id_] for id_ in ids]


def apply_in_killed_process(harness: Harness, command_type: str, is_deadly: Callable[[Any], bool]) -> int:
    """Apply commands in a forked process that kills itself at a matching command; return the exit code."""

    def work() -> None:
        from workers import handlers

        handler = handlers.HANDLERS[command_type]

        def kill_or_apply(command: Any, context: Any) -> Any:
            if is_deadly(command):
                os.kill(os.getpid(), signal.SIGKILL)
            return handler.apply(command, context)

        handlers.HANDLERS[command_type] = replace(handler, apply=kill_or_apply)
        harness.applier(f"process-{os.getpid()}").drain(())

    process = _fork.Process(target=work)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode
