"""One part of the stack: a program we start as our direct child, know when it is ready, and stop."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypedDict

from workers.stack import parent_death

GRACE_SECONDS = 8.0
"""How long a part may take to stop by itself before it is killed."""

LOG_BYTES = 5_000_000
"""A part's log longer than this is moved to ``<part>.log.1`` when the part starts."""

_POLL_SECONDS = 0.02


class StackError(Exception):
    """The stack cannot do what was asked; the text is one sentence that says why and what to do."""


def disk_full_error(path: Path) -> StackError:
    """The sentence for a disk without space."""
    return StackError(f"the disk that holds {path} is full: free some space there, or name another folder with --data")


class ManagedProcess:
    """A program, its environment and its log; subclasses say how to prepare it and when it is ready."""

    stop_signal = signal.SIGTERM
    parent_death_signal = signal.SIGKILL

    def __init__(
        self,
        name: str,
        command: list[str],
        *,
        log: Path,
        environment: Mapping[str, str],
        account: pwd.struct_passwd | None = None,
        guard: Path | None = None,
    ) -> None:
        """`account` is who it runs as (none: ourselves); `guard` is a file it keeps locked for as long as it lives."""
        self.name = name
        self.command = command
        self.log = log
        self.environment = dict(environment)
        self.account = account
        self.lock_file = guard
        self.process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self._log_start: int | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self.process.pid if self.process and self.is_running() else None

    def start(self) -> None:
        """Start the program; it is of use once :meth:`is_ready` says so.

        :raises StackError: it cannot be started.
        """
        self.release()
        self._start()

    def is_ready(self) -> bool:
        """Whether it answers; a plain program is ready when it runs."""
        return self.is_running()

    def is_running(self) -> bool:
        """Whether the process lives."""
        return self.process is not None and self.process.poll() is None

    def describe_exit(self) -> str:
        """How it died, in words."""
        code = self.process.poll() if self.process else None
        if code is None:
            return "still runs"
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"was killed by {signal.Signals(-code).name}"
            return f"was killed by signal {-code}"
        return f"ended with exit code {code}"

    def wait_ready(self, within_seconds: float = 60.0) -> None:
        """Wait until it is ready.

        :raises StackError: it ended, or the time is over.
        """
        deadline = time.monotonic() + within_seconds
        while not self.is_ready():
            if not self.is_running():
                raise self.failure(self.describe_exit())
            if time.monotonic() > deadline:
                raise self.failure(f"was not ready within {within_seconds:.0f} s")
            time.sleep(_POLL_SECONDS)

    def failure(self, what: str) -> StackError:
        """The sentence for a part that does not come up, with the end of its log."""
        tail = self.last_lines()
        if any(os.strerror(errno.ENOSPC) in line for line in tail):
            return disk_full_error(self.log)
        said = "".join(f"\n  {line}" for line in tail)
        return StackError(f"{self.name} {what}; its log is {self.log}{said}")

    def request_stop(self) -> None:
        """Send the signal that stops it in good order."""
        self.signal(self.stop_signal)

    def stop(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """Stop it: in good order, after `grace_seconds` by force. Stopping twice does nothing."""
        if self.process is None:
            return
        self.request_stop()
        try:
            self.process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
        self.release()

    def kill(self) -> None:
        """Kill it with -9, with whatever it started, and wait for its end."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it still runs."""
        if self.process is not None and self.is_running():
            self.process.send_signal(number)

    def release(self) -> None:
        """Forget a process that has ended."""
        if self._watcher is not None:
            parent_death.stop_watcher(self._watcher)
            self._watcher = None

    def last_lines(self, count: int = 8) -> list[str]:
        """The end of its log, as far as it is of its last start."""
        if self._log_start is None:
            return []
        try:
            with self.log.open("rb") as log:
                log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - 8192))
                text = log.read().decode(errors="replace")
        except OSError:
            return []
        return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]

    def _start(self, *, pass_fds: tuple[int, ...] = ()) -> None:
        tie = parent_death.make_preexec(self.parent_death_signal)
        with self._guarded() as guard, self._open_log() as log:
            try:
                self.process = subprocess.Popen(
                    self.command,
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    process_group=0,  # Ctrl-C is for us; we stop our children in order
                    pass_fds=(*guard, *pass_fds),
                    preexec_fn=tie,
                    **child_identity(self.account),
                )
            except OSError as error:
                raise StackError(f"{self.name} cannot be started: {error.strerror}: {self.command[0]}") from error
        if tie is None:
            self._watcher = parent_death.start_watcher(self.process.pid, self.parent_death_signal)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[tuple[int, ...]]:
        """Hold the guard while starting; the child inherits it, so the lock lives as long as the child does."""
        if self.lock_file is None:
            yield ()
            return
        with self.lock_file.open("ab") as lock:
            self._wait_for(lock.fileno())
            self.clear_leftovers()
            yield (lock.fileno(),)

    def end_orphans(self) -> None:
        """End what a killed predecessor started and that lives on."""

    def clear_leftovers(self) -> None:
        """Remove what a killed predecessor left; called when it is certain that none lives."""

    def _wait_for(self, lock: int, within_seconds: float = 10.0) -> None:
        deadline = time.monotonic() + within_seconds
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.end_orphans()
                if time.monotonic() > deadline:
                    raise StackError(
                        f"an earlier {self.name} still runs on {self.lock_file}: end it, then start again"
                    ) from None
                time.sleep(_POLL_SECONDS)
            else:
                return

    @contextlib.contextmanager
    def _open_log(self) -> Iterator[int]:
        try:
            if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
                self.log.replace(self.log.with_suffix(".log.1"))
            descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            self._log_start = os.lseek(descriptor, 0, os.SEEK_END)
        except OSError as error:
            raise StackError(f"the log {self.log} cannot be written: {error.strerror}") from error
        try:
            yield descriptor
        finally:
            os.close(descriptor)


class ChildIdentity(TypedDict, total=False):
    """The arguments of Popen that say who a child is."""

    user: int
    group: int
    extra_groups: list[int]
    cwd: str


def child_identity(account: pwd.struct_passwd | None) -> ChildIdentity:
    """Who a child is: `account`, in a folder that anyone may enter, or ourselves, where we are."""
    if account is None:
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": [], "cwd": "/"}
