"""A process in the stack: a child process that can be started, checked for readiness, and stopped."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypedDict

from workers.stack import parent_death
from workers.stack.private_files import open_private

READY_SECONDS = 60.0
"""How many seconds a process may take to become ready."""

GRACE_SECONDS = 8.0
"""How many seconds a process may take to stop before it is killed."""

LOG_BYTES = 5_000_000
"""A log file that has become larger than this is moved to ``<name>.log.1``, replacing the one before."""

_POLL_SECONDS = 0.02


class StackError(Exception):
    """Raised when the stack fails in an expected way. The text is one sentence that states the reason and the fix."""


def disk_full_error(path: Path) -> StackError:
    """Return the error for a full disk."""
    return StackError(f"the disk that holds {path} is full: free some space, or choose another directory with --data")


class ManagedProcess:
    """A program that runs as a child process. Subclasses define how it is prepared and when it is ready."""

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
        lock_file: Path | None = None,
    ) -> None:
        """Set up the process, without starting it.

        :param account: the account that the process runs as, or None for the current user.
        :param lock_file: a file that the process keeps locked for as long as it lives.
        """
        self.name = name
        self.command = command
        self.log = log
        self.environment = dict(environment)
        self.account = account
        self.lock_file = lock_file
        self.popen: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self._log_start: int | None = None

    @property
    def pid(self) -> int | None:
        """The process id, or None if the process is not running."""
        return self.popen.pid if self.popen and self.is_running() else None

    def start(self) -> None:
        """Start the program, without waiting until it is ready.

        :raises StackError: the program cannot be started.
        """
        self.release()
        self._start()

    def is_ready(self) -> bool:
        """Return whether the process is ready for use. In this class, it is ready when it is running."""
        return self.is_running()

    def is_running(self) -> bool:
        """Return whether the process is running."""
        return self.popen is not None and self.popen.poll() is None

    def describe_exit(self) -> str:
        """Return a phrase that says how the process ended, such as ``ended with exit code 1``."""
        code = self.popen.poll() if self.popen else None
        if code is None:
            return "still runs"
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"was killed by {signal.Signals(-code).name}"
            return f"was killed by signal {-code}"
        return f"ended with exit code {code}"

    def wait_ready(self, within_seconds: float = READY_SECONDS) -> None:
        """Wait until the process is ready.

        :raises StackError: the process ended, or was not ready in time.
        """
        deadline = time.monotonic() + within_seconds
        while not self.is_ready():
            if not self.is_running():
                raise self.failure(self.describe_exit())
            if time.monotonic() > deadline:
                raise self.failure(f"was not ready within {within_seconds:.0f} s")
            time.sleep(_POLL_SECONDS)

    def failure(self, what: str) -> StackError:
        """Return an error that says what the process did (`what`) and quotes the end of its log."""
        tail = self.last_lines()
        if any(os.strerror(errno.ENOSPC) in line for line in tail):
            return disk_full_error(self.log)
        excerpt = "".join(f"\n  {line}" for line in tail)
        return StackError(f"{self.name} {what}; its log is {self.log}{excerpt}")

    def request_stop(self) -> None:
        """Send the signal that asks the process to stop gracefully."""
        self.signal(self.stop_signal)

    def stop(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """Stop the process gracefully, and kill it if it is still running after `grace_seconds`.

        Do nothing if it was never started.
        """
        if self.popen is None:
            return
        self.request_stop()
        try:
            self.popen.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
        self.release()

    def kill(self) -> None:
        """Send SIGKILL to the process and its child processes, and wait until the process has ended."""
        if self.popen is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.popen.pid, signal.SIGKILL)
            self.popen.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it is running."""
        if self.popen is not None and self.is_running():
            self.popen.send_signal(number)

    def release(self) -> None:
        """Release the resources of a process that has ended."""
        if self._watcher is not None:
            parent_death.stop_watcher(self._watcher)
            self._watcher = None

    def last_lines(self, count: int = 8) -> list[str]:
        """Return the last lines that the process has logged since it was last started."""
        if self._log_start is None:
            return []
        try:
            with os.fdopen(open_private(self.log, os.O_RDONLY), "rb") as log:
                log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - 8192))
                text = log.read().decode(errors="replace")
        except OSError:
            return []
        return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]

    def rotate_log(self) -> None:
        """Move the log's lines to ``<name>.log.1`` if it has become too large. The process may be running.

        It keeps its descriptor, so the lines are copied and the file is emptied. A line that is written in between is
        lost.

        :raises OSError: the log cannot be read, or its copy cannot be written.
        """
        if not self.log.exists() or self.log.stat().st_size <= LOG_BYTES:
            return
        copy = self.log.with_suffix(".log.1")
        copy.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with (
            os.fdopen(open_private(self.log, os.O_RDWR), "r+b") as log,
            os.fdopen(open_private(copy, flags), "wb") as old,
        ):
            shutil.copyfileobj(log, old)
            log.truncate(0)
        self._log_start = 0

    def _start(self, *, pass_fds: tuple[int, ...] = ()) -> None:
        die_with_parent = parent_death.make_preexec(self.parent_death_signal)
        with self._hold_lock_file() as inherited, self._open_log() as log:
            try:
                self.popen = subprocess.Popen(
                    self.command,
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    process_group=0,  # Ctrl-C is for the supervisor, which stops the processes in order
                    pass_fds=(*inherited, *pass_fds),
                    preexec_fn=die_with_parent,
                    **child_identity(self.account),
                )
            except OSError as error:
                raise StackError(f"{self.name} cannot be started: {error.strerror}: {self.command[0]}") from error
        if die_with_parent is None:
            self._watcher = parent_death.start_watcher(self.popen.pid, self.parent_death_signal)

    @contextlib.contextmanager
    def _hold_lock_file(self) -> Iterator[tuple[int, ...]]:
        """Lock the lock file and yield its descriptor. The child inherits it and so holds the lock until it ends."""
        if self.lock_file is None:
            yield ()
            return
        try:
            lock = open_private(self.lock_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        except OSError as error:
            raise StackError(f"{self.lock_file} cannot be used: {error.strerror}") from error
        try:
            self._wait_for(lock)
            self.clear_leftovers()
            yield (lock,)
        finally:
            os.close(lock)

    def end_orphans(self) -> None:
        """Kill processes that a killed predecessor has left running."""

    def clear_leftovers(self) -> None:
        """Remove files that a killed predecessor has left behind. Called only when no predecessor is running."""

    def _wait_for(self, lock: int, within_seconds: float = 10.0) -> None:
        deadline = time.monotonic() + within_seconds
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.end_orphans()
                if time.monotonic() > deadline:
                    raise StackError(
                        f"an earlier {self.name} still holds {self.lock_file}: end it, then start again"
                    ) from None
                time.sleep(_POLL_SECONDS)
            else:
                return

    @contextlib.contextmanager
    def _open_log(self) -> Iterator[int]:
        try:
            descriptor = open_private(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            self.rotate_log()
            self._log_start = os.lseek(descriptor, 0, os.SEEK_END)
        except OSError as error:
            raise StackError(f"the log {self.log} cannot be written: {error.strerror}") from error
        try:
            yield descriptor
        finally:
            os.close(descriptor)


class ChildIdentity(TypedDict, total=False):
    """The Popen arguments that determine a child process's account and working directory."""

    user: int
    group: int
    extra_groups: list[int]
    cwd: str


def child_identity(account: pwd.struct_passwd | None) -> ChildIdentity:
    """Return the Popen arguments for running as `account` in the root directory, or none if `account` is None."""
    if account is None:
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": [], "cwd": "/"}
