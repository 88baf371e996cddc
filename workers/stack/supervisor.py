"""The supervisor, which starts processes tier by tier, restarts those that die, and stops them in reverse order.

Processes in a tier do not depend on each other. The next tier starts when all processes in the tier are ready.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterable
from types import FrameType

from workers.stack.console import Console
from workers.stack.managed_process import GRACE_SECONDS, READY_SECONDS, ManagedProcess, StackError

SHORT_LIFE_SECONDS = 5.0
"""If a process dies within this many seconds of becoming ready, the delay before its restart grows each time. A process
killed by SIGKILL is exempt."""

BACK_OFF_SECONDS = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

LOG_CHECK_SECONDS = 5.0
"""How many seconds pass between two looks at the size of the logs."""

_LOWER_TIER_GRACE_SECONDS = 3.0
_POLL_SECONDS = 0.05


class StopRequested(Exception):
    """Raised when a signal requests a stop while the stack is starting."""


class Supervisor:
    """Starts, monitors and stops processes, all in the calling thread."""

    def __init__(self, console: Console, *, changed: Callable[[], None] = lambda: None) -> None:
        """Set up the supervisor. ``changed`` is called whenever a tier or a restarted process becomes ready."""
        self.tiers: list[list[ManagedProcess]] = []
        self._console = console
        self._changed = changed
        self._monitors: dict[str, _Monitor] = {}
        self._stop_requests = 0

    @property
    def pids(self) -> dict[str, int]:
        """The ids of the running processes, by process name."""
        return {process.name: process.pid for tier in self.tiers for process in tier if process.pid}

    @property
    def stopping(self) -> bool:
        """Whether a signal has requested a stop."""
        return self._stop_requests > 0

    def handle_signals(self) -> None:
        """Install signal handlers. SIGTERM, SIGINT and SIGHUP request a stop; a second signal ends the grace period."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._request_stop)

    def start(self, processes: Iterable[ManagedProcess]) -> None:
        """Start the processes as the next tier, wait until all are ready, and print a line for each process.

        :raises StackError: a process does not become ready in time.
        :raises StopRequested: a signal requested a stop.
        """
        tier: list[ManagedProcess] = []
        self.tiers.append(tier)
        with self._console.status("starting"):
            for process in processes:
                tier.append(process)
                self._monitors[process.name] = _Monitor(process, time.monotonic())
                process.start()
            waiting = list(tier)
            while waiting:
                self._check_stop()
                waiting = [process for process in waiting if not self._check_ready(process)]
                if waiting:
                    time.sleep(_POLL_SECONDS)
        self._changed()

    def run(self, process: ManagedProcess) -> None:
        """Run a process until it ends.

        :raises StackError: the process fails.
        :raises StopRequested: a signal requested a stop.
        """
        began = time.monotonic()
        process.start()
        try:
            with self._console.status(process.name):
                while process.is_running():
                    self._check_stop()
                    time.sleep(_POLL_SECONDS)
            if process.popen is None or process.popen.returncode != 0:
                raise process.failure(process.describe_exit())
        finally:
            process.stop()
        self._console.print(f"{process.name} done after {time.monotonic() - began:.1f} s")

    def watch(self) -> None:
        """Restart processes that die, and keep their logs small, until a signal requests a stop."""
        logs_checked_at = time.monotonic()
        while not self._stop_requests:
            if time.monotonic() - logs_checked_at > LOG_CHECK_SECONDS:
                self._rotate_logs()
                logs_checked_at = time.monotonic()
            for tier in self.tiers:
                for process in tier:
                    self._monitors[process.name].check(self._console, self._changed)
            time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """Stop all tiers in reverse order, killing processes that do not stop gracefully. This takes less than 15 s."""
        for number, tier in enumerate(reversed(self.tiers)):
            self._stop_tier(tier, GRACE_SECONDS if number == 0 else _LOWER_TIER_GRACE_SECONDS)
        self.tiers.clear()

    def _rotate_logs(self) -> None:
        for process in (process for tier in self.tiers for process in tier):
            # A full disk, for example. The processes go on, and the next look tries again.
            with contextlib.suppress(OSError):
                process.rotate_log()

    def _stop_tier(self, tier: list[ManagedProcess], grace_seconds: float) -> None:
        deadline = time.monotonic() + grace_seconds
        for process in reversed(tier):
            process.request_stop()
        while any(process.is_running() for process in tier) and time.monotonic() < deadline and self._stop_requests < 2:
            time.sleep(_POLL_SECONDS)
        for process in reversed(tier):
            process.stop(grace_seconds=0)

    def _check_ready(self, process: ManagedProcess) -> bool:
        monitor = self._monitors[process.name]
        if process.is_ready():
            monitor.ready_since = time.monotonic()
            self._console.print(f"{process.name} ready after {monitor.age():.1f} s")
            return True
        if not process.is_running():
            raise process.failure(process.describe_exit())
        if monitor.age() > READY_SECONDS:
            raise process.failure(f"was not ready within {READY_SECONDS:.0f} s")
        return False

    def _check_stop(self) -> None:
        if self._stop_requests:
            raise StopRequested

    def _request_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stop_requests += 1


class _Monitor:
    """Tracks one supervised process between checks, and restarts it."""

    def __init__(self, process: ManagedProcess, began: float) -> None:
        self.process = process
        self.began = began
        self.ready_since: float | None = None
        self._died_at = 0.0
        self._death = ""
        self._next_start: float | None = None
        self._failures = 0

    def age(self) -> float:
        return time.monotonic() - self.began

    def check(self, console: Console, changed: Callable[[], None]) -> None:
        """Check the process once. Notice if it has died or is ready again, and restart it when a restart is due."""
        now = time.monotonic()
        if self._next_start is not None:
            if now >= self._next_start:
                self._restart(console)
        elif not self.process.is_running():
            self._schedule_restart(console, self.process.describe_exit())
        elif self.ready_since is None and self.process.is_ready():
            self.ready_since = now
            console.print(f"{self.process.name} is back after {now - self._died_at:.1f} s (it {self._death})")
            changed()
        elif self.ready_since is None and self.age() > READY_SECONDS:
            self.process.kill()

    def _restart(self, console: Console) -> None:
        self.began = time.monotonic()
        self._next_start = None
        try:
            self.process.start()
        except StackError as error:
            self._schedule_restart(console, f"cannot start: {error}")

    def _schedule_restart(self, console: Console, death: str) -> None:
        now = time.monotonic()
        killed = self.process.popen is not None and self.process.popen.returncode == -signal.SIGKILL
        was_ready, lived = self.ready_since is not None, now - (self.ready_since or now)
        if was_ready and (killed or lived > SHORT_LIFE_SECONDS):
            self._failures = 0
        wait = BACK_OFF_SECONDS[min(self._failures, len(BACK_OFF_SECONDS) - 1)]
        if self._failures:
            excerpt = "".join(f"\n  {line}" for line in self.process.last_lines())
            console.print(
                f"{self.process.name} {death} again; next start in {wait:g} s; its log is {self.process.log}{excerpt}"
            )
        if was_ready or not self._failures:
            self._died_at, self._death = now, death
        self._failures += 1
        self.ready_since = None
        self._next_start = now + wait
