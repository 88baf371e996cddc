"""The Celery tasks, one per lane, and the Celery worker that runs them.

The body of a task is a function that takes a :class:`~tasks.broker.hints.Hint`. :func:`register_tasks` registers the
bodies with an application, and :func:`run_celery_worker` runs them for the hints on the lanes' queues.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import celery.apps.worker
import structlog
from celery import Celery, signals

from models.enums import Lane
from tasks.broker.hints import Hint

BROKER_SECONDS = 3.0
"""The timeout for connecting to the broker, in seconds."""

log = structlog.get_logger(__name__)


def register_tasks(app: Celery, bodies: Mapping[Lane, Callable[[Hint], None]]) -> None:
    """Register one task per lane, which parses the hint and passes it to the body. Celery logs the body's errors."""
    for lane, body in bodies.items():
        app.task(_task_of(body), name=lane.task_name, shared=False)


def run_celery_worker(
    app: Celery,
    lanes: Sequence[Lane],
    *,
    name: str = "",
    on_child_start: Callable[[], None],
    on_child_stop: Callable[[], None],
    ready: Callable[[], None] = lambda: None,
    stopping: Callable[[], None] = lambda: None,
) -> int:
    """Consume these lanes with one child process until SIGTERM, and return the exit code.

    ``name`` tells workers on one host apart in Celery's node names. By default it is the process id, so the node has
    another name after each start.

    ``on_child_start`` runs in every new child after the fork, where engines and threads can be created, and
    ``on_child_stop`` runs before a child exits. The child dies with this process, even if this process is killed with
    SIGKILL. A child that dies is replaced. ``ready`` is called when the worker starts to consume, and ``stopping`` when
    a signal asks it to stop.
    """
    consumer_process = os.getpid()

    def start_child(**_: Any) -> None:
        die_with_parent(consumer_process)
        on_child_start()

    def stop_child(**_: Any) -> None:
        on_child_stop()

    def notify_ready(**_: Any) -> None:
        ready()

    def notify_stopping(**_: Any) -> None:
        stopping()

    def keep_our_logging(**_: Any) -> None:
        """Do nothing. Celery leaves the logging configuration alone if this signal has a receiver."""

    receivers: list[tuple[Any, Callable[..., None]]] = [
        (signals.setup_logging, keep_our_logging),
        (signals.worker_process_init, start_child),
        (signals.worker_process_shutdown, stop_child),
        (signals.worker_ready, notify_ready),
        (signals.worker_shutting_down, notify_stopping),
    ]
    for event, receiver in receivers:
        event.connect(receiver, weak=False)
    # Celery's signal handlers print to the standard output, for instance "Warm shutdown".
    celery.apps.worker.safe_say = _log_from_signal_handler
    try:
        worker = app.Worker(
            queues=[lane.value for lane in lanes],
            # Celery would expand %h only in the argument of its own command.
            hostname=f"{'+'.join(lanes)}.{name or consumer_process}@{socket.gethostname()}",
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
    """Return the number of hints on the lanes' queues, counted over a separate connection.

    :raises Exception: the broker does not answer.
    """
    with app.connection_for_read() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=BROKER_SECONDS)
        channel = connection.default_channel
        return sum(app.amqp.queues[lane.value](channel).queue_declare().message_count for lane in lanes)


def die_with_parent(parent: int) -> None:
    """Arrange for this process to be killed when its parent dies, even if the parent is killed with SIGKILL."""
    if sys.platform == "linux":
        # PR_SET_PDEATHSIG is 1.
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)
    else:
        threading.Thread(target=_watch_parent, args=(parent,), name="parent-watch", daemon=True).start()
    # The parent may have died before the signal was set up.
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


def _log_from_signal_handler(message: object, _file: object = None) -> None:
    # A signal handler may interrupt a write by the logging module, which is not reentrant. os.write is.
    line = json.dumps({"event": "celery.message", "message": str(message).strip(), "level": "info"})
    os.write(2, f"{line}\n".encode())
