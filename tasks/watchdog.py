"""The watchdog, which ends its own process if the process is stuck, so that the supervisor restarts it.

The supervisor is `tocsin up` or a container runtime. What counts as stuck depends on the process; see
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
"""How many seconds a process may be stuck before it ends itself. No single operation takes this long."""

CHECKS_PER_TIMEOUT: Final = 6
"""The number of checks within the patience. The watchdog counts failed checks instead of seconds, because a suspended
process makes no checks."""

EXIT_STUCK: Final = 75
"""The exit code of a stuck process: EX_TEMPFAIL from sysexits.h."""

log = structlog.get_logger(__name__)


class Watchdog:
    """A background thread that calls ``give_up`` once the process has been stuck for ``patience_seconds``.

    A check that raises an error counts as passed, because an unreachable server does not mean that the process is
    stuck.
    """

    def __init__(self, is_stuck: Callable[[], bool], give_up: Callable[[], None], *, patience_seconds: float) -> None:
        self._is_stuck = is_stuck
        self._give_up = give_up
        self._pause = patience_seconds / CHECKS_PER_TIMEOUT
        self._stopping = threading.Event()
        self._checking = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Start checking. Call this when the process is ready."""
        # A fork that replaces a dead child must not copy a check that is in progress.
        release = self._checking.release
        os.register_at_fork(before=self._checking.acquire, after_in_parent=release, after_in_child=release)
        self._thread.start()

    def stop(self) -> None:
        """Stop checking, because a process that is shutting down may look stuck."""
        self._stopping.set()

    def _run(self) -> None:
        failures, rest = 0, self._pause
        while not self._stopping.wait(rest):
            began = time.monotonic()
            failures = failures + 1 if self._check() else 0
            # A check that waited until its timeout shortens the pause after it.
            rest = max(0.0, self._pause - (time.monotonic() - began))
            # Between the first failure and this one, the whole timeout has elapsed.
            if failures > CHECKS_PER_TIMEOUT and not self._stopping.is_set():
                self._give_up()
                return

    def _check(self) -> bool:
        with self._checking:
            try:
                return self._is_stuck()
            except Exception as error:
                log.info("watchdog.check_failed", error=str(error).split("\n", 1)[0] or type(error).__name__)
                return False


def exit_stuck_process(patience_seconds: float) -> NoReturn:
    """End this process at once. Its child process dies with it, even if the child hangs."""
    log.error("watchdog.stuck", seconds=patience_seconds, exit_code=EXIT_STUCK)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_STUCK)
