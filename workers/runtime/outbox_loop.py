"""The loop that the relay and the notifier share: it claims waiting events and processes them in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy.engine import Connection, Engine

from models.messaging.outbox import BEFORE_FIRST_SUBJECT, Stage, WaitingEvent, claim_events
from models.messaging.trace import log_ids
from workers.runtime.deferral import DeferredRows
from workers.runtime.polling import run_polling_loop

log = structlog.get_logger(__name__)


def do_nothing() -> None:
    """Do nothing: this is the default for :attr:`ProcessedBatch.after_commit`."""


@dataclass(frozen=True, slots=True)
class ProcessedBatch:
    """The result of a batch: ``counts`` for its log line, and a function to call once its transaction is committed."""

    counts: Mapping[str, int]
    after_commit: Callable[[], None] = do_nothing


ProcessBatch = Callable[[Connection, Sequence[WaitingEvent]], ProcessedBatch]
"""A function that processes a batch inside its transaction, marks the events that are done, and defers those that
failed."""


class OutboxLoop:
    """Processes a stage's waiting events in batches.

    Each batch has its own transaction, and each subject's events are processed in order. The advisory locks on the
    claimed subjects last until the batch is committed, so any number of processes may work on a stage. A batch begins
    after the subject where the previous one ended, so that a subject with many events cannot starve the others.
    """

    def __init__(
        self,
        engine: Engine,
        stage: Stage,
        process: ProcessBatch,
        *,
        deferred: DeferredRows,
        subjects_per_batch: int,
        events_per_subject: int,
        log_event: str,
    ) -> None:
        """Set up the loop. ``log_event`` names the log line that is written for each batch with events."""
        self._engine = engine
        self._stage = stage
        self._process = process
        self._deferred = deferred
        self._subjects_per_batch = subjects_per_batch
        self._events_per_subject = events_per_subject
        self._log_event = log_event
        self.processed = 0
        """The number of events that were processed since the start."""
        self._after = BEFORE_FIRST_SUBJECT

    def run(self, name: str, wait: Callable[[float], object], stop: threading.Event) -> None:
        """Process batches until ``stop`` is set. When no event is waiting, call ``wait`` with a timeout in seconds."""
        run_polling_loop(name, self.process_batch, wait, stop)

    def process_batch(self) -> bool:
        """Process the next batch, and return whether to continue with another one at once.

        :raises Exception: if the database or the processing failed. No event of the batch was marked.
        """
        started = time.perf_counter()
        after, self._after = self._after, BEFORE_FIRST_SUBJECT
        with self._engine.begin() as connection:
            events = claim_events(
                connection,
                self._stage,
                subjects=self._subjects_per_batch,
                per_subject=self._events_per_subject,
                after=after,
                excluded=self._deferred.not_due(),
            )
            processed = self._process(connection, events) if events else None
        if processed is not None:
            self._after = (events[-1].organization_id, events[-1].subject)
            self.processed += len(events)
            processed.after_commit()
            log.info(
                self._log_event,
                **processed.counts,
                ms=round((time.perf_counter() - started) * 1000, 1),
                **log_ids(events),
            )
        # After the last subject, events may again be waiting for the first ones.
        return bool(events) or after != BEFORE_FIRST_SUBJECT
