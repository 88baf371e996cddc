"""The applier, which claims a batch of commands, loads their facts, decides them and writes the changes.

All this happens in one transaction. A command ends up applied, rejected or dead. The outcome of an applied or rejected
command is committed with the batch. An error rolls the batch back. Its commands are then applied one by one, so that a
failed attempt is counted only for the command that fails. A worker process that dies leaves behind a row that names the
commands it was applying. The worker that finds the row counts a failed attempt for each of them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import orjson
import structlog
from billiard.exceptions import SoftTimeLimitExceeded
from sqlalchemy.engine import Connection, Engine

from models.database.errors import is_contention, is_timeout, is_transient
from models.enums import CommandState, Lane
from models.messaging.attempts import (
    FailedCommand,
    clear_in_flight,
    has_orphaned,
    lock_worker_in_transaction,
    mark_alone,
)
from models.messaging.claims import ClaimedCommand
from models.messaging.command_ledger import CommandOutcome, record_outcomes
from models.messaging.trace import log_ids
from models.refusals import Refusal
from tasks.commands.base import Command
from tasks.commands.catalog import CATALOG
from tasks.commands.field_errors import cut_errors, cut_problem_errors
from tasks.tracing import record_spans
from workers.apply.claim import Claimer, last_by_subject
from workers.apply.failures import DeathReason, fail_commands, fail_orphaned, reason_of
from workers.apply.in_flight import InFlightBatch
from workers.batch.changes import Changes
from workers.batch.context import CommandContext
from workers.batch.fact_request import PendingCommand
from workers.batch.facts import Facts
from workers.batch.load import load_facts
from workers.batch.write import write_changes
from workers.handlers import HANDLERS, request_facts

DRAIN_SECONDS: Final = 1.0
"""How many seconds a task may spend on claiming and applying batches before it requests another task to continue."""

COMMAND_LANES: Final = (Lane.COMMANDS, Lane.BULK)
"""The lanes that carry commands."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class BatchResult:
    """The result of a batch: the finished commands, what else it wrote, and whether it made progress.

    ``applied`` are its commands with their outcomes; it began at ``started_at``, in seconds since the epoch, and took
    ``seconds``. ``dead`` are commands that died instead, with why.
    """

    finished: list[UUID] = field(default_factory=list)
    applied: list[tuple[ClaimedCommand, CommandOutcome]] = field(default_factory=list)
    started_at: float = 0.0
    seconds: float = 0.0
    dead: list[tuple[FailedCommand, DeathReason]] = field(default_factory=list)
    events: bool = False
    deliveries: bool = False
    progressed: bool = False
    log_facts: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Applier:
    """Applies the commands that wait in the ledger, for one worker.

    ``in_flight`` records the batch in flight. ``on_commit`` is called after each commit that finished commands or wrote
    events. ``request_continuation`` is called when a task's time is up and more commands may be waiting, with the
    subjects that have not been served yet. ``lanes`` are those that the worker scans for commands without a hint.
    """

    engine: Engine
    in_flight: InFlightBatch
    on_commit: Callable[[BatchResult], None]
    request_continuation: Callable[[Mapping[Lane, Sequence[str]]], None]
    lanes: Sequence[Lane] = COMMAND_LANES
    _claimer: Claimer = field(init=False)
    _suspects: dict[str, int] = field(default_factory=dict, init=False)
    """The subjects whose commands are applied one by one, each with the last ``seq`` to which this applies."""

    def __post_init__(self) -> None:
        self._claimer = Claimer(self.lanes)

    def drain(self, hinted: Sequence[str], lane: Lane = Lane.COMMANDS) -> None:
        """Apply batches, hinted subjects first, until nothing is due or :data:`DRAIN_SECONDS` have elapsed."""
        end = time.monotonic() + DRAIN_SECONDS
        self._claimer.queue.put_first(lane, hinted)
        self._fail_orphaned()
        progressed, is_first = True, True
        while progressed or self._claimer.queue or self._suspects:
            # A scan that brought no progress would find the same subjects again. After one that reached the end of the
            # ledger, there can only be commands that have been accepted since, and each of them has a hint.
            progressed = self._run_once(end, scan=is_first or (progressed and not self._claimer.is_caught_up))
            is_first = False
            if time.monotonic() >= end:
                self._hand_over(hinted)
                return

    def _hand_over(self, hinted: Sequence[str]) -> None:
        """Request a continuation with the hinted subjects that are left; a scan will find the others again."""
        queue, hinted_or_suspect = self._claimer.queue, {*hinted, *self._suspects}
        queue.put_first(self.lanes[0], self._suspects)
        self._suspects.clear()
        remaining = {
            lane: [subject for subject in subjects if subject in hinted_or_suspect]
            for lane, subjects in queue.remaining().items()
        }
        self.request_continuation({lane: subjects for lane, subjects in remaining.items() if subjects})
        queue.clear()

    def _run_once(self, end: float, *, scan: bool) -> bool:
        """Apply one batch, then one by one the commands of a batch that failed. Return whether there was progress.

        The single commands have their own time limit, and at least one of them is applied, however short the limit is.
        Otherwise a batch that always fails late would never make progress.
        """
        progressed = self._apply_batch(scan=scan)
        end = max(end, time.monotonic() + DRAIN_SECONDS)
        while self._suspects:
            subject = next(iter(self._suspects))
            progressed |= self._apply_one_by_one(subject, self._suspects.pop(subject), end)
            if time.monotonic() >= end:
                break
        return progressed

    def _fail_orphaned(self) -> None:
        try:
            with self._autocommit() as connection:
                if not has_orphaned(connection, self.in_flight.worker):
                    return
            with self.engine.begin() as connection:
                failed = fail_orphaned(connection, self.in_flight.worker)
        except Exception as error:
            if _is_unavailable(error):
                raise
            # An error in the commands of a dead worker must not stop the other workers.
            log.exception("apply.orphans_error")
            return
        if failed:
            log.warning("apply.worker_died", commands=[str(command.id) for command in failed], **log_ids(failed))
            self._notify_dead(failed, DeathReason.WORKER_DIED)

    def _apply_batch(self, *, scan: bool) -> bool:
        """Apply one batch, and add the subjects whose commands are to be applied one by one to the suspects."""
        if not scan:
            # After most batches, nothing is left to apply, and finding that out takes one statement.
            with self._autocommit() as connection:
                self._claimer.drop_idle(connection, except_for=self._suspects)
            if not self._claimer.queue:
                return False
        with self.engine.connect() as connection:
            claim = self._claimer.claim(connection, except_for=self._suspects, scan=scan)
            self._suspects |= claim.suspects
            if not claim.batch:
                return False
            result = BatchResult()
            try:
                self._apply(connection, claim.batch, result)
                connection.commit()
            except Exception as error:
                self._abandon(connection, error)
                log.warning("apply.batch_error", commands=len(claim.batch), **log_ids(claim.batch), exc_info=error)
                if isinstance(error, SoftTimeLimitExceeded) and len(claim.batch) == 1:
                    self._record_failure(claim.batch, error)
                elif isinstance(error, SoftTimeLimitExceeded):
                    # No time is left to find the command that is too slow.
                    self._mark_alone(claim.batch)
                else:
                    self._suspects |= last_by_subject(claim.batch)
                    self.in_flight.clear()
                return True
        self._notify(result)
        return True

    def _apply_one_by_one(self, subject: str, last_seq: int, end: float) -> bool:
        """Apply a subject's commands up to ``last_seq``, each in its own transaction, until one must wait.

        Return whether there was any progress: a command was finished, or a failure was recorded. After ``end``, the
        remaining commands stay among the suspects.
        """
        progressed = False
        while True:
            result = BatchResult()
            with self.engine.connect() as connection:
                command = self._claimer.claim_next(connection, subject)
                if command is None or command.seq > last_seq:
                    return progressed
                try:
                    self._apply(connection, [command], result)
                    connection.commit()
                except Exception as error:
                    self._abandon(connection, error)
                    self._log_error(command, error)
                    if not self._record_failure([command], error):
                        return True
            self._notify(result)
            progressed = True
            if time.monotonic() >= end:
                self._suspects[subject] = last_seq
                return True

    def _abandon(self, connection: Connection, error: Exception) -> None:
        """End the transaction of a batch that failed. The batch remains recorded as in flight.

        :raises Exception: ``error``, if the database is unavailable. In that case no attempt is counted.
        """
        if isinstance(error, SoftTimeLimitExceeded):
            # The time limit may have interrupted a running statement, and the connection cannot be used until that has
            # ended.
            with contextlib.suppress(Exception):
                connection.connection.driver_connection.cancel()  # type: ignore[union-attr]
            connection.invalidate(error)
            return
        if connection.invalidated or _is_unavailable(error):
            connection.invalidate(error)
            # The process lives, so the record must not be taken for that of a dead one when the process stops.
            with contextlib.suppress(Exception):
                self.in_flight.clear()
            raise error
        connection.rollback()

    def _apply(self, connection: Connection, claimed: Sequence[ClaimedCommand], result: BatchResult) -> None:
        started, result.started_at = time.perf_counter(), time.time()
        self.in_flight.record([command.id for command in claimed])
        lock_worker_in_transaction(connection, self.in_flight.worker)
        batch = [PendingCommand(row, CATALOG[row.type].command_class.model_validate(row.payload)) for row in claimed]
        facts = load_facts(connection, request_facts(batch))
        changes = Changes()
        outcomes = [_decide(pending, facts, changes) for pending in batch]
        write_changes(connection, changes)
        record_outcomes(connection, outcomes)
        if changes.follow_ups:
            # They have no hint.
            self._claimer.is_caught_up = False
        result.finished = [outcome.id for outcome in outcomes]
        result.applied = list(zip(claimed, outcomes, strict=True))
        result.seconds = time.perf_counter() - started
        result.events = bool(changes.events)
        result.deliveries = changes.has_deliveries
        result.log_facts = {
            "commands": len(claimed),
            "rejected": sum(outcome.state is CommandState.REJECTED for outcome in outcomes),
            "events": len(changes.events),
            "ms": round(result.seconds * 1000, 1),
            **log_ids(claimed),
        }

    def _record_failure(self, commands: Sequence[ClaimedCommand], error: Exception) -> bool:
        """Count the failure for each command, and clear the record of the batch in the same transaction.

        Return whether any command is now dead and thus no longer blocks its subject.
        """
        with self.engine.begin() as connection:
            failed = fail_commands(connection, [command.id for command in commands], error)
            clear_in_flight(connection, self.in_flight.worker)
        return self._notify_dead(failed, reason_of(error))

    def _mark_alone(self, commands: Sequence[ClaimedCommand]) -> None:
        """Have each command of the batch applied alone, by any worker. Nothing is counted yet."""
        with self.engine.begin() as connection:
            mark_alone(connection, [command.id for command in commands])
            clear_in_flight(connection, self.in_flight.worker)

    def _autocommit(self) -> Connection:
        return self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")

    def _log_error(self, command: ClaimedCommand, error: Exception) -> None:
        if is_contention(error):
            log.info("apply.deferred", command=str(command.id), error=str(error), **log_ids([command]))
        else:
            record_spans("apply", [command], seconds=0.0, error=type(error).__name__)
            log.warning("apply.error", command=str(command.id), type=command.type, **log_ids([command]), exc_info=error)

    def _notify_dead(self, failed: Sequence[FailedCommand], reason: DeathReason) -> bool:
        """Notify of those commands that are now dead, and return whether there are any."""
        dead = [(command, reason) for command in failed if command.state == CommandState.DEAD]
        self._notify(BatchResult([command.id for command, _ in dead], events=bool(dead), dead=dead))
        return bool(dead)

    def _notify(self, result: BatchResult) -> None:
        # This is called after the commit: until then, nothing has happened.
        if result.log_facts:
            log.info("batch.applied", **result.log_facts)
            record_spans("apply", (command for command, _ in result.applied), seconds=result.seconds)
        if result.finished or result.events:
            self.on_commit(result)


def _decide(pending: PendingCommand[Command], facts: Facts, changes: Changes) -> CommandOutcome:
    """Apply one command to the facts and return its outcome. A refused command leaves no changes."""
    row = pending.row
    try:
        context = CommandContext.authorize(pending, facts, changes)
        result = HANDLERS[row.type].apply(pending.command, context)
    except Refusal as refusal:
        members = cut_problem_errors(refusal.problem_members)
        problem = orjson.dumps(members).decode() if members else None
        body = orjson.dumps(cut_errors(refusal.body)).decode()
        return CommandOutcome(row.id, CommandState.REJECTED, refusal.status, body, problem)
    answer = None if result.body is None else orjson.dumps(result.body).decode()
    return CommandOutcome(row.id, CommandState.APPLIED, result.status, answer)


def _is_unavailable(error: Exception) -> bool:
    """Return whether the database is not available. Contention and timeouts concern single commands."""
    return is_transient(error) and not is_contention(error) and not is_timeout(error)
