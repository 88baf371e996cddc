"""The watch of a process: one that has gone deaf ends itself, to be started anew.

Whoever started it (`tocsin up`, a container runtime) starts another. What deafness is, the process says: see
:mod:`workers.apply.watchdog` and :mod:`gateway.watchdog`.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Final, NoReturn

import structlog

PATIENCE_SECONDS: Final = 30.0
"""How long a process may be deaf; longer than anything takes that it does."""

CHECKS_PER_TIMEOUT: Final = 6
"""How often the watch looks in that time. It counts looks, not seconds: a process that was stopped has missed none."""

EXIT_STUCK: Final = 75
"""The exit code of a process that ends itself; EX_TEMPFAIL, "try again"."""

log = structlog.get_logger(__name__)


class Watchdog:
    """Looks, from a thread of its own, whether the process is deaf; calls ``give_up`` when its patience is over.

    A look that cannot be completed tells nothing: whatever is away is not this process's fault.
    """

    def __init__(self, is_deaf: Callable[[], bool], give_up: Callable[[], None], *, patience_seconds: float) -> None:
        self._is_deaf = is_deaf
        self._give_up = give_up
        self._pause = patience_seconds / CHECKS_PER_TIMEOUT
        self._stopping = threading.Event()
        self._looking = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Start looking; call it once the process is ready."""
        # A child that dies may be replaced by a fork, and a fork in the middle of a look would copy half of it.
        release = self._looking.release
        os.register_at_fork(before=self._looking.acquire, after_in_parent=release, after_in_child=release)
        self._thread.start()

    def stop(self) -> None:
        """Look no more: a process that is told to stop does not listen either."""
        self._stopping.set()

    def _run(self) -> None:
        bad_looks, rest = 0, self._pause
        while not self._stopping.wait(rest):
            began = time.monotonic()
            bad_looks = bad_looks + 1 if self._look() else 0
            # A look that itself waits in vain takes its time out of the pause.
            rest = max(0.0, self._pause - (time.monotonic() - began))
            # One more than fit into the time: between the first and the last of them it has passed.
            if bad_looks > CHECKS_PER_TIMEOUT and not self._stopping.is_set():
                self._give_up()
                return

    def _look(self) -> bool:
        with self._looking:
            try:
                return self._is_deaf()
            except Exception as fault:
                log.info("watch.cannot_look", error=str(fault).split("\n", 1)[0] or type(fault).__name__)
                return False


def exit_stuck_process(patience_seconds: float) -> NoReturn:
    """End this process as it is; a child of it, which may hang, dies with it."""
    log.error("watch.deaf", seconds=patience_seconds, exit_code=EXIT_STUCK)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_STUCK)
