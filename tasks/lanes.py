"""The Celery tasks, one per queue; the worker process hands in their body. And who puts hints on them.

A task's body is a function of a :class:`~tasks.hints.Hint`. :func:`install` names it on an application,
:func:`run_worker` runs it, :class:`Hinter` wakes it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import structlog
from amqp.exceptions import MessageNacked
from celery import Celery, signals

from models.enums import Lane
from tasks.hints import Hint, is_subject
from tasks.queues import MAX_HINTS, declare

MAX_PENDING_SUBJECTS = 10_000
"""How many subjects a lane collects while the broker is slow or away; the sweeper knows the rest."""

BROKER_SECONDS = 3.0
"""How long asking the broker may take."""

log = structlog.get_logger(__name__)


def install(app: Celery, bodies: Mapping[Lane, Callable[[Hint], None]]) -> None:
    """Give each lane its task: read the hint, hand it to the body. What the body raises is logged by Celery, once."""
    for lane, body in bodies.items():
        app.task(_task_of(body), name=lane.task, shared=False)


def run_worker(
    app: Celery,
    lanes: Sequence[Lane],
    *,
    on_child_start: Callable[[], None],
    on_child_stop: Callable[[], None],
    ready: Callable[[], None] = lambda: None,
    stopping: Callable[[], None] = lambda: None,
) -> int:
    """Consume these lanes with one child process until SIGTERM; the exit code.

    ``on_child_start`` runs in every new child, after the fork: the place for engines and threads. The child dies with
    this process, however it ends; a child that dies is replaced. ``ready`` is called once, when it first consumes,
    ``stopping`` when it is told to end.
    """
    consumer_process = os.getpid()

    def start_child(**_: Any) -> None:
        die_with_parent(consumer_process)
        on_child_start()

    def stop_child(**_: Any) -> None:
        on_child_stop()

    def tell_ready(**_: Any) -> None:
        ready()

    def tell_stopping(**_: Any) -> None:
        stopping()

    def keep_our_logging(**_: Any) -> None:
        """A receiver is all it takes for Celery to leave the logging alone."""

    receivers: list[tuple[Any, Callable[..., None]]] = [
        (signals.setup_logging, keep_our_logging),
        (signals.worker_process_init, start_child),
        (signals.worker_process_shutdown, stop_child),
        (signals.worker_ready, tell_ready),
        (signals.worker_shutting_down, tell_stopping),
    ]
    for event, receiver in receivers:
        event.connect(receiver, weak=False)
    try:
        worker = app.Worker(
            queues=[lane.value for lane in lanes],
            hostname=f"{'+'.join(lanes)}.{consumer_process}@%h",
            pool="prefork",
            concurrency=1,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            quiet=True,
        )
        worker.start()
        return int(worker.exitcode or 0)
    finally:
        for event, receiver in receivers:
            event.disconnect(receiver)


def count_hints(app: Celery, lanes: Iterable[Lane]) -> int:
    """How many hints lie on these queues, asked over a connection of its own.

    :raises Exception: the broker does not answer.
    """
    with app.connection_for_read() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=BROKER_SECONDS)
        channel = connection.default_channel
        return sum(app.amqp.queues[lane.value](channel).queue_declare().message_count for lane in lanes)


def die_with_parent(parent: int) -> None:
    """See to it that this process is killed when its parent is gone, even by SIGKILL."""
    if sys.platform == "linux":
        # PR_SET_PDEATHSIG is 1.
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)
    else:
        threading.Thread(target=_watch_parent, args=(parent,), name="parent-watch", daemon=True).start()
    # It may have died before the line above.
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


class Hinter:
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

    def hint(self, lane: Lane, subjects: Iterable[str]) -> None:
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
        for hint in [*Hint.about(subjects)] or [Hint()]:
            if waiting >= self._max_waiting:
                return
            waiting += 1
            try:
                self._app.send_task(
                    lane.task,
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


def _task_of(body: Callable[[Hint], None]) -> Callable[..., None]:
    def run(*args: Any, **_: Any) -> None:
        body(Hint.read(args))

    return run


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)
