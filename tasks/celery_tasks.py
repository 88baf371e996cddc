"""The Celery tasks, one per queue; the worker process hands in their body. And who puts hints on them.

A task's body is a function of a :class:`~tasks.broker.hints.Hint`. :func:`register_tasks` names it on an application,
:func:`run_worker` runs it, :class:`HintPublisher` wakes it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import structlog
from celery import Celery, signals

from models.enums import Lane
from tasks.broker.hints import Hint

BROKER_SECONDS = 3.0
"""How long asking the broker may take."""

log = structlog.get_logger(__name__)


def register_tasks(app: Celery, bodies: Mapping[Lane, Callable[[Hint], None]]) -> None:
    """Give each lane its task: read the hint, hand it to the body. What the body raises is logged by Celery, once."""
    for lane, body in bodies.items():
        app.task(_task_of(body), name=lane.task_name, shared=False)


def run_celery_worker(
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


def _task_of(body: Callable[[Hint], None]) -> Callable[..., None]:
    def run(*args: Any, **_: Any) -> None:
        body(Hint.parse_or_empty(args))

    return run


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)
