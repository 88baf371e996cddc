"""The watch in a worker's main process: a worker that has gone deaf ends itself, to be started anew.

Deaf is a worker that takes no hint off its queues although they lie there and work waits: its broker connection is
dead and nobody told it, or its child process hangs. Whoever started it (`tocsin up`, a container runtime) starts
another. A worker is not deaf when the database or the broker is away, when others have the work in hand, when nobody
hints at it, or while it is busy: time limits end a batch long before the watch loses its patience.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import threading
from collections.abc import Callable, Collection
from typing import Final, NoReturn

import structlog
from celery import Celery
from sqlalchemy.engine import Engine

from models.canary import unseen
from models.vocabulary import Lane
from models.waiting import waiting_lanes
from tasks.lanes import count_hints
from workers.sweep import FORGOTTEN_SECONDS

PATIENCE_SECONDS: Final = 30.0
"""How long a worker may take no hint while work waits; longer than a task's hard time limit."""

LOOKS: Final = 6
"""How often the watch looks in that time. It counts looks, not seconds: a process that was stopped has missed none."""

DEAF: Final = 75
"""The exit code of a worker that ends itself; EX_TEMPFAIL, "try again"."""

log = structlog.get_logger(__name__)


class Pulse:
    """Counts what the child process has done, in memory that it shares with the main process; make it before the fork.

    >>> pulse = Pulse()
    >>> pulse.beat()
    >>> pulse.beats
    1
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _COUNTER.size)

    @property
    def beats(self) -> int:
        """How often it beat."""
        count: int = _COUNTER.unpack_from(self._memory)[0]
        return count

    def beat(self) -> None:
        """Say that a task was done. There is one child at a time, and so one who writes."""
        _COUNTER.pack_into(self._memory, 0, self.beats + 1)


_COUNTER: Final = struct.Struct("@Q")


class Watch:
    """Looks, from a thread of its own, whether work waits untaken; calls ``give_up`` when its patience is over.

    A look that cannot be completed tells nothing: whatever is away is not this worker's fault.
    """

    def __init__(
        self, pulse: Pulse, is_untaken: Callable[[], bool], give_up: Callable[[], None], *, patience_seconds: float
    ) -> None:
        self._pulse = pulse
        self._is_untaken = is_untaken
        self._give_up = give_up
        self._pause = patience_seconds / LOOKS
        self._stopping = threading.Event()
        self._looking = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Start looking; call it once the worker is ready."""
        # The child that dies is replaced by a fork, and a fork in the middle of a look would copy half of it.
        release = self._looking.release
        os.register_at_fork(before=self._looking.acquire, after_in_parent=release, after_in_child=release)
        self._thread.start()

    def stop(self) -> None:
        """Look no more: a worker that is told to stop takes no hints either."""
        self._stopping.set()

    def _run(self) -> None:
        beats, bad_looks = self._pulse.beats, 0
        while not self._stopping.wait(self._pause):
            is_bad = self._look()
            if is_bad and self._pulse.beats == beats:
                bad_looks += 1
            else:
                beats, bad_looks = self._pulse.beats, 0
            # One more than fit into the time: between the first and the last of them it has passed.
            if bad_looks > LOOKS and not self._stopping.is_set():
                self._give_up()
                return

    def _look(self) -> bool:
        with self._looking:
            try:
                return self._is_untaken()
            except Exception as fault:
                log.info("watch.cannot_look", error=str(fault).split("\n", 1)[0] or type(fault).__name__)
                return False


def is_untaken(engine: Engine, app: Celery, lanes: Collection[Lane]) -> bool:
    """Whether work of these lanes waits that nobody has in hand, with hints at it on their queues.

    :raises Exception: the database or the broker does not answer.
    """
    try:
        with engine.connect() as connection:
            waiting = waiting_lanes(connection, older_than=FORGOTTEN_SECONDS)
            waiting |= unseen(connection, older_than=FORGOTTEN_SECONDS)
    finally:
        # Nothing of it stays open for a child to inherit.
        engine.dispose()
    mine = waiting.intersection(lanes)
    return bool(mine) and count_hints(app, mine) > 0


def end_deaf_worker(patience_seconds: float) -> NoReturn:
    """End this process as it is; its child, which may hang, dies with it."""
    log.error("watch.deaf", seconds=patience_seconds, exit_code=DEAF)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(DEAF)
