"""The loop that the relay and the notifier share: it claims waiting events and processes them in order."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy.engine import Connection, Engine

from models.messaging.outbox import BEFORE_FIRST_SUBJECT, Stage, WaitingEvent, claim_events
from models.messaging.trace import log_ids
from tasks.tracing import record_spans
from workers.runtime.deferral import DeferredRows
from workers.runtime.polling import run_polling_loop

log = structlog.get_logger(__name__)


def do_nothing() -> None:
    """Do nothing: this is the default for :attr:`ProcessedBatch.after_commit`."""


@dataclass(frozen=True, slots=True)
class ProcessedBatch:
    """The result of a batch: ``counts`` for its log line, and a function to call once its transaction is committed.

    ``is_interrupted`` is whether events of the batch were left for the next one, which should begin at once.
    """

    counts: Mapping[str, int]
    after_commit: Callable[[], None] = do_nothing
    is_interrupted: bool = False


ProcessBatch = Callable[[Connection, Sequence[WaitingEvent]], ProcessedBatch]
"""A function that processes a batch inside its transaction, marks the events that are done, and defers those that
failed."""


class OutboxLoop:
    """Processes a stage's waiting events in batches.

    Each batch has its own transaction, and each subject's events are processed in order. The advisory locks on the
    claimed subjects last until the batch is committed, so any number of processes may work on a stage. A batch that did
    not reach every waiting event is followed by another one at once, which begins after the subject where it ended, so
    that a subject with many events cannot starve the others. Subjects that another process holds are left to that
    process: it was woken for their later events, too.
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
        verb: str,
    ) -> None:
        """Set up the loop. ``log_event`` names the log line for each batch with events, ``verb`` each event's span."""
        self._engine = engine
        self._stage = stage
        self._process = process
        self._deferred = deferred
        self._subjects_per_batch = subjects_per_batch
        self._events_per_subject = events_per_subject
        self._log_event = log_event
        self._verb = verb
        self.processed = 0
        """The number of events that were processed since the start."""
        self._after = BEFORE_FIRST_SUBJECT
        self.is_caught_up = True
        """Whether the last batches together reached every event that was waiting, so that there is no need for another
        one before the next wake-up."""

    def run(
        self,
        name: str,
        wait: Callable[[float], object],
        stop: threading.Event,
        before: Callable[[], object] = lambda: None,
    ) -> None:
        """Process batches until ``stop`` is set, and call ``before`` before each of them.

        When caught up, call ``wait`` with a timeout in seconds.
        """

        def poll() -> bool:
            before()
            self.process_batch()
            return not self.is_caught_up

        run_polling_loop(name, poll, wait, stop)

    def process_batch(self) -> bool:
        """Process the next batch. Return whether it had any events, or was not the last (:attr:`is_caught_up`).

        :raises Exception: if the database or the processing failed. No event of the batch was marked.
        """
        started = time.perf_counter()
        after, self._after = self._after, BEFORE_FIRST_SUBJECT
        # After the last subject, events may again be waiting for the first ones.
        self.is_caught_up = after == BEFORE_FIRST_SUBJECT
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
            self.processed += len(events)
            if processed.is_interrupted or self._may_be_cut_off(events):
                self._after = (events[-1].organization_id, events[-1].subject)
                self.is_caught_up = False
            processed.after_commit()
            seconds = time.perf_counter() - started
            log.info(self._log_event, **processed.counts, ms=round(seconds * 1000, 1), **log_ids(events))
            record_spans(self._verb, events, seconds=seconds)
        return bool(events) or not self.is_caught_up

    def _may_be_cut_off(self, events: Sequence[WaitingEvent]) -> bool:
        """Return whether one of the batch's limits may have left events out."""
        subjects = Counter((event.organization_id, event.subject) for event in events)
        return len(subjects) >= self._subjects_per_batch or max(subjects.values()) >= self._events_per_subject
