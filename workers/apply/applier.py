"""The applier, which claims a batch of commands, loads their facts, decides them and writes the changes.

All this happens in one transaction. A command ends up applied, rejected or dead. The outcome of an applied or rejected
command is committed with the batch. An error rolls the batch back. Its commands are then applied one by one, so that a
failed attempt is counted only for the command that fails. A worker process that dies leaves behind a row that names the
commands it was applying. The worker that finds the row counts a failed attempt for each of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import orjson
import structlog
from billiard.exceptions import SoftTimeLimitExceeded
from pydantic import ValidationError
from sqlalchemy.engine import Connection, Engine

from models.database.errors import is_transient
from models.enums import CommandState
from models.messaging.attempts import clear_in_flight, lock_worker, record_in_flight
from models.messaging.command_ledger import ClaimedCommand, CommandOutcome, record_outcomes
from models.messaging.trace import log_ids
from models.refusals import Refusal
from tasks.commands.base import Command
from tasks.commands.catalog import CATALOG
from workers.apply.claim import claim, claim_next, fail_commands, fail_orphaned, last_by_subject
from workers.batch.changes import Changes
from workers.batch.context import CommandContext
from workers.batch.fact_request import PendingCommand
from workers.batch.facts import Facts
from workers.batch.load import load_facts
from workers.batch.write import write_changes
from workers.handlers import HANDLERS, request_facts

DRAIN_SECONDS: Final = 1.0
"""How many seconds a task may spend on claiming and applying batches before it requests another task to continue."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class BatchResult:
    """The result of a batch: the finished commands, whether it wrote events, and whether it did anything at all."""

    finished: list[UUID] = field(default_factory=list)
    events: bool = False
    progressed: bool = False
    log_facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Applier:
    """Applies the commands that wait in the ledger, for the worker with the name ``worker``.

    ``autocommit_engine`` commits each statement at once, and is used to record which commands are in flight.
    ``on_commit`` is called after each commit that finished commands or wrote events. ``request_continuation`` is called
    when a task's time is up and more commands may be waiting.
    """

    engine: Engine
    autocommit_engine: Engine
    worker: str
    on_commit: Callable[[BatchResult], None]
    request_continuation: Callable[[], None]

    def drain(self, hinted: Sequence[str]) -> None:
        """Apply batches, hinted subjects first, until nothing is due or :data:`DRAIN_SECONDS` have passed."""
        end = time.monotonic() + DRAIN_SECONDS
        while self._run_once(hinted).progressed:
            hinted = ()
            if time.monotonic() >= end:
                self.request_continuation()
                return

    def _run_once(self, hinted: Sequence[str]) -> BatchResult:
        self._fail_orphaned()
        result, suspects = self._apply_batch(hinted)
        for subject, last_seq in suspects.items():
            result.progressed |= self._apply_one_by_one(subject, last_seq)
        return result

    def _fail_orphaned(self) -> None:
        with self.engine.begin() as connection:
            failed = fail_orphaned(connection, self.worker)
        if failed:
            log.warning(
                "apply.worker_died",
                commands=[str(command.id) for command in failed],
                **log_ids(failed),
            )
            self._notify_dead([command.id for command in failed if command.state == CommandState.DEAD])

    def _apply_batch(self, hinted: Sequence[str]) -> tuple[BatchResult, dict[str, int]]:
        """Apply one batch, and return its result and the subjects whose commands are then applied one by one.

        Each of these subjects is mapped to the last ``seq`` to apply.
        """
        with self.engine.begin() as connection:
            lock_worker(connection, self.worker)
            batch, suspects = claim(connection, hinted)
            result = BatchResult(progressed=bool(batch))
            if batch:
                try:
                    self._apply(connection, batch, result)
                except Exception as error:
                    suspects |= self._handle_batch_error(connection, batch, error)
                    result = BatchResult(progressed=True)
                    connection.rollback()
        self._notify(result)
        return result, suspects

    def _handle_batch_error(
        self, connection: Connection, batch: Sequence[ClaimedCommand], error: Exception
    ) -> dict[str, int]:
        """Handle a batch's error, and return the subjects whose commands are then applied one by one.

        Each of these subjects is mapped to its last ``seq`` in the batch.
        """
        # This process is alive: no other worker may count an attempt, so clear the row while the locks are held.
        self._clear_in_flight()
        if is_transient(error) and connection.invalidated:
            raise error
        log.warning(
            "apply.batch_error",
            commands=len(batch),
            **log_ids(batch),
            exc_info=error,
        )
        if isinstance(error, SoftTimeLimitExceeded):
            # No time is left to find the command that was too slow: count an attempt for each, as after a crash.
            connection.rollback()
            self._record_failure([command.id for command in batch], error)
            return {}
        return last_by_subject(batch)

    def _apply_one_by_one(self, subject: str, last_seq: int) -> bool:
        """Apply a subject's commands up to ``last_seq``, each in its own transaction, until one must wait.

        Return whether there was any progress: a command was finished, or a failed attempt was counted.
        """
        progressed = False
        while True:
            error: Exception | None = None
            result = BatchResult()
            with self.engine.begin() as connection:
                lock_worker(connection, self.worker)
                command = claim_next(connection, subject)
                if command is None or command.seq > last_seq:
                    return progressed
                try:
                    self._apply(connection, [command], result)
                except Exception as caught:
                    error, result = caught, BatchResult()
                    self._clear_in_flight()
                    if connection.invalidated:
                        raise
                    connection.rollback()
            if error is None:
                self._notify(result)
            elif is_transient(error):
                log.info("apply.deferred", command=str(command.id), error=str(error), **log_ids([command]))
                return progressed
            else:
                log.warning(
                    "apply.error",
                    command=str(command.id),
                    type=command.type,
                    **log_ids([command]),
                    exc_info=error,
                )
                if not self._record_failure([command.id], error):
                    return True
            progressed = True

    def _apply(self, connection: Connection, claimed: Sequence[ClaimedCommand], result: BatchResult) -> None:
        started = time.perf_counter()
        with self.autocommit_engine.connect() as autocommit:
            record_in_flight(autocommit, self.worker, [command.id for command in claimed])
        batch = [PendingCommand(row, CATALOG[row.type].command_class.model_validate(row.payload)) for row in claimed]
        facts = load_facts(connection, request_facts(batch))
        changes = Changes()
        outcomes = [_decide(pending, facts, changes) for pending in batch]
        write_changes(connection, changes)
        record_outcomes(connection, outcomes)
        result.finished = [outcome.id for outcome in outcomes]
        result.events = bool(changes.events)
        result.log_facts = {
            "commands": len(claimed),
            "rejected": sum(outcome.state is CommandState.REJECTED for outcome in outcomes),
            "events": len(changes.events),
            "ms": round((time.perf_counter() - started) * 1000, 1),
            **log_ids(claimed),
        }

    def _record_failure(self, ids: Sequence[UUID], error: Exception) -> bool:
        """Count a failed attempt for each command.

        Return whether any command is now dead and thus no longer blocks its subject.
        """
        with self.engine.begin() as connection:
            failed = fail_commands(connection, ids, error=_describe(error))
        dead = [command.id for command in failed if command.state == CommandState.DEAD]
        self._notify_dead(dead)
        return bool(dead)

    def _notify_dead(self, dead: list[UUID]) -> None:
        self._notify(BatchResult(finished=dead, events=bool(dead)))

    def _notify(self, result: BatchResult) -> None:
        # This is called after the commit: until then, nothing has happened.
        if result.log_facts:
            log.info("batch.applied", **result.log_facts)
        if result.finished or result.events:
            self.on_commit(result)

    def _clear_in_flight(self) -> None:
        with self.autocommit_engine.connect() as autocommit:
            clear_in_flight(autocommit, self.worker)


def _decide(pending: PendingCommand[Command], facts: Facts, changes: Changes) -> CommandOutcome:
    """Apply one command to the facts and return its outcome. A refused command leaves no changes."""
    row = pending.row
    try:
        context = CommandContext.authorize(pending, facts, changes)
        result = HANDLERS[row.type].apply(pending.command, context)
    except Refusal as refusal:
        return CommandOutcome(row.id, CommandState.REJECTED, refusal.status, orjson.dumps(refusal.body).decode())
    body = None if result.body is None else orjson.dumps(result.body).decode()
    return CommandOutcome(row.id, CommandState.APPLIED, result.status, body)


def _describe(error: Exception) -> str:
    """Return the error as operators see it in a dead letter: its type and its first line, at most 500 characters."""
    if isinstance(error, ValidationError):
        return f"The stored command cannot be read: {error.error_count()} of its fields are invalid."
    first_line = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first_line}"[:500]
