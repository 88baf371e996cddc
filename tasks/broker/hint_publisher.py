"""Publishes hints to the Celery queues, in the background."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable
from typing import Any

import structlog
from amqp.exceptions import MessageNacked
from celery import Celery

from models.enums import Lane
from tasks.broker.hints import Hint, is_subject
from tasks.broker.topology import MAX_HINTS, declare

MAX_PENDING_SUBJECTS = 10_000
"""How many subjects a lane collects while the broker is slow or away; the sweeper knows the rest."""


log = structlog.get_logger(__name__)


class HintPublisher:
    """Publishes hints from one thread of its own, so that nobody waits for the broker.

    While one publish is in flight the next ones collect: many callers become one message. A publish that fails is
    dropped and logged once per outage; a full queue is not filled further. Start it after a fork.
    """

    def __init__(self, app: Celery, *, max_waiting: int = MAX_HINTS // 10) -> None:
        self._app = app
        self._max_waiting = max_waiting
        self._pending: dict[Lane, dict[str, None]] = {}
        self._something = threading.Condition()
        self._stopping = False
        self._dropping = False
        self._connection: Any = None
        self._thread = threading.Thread(target=self._publish_for_ever, name="hinter", daemon=True)

    def start(self) -> None:
        """Start publishing."""
        self._thread.start()

    def stop(self, *, timeout: float = 1.0) -> None:
        """Publish what is pending and end; after ``timeout`` seconds leave it to the sweeper."""
        with self._something:
            self._stopping = True
            self._something.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def publish(self, lane: Lane, subjects: Iterable[str]) -> None:
        """Say that these subjects have work; returns at once and never fails, whatever the broker does."""
        with self._something:
            pending = self._pending.setdefault(lane, {})
            for subject in subjects:
                if len(pending) >= MAX_PENDING_SUBJECTS:
                    break
                # One that fits no hint must not spoil those it would travel with; the sweeper knows it.
                if is_subject(subject):
                    pending[subject] = None
            self._something.notify()

    def _publish_for_ever(self) -> None:
        while (batch := self._next_batch()) is not None:
            for lane, subjects in batch.items():
                self._try_publish(lane, subjects)
        self._disconnect()

    def _next_batch(self) -> dict[Lane, dict[str, None]] | None:
        with self._something:
            self._something.wait_for(lambda: self._pending or self._stopping)
            batch, self._pending = self._pending, {}
        return batch or None

    def _try_publish(self, lane: Lane, subjects: Iterable[str]) -> None:
        try:
            self._publish_or_reconnect(lane, subjects)
        except Exception as error:
            # Whatever it was, the rows wait in the ledger and the sweeper hints again. A thread that died would not.
            if not self._dropping:
                log.warning("hints.dropped", lane=lane.value, error=str(error) or type(error).__name__)
            self._dropping = True
            time.sleep(0.1)
        else:
            if self._dropping:
                log.info("hints.published_again", lane=lane.value)
            self._dropping = False

    def _publish_or_reconnect(self, lane: Lane, subjects: Iterable[str]) -> None:
        was_connected = self._connection is not None
        try:
            self._publish(lane, subjects)
        except Exception:
            self._disconnect()
            if not was_connected:
                raise
            # Once more on a new connection: the broker may have closed the old one long ago.
            self._publish(lane, subjects)

    def _publish(self, lane: Lane, subjects: Iterable[str]) -> None:
        producer = self._app.amqp.Producer(self._connected().default_channel)
        queue = self._app.amqp.queues[lane.value]
        waiting = queue(producer.channel).queue_declare().message_count
        # Without subjects the hint only wakes: the worker claims by age.
        for hint in [*Hint.for_subjects(subjects)] or [Hint()]:
            if waiting >= self._max_waiting:
                return
            waiting += 1
            try:
                self._app.send_task(
                    lane.task_name,
                    args=hint.to_args(),
                    queue=queue,
                    producer=producer,
                    retry=False,
                    # It has just been declared; and a representation of the arguments is of no use to us.
                    declare=[],
                    argsrepr="hint",
                    kwargsrepr="",
                )
            except MessageNacked:
                # RabbitMQ says that it is full, sooner than we thought. The connection is well: the next lane, please.
                return

    def _connected(self) -> Any:
        if self._connection is None:
            connection = self._app.connection_for_write().ensure_connection(max_retries=1, interval_start=0)
            declare(connection)
            self._connection = connection
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.collect()
