"""The hint publisher, which sends hints to the Celery queues in the background."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import structlog
from amqp.exceptions import MessageNacked
from celery import Celery

from models.enums import Lane
from tasks.broker.blocking import BrokerBlocked, blocked_reason
from tasks.broker.hints import Hint, is_subject
from tasks.broker.topology import MAX_HINTS, declare

MAX_PENDING_SUBJECTS = 10_000
"""The maximum number of subjects to collect for each lane while the broker is slow or unreachable. The sweeper
publishes hints for the rest."""

BLOCKED_POLL_SECONDS = 0.5
"""How many seconds pass between two reads of a blocked connection."""

COUNTED_SECONDS = 1.0
"""How many seconds pass before a queue is declared and its hints are counted once more. In the meantime, the publisher
adds its own hints to the count."""

log = structlog.get_logger(__name__)


class HintPublisher:
    """Publishes hints from its own background thread, so that no caller waits for the broker.

    Subjects that arrive while a message is in flight are collected and sent together. A message that cannot be
    published is dropped, and the first drop in each outage is logged. No hints are added to a queue that already holds
    many. Its queue is declared with the first hint, and with another one every :data:`COUNTED_SECONDS`, in case it was
    deleted. A process that forks must start the publisher after the fork.

    ``blocked_reason`` is why RabbitMQ blocks the publisher's connection, or ``None`` if it does not.
    """

    def __init__(
        self, app: Celery, *, max_queued: int = MAX_HINTS // 10, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        self._clock = clock
        self._counts: dict[Lane, tuple[float, int]] = {}
        """The hints on each lane's queue: when they were last counted, and how many there are if none was consumed."""
        self._max_waiting = max_queued
        self._pending: dict[Lane, dict[str, None]] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self._dropping = False
        self.blocked_reason: str | None = None
        self._connection: Any = None
        self._thread = threading.Thread(target=self._run, name="hint-publisher", daemon=True)

    def start(self) -> None:
        """Start the background thread."""
        self._thread.start()

    def stop(self, *, timeout: float = 1.0) -> None:
        """Publish the pending hints and end the thread.

        Hints that are still pending after ``timeout`` seconds are left to the sweeper.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def publish(self, lane: Lane, subjects: Iterable[str]) -> None:
        """Queue a hint that these subjects have work. If there are no subjects, the hint only wakes a worker.

        This never blocks and never raises.
        """
        with self._changed:
            pending = self._pending.setdefault(lane, {})
            for subject in subjects:
                if len(pending) >= MAX_PENDING_SUBJECTS:
                    break
                # An invalid subject must not invalidate the hint for the others; the sweeper finds it.
                if is_subject(subject):
                    pending[subject] = None
            self._changed.notify()

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            for lane, subjects in batch.items():
                self._try_publish(lane, subjects)
            self._update_blocked()
        self._disconnect()

    def _next_batch(self) -> dict[Lane, dict[str, None]] | None:
        with self._changed:
            # A blocked connection is read from time to time, to notice when the alarm ends.
            seconds = BLOCKED_POLL_SECONDS if self.blocked_reason else None
            self._changed.wait_for(lambda: self._pending or self._stopping, seconds)
            batch, self._pending = self._pending, {}
            return None if self._stopping and not batch else batch

    def _try_publish(self, lane: Lane, subjects: Iterable[str]) -> None:
        try:
            self._publish_or_reconnect(lane, subjects)
        except Exception as error:
            # The thread must survive any error: the commands wait in the ledger, and the sweeper sends new hints.
            if not self._dropping:
                log.warning("hints.dropped", lane=lane.value, error=str(error) or type(error).__name__)
            self._dropping = True
            time.sleep(0.1)
        else:
            if self._dropping:
                log.info("hints.recovered", lane=lane.value)
            self._dropping = False

    def _publish_or_reconnect(self, lane: Lane, subjects: Iterable[str]) -> None:
        was_connected = self._connection is not None
        try:
            self._publish(lane, subjects)
        except Exception:
            self._update_blocked()
            if self.blocked_reason:
                # Another connection would be blocked, too, and RabbitMQ would keep this one until the alarm ends.
                raise
            self._disconnect()
            if not was_connected:
                raise
            # Retry once on a new connection, because the broker may have closed the old one while it was idle.
            self._publish(lane, subjects)

    def _update_blocked(self) -> None:
        try:
            self.blocked_reason = blocked_reason(self._connection) if self._connection is not None else None
        except Exception:
            self.blocked_reason = None
            self._disconnect()

    def _publish(self, lane: Lane, subjects: Iterable[str]) -> None:
        if self.blocked_reason:
            raise BrokerBlocked(f"RabbitMQ blocks publishers: {self.blocked_reason}")
        producer = self._app.amqp.Producer(self._connected().default_channel)
        queue = self._app.amqp.queues[lane.value]
        counted_at, waiting = self._counts.get(lane, (float("-inf"), 0))
        if self._clock() - counted_at > COUNTED_SECONDS:
            counted_at, waiting = self._clock(), queue(producer.channel).queue_declare().message_count
        # Without subjects the hint only wakes a worker, which claims the oldest commands.
        for hint in [*Hint.for_subjects(subjects)] or [Hint()]:
            if waiting >= self._max_waiting:
                # Workers may have consumed some since they were counted.
                self._counts.pop(lane, None)
                return
            waiting += 1
            self._counts[lane] = counted_at, waiting
            try:
                self._app.send_task(
                    lane.task_name,
                    args=hint.to_args(),
                    queue=queue,
                    producer=producer,
                    retry=False,
                    # The queue has been declared, and the representation of the arguments is never read.
                    declare=[],
                    # In a worker, the task is registered. Its limits would go into the message and make it invalid.
                    time_limit=None,
                    soft_time_limit=None,
                    argsrepr="hint",
                    kwargsrepr="",
                )
            except MessageNacked:
                # The queue is full on RabbitMQ. The connection is fine, so the other lanes continue.
                return

    def _connected(self) -> Any:
        if self._connection is None:
            connection = self._app.connection_for_write().ensure_connection(max_retries=1, interval_start=0)
            declare(connection)
            self._connection = connection
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        self._counts.clear()
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.collect()
