"""One batch: claim, load, decide, write; one commit.

There are three endings of a command: applied, refused, failed. Applied and refused are outcomes and commit with the
batch. A error rolls the batch back; then its commands are tried one by one, so that only the one that faults counts
an attempt. A process that dies leaves a row that names what it had in hand: whoever finds it counts for it.
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

from models.database.engine import is_transient
from models.enums import CommandState
from models.messaging.command_ledger import (
    ClaimedCommand,
    CommandOutcome,
    clear_in_flight,
    lock_worker,
    record_in_flight,
    record_outcomes,
)
from models.messaging.trace import request_ids
from models.refusals import Refusal
from tasks.commands.catalog import CATALOG
from workers.apply.claim import claim, claim_next, fail_commands, fail_orphaned
from workers.apply.ordering import last_by_subject
from workers.batch.changes import Changes
from workers.batch.context import CommandContext
from workers.batch.facts import Facts, PendingCommand
from workers.batch.load import load_facts
from workers.batch.write import write_changes
from workers.handlers import HANDLERS

DRAIN_SECONDS: Final = 1.0
"""How long one hint's task goes on claiming before it hands over to a new hint."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class BatchResult:
    """What one round did: outcomes that callers may wait for, and whether it found anything to do at all."""

    finished: list[UUID] = field(default_factory=list)
    events: bool = False
    progressed: bool = False
    log_facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Applier:
    """Applies what waits in the ledger.

    ``notes`` is an engine of its own that commits each statement at once, for the row that names the batch in hand.
    ``tell`` hears after each commit what is finished; ``hand_over`` asks for another task when there may be more.
    """

    engine: Engine
    autocommit_engine: Engine
    worker: str
    on_commit: Callable[[BatchResult], None]
    request_continuation: Callable[[], None]

    def drain(self, hinted: Sequence[str]) -> None:
        """Apply batch after batch, the hinted subjects first, until nothing is due or the shift is over."""
        end = time.monotonic() + DRAIN_SECONDS
        while self._run_once(hinted).progressed:
            hinted = ()
            if time.monotonic() >= end:
                self.request_continuation()
                return

    def _run_once(self, hinted: Sequence[str]) -> BatchResult:
        self._fail_orphaned()
        done, suspects = self._apply_batch(hinted)
        for subject, through in suspects.items():
            done.progressed |= self._apply_one_by_one(subject, through)
        return done

    def _fail_orphaned(self) -> None:
        with self.engine.begin() as connection:
            failed = fail_orphaned(connection, self.worker)
        if failed:
            log.warning(
                "apply.worker_died",
                commands=[str(command.id) for command in failed],
                request_ids=request_ids(command.request_id for command in failed),
            )
            self._notify_dead([command.id for command in failed if command.state == CommandState.DEAD])

    def _apply_batch(self, hinted: Sequence[str]) -> tuple[BatchResult, dict[str, int]]:
        """One batch; also the subjects to take one by one, each with the last ``seq`` that needs such care."""
        with self.engine.begin() as connection:
            lock_worker(connection, self.worker)
            calm, suspects = claim(connection, hinted)
            done = BatchResult(progressed=bool(calm))
            if calm:
                try:
                    self._apply(connection, calm, done)
                except Exception as error:
                    suspects |= self._handle_batch_error(connection, calm, error)
                    done = BatchResult(progressed=True)
                    connection.rollback()
        self._notify(done)
        return done, suspects

    def _handle_batch_error(
        self, connection: Connection, batch: Sequence[ClaimedCommand], error: Exception
    ) -> dict[str, int]:
        """A batch faulted: nobody died, so take the note back while the locks still hold."""
        self._clear_in_flight()
        if is_transient(error) and connection.invalidated:
            raise error
        log.warning(
            "apply.batch_fault",
            commands=len(batch),
            request_ids=request_ids(command.request_id for command in batch),
            exc_info=error,
        )
        if isinstance(error, SoftTimeLimitExceeded):
            # There is no time left to find out which one it was: count for all, as if the process had died.
            connection.rollback()
            self._record_failure([command.id for command in batch], error)
            return {}
        return last_by_subject(batch)

    def _apply_one_by_one(self, subject: str, through: int) -> bool:
        """Apply a subject's commands in a transaction each, up to a ``seq``, until one has to wait; whether any did."""
        progressed = False
        while True:
            error: Exception | None = None
            done = BatchResult()
            with self.engine.begin() as connection:
                lock_worker(connection, self.worker)
                command = claim_next(connection, subject)
                if command is None or command.seq > through:
                    return progressed
                try:
                    self._apply(connection, [command], done)
                except Exception as caught:
                    error, done = caught, BatchResult()
                    self._clear_in_flight()
                    if connection.invalidated:
                        raise
                    connection.rollback()
            if error is None:
                self._notify(done)
            elif is_transient(error):
                log.info("apply.later", command=str(command.id), error=str(error), request_id=command.request_id)
                return progressed
            else:
                log.warning(
                    "apply.error",
                    command=str(command.id),
                    type=command.type,
                    request_id=command.request_id,
                    exc_info=error,
                )
                if not self._record_failure([command.id], error):
                    return True
            progressed = True

    def _apply(self, connection: Connection, claimed: Sequence[ClaimedCommand], done: BatchResult) -> None:
        started = time.perf_counter()
        with self.autocommit_engine.connect() as notes:
            record_in_flight(notes, self.worker, [command.id for command in claimed])
        pending = [
            PendingCommand(command, CATALOG[command.type].command_class.model_validate(command.payload))
            for command in claimed
        ]
        facts = load_facts(connection, pending)
        changes = Changes()
        outcomes = [_decide(order, facts, changes) for order in pending]
        write_changes(connection, changes)
        record_outcomes(connection, outcomes)
        done.finished = [outcome.id for outcome in outcomes]
        done.events = bool(changes.events)
        done.log_facts = {
            "commands": len(claimed),
            "rejected": sum(outcome.state is CommandState.REJECTED for outcome in outcomes),
            "events": len(changes.events),
            "ms": round((time.perf_counter() - started) * 1000, 1),
            "request_ids": request_ids(command.request_id for command in claimed),
        }

    def _record_failure(self, ids: Sequence[UUID], error: Exception) -> bool:
        """Count an attempt; whether the subject may go on, because the command is dead."""
        with self.engine.begin() as connection:
            failed = fail_commands(connection, ids, error=_describe(error))
        dead = [command.id for command in failed if command.state == CommandState.DEAD]
        self._notify_dead(dead)
        return bool(dead)

    def _notify_dead(self, dead: list[UUID]) -> None:
        self._notify(BatchResult(finished=dead, events=bool(dead)))

    def _notify(self, done: BatchResult) -> None:
        if done.log_facts:
            # After the commit: what the line says has happened.
            log.info("batch.applied", **done.log_facts)
        if done.finished or done.events:
            self.on_commit(done)

    def _clear_in_flight(self) -> None:
        with self.autocommit_engine.connect() as notes:
            clear_in_flight(notes, self.worker)


def _decide(order: PendingCommand, facts: Facts, changes: Changes) -> CommandOutcome:
    """Carry out one command; a refusal is an answer too, and leaves nothing behind."""
    try:
        work = CommandContext.authorize(order, facts, changes)
        answer = HANDLERS[order.row.type](order.command, work)
    except Refusal as refusal:
        body = orjson.dumps(refusal.body).decode()
        return CommandOutcome(order.row.id, CommandState.REJECTED, refusal.status, body)
    written = None if answer.body is None else orjson.dumps(answer.body).decode()
    return CommandOutcome(order.row.id, CommandState.APPLIED, answer.status, written)


def _describe(error: Exception) -> str:
    """What ops read beside a dead letter: the kind of error and its first line."""
    if isinstance(error, ValidationError):
        return f"The stored command cannot be read: {error.error_count()} of its fields do not fit."
    first_line = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first_line}"[:500]
