"""Keeps parts running: starts them floor by floor, brings back what dies, stops them in reverse order.

A floor is a set of parts that need nothing of each other; the next floor starts when all of it is ready.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable
from types import FrameType

from workers.stack.console import Console
from workers.stack.managed_process import GRACE_SECONDS, ManagedProcess, StackError

READY_SECONDS = 60.0
"""How long a part may take to become ready before that counts as a failure."""

SHORT_LIFE_SECONDS = 5.0
"""A part that lived shorter than this, and was not killed from outside, waits before its next start."""

BACK_OFF_SECONDS = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

_LOWER_GRACE_SECONDS = 3.0
_POLL_SECONDS = 0.05


class StopRequested(Exception):
    """Somebody asked us to stop while we were starting."""


class Supervisor:
    """Starts, watches and stops parts; everything happens in the thread that calls it."""

    def __init__(self, voice: Console, *, changed: Callable[[], None] = lambda: None) -> None:
        """`changed` is called when a part has a new process."""
        self.tiers: list[list[ManagedProcess]] = []
        self._voice = voice
        self._changed = changed
        self._cares: dict[str, _Monitor] = {}
        self._stop_asked = 0

    @property
    def pids(self) -> dict[str, int]:
        """The process of every part that runs."""
        return {part.name: part.pid for floor in self.tiers for part in floor if part.pid}

    @property
    def stopping(self) -> bool:
        """Whether somebody asked us to stop."""
        return self._stop_asked > 0

    def handle_signals(self) -> None:
        """Take SIGTERM, SIGINT and SIGHUP as the wish to stop; a second one as the wish to stop at once."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._ask_to_stop)

    def start(self, parts: Iterable[ManagedProcess]) -> None:
        """Start a floor and wait until all of it is ready, saying a line for each part.

        :raises StackError: a part does not come up.
        :raises Stopped: somebody asked us to stop.
        """
        floor: list[ManagedProcess] = []
        self.tiers.append(floor)
        with self._voice.status("starting"):
            for part in parts:
                floor.append(part)
                self._cares[part.name] = _Monitor(part, time.monotonic())
                part.start()
            waiting = list(floor)
            while waiting:
                self._check_stop()
                waiting = [part for part in waiting if not self._came_up(part)]
                if waiting:
                    time.sleep(_POLL_SECONDS)
        self._changed()

    def run(self, part: ManagedProcess) -> None:
        """Run a part that ends by itself.

        :raises StackError: it fails.
        :raises Stopped: somebody asked us to stop.
        """
        began = time.monotonic()
        part.start()
        try:
            with self._voice.status(part.name):
                while part.is_running():
                    self._check_stop()
                    time.sleep(_POLL_SECONDS)
            if part.process is None or part.process.returncode != 0:
                raise part.failure(part.describe_exit())
        finally:
            part.stop()
        self._voice.print(f"{part.name} done after {time.monotonic() - began:.1f} s")

    def watch(self) -> None:
        """Bring back whatever dies, until somebody asks us to stop."""
        while not self._stop_asked:
            for floor in self.tiers:
                for part in floor:
                    self._cares[part.name].look(self._voice, self._changed)
            time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """Stop all floors, the last one first: in good order, then by force. Takes less than 15 s."""
        for number, floor in enumerate(reversed(self.tiers)):
            self._stop_floor(floor, GRACE_SECONDS if number == 0 else _LOWER_GRACE_SECONDS)
        self.tiers.clear()

    def _stop_floor(self, floor: list[ManagedProcess], grace_seconds: float) -> None:
        deadline = time.monotonic() + grace_seconds
        for part in reversed(floor):
            part.request_stop()
        while any(part.is_running() for part in floor) and time.monotonic() < deadline and self._stop_asked < 2:
            time.sleep(_POLL_SECONDS)
        for part in reversed(floor):
            part.stop(grace_seconds=0)

    def _came_up(self, part: ManagedProcess) -> bool:
        care = self._cares[part.name]
        if part.is_ready():
            care.ready_since = time.monotonic()
            self._voice.print(f"{part.name} ready after {care.age():.1f} s")
            return True
        if not part.is_running():
            raise part.failure(part.describe_exit())
        if care.age() > READY_SECONDS:
            raise part.failure(f"was not ready within {READY_SECONDS:.0f} s")
        return False

    def _check_stop(self) -> None:
        if self._stop_asked:
            raise StopRequested

    def _ask_to_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stop_asked += 1


class _Monitor:
    """What we know of one part between two looks at it."""

    def __init__(self, part: ManagedProcess, began: float) -> None:
        self.part = part
        self.began = began
        self.ready_since: float | None = None
        self._died_at = 0.0
        self._death = ""
        self._next_start: float | None = None
        self._failures = 0

    def age(self) -> float:
        return time.monotonic() - self.began

    def look(self, voice: Console, changed: Callable[[], None]) -> None:
        """One step: notice a death, start again when it is time, notice that it is back."""
        now = time.monotonic()
        if self._next_start is not None:
            if now >= self._next_start:
                self._begin(voice)
        elif not self.part.is_running():
            self._bury(voice, self.part.describe_exit())
        elif self.ready_since is None and self.part.is_ready():
            self.ready_since = now
            voice.print(f"{self.part.name} is back after {now - self._died_at:.1f} s (it {self._death})")
            changed()
        elif self.ready_since is None and self.age() > READY_SECONDS:
            self.part.kill()

    def _begin(self, voice: Console) -> None:
        self.began = time.monotonic()
        self._next_start = None
        try:
            self.part.start()
        except StackError as error:
            self._bury(voice, f"cannot start: {error}")

    def _bury(self, voice: Console, death: str) -> None:
        now = time.monotonic()
        killed = self.part.process is not None and self.part.process.returncode == -signal.SIGKILL
        was_ready, lived = self.ready_since is not None, now - (self.ready_since or now)
        if was_ready and (killed or lived > SHORT_LIFE_SECONDS):
            self._failures = 0
        wait = BACK_OFF_SECONDS[min(self._failures, len(BACK_OFF_SECONDS) - 1)]
        if self._failures:
            said = "".join(f"\n  {line}" for line in self.part.last_lines())
            voice.print(f"{self.part.name} {death} again; next start in {wait:g} s; its log is {self.part.log}{said}")
        if was_ready or not self._failures:
            self._died_at, self._death = now, death
        self._failures += 1
        self.ready_since = None
        self._next_start = now + wait
